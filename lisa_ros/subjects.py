"""Finds the picture that a question is about, and the earlier turns of its conversation."""

import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence

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
    """Finds the picture that a question is about, and the earlier turns of its conversation.

    The methods of `inference.Frames` may be called on any thread, the others on the inference thread only.

    Attributes:
        conversations: those that are kept, with their pictures.
    """

    def __init__(
        self,
        cameras: Mapping[str, Camera],
        parameters: Callable[[], Parameters],
        in_use: Callable[[], Collection[str]],
    ) -> None:
        """Looks for frames in `cameras`.

        Args:
            cameras: those that are open; another thread may add and remove them at any time.
            in_use: the ids of conversations that must be kept, for a question of theirs waits or is answered.
        """
        self._cameras = cameras
        self._parameters = parameters
        self._in_use = in_use
        self._latest: dict[str, tuple[Arrival, Picture]] = {}  # by camera; kept because it is encoded already
        self.conversations = Conversations()

    def is_ready(self, ticket: Ticket) -> bool:
        """Whether there is a frame that is young enough, or the question needs none."""
        camera = self._camera(ticket.question)
        return camera is None or time.monotonic() <= _outdated(camera, ticket)

    def patience(self, ticket: Ticket) -> float:
        """Until when the question may wait for a young enough frame; inf if it needs none."""
        camera = self._camera(ticket.question)
        if camera is None:
            return math.inf
        return max(ticket.asked, _outdated(camera, ticket)) + self._parameters().frame_timeout

    def no_frame(self, ticket: Ticket) -> Outcome:
        """NO_FRAME, with the reason."""
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
        """The picture that the question is about, and the earlier turns of its conversation.

        Raises Refused if there is no picture, ImageError if the one in the question cannot be read.
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
        """Add the depth and intrinsics that have come by now."""
        if camera := self._cameras.get(picture.camera):  # looked up once: another thread may close it
            camera.add_companions(picture)

    def let_go(self, picture: Picture) -> None:
        """Called when a question about the picture was answered: its camera need not keep depth for it any longer."""
        if camera := self._cameras.get(picture.camera):
            camera.let_go(picture)

    def remember(self, question: Question, conversation: Conversation) -> None:
        """Keep the conversation that the question belongs to, if any."""
        if question.conversation:
            limit = self._parameters().max_conversations
            self.conversations.put(question.conversation, conversation, limit, self._in_use())

    def expire(self) -> None:
        """Forget conversations without a question for `conversation_ttl` seconds, and their pictures; on any thread."""
        self.conversations.expire(self._parameters().conversation_ttl, self._in_use())

    def forget_encodings(self) -> None:
        """Free the device memory of encoded frames; they are encoded again when a question needs them."""
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
        """The camera whose newest frame is needed; None if the picture is the question's own or the conversation's."""
        conversation = self._conversation(question)
        if question.image is not None or (conversation is not None and not question.new_frame):
            return None
        name = question.camera or (conversation.picture.camera if conversation else "")
        return self._cameras.get(name or self._parameters().cameras[0])

    def _conversation(self, question: Question) -> Conversation | None:
        return self.conversations.get(question.conversation) if question.conversation else None


def _outdated(camera: Camera, ticket: Ticket) -> float:
    """When the camera's newest frame becomes too old for the question; -inf without a frame."""
    newest = camera.newest  # read once: another thread may close the camera
    return -math.inf if newest is None else newest.received + ticket.question.max_age
