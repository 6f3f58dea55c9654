"""Answers questions: asks the engine, locates the segments, publishes and returns the answer."""

import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from rclpy.node import Node

import lisa_core
from lisa_core.errors import Cancelled, DeviceError, ImageError, OutOfMemoryError, PromptError, brief
from lisa_core.geometry import SurfacePoints, deproject
from lisa_ros import conversions
from lisa_ros.conversations import Conversation, Turn
from lisa_ros.inference import End, Ticket
from lisa_ros.model import Model
from lisa_ros.parameters import Parameters
from lisa_ros.pictures import Picture
from lisa_ros.publishing import Publications
from lisa_ros.questions import Code, Outcome, Question, Refused
from lisa_ros.statistics import Statistics
from lisa_ros.subjects import Subjects

MODEL_STAGES = ("waiting", "encoding", "answering")
"""Stages in which the model works, for this question or for those before it."""


@dataclass(eq=False)
class _Asked:
    """A question whose picture is chosen: earlier turns about it, and the seconds spent by stage.

    Attributes:
        frame: the picture for the engine, once it is encoded.
    """

    ticket: Ticket
    picture: Picture
    turns: Sequence[Turn]
    stages: dict[str, float]
    frame: "lisa_core.Frame" = field(init=False)
    ended: bool = False


class Answerer:
    """Answers questions with an engine; every method runs on the inference thread."""

    def __init__(
        self,
        node: Node,
        model: Model,
        subjects: Subjects,
        parameters: Callable[[], Parameters],
        publications: Publications,
        statistics: Statistics,
        give_up: Callable[[str], None],
    ) -> None:
        self._logger = node.get_logger()
        self._model = model
        assert model.engine is not None, "load it first"
        self._engine = model.engine
        self._subjects = subjects
        self._parameters = parameters
        self._publications = publications
        self._statistics = statistics
        self._give_up = give_up
        self._standing_failure = ""

    def answer(self, tickets: Sequence[Ticket], end: End) -> None:
        """Answer the questions, several of them together; if one fails, the others are still answered."""
        chosen: list[_Asked] = []
        for ticket in tickets:  # all of them now, for frames grow old while those of others are encoded
            with self._failing_alone(ticket, end):
                chosen.append(self._chosen(ticket))
        asked: list[_Asked] = []
        for one in chosen:
            with self._failing_alone(one.ticket, end):
                self._encode(one)
                asked.append(one)
        if len(asked) > 1:
            try:
                self._ask_together(asked, end)
            except BaseException as error:  # asked one by one, only the question that causes it fails
                self._logger.info(f"{len(asked)} questions together failed with {brief(error)}: asking one by one")
        for one in asked:
            if not one.ended:
                with self._failing_alone(one.ticket, end):
                    self._ask_alone(one, end)

    @contextmanager
    def _failing_alone(self, ticket: Ticket, end: End) -> Iterator[None]:
        try:
            yield
        except BaseException as error:  # whatever it is, the one who asked is told
            self.fail(ticket, error, end)

    def _chosen(self, ticket: Ticket) -> "_Asked":
        """Find the question's picture; raises Refused, or ImageError if it cannot be read."""
        stages = {"waiting": 0.0}
        with _timed(stages, "image"):
            picture, turns = self._subjects.of(ticket.question)
        ticket.received = picture.received
        return _Asked(ticket, picture, turns, stages)

    def _encode(self, one: "_Asked") -> None:
        """Encode the question's picture; raises Refused and whatever the engine raises."""
        if one.ticket.cancel.is_set():
            raise Cancelled("given up while those asked with it were encoded")
        one.stages["waiting"] = time.monotonic() - one.ticket.asked - one.stages["image"]
        one.ticket.enter("encoding")
        with _timed(one.stages, "encoding"):
            one.frame = self._encoded(one.picture)

    def _ask_alone(self, one: "_Asked", end: End) -> None:
        parameters, ticket = self._parameters(), one.ticket
        ticket.enter("answering")
        with _timed(one.stages, "answering"):
            answer = self._engine.ask(
                one.frame,
                ticket.question.instruction,
                one.turns,
                max_new_tokens=parameters.max_new_tokens,
                max_segments=parameters.max_segments,
                mask_only=ticket.question.mask_only,
                on_token=ticket.add_text,
                on_stage=ticket.enter,
                cancel=ticket.cancel,
            )
        end(ticket, self._answered(one, answer))

    def _ask_together(self, asked: Sequence["_Asked"], end: End) -> None:
        parameters, tickets = self._parameters(), [one.ticket for one in asked]
        began = time.monotonic()

        def on_answer(index: int, answer: "lisa_core.Answer | Cancelled") -> None:
            one = asked[index]
            one.ended = True
            one.stages["answering"] = time.monotonic() - began
            if isinstance(answer, Cancelled):
                self.fail(one.ticket, answer, end)
                return
            with self._failing_alone(one.ticket, end):
                end(one.ticket, self._answered(one, answer))

        for ticket in tickets:
            ticket.enter("answering")
        self._engine.ask_many(
            [one.frame for one in asked],
            [ticket.question.instruction for ticket in tickets],
            [one.turns for one in asked],
            max_new_tokens=parameters.max_new_tokens,
            max_segments=parameters.max_segments,
            mask_only=tickets[0].question.mask_only,
            on_token=lambda index, text: tickets[index].add_text(text),
            on_stage=lambda index, stage: tickets[index].enter(stage),
            on_answer=on_answer,
            cancels=[ticket.cancel for ticket in tickets],
        )

    def _answered(self, one: "_Asked", answer: lisa_core.Answer) -> Outcome:
        """Locate the segments, publish the answer, and remember it for its conversation."""
        ticket, picture, stages, question = one.ticket, one.picture, one.stages, one.ticket.question
        with _timed(stages, "position"):
            self._complete(picture)
            points = self._points(picture, answer)
            self._subjects.let_go(picture)
        with _timed(stages, "messages"):
            duration = time.monotonic() - ticket.asked
            message = self._message(question, picture, answer, points, duration, question.include_masks)
        if ticket.cancel.is_set():
            raise Cancelled("given up before anybody was told the answer")
        with _timed(stages, "publishing"):
            bare = self._message(question, picture, answer, points, duration) if question.include_masks else message
            self._publications.publish(picture, answer, bare, points)
        if question.standing:
            self._standing_failure = ""
        self._subjects.remember(question, Conversation(picture, (*one.turns, (question.instruction, answer.text))))
        self._model.measure()
        stages["all but the model"] = sum(seconds for stage, seconds in stages.items() if stage not in MODEL_STAGES)
        stages["total"] = time.monotonic() - ticket.asked
        self._statistics.add_latencies(stages | {f"model: {stage}": took for stage, took in answer.timings.items()})
        return Outcome(Code.OK, answer=message)

    def fail(self, ticket: Ticket, error: BaseException, end: End) -> None:
        """End the question with this error; free memory, end the node or log it, as the error demands."""
        outcome = _outcome_of(error, ticket.stage)
        if outcome.code is Code.OUT_OF_MEMORY:
            self._subjects.forget_encodings()
        elif outcome.code is Code.INTERNAL and not isinstance(error, DeviceError):
            self._log_unforeseen(ticket, error)
        end(ticket, outcome)
        if isinstance(error, DeviceError):
            self._give_up(str(error))

    def _log_unforeseen(self, ticket: Ticket, error: BaseException) -> None:
        """Log the traceback; for the standing question, which may fail again and again, only if the error is new."""
        told, standing = repr(error), ticket.question.standing
        if not standing or told != self._standing_failure:
            trace = "".join(traceback.format_exception(error))
            self._logger.error(f"answering {ticket.question.instruction!r}:\n{trace}")
        if standing:
            self._standing_failure = told

    def _encoded(self, picture: Picture) -> "lisa_core.Frame":
        if picture.encoded is None:
            try:
                picture.encoded = self._engine.encode(picture.rgb)
            except ImageError as error:
                if not picture.camera:
                    raise
                raise Refused(Code.NO_FRAME, f"the newest frame of camera {picture.camera}: {error}") from None
            self._complete(picture)
        return picture.encoded

    def _complete(self, picture: Picture) -> None:
        """Add transform, depth and intrinsics that have come by now; they often come after their picture."""
        self._publications.add_transform(picture)
        self._subjects.complete(picture)

    def _points(self, picture: Picture, answer: lisa_core.Answer) -> list[SurfacePoints]:
        """The points of each segment; an empty list without depth and intrinsics."""
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


def _outcome_of(error: BaseException, stage: str) -> Outcome:
    """The code and the sentence for an error that was raised while the question was in that stage."""
    if isinstance(error, Refused):
        return error.outcome
    if isinstance(error, Cancelled):
        return Outcome(Code.CANCELED, f"canceled while {stage}")
    if isinstance(error, PromptError | ImageError):
        return Outcome(Code.BAD_REQUEST, str(error))
    if isinstance(error, OutOfMemoryError | MemoryError):
        return Outcome(Code.OUT_OF_MEMORY, str(error) or "out of memory")
    if isinstance(error, DeviceError):
        return Outcome(Code.INTERNAL, str(error))
    return Outcome(Code.INTERNAL, f"internal error, the node's log has more: {type(error).__name__}: {error}")


@contextmanager
def _timed(stages: dict[str, float], name: str) -> Iterator[None]:
    begin = time.monotonic()
    yield
    stages[name] = time.monotonic() - begin
