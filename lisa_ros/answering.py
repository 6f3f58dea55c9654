"""From a question to its answer: which picture, what the engine says, where that is, and who is told."""

import math
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rclpy.node import Node

import lisa_core
from lisa_core.errors import Cancelled, ImageError, OutOfMemoryError, PromptError
from lisa_core.geometry import SurfacePoints, deproject
from lisa_ros import conversions
from lisa_ros.cameras import Arrival, Camera, Picture
from lisa_ros.conversations import Conversation, Conversations, Turn
from lisa_ros.diagnostics import Statistics
from lisa_ros.inference import Ticket
from lisa_ros.model import Model
from lisa_ros.parameters import Parameters
from lisa_ros.publishing import Publications
from lisa_ros.questions import Code, Outcome, Question, Refused

NOT_OURS = ("waiting", "encoding", "answering")
"""Stages in which the model is at work, for this question or those before it."""


class Answerer:
    """Answers questions with an engine, the cameras and what was said before; all of it on the inference thread."""

    def __init__(
        self,
        node: Node,
        model: Model,
        cameras: Mapping[str, Camera],
        parameters: Callable[[], Parameters],
        publications: Publications,
        statistics: Statistics,
    ) -> None:
        self._logger = node.get_logger()
        self._model = model
        assert model.engine is not None, "load it first"
        self._engine = model.engine
        self._cameras = cameras
        self._parameters = parameters
        self._publications = publications
        self._statistics = statistics
        self._latest: dict[str, tuple[Arrival, Picture]] = {}  # by camera: asked about again it is encoded already
        self.conversations = Conversations()

    def answer(self, ticket: Ticket) -> Outcome:
        """Answer the question; raises what the engine raises, and Refused."""
        question, parameters = ticket.question, self._parameters()
        stages = {"waiting": time.monotonic() - ticket.asked}
        with _timed(stages, "image"):
            picture, turns = self._subject(question)
        with _timed(stages, "encoding"):
            ticket.enter("encoding")
            frame = self._encoded(picture)
        with _timed(stages, "answering"):
            ticket.enter("answering")
            answer = self._engine.ask(
                frame,
                question.instruction,
                turns,
                max_new_tokens=parameters.max_new_tokens,
                max_segments=parameters.max_segments,
                mask_only=question.mask_only,
                on_token=ticket.add_text,
                on_stage=ticket.enter,
                cancel=ticket.cancel,
            )
        with _timed(stages, "position"):
            points = self._points(picture, answer)
        with _timed(stages, "messages"):
            duration = time.monotonic() - ticket.asked
            message = self._message(question, picture, answer, points, duration, question.include_masks)
        if not ticket.done:
            with _timed(stages, "publishing"):
                bare = self._message(question, picture, answer, points, duration) if question.include_masks else message
                self._publications.publish(picture, answer, bare, points)
            self._remember(question, Conversation(picture, (*turns, (question.instruction, answer.text))))
        self._model.measure()
        stages["all but the model"] = sum(seconds for stage, seconds in stages.items() if stage not in NOT_OURS)
        stages["total"] = time.monotonic() - ticket.asked
        stages |= {f"model: {stage}": seconds for stage, seconds in answer.timings.items()}
        self._statistics.add_latencies(stages)
        return Outcome(Code.OK, answer=message)

    def failure(self, ticket: Ticket, error: BaseException) -> Outcome:
        """The code and the sentence for what `answer` raised."""
        if isinstance(error, Refused):
            return error.outcome
        if isinstance(error, Cancelled):
            return Outcome(Code.CANCELED, f"canceled while {ticket.stage}")
        if isinstance(error, PromptError | ImageError):
            return Outcome(Code.BAD_REQUEST, str(error))
        if isinstance(error, OutOfMemoryError | MemoryError):
            self._forget_encodings()
            return Outcome(Code.OUT_OF_MEMORY, str(error) or "out of memory")
        self._logger.error(f"answering {ticket.question.instruction!r}:\n{''.join(traceback.format_exception(error))}")
        return Outcome(Code.INTERNAL, f"internal error, the node's log has more: {type(error).__name__}: {error}")

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
        if camera is None or camera.newest is None:
            why = camera.silence() if camera else "the camera is closed"
        else:
            age = time.monotonic() - camera.newest.received
            why = (
                f"the newest frame of camera {camera.name} is {age:.1f} s old, "
                f"and max_age is {ticket.question.max_age:g} s ({camera.topic})"
            )
        return Outcome(Code.NO_FRAME, why)

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

    def _subject(self, question: Question) -> tuple[Picture, Sequence[Turn]]:
        """The picture that is asked about, and what was said before."""
        if question.image is not None:
            rgb = conversions.to_rgb(question.image)
            return Picture(header=question.image.header, camera="", rgb=rgb), ()
        conversation = self._conversation(question)
        if conversation is not None and not question.new_frame:
            if question.camera not in ("", conversation.picture.camera):
                raise Refused(
                    Code.BAD_REQUEST,
                    f"conversation {question.conversation!r} is about an image of "
                    f"{conversation.picture.camera or 'the one who asks'}: set new_frame to turn to {question.camera}",
                )
            return conversation.picture, conversation.turns
        return self._newest(question), conversation.turns if conversation is not None else ()

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

    def _encoded(self, picture: Picture) -> "lisa_core.Frame":
        if picture.encoded is None:
            try:
                picture.encoded = self._engine.encode(picture.rgb)
            except ImageError as error:
                if not picture.camera:
                    raise
                raise Refused(Code.NO_FRAME, f"the newest frame of camera {picture.camera}: {error}") from None
            if picture.camera in self._cameras:
                self._cameras[picture.camera].add_companions(picture)
        return picture.encoded

    def _points(self, picture: Picture, answer: lisa_core.Answer) -> list[SurfacePoints]:
        """The points of each segment; none at all without depth and intrinsics."""
        depth, intrinsics = picture.depth, picture.intrinsics
        if depth is None or intrinsics is None:
            return []
        try:
            return [deproject(segment.mask, depth, intrinsics) for segment in answer.segments]
        except ImageError as error:
            self._logger.warning(f"no positions: {error}", throttle_duration_sec=5.0)
            return []

    def _message(
        self,
        question: Question,
        picture: Picture,
        answer: lisa_core.Answer,
        points: Sequence[SurfacePoints],
        duration: float,
        include_masks: bool = False,
    ) -> Any:
        return conversions.answer_message(
            answer,
            picture.header,
            camera=picture.camera,
            conversation=question.conversation,
            instruction=question.instruction,
            duration=duration,
            placements=[of_segment.placement for of_segment in points],
            include_masks=include_masks,
        )

    def _remember(self, question: Question, conversation: Conversation) -> None:
        if question.conversation:
            parameters = self._parameters()
            self.conversations.put(
                question.conversation, conversation, parameters.max_conversations, parameters.conversation_ttl
            )

    def _forget_encodings(self) -> None:
        """Give back the device memory that past frames hold; they are encoded again when somebody asks."""
        for _, picture in self._latest.values():
            picture.encoded = None
        for conversation in self.conversations:
            conversation.picture.encoded = None


def _outdated(camera: Camera, ticket: Ticket) -> float:
    """When the camera's newest frame gets too old for the question."""
    return -math.inf if camera.newest is None else camera.newest.received + ticket.question.max_age


@contextmanager
def _timed(stages: dict[str, float], name: str) -> Iterator[None]:
    begin = time.monotonic()
    yield
    stages[name] = time.monotonic() - begin
