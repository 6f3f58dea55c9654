"""The queue of the engine, without a node: what a question waits for, and until when."""

import math
import threading
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from harness import PATIENCE, eventually

from lisa_ros import subjects
from lisa_ros.inference import MOST_TOGETHER, End, InferenceThread, Ticket
from lisa_ros.parameters import validated
from lisa_ros.pictures import Arrival
from lisa_ros.questions import Code, Outcome, Question, Refused


class Frames:
    """Says whether there is a young enough frame; answers as soon as `engine` is set."""

    def __init__(self) -> None:
        self.young = False
        self.late: set[str] = set()
        self.patient_for = 1000.0
        self.engine = threading.Event()
        self.engine.set()
        self.taken = threading.Event()
        self.together: list[list[str]] = []

    def let_one_group_pass(self) -> None:
        """The engine finishes and takes the next batch."""
        before, self.engine = self.engine, threading.Event()
        before.set()
        eventually(lambda: len(self.together) == 2, "the next group")

    def answer(self, tickets: Sequence[Ticket], end: End) -> None:
        engine = self.engine
        self.together.append([ticket.question.instruction for ticket in tickets])
        self.taken.set()
        engine.wait()
        for ticket in tickets:
            if ticket.question.instruction == "broken":
                raise RuntimeError("broken on purpose")
            if ticket.question.instruction == "ended":
                raise SystemExit("ended on purpose")  # no Exception: a thread that lets it pass ends without a word
            end(ticket, Outcome(Code.OK))

    def fail(self, ticket: Ticket, error: BaseException, end: End) -> None:
        end(ticket, Outcome(Code.INTERNAL, str(error)))

    def is_ready(self, ticket: Ticket) -> bool:
        return self.young and ticket.question.instruction not in self.late

    def patience(self, ticket: Ticket) -> float:
        return ticket.asked + self.patient_for

    def no_frame(self, ticket: Ticket) -> Outcome:
        return Outcome(Code.NO_FRAME)


@pytest.fixture
def frames() -> Frames:
    return Frames()


@pytest.fixture
def inference(frames: Frames) -> Iterator[InferenceThread]:
    thread = InferenceThread(frames, frames)
    yield thread
    frames.engine.set()
    assert thread.close(10.0)


def submit(inference: InferenceThread, instruction: str, **fields: Any) -> tuple[Ticket, list[Outcome]]:
    ends: list[Outcome] = []
    ticket = Ticket(Question(instruction, "camera", **{"timeout": 1000.0} | fields), ends.append)
    inference.submit(ticket, queue_size=99)
    return ticket, ends


def ask(inference: InferenceThread, instruction: str = "red", **fields: Any) -> list[Outcome]:
    """How the question ends, once it has."""
    return submit(inference, instruction, **fields)[1]


def code(ends: list[Outcome]) -> Code:
    return eventually(lambda: ends, "the end of a question")[0].code


def test_a_frame_that_comes_is_asked_about(inference: InferenceThread, frames: Frames) -> None:
    ends = ask(inference)
    frames.young = True
    assert not ends
    inference.look_again()
    assert code(ends) == Code.OK


def test_a_frame_that_grows_old_in_the_queue_is_not_waited_for_any_longer(
    inference: InferenceThread, frames: Frames
) -> None:
    frames.young = True
    frames.engine.clear()
    first = ask(inference)
    assert frames.taken.wait(PATIENCE)
    frames.patient_for = 0.5
    second = ask(inference)
    frames.young = False
    assert code(second) == Code.NO_FRAME
    frames.engine.set()
    assert code(first) == Code.OK


def test_a_turn_without_a_frame_ends_soon_after_the_one_before_it(inference: InferenceThread, frames: Frames) -> None:
    frames.young, frames.late = True, {"second"}
    frames.engine.clear()
    first = ask(inference, "first", conversation="a")
    assert frames.taken.wait(PATIENCE)
    second = ask(inference, "second", conversation="a")
    frames.patient_for = 0.5
    frames.engine.set()
    assert code(first) == Code.OK
    assert code(second) == Code.NO_FRAME


def test_other_limits_hold_at_once(inference: InferenceThread, frames: Frames) -> None:
    ends = ask(inference)
    frames.patient_for = 0.0
    inference.look_again()
    assert code(ends) == Code.NO_FRAME


def test_no_turn_overtakes_one_that_waits_for_its_frame(inference: InferenceThread, frames: Frames) -> None:
    frames.young, frames.late = True, {"first"}
    first, second = (ask(inference, words, conversation="a") for words in ("first", "second"))
    other = ask(inference, "other")
    assert code(other) == Code.OK
    assert not second
    frames.late = set()
    inference.look_again()
    assert (code(first), code(second)) == (Code.OK, Code.OK)
    assert frames.together == [["other"], ["first"], ["second"]]


def test_a_turn_has_patience_while_one_before_it_is_answered(inference: InferenceThread, frames: Frames) -> None:
    frames.young = True
    frames.engine.clear()
    first = ask(inference, "first", conversation="a")
    assert frames.taken.wait(PATIENCE)
    frames.young, frames.patient_for = False, 0.0
    second, other = ask(inference, "second", conversation="a"), ask(inference, "other")
    assert code(other) == Code.NO_FRAME
    assert not second
    frames.young = True
    frames.engine.set()
    assert (code(first), code(second)) == (Code.OK, Code.OK)


@pytest.mark.parametrize("end", ["no frame", "cancel"])
def test_a_turn_is_answered_as_soon_as_the_one_before_it_ends_without_an_answer(
    inference: InferenceThread, frames: Frames, end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames.young, frames.late = True, {"first"}
    if end == "no frame":
        monkeypatch.setattr(
            frames, "patience", lambda ticket: ticket.asked + (1.0 if ticket.question.instruction == "first" else 1e3)
        )
    first, ends = submit(inference, "first", conversation="a")
    second = ask(inference, "second", conversation="a")
    assert code(ask(inference, "other")) == Code.OK  # so the thread has looked at both, and sleeps
    if end == "cancel":
        inference.cancel(first)
    assert code(ends) == (Code.CANCELED if end == "cancel" else Code.NO_FRAME)
    assert code(second) == Code.OK


class TestTogether:
    @pytest.fixture
    def busy(self, inference: InferenceThread, frames: Frames) -> InferenceThread:
        """It is busy with a question, so that the next ones wait."""
        frames.young = True
        frames.engine.clear()
        ask(inference, "first")
        assert frames.taken.wait(PATIENCE)
        return inference

    def go_on(self, frames: Frames, *ends: list[Outcome]) -> list[list[str]]:
        """The batches after the first, once all of these questions have ended."""
        frames.engine.set()
        for end in ends:
            assert code(end) == Code.OK
        assert frames.together[0] == ["first"]
        return frames.together[1:]

    def test_what_waits_is_answered_together(self, busy: InferenceThread, frames: Frames) -> None:
        ends = [ask(busy, words, conversation=words[:1]) for words in ("red", "green", "")]
        assert busy.ahead == 4
        assert self.go_on(frames, *ends) == [["red", "green", ""]]
        assert busy.ahead == 0

    def test_with_or_without_words_apart(self, busy: InferenceThread, frames: Frames) -> None:
        asked = [("red", False), ("green", True), ("blue", False), ("grey", True)]
        ends = [ask(busy, words, mask_only=mask_only) for words, mask_only in asked]
        assert self.go_on(frames, *ends) == [["red", "blue"], ["green", "grey"]]

    def test_turns_of_a_conversation_one_after_the_other(self, busy: InferenceThread, frames: Frames) -> None:
        asked = [("red", "a"), ("then green", "a"), ("blue", "b"), ("then grey", "a"), ("single", ""), ("too", "")]
        ends = [ask(busy, words, conversation=conversation) for words, conversation in asked]
        assert self.go_on(frames, *ends) == [["red", "blue", "single", "too"], ["then green"], ["then grey"]]

    def test_no_turn_overtakes_one_that_does_not_go_with_the_rest(self, busy: InferenceThread, frames: Frames) -> None:
        ends = [ask(busy), ask(busy, "one", conversation="a", mask_only=True), ask(busy, "two", conversation="a")]
        assert self.go_on(frames, *ends) == [["red"], ["one"], ["two"]]

    def test_the_standing_one_comes_last_and_alone(self, busy: InferenceThread, frames: Frames) -> None:
        ends = [ask(busy, "standing", standing=True), ask(busy, "red"), ask(busy, "green")]
        assert self.go_on(frames, *ends) == [["red", "green"], ["standing"]]

    def test_only_so_many(self, busy: InferenceThread, frames: Frames) -> None:
        ends = [ask(busy, str(number)) for number in range(MOST_TOGETHER + 3)]
        self.go_on(frames, *ends)
        assert [len(group) for group in frames.together] == [1, MOST_TOGETHER, 3]

    def test_each_has_its_own_time(self, busy: InferenceThread, frames: Frames) -> None:
        slow, quick = ask(busy, "slow"), ask(busy, "quick", timeout=1.0)
        frames.let_one_group_pass()
        assert code(quick) == Code.TIMEOUT
        assert not slow
        frames.engine.set()
        assert code(slow) == Code.OK

    @pytest.mark.parametrize("trouble", ["broken", "ended"])
    def test_what_breaks_ends_those_that_are_left(self, busy: InferenceThread, frames: Frames, trouble: str) -> None:
        ends = [ask(busy, words) for words in ("red", trouble, "green")]
        frames.engine.set()
        assert [code(end) for end in ends] == [Code.OK, Code.INTERNAL, Code.INTERNAL]
        assert code(ask(busy, "next")) == Code.OK

    def test_all_of_them_are_refused_when_the_node_goes_down(self, busy: InferenceThread, frames: Frames) -> None:
        ends = [ask(busy, words) for words in ("red", "green")]
        frames.let_one_group_pass()
        busy.refuse_all(Outcome(Code.INACTIVE))
        assert [code(end) for end in ends] == [Code.INACTIVE] * 2
        frames.engine.set()


def test_the_deadlines_are_not_looked_at_all_the_time_while_the_engine_hangs(
    inference: InferenceThread, frames: Frames, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames.young = True
    frames.engine.clear()
    hanging = ask(inference, timeout=0.1)
    assert frames.taken.wait(PATIENCE)
    assert code(hanging) == Code.TIMEOUT
    looks: list[Ticket] = []

    def patience(ticket: Ticket) -> float:
        looks.append(ticket)
        return math.inf

    monkeypatch.setattr(frames, "patience", patience)
    assert code(ask(inference, timeout=0.3)) == Code.TIMEOUT
    assert len(looks) < 10
    frames.engine.set()


def test_what_comes_after_all_were_refused_is_refused_until_questions_are_accepted_again(
    inference: InferenceThread, frames: Frames
) -> None:
    frames.young = True
    inference.refuse_all(Outcome(Code.INACTIVE, "not now"))
    with pytest.raises(Refused, match="not now"):
        ask(inference)
    inference.accept()
    assert code(ask(inference)) == Code.OK


def test_a_camera_may_be_closed_by_another_thread_while_its_frame_is_looked_at() -> None:
    class Closing:
        looks = (Arrival(b"", received=5.0),)

        @property
        def newest(self) -> Arrival | None:
            looks, self.looks = self.looks, ()
            return looks[0] if looks else None

    ticket = Ticket(Question("red", camera="front", max_age=1.0), lambda _: None)
    camera: Any = Closing()
    assert subjects._outdated(camera, ticket) == 6.0
    assert subjects._outdated(camera, ticket) == -math.inf


@pytest.mark.parametrize(("received", "until"), [(None, 102.0), (50.0, 102.0), (99.5, 102.5), (130.0, 133.0)])
def test_a_question_may_wait_for_a_frame_from_when_it_lacks_one(received: float | None, until: float) -> None:
    camera: Any = SimpleNamespace(newest=None if received is None else Arrival(b"", received))
    parameters = validated({"frame_timeout": 2.0})
    frames = subjects.Subjects({"front": camera}, lambda: parameters, lambda: ())
    ticket = Ticket(Question("red", "front", max_age=1.0), lambda _: None)
    ticket.asked = 100.0
    assert frames.patience(ticket) == until


def test_a_question_ends_once_and_tells_of_nothing_afterwards() -> None:
    ends: list[Outcome] = []
    told: list[tuple[str, str]] = []
    ticket = Ticket(Question("red", "camera"), ends.append, lambda stage, text: told.append((stage, text)))
    for _ in range(2):  # the second time alone, for it failed together with others
        ticket.enter("answering")
        ticket.add_text("It ")
        ticket.add_text("is")
    first = Outcome(Code.TIMEOUT)
    ticket.complete(first)
    ticket.complete(Outcome(Code.OK))
    ticket.enter("masking")
    assert told == [("answering", text) for text in ("", "It ", "It is")] * 2
    assert [end is first for end in ends] == [True]


def test_a_full_queue_refuses_people_and_the_standing_question_takes_no_place(inference: InferenceThread) -> None:
    def queue(standing: bool) -> None:
        inference.submit(Ticket(Question("red", "camera", standing=standing), lambda _: None), queue_size=1)

    queue(standing=True)
    queue(standing=False)
    with pytest.raises(Refused, match="busy: 2 questions are ahead"):
        queue(standing=False)
    queue(standing=True)
    assert inference.ahead == 3


def test_a_question_that_is_canceled_while_it_is_answered_stops_the_engine(
    inference: InferenceThread, frames: Frames
) -> None:
    frames.young = True
    frames.engine.clear()
    ticket, ends = submit(inference, "red")
    assert frames.taken.wait(PATIENCE)
    inference.cancel(ticket)
    assert ticket.cancel.is_set()
    assert not ends, "the engine says when it has stopped"
    frames.engine.set()


@pytest.mark.parametrize("way", ["deadline", "shutdown"])
def test_the_engine_is_told_to_stop_when_the_outcome_is_out(
    inference: InferenceThread, frames: Frames, way: str
) -> None:
    """Otherwise it could report the question as canceled first."""
    frames.young = True
    frames.engine.clear()
    told: list[bool] = []
    ticket = Ticket(Question("red", "camera", timeout=1000.0), lambda _: told.append(ticket.cancel.is_set()))
    inference.submit(ticket, queue_size=1)
    assert frames.taken.wait(PATIENCE)
    if way == "deadline":
        ticket.asked -= 1000.0
        ask(inference)  # so that the clock is looked at
    else:
        inference.refuse_all(Outcome(Code.INACTIVE))
    assert eventually(lambda: told) == [False]
    assert ticket.cancel.wait(PATIENCE)
    frames.engine.set()
