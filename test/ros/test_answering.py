"""Answering questions, without a node: what they are about, and what is logged of those that fail."""

import gc
import threading
import weakref
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fake_engine import FakeEngine, FakeFrame
from numpy.typing import NDArray
from scenes import scene
from std_msgs.msg import Header

from lisa_ros.answering import Answerer
from lisa_ros.conversions import image_message
from lisa_ros.inference import Ticket
from lisa_ros.parameters import validated
from lisa_ros.pictures import Picture
from lisa_ros.questions import Code, Outcome, Question
from lisa_ros.statistics import Statistics
from lisa_ros.subjects import Subjects

LIMITS = {"max_new_tokens": 7, "max_segments": 3}


class Camera:
    """A camera whose newest frame the test sets, by its number."""

    name = "camera"

    def __init__(self) -> None:
        self.show(0)

    def show(self, index: int) -> None:
        self.newest = SimpleNamespace(received=float(index))

    def picture(self, arrival: Any) -> Picture:
        return Picture(Header(), self.name, scene(int(arrival.received)), received=arrival.received)

    def add_companions(self, picture: Picture) -> None:
        """There are none."""

    let_go = add_companions


@pytest.fixture
def camera() -> Camera:
    return Camera()


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine("fake", "fp32")


@pytest.fixture
def errors() -> list[str]:
    """What was logged as an error."""
    return []


@pytest.fixture
def answerer(camera: Camera, engine: FakeEngine, errors: list[str]) -> Answerer:
    logger = SimpleNamespace(error=errors.append, info=lambda _: None)
    node: Any = SimpleNamespace(get_logger=lambda: logger)
    model: Any = SimpleNamespace(engine=engine, measure=lambda: None)
    outputs: Any = SimpleNamespace(add_transform=lambda picture: None, publish=lambda *_: None)
    cameras: Any = {"camera": camera}
    subjects, limits = Subjects(cameras, lambda: validated({}), lambda: ()), validated(LIMITS)
    return Answerer(node, model, subjects, lambda: limits, outputs, Statistics(), lambda _: None)


def ask(answerer: Answerer, *questions: Question) -> tuple[list[Ticket], list[Code]]:
    """Ask them together; the tickets, and how they ended."""
    ends: dict[Ticket, Outcome] = {}
    tickets = [Ticket(question, lambda _: None) for question in questions]
    answerer.answer(tickets, ends.__setitem__)
    return tickets, [ends[ticket].code for ticket in tickets]


def test_all_frames_are_chosen_before_the_first_is_encoded(
    answerer: Answerer, camera: Camera, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Encoding takes long, and the frame of the last question was young enough when it was ready."""
    encode = engine.encode

    def slow(rgb: NDArray[np.uint8]) -> FakeFrame:
        camera.show(2)
        return encode(rgb)

    camera.show(1)
    monkeypatch.setattr(engine, "encode", slow)
    tickets, codes = ask(answerer, Question("red", "camera"), Question("blue", "camera"))
    assert codes == [Code.OK, Code.OK]
    assert [ticket.received for ticket in tickets] == [1.0, 1.0]


@pytest.mark.parametrize(("method", "count"), [("ask", 1), ("ask_many", 2)])
def test_limits_and_wishes_reach_the_engine_once(
    answerer: Answerer, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch, method: str, count: int
) -> None:
    asked: list[tuple[str, dict[str, Any]]] = []

    def noting(name: str) -> Any:
        as_it_is = getattr(engine, name)

        def noted(*what: Any, **options: Any) -> Any:
            asked.append((name, {option: options.get(option) for option in (*LIMITS, "mask_only")}))
            return as_it_is(*what, **options)

        return noted

    for name in ("ask", "ask_many"):
        monkeypatch.setattr(engine, name, noting(name))
    _, codes = ask(answerer, *[Question("red", "camera", mask_only=True)] * count)
    assert codes == [Code.OK] * count
    assert asked == [(method, LIMITS | {"mask_only": True})]


def test_a_transform_is_looked_for_before_the_question_is_answered(
    answerer: Answerer, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the answer comes tf may have forgotten it."""
    steps: list[str] = []
    as_it_is = engine.ask

    def noted(*what: Any, **options: Any) -> Any:
        steps.append("ask")
        return as_it_is(*what, **options)

    monkeypatch.setattr(engine, "ask", noted)
    monkeypatch.setattr(answerer._publications, "add_transform", lambda picture: steps.append("look"))
    ask(answerer, Question("red", "camera"))
    assert steps == ["look", "ask", "look"]


def test_who_gives_up_while_another_is_encoded_is_not_encoded(
    answerer: Answerer, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode, sent = engine.encode, image_message(scene(1), "rgb8", Header())
    first, second = (
        Ticket(question, lambda _: None) for question in (Question("red", "camera"), Question("red", "", image=sent))
    )

    def given_up(rgb: NDArray[np.uint8]) -> FakeFrame:
        second.cancel.set()
        return encode(rgb)

    monkeypatch.setattr(engine, "encode", given_up)
    ends: dict[Ticket, Outcome] = {}
    answerer.answer([first, second], ends.__setitem__)
    assert [ends[first].code, ends[second].code] == [Code.OK, Code.CANCELED]
    assert engine.encoded == 1


def test_a_frame_is_encoded_once_unless_the_memory_is_needed(
    answerer: Answerer, camera: Camera, engine: FakeEngine
) -> None:
    newest, earlier = Question("red", "camera"), Question("blue", "", conversation="a")
    ask(answerer, Question("red", "camera", conversation="a"))
    camera.show(1)
    ask(answerer, newest)
    encoded = []
    for question in (newest, earlier, Question("red fail=memory", "camera"), newest, earlier, newest, earlier):
        ask(answerer, question)
        encoded.append(engine.encoded)
    assert encoded == [2, 2, 2, 3, 4, 4, 4]


def test_a_standing_failure_that_comes_back_is_logged_again(answerer: Answerer, errors: list[str]) -> None:
    logged = []
    for words in ("red fail=python", "red fail=python", "red", "red fail=python"):
        ask(answerer, Question(words, "camera", standing=True))
        logged.append(len(errors))
    assert logged == [1, 1, 1, 2]
    ask(answerer, Question("red fail=python", "camera"))
    assert len(errors) == 3, "of people's questions each failure is logged"


@pytest.mark.parametrize(
    ("questions", "expected"),
    [
        pytest.param([("red", False)], [Code.OK], id="answered"),
        pytest.param([("red", True)], [Code.CANCELED], id="given up"),
        pytest.param([("red fail=python", False)], [Code.INTERNAL], id="failed"),
        pytest.param([("red", False), ("blue delay=9", True)], [Code.OK, Code.CANCELED], id="one of two given up"),
        pytest.param([("red", False), ("blue fail=python", False)], [Code.OK, Code.INTERNAL], id="one of two failed"),
    ],
)
def test_what_a_question_held_is_gone_when_it_has_ended(
    answerer: Answerer,
    camera: Camera,
    monkeypatch: pytest.MonkeyPatch,
    questions: list[tuple[str, bool]],
    expected: list[Code],
) -> None:
    """Frames take a GPU's memory: it is needed now, not when Python looks for cycles."""
    made: list[weakref.ref[Picture]] = []
    picture = camera.picture

    def noted(arrival: Any) -> Picture:
        fresh = picture(arrival)
        made.append(weakref.ref(fresh))
        return fresh

    monkeypatch.setattr(camera, "picture", noted)
    gc.disable()
    try:
        assert ask_giving_up(answerer, questions) == expected
        camera.show(1)  # the last picture of a camera is kept
        ask(answerer, Question("red", "camera"))
        assert [held() is not None for held in made] == [False, True]
    finally:
        gc.enable()


def ask_giving_up(answerer: Answerer, questions: list[tuple[str, bool]]) -> list[Code]:
    """Ask them together, give up those marked so when the engine begins to answer; how they ended."""

    def ticket(words: str, given_up: bool) -> Ticket:
        give_up = threading.Event()
        begins = "answering" if given_up else None
        asked = Ticket(Question(words, "camera"), lambda _: None, lambda stage, _: stage == begins and give_up.set())
        asked.cancel = give_up
        return asked

    ends: dict[Ticket, Outcome] = {}
    tickets = [ticket(*question) for question in questions]
    answerer.answer(tickets, ends.__setitem__)
    return [ends[one].code for one in tickets]
