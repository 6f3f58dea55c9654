"""Conversations: what they keep, for how long, and what a follow-up question is about."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
from harness import Robot, eventually, lisa
from scenes import box_of, scene
from std_msgs.msg import Header

from lisa_ros.answering import Answerer
from lisa_ros.conversations import Conversation, Conversations
from lisa_ros.conversions import image_message
from lisa_ros.inference import Ticket
from lisa_ros.parameters import validated
from lisa_ros.pictures import Picture
from lisa_ros.questions import Code, Question
from lisa_ros.statistics import Statistics
from lisa_ros.subjects import Subjects

TTL = 60.0


class Clock:
    """A clock that the test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def kept(clock: Clock) -> Conversations:
    return Conversations(clock)


def about(index: int) -> Conversation:
    return Conversation(Picture(Header(), f"camera{index}", np.zeros((1, 1, 3), np.uint8)))


def test_a_conversation_is_found_by_its_id(kept: Conversations) -> None:
    first = about(1)
    kept.put("a", first, 2)
    assert kept.get("a") is first
    assert kept.get("b") is None


def test_the_least_recently_used_goes_first(kept: Conversations) -> None:
    for name in ("a", "b", "a", "c"):
        kept.put(name, about(1), 2)
    assert [kept.get(name) is not None for name in ("a", "b", "c")] == [True, False, True]
    assert len(kept) == 2


def test_none_goes_while_there_is_room(kept: Conversations) -> None:
    for name in ("a", "b"):
        kept.put(name, about(1), 3)
    assert len(kept) == 2


def test_what_is_not_asked_about_is_forgotten(kept: Conversations, clock: Clock) -> None:
    kept.put("old", about(1), 9)
    clock.now = 40.0
    kept.put("new", about(2), 9)
    clock.now = 70.0
    kept.expire(TTL)
    assert kept.get("old") is None
    assert kept.get("new") is not None
    assert len(kept) == 1
    clock.now = 200.0
    kept.expire(TTL)
    assert len(kept) == 0


def test_what_is_in_use_is_kept(kept: Conversations, clock: Clock) -> None:
    for name in ("a", "b", "c"):
        kept.put(name, about(1), 1, in_use={"a", name})
    assert [kept.get(name) is not None for name in ("a", "b", "c")] == [True, False, True]
    clock.now = 200.0
    kept.expire(TTL, in_use={"c"})
    assert [kept.get(name) is not None for name in ("a", "b", "c")] == [False, False, True]


@pytest.fixture(scope="module")
def robot(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Robot]:
    process = lisa(
        tmp_path_factory.mktemp("conversations") / "node.log",
        "-p",
        "cameras:=[front, rear]",
        max_conversations=2,
        max_frame_age=3600.0,
        front__qos="reliable",
        rear__qos="reliable",
    )
    robot = Robot()
    yield robot.until_active()
    robot.close()
    process.stop()


def show(robot: Robot, index: int, camera: str = "front") -> None:
    """Make this the camera's newest frame."""

    def newest() -> bool:
        robot.show(scene(index), f"/{camera}/image", stamp=index)
        return bool(robot.ask("red", camera=camera, max_age=-1.0).answer.header.stamp.sec == index)

    eventually(newest)


def roi(response: Any) -> tuple[int, int, int, int]:
    roi = response.answer.segments[0].roi
    return (roi.x_offset, roi.y_offset, roi.width, roi.height)


def test_follow_up_questions_are_about_the_same_frame_and_know_what_was_said(robot: Robot) -> None:
    show(robot, 1)
    first = robot.ask("red", conversation="a")
    assert first.answer.conversation == "a"
    assert first.answer.text == "Turn 1: red is [SEG]."
    show(robot, 2)
    second = robot.ask("blue", conversation="a")
    assert second.answer.text == "Turn 2: blue is [SEG]."
    assert second.answer.header == first.answer.header
    assert roi(second) == box_of("blue", 1)
    assert robot.ask("red").answer.header.stamp.sec == 2, "a single question is about the newest frame"


def test_a_conversation_may_turn_to_the_newest_frame(robot: Robot) -> None:
    show(robot, 3)
    robot.ask("red", conversation="turning")
    show(robot, 4)
    response = robot.ask("red", conversation="turning", new_frame=True)
    assert (response.answer.text, roi(response)) == ("Turn 2: red is [SEG].", box_of("red", 4))
    response = robot.ask("red", conversation="turning")
    assert (response.answer.text, roi(response)) == ("Turn 3: red is [SEG].", box_of("red", 4))


def test_a_new_image_starts_it_again(robot: Robot) -> None:
    show(robot, 5)
    robot.ask("red", conversation="again")
    response = robot.ask("red", conversation="again", image=scene(50))
    assert (response.answer.text, roi(response)) == ("Turn 1: red is [SEG].", box_of("red", 50))
    response = robot.ask("blue", conversation="again")
    assert (response.answer.text, roi(response)) == ("Turn 2: blue is [SEG].", box_of("blue", 50))
    assert response.answer.camera == ""


def test_the_same_image_goes_on_with_it(robot: Robot) -> None:
    """A client without a camera may send its image with each question."""
    robot.ask("red", conversation="sent", image=scene(51))
    again = image_message(scene(51), "rgb8", Header(frame_id="sent again"))
    response = robot.ask("blue", conversation="sent", image=again)
    assert (response.answer.text, roi(response)) == ("Turn 2: blue is [SEG].", box_of("blue", 51))
    assert response.answer.header == again.header


def test_the_same_image_is_encoded_once() -> None:
    engine: Any = SimpleNamespace(encode=lambda rgb: object())
    outputs: Any = SimpleNamespace(add_transform=lambda picture: None)
    node: Any = SimpleNamespace(get_logger=lambda: None)
    model: Any = SimpleNamespace(engine=engine)
    subjects = Subjects({}, lambda: validated({}), lambda: ())
    answerer = Answerer(node, model, subjects, lambda: validated({}), outputs, Statistics(), lambda _: None)

    def asked(index: int) -> Any:
        image = image_message(scene(index), "rgb8", Header())
        question = Question("red", camera="", conversation="sent", image=image, max_age=1.0, timeout=1.0)
        one = answerer._chosen(Ticket(question, lambda _: None))
        answerer._encode(one)
        return one

    first = asked(52)
    subjects.conversations.put("sent", Conversation(first.picture, (("red", "[SEG]."),)), limit=1)
    again, other = asked(52), asked(53)
    assert (again.frame, again.turns) == (first.frame, (("red", "[SEG]."),))
    assert other.frame is not first.frame
    assert other.turns == ()


def test_another_camera_takes_a_new_frame(robot: Robot) -> None:
    show(robot, 6)
    show(robot, 7, "rear")
    robot.ask("red", conversation="cameras", camera="front")
    response = robot.ask("red", conversation="cameras", camera="rear")
    assert Code(response.code) == Code.BAD_REQUEST
    assert response.message == "conversation 'cameras' is about an image of front: set new_frame to turn to rear"
    response = robot.ask("red", conversation="cameras", camera="rear", new_frame=True)
    assert (response.answer.camera, response.answer.text) == ("rear", "Turn 2: red is [SEG].")
    response = robot.ask("red", conversation="cameras", new_frame=True)
    assert response.answer.camera == "rear", "it stays with its camera"


def test_a_question_that_failed_was_not_said(robot: Robot) -> None:
    show(robot, 8)
    assert not robot.ask("red fail=python", conversation="failed").success
    assert robot.ask("red", conversation="failed").answer.text == "Turn 1: red is [SEG]."
    assert not robot.ask("red fail=memory", conversation="failed").success
    assert robot.ask("red delay=9", conversation="failed", timeout=0.1).code == Code.TIMEOUT
    assert robot.ask("red", conversation="failed").answer.text == "Turn 2: red is [SEG]."


def test_only_so_many_are_kept(robot: Robot) -> None:
    show(robot, 9)
    for name in ("x", "y", "z"):
        assert robot.ask("red", conversation=name).answer.text == "Turn 1: red is [SEG]."
    assert robot.ask("red", conversation="z").answer.text == "Turn 2: red is [SEG]."
    assert robot.ask("red", conversation="x").answer.text == "Turn 1: red is [SEG]."
    assert robot.ask("red").success, "which takes no place"
    assert robot.ask("red", conversation="z").answer.text == "Turn 3: red is [SEG]."


def test_the_time_to_live_is_a_parameter(robot: Robot) -> None:
    show(robot, 10)
    robot.ask("red", conversation="short")
    assert robot.set("conversation_ttl", 0.001).successful
    assert robot.ask("red", conversation="short").answer.text == "Turn 1: red is [SEG]."
    assert robot.set("conversation_ttl", 600.0).successful


def test_a_turn_that_waits_keeps_its_conversation(robot: Robot, tmp_path: Path) -> None:
    """However long the questions before it take, and however many conversations there are."""
    assert robot.set("max_conversations", 1).successful
    assert robot.ask("red", conversation="kept", image=scene(11)).success
    other = robot.pursue(f"red until={tmp_path / 'gate'}", conversation="other", image=scene(12))
    eventually(lambda: ("answering", "") in other.feedback)
    waiting = robot.pursue("blue", conversation="kept")
    eventually(lambda: ("waiting", "") in waiting.feedback)
    assert robot.set("conversation_ttl", 0.001).successful
    last = robot.pursue("green", image=scene(13))
    eventually(lambda: ("waiting", "") in last.feedback)
    (tmp_path / "gate").touch()
    assert all(goal.result()[1].success for goal in (other, last))
    answer = waiting.result()[1]
    assert (answer.answer.text, roi(answer)) == ("Turn 2: blue is [SEG].", box_of("blue", 11))
    assert robot.set("conversation_ttl", 600.0).successful
    assert robot.set("max_conversations", 2).successful


def test_what_conversations_held_is_given_back_while_nobody_asks(tmp_path: Path) -> None:
    process = lisa(tmp_path / "node.log", "-r", "__node:=idle", checkpoint="heavy")
    robot = Robot("/idle")
    try:
        robot.until_active()
        for conversation in ("a", "b", "c"):
            assert robot.ask("red", image=scene(1), conversation=conversation).success
        node = psutil.Process(process.pid)
        full = node.memory_info().rss
        assert robot.set("conversation_ttl", 0.001).successful
        eventually(lambda: full - node.memory_info().rss > 140 << 20, "the 150 MiB of three frames")
    finally:
        robot.close()
        process.stop()
