"""Which picture a question is about, and what was said about it before."""

import math
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from lisa_core.errors import ImageError
from lisa_ros import conversions
from lisa_ros.cameras import Camera
from lisa_ros.conversations import Conversation, Conversations, Turn
from lisa_ros.inference import Ticket
from lisa_ros.parameters import Parameters
from lisa_ros.pictures import Arrival, Picture
from lisa_ros.questions import Code, Outcome, Question, Refused


class Subjects:
    """Which picture a question is about, and what was said about it before.

    What `inference.Frames` asks may be asked on any thread; the rest is for the inference thread.

    Attributes:
        conversations: what was said so far, and about which pictures.
    """

    def __init__(self, cameras: Mapping[str, Camera], parameters: Callable[[], Parameters]) -> None:
        """`cameras` are those that are open now: they come and go, and another thread may close one."""
        self._cameras = cameras
        self._parameters = parameters
        self._latest: dict[str, tuple[Arrival, Picture]] = {}  # by camera: asked about again it is encoded already
        self.conversations = Conversations()

    def is_ready(self, ticket: Ticket) -> bool:
        """Whether there is a young enough frame, or none is needed."""
        camera = self._camera(ticket.question)
        return camera is None or time.monotonic() <= _outdated(camera, ticket)

    def patience(self, ticket: Ticket) -> float:
        """Until when the question may wait for a young enough frame, for ever if it needs none."""
        camera = self._camera(ticket.question)
        if camera is None:
            return math.inf
        return max(ticket.asked, _outdated(camera, ticket)) + self._parameters().frame_timeout

    def no_frame(self, ticket: Ticket) -> Outcome:
        """Why there is no frame."""
        camera = self._camera(ticket.question)
        newest = camera.newest if camera else None  # read once: another thread may close the camera
        if camera is None or newest is None:
            why = camera.why_silent() if camera else "the camera is closed"
        else:
            age = time.monotonic() - newest.received
            why = (
                f"the newest frame of camera {camera.name} is {age:.1f} s old, "
                f"and max_age is {ticket.question.max_age:g} s ({camera.topic})"
            )
        return Outcome(Code.NO_FRAME, why)

    def of(self, question: Question) -> tuple[Picture, Sequence[Turn]]:
        """The picture that is asked about, and what was said before.

        Raises Refused if there is none, and ImageError if the one that came with the question cannot be read.
        """
        conversation = self._conversation(question)
        if question.image is not None:
            picture = Picture(header=question.image.header, camera="", rgb=conversions.to_rgb(question.image))
            if conversation is not None and np.array_equal(conversation.picture.rgb, picture.rgb):
                picture.encoded = conversation.picture.encoded
                return picture, conversation.turns
            return picture, ()
        if conversation is not None and not question.new_frame:
            if question.camera not in ("", conversation.picture.camera):
                raise Refused(
                    Code.BAD_REQUEST,
                    f"conversation {question.conversation!r} is about an image of "
                    f"{conversation.picture.camera or 'the one who asks'}: set new_frame to turn to {question.camera}",
                )
            return conversation.picture, conversation.turns
        return self._newest(question), conversation.turns if conversation is not None else ()

    def complete(self, picture: Picture) -> None:
        """Give the picture what belongs to it and has come by now."""
        if camera := self._cameras.get(picture.camera):  # once: another thread may close it
            camera.add_companions(picture)

    def let_go(self, picture: Picture) -> None:
        """The picture was answered about: its camera keeps nothing for it any more."""
        if camera := self._cameras.get(picture.camera):
            camera.let_go(picture)

    def remember(self, question: Question, conversation: Conversation) -> None:
        """What was asked and said, for the next question of its conversation, if it is of one."""
        if question.conversation:
            parameters = self._parameters()
            self.conversations.put(
                question.conversation, conversation, parameters.max_conversations, parameters.conversation_ttl
            )

    def expire(self) -> None:
        """Forget the conversations that nobody went on with, with their pictures."""
        self.conversations.expire(self._parameters().conversation_ttl)

    def forget_encodings(self) -> None:
        """Give back the device memory that past frames hold; they are encoded again when somebody asks."""
        for _, picture in self._latest.values():
            picture.encoded = None
        for conversation in self.conversations:
            conversation.picture.encoded = None

    def _newest(self, question: Question) -> Picture:
        camera = self._camera(question)
        arrival = camera.newest if camera is not None else None
        if camera is None or arrival is None:
            raise Refused(Code.NO_FRAME, "the camera was closed")
        known, picture = self._latest.get(camera.name, (None, None))
        if known is arrival and picture is not None:
            camera.add_companions(picture)
            return picture
        try:
            picture = camera.picture(arrival)
        except ImageError as error:
            raise Refused(Code.NO_FRAME, f"the newest frame of camera {camera.name} cannot be read: {error}") from None
        self._latest[camera.name] = (arrival, picture)
        return picture

    def _camera(self, question: Question) -> Camera | None:
        """The camera whose newest frame is wanted; None for a question that brings its picture or goes on with one."""
        conversation = self._conversation(question)
        if question.image is not None or (conversation is not None and not question.new_frame):
            return None
        name = question.camera or (conversation.picture.camera if conversation else "")
        return self._cameras.get(name or self._parameters().cameras[0])

    def _conversation(self, question: Question) -> Conversation | None:
        if not question.conversation:
            return None
        return self.conversations.get(question.conversation, self._parameters().conversation_ttl)


def _outdated(camera: Camera, ticket: Ticket) -> float:
    """When the camera's newest frame gets too old for the question."""
    newest = camera.newest  # read once: another thread may close the camera
    return -math.inf if newest is None else newest.received + ticket.question.max_age
