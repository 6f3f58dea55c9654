"""The queue before the engine, without a node: what a question waits for, and until when."""

import threading
from collections.abc import Iterator

import pytest
from harness import PATIENCE, eventually

from lisa_ros.inference import InferenceThread, Ticket
from lisa_ros.questions import Code, Outcome, Question


class Frames:
    """There is a young enough frame, or not; answers come as soon as `engine` is set."""

    def __init__(self) -> None:
        self.young = False
        self.patient_for = 1000.0
        self.engine = threading.Event()
        self.engine.set()
        self.taken = threading.Event()

    def answer(self, ticket: Ticket) -> Outcome:
        self.taken.set()
        self.engine.wait()
        return Outcome(Code.OK)

    def failure(self, ticket: Ticket, error: BaseException) -> Outcome:
        raise AssertionError("nothing fails here") from error

    def is_ready(self, ticket: Ticket) -> bool:
        return self.young

    def patience(self, ticket: Ticket) -> float:
        return ticket.asked + self.patient_for

    def no_frame(self, ticket: Ticket) -> Outcome:
        return Outcome(Code.NO_FRAME)


@pytest.fixture
def frames() -> Frames:
    return Frames()


@pytest.fixture
def inference(frames: Frames) -> Iterator[InferenceThread]:
    thread = InferenceThread(frames)
    yield thread
    frames.engine.set()
    assert thread.close(10.0)


def ask(inference: InferenceThread) -> list[Outcome]:
    """How the question ends, once it has."""
    ends: list[Outcome] = []
    inference.submit(Ticket(Question("red", "camera", timeout=1000.0), ends.append), queue_size=8)
    return ends


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


def test_other_limits_hold_at_once(inference: InferenceThread, frames: Frames) -> None:
    ends = ask(inference)
    frames.patient_for = 0.0
    inference.look_again()
    assert code(ends) == Code.NO_FRAME
