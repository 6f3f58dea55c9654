"""The standing instruction: every new frame, at its rate, after users' questions; and the diagnostics."""

import gc
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from fake_engine import FakeEngine
from harness import PATIENCE, Robot, camera, eventually, lisa, values
from lisa_ros.msg import Answer
from rclpy.parameter import Parameter
from scenes import box_of, scene
from std_msgs.msg import String

from lisa_ros.diagnostics import questions_status
from lisa_ros.inference import Ticket
from lisa_ros.node import LisaNode
from lisa_ros.parameters import Parameters, validated
from lisa_ros.questions import Code, Outcome, Question, Refused
from lisa_ros.standing import StandingInstruction
from lisa_ros.statistics import Statistics


@pytest.fixture(scope="module")
def robot(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Robot]:
    folder = tmp_path_factory.mktemp("standing")
    processes = [lisa(folder / "node.log", frame_timeout=PATIENCE), camera(folder / "camera.log")]
    robot = Robot()
    yield robot.until_active()
    robot.close()
    for process in processes:
        process.stop()


@pytest.fixture(scope="module")
def answers(robot: Robot) -> list[Any]:
    return robot.listen("/lisa/answer", Answer)


@pytest.fixture(scope="module")
def diagnostics(robot: Robot) -> list[Any]:
    return robot.listen("/diagnostics", DiagnosticArray)


@pytest.fixture(autouse=True)
def quiet(robot: Robot, answers: list[Any]) -> Iterator[None]:
    """No standing instruction before and after each test."""
    yield
    robot.set("standing_instruction", "")
    robot.set("standing_rate", 0.0)
    robot.set("standing_mask_only", False)
    robot.ask("nothing more to come")  # whatever was still being answered has come by now
    eventually(lambda: answers and answers[-1].instruction == "nothing more to come")
    answers.clear()


def instruct(robot: Robot, words: str) -> None:
    robot.publish("/lisa/instruction", String(data=words))
    eventually(lambda: robot.get("standing_instruction") == words)


def status(diagnostics: list[Any], name: str) -> Any:
    """The newest status of that name, once there is one."""
    diagnostics.clear()
    array = eventually(lambda: diagnostics and diagnostics[-1])
    return next(status for status in array.status if status.name == f"lisa: {name}")


def test_every_new_frame_is_answered_until_the_instruction_is_empty(robot: Robot, answers: list[Any]) -> None:
    instruct(robot, "red")
    eventually(lambda: len(answers) >= 20)
    stamps = [answer.header.stamp.sec for answer in answers]
    assert sorted(set(stamps)) == stamps, "no frame twice, none after a newer one"
    for answer in answers:
        roi = answer.segments[0].roi
        assert (roi.x_offset, roi.y_offset, roi.width, roi.height) == box_of("red", answer.header.stamp.sec)
    instruct(robot, "")
    robot.ask("last")
    eventually(lambda: answers[-1].instruction == "last")
    count = len(answers)
    robot.ask("last")
    eventually(lambda: len(answers) > count)
    assert len(answers) == count + 1


def test_it_keeps_to_its_rate(robot: Robot, answers: list[Any]) -> None:
    assert robot.set("standing_rate", 5).successful
    instruct(robot, "red")
    eventually(lambda: len(answers) >= 12)
    first, last = answers[0].header.stamp.sec, answers[11].header.stamp.sec
    assert last - first >= 45, "at 30 Hz every sixth frame, some of them late"


def test_the_last_frame_of_a_camera_that_stops_is_asked_about_too(tmp_path: Path) -> None:
    process, robot = lisa(tmp_path / "node.log", "-r", "__ns:=/still", camera__qos="reliable"), Robot("/still/lisa")
    try:
        robot.until_active()
        answers = robot.listen("/still/lisa/answer", Answer)
        robot.set("standing_rate", 1.0)
        robot.set("max_frame_age", 30.0)
        eventually(lambda: robot.show(scene(1), "/still/image", stamp=1) or (robot.ask("blue").success and answers))

        def asked_about() -> list[int]:
            return [answer.header.stamp.sec for answer in answers if answer.instruction == "red"]

        robot.publish("/still/lisa/instruction", String(data="red"))
        eventually(lambda: robot.get("standing_instruction") == "red")
        robot.show(scene(2), "/still/image", stamp=2)
        eventually(lambda: asked_about()[-1:] == [2])
        robot.show(scene(3), "/still/image", stamp=3)
        eventually(lambda: asked_about()[-2:] == [2, 3])
    finally:
        robot.close()
        process.stop()


def test_what_is_no_longer_asked_is_given_up_and_the_new_asked_at_once(robot: Robot, answers: list[Any]) -> None:
    assert robot.set("standing_rate", 0.001).successful
    instruct(robot, "red tokens=1000 pause=0.1")
    assert not answers
    instruct(robot, "blue")
    assert eventually(lambda: answers and answers[0]).instruction == "blue"
    instruct(robot, "red tokens=1000 pause=0.1")
    instruct(robot, "")
    assert robot.ask("green").success, "the engine is free"


def test_a_late_question_does_not_shift_the_beat_and_is_not_caught_up_with() -> None:
    now, asked = [0.0], []

    def answer(ticket: Ticket) -> None:
        asked.append(now[0])
        ticket.complete(Outcome(Code.OK))

    parameters = validated({"standing_instruction": "red", "standing_rate": 1.0})
    standing = StandingInstruction(lambda: parameters, {}, answer, lambda _: None, lambda *_: None, lambda: now[0])
    for now[0] in (10.0, 10.9, 11.4, 11.9, 12.1, 15.5, 15.6, 16.4, 16.6):
        standing.frame_arrived("camera")
    assert asked == [10.0, 11.4, 12.1, 15.5, 16.6]


def test_a_frame_that_came_too_early_is_asked_about_when_it_is_time() -> None:
    now, asked, fails = [0.0], [], False

    def answer(ticket: Ticket) -> None:
        asked.append(now[0])
        if not fails:
            ticket.received = view.newest.received
        ticket.complete(Outcome(Code.INTERNAL if fails else Code.OK))

    def arrive() -> None:
        view.newest = SimpleNamespace(received=now[0])
        standing.frame_arrived("camera")

    def pass_by(until: float) -> None:
        while now[0] < until:
            now[0] += 0.25
            standing.beat()

    parameters = validated({"standing_instruction": "red", "standing_rate": 0.5, "max_frame_age": 2.0})
    view: Any = SimpleNamespace(newest=None)
    listeners = (answer, lambda _: None, lambda *_: None)
    standing = StandingInstruction(lambda: parameters, {"camera": view}, *listeners, lambda: now[0])
    now[0] = 10.0
    arrive()
    now[0] = 10.5
    arrive()
    pass_by(20.0)
    assert asked == [10.0, 12.0], "once, and no frame twice"
    now[0] = 20.0
    arrive()
    parameters = validated({"standing_instruction": "red", "standing_rate": 0.5, "max_frame_age": 1.0})
    now[0] = 20.5
    arrive()
    pass_by(30.0)
    assert asked == [10.0, 12.0, 20.0], "then it is too old"
    fails = True
    arrive()
    pass_by(40.0)
    assert asked == [10.0, 12.0, 20.0, 30.0], "what fails is not asked again of the same frame"


def test_a_frame_that_comes_while_the_one_before_is_read_is_asked_about_too() -> None:
    asked = []

    def answer(ticket: Ticket) -> None:
        ticket.received = view.newest.received
        asked.append(ticket.received)
        if len(asked) == 1:  # before the engine has it
            view.newest = SimpleNamespace(received=2.0)
        ticket.complete(Outcome(Code.OK))

    parameters = validated({"standing_instruction": "red"})
    view: Any = SimpleNamespace(newest=SimpleNamespace(received=1.0))
    standing = StandingInstruction(lambda: parameters, {"camera": view}, answer, lambda _: None, lambda *_: None)
    standing.frame_arrived("camera")
    assert asked == [1.0, 2.0]


def test_what_fails_is_not_asked_more_often_than_its_rate() -> None:
    now, asked = [0.0], []

    def fail(ticket: Ticket) -> None:
        asked.append(now[0])
        ticket.complete(Outcome(Code.OUT_OF_MEMORY))

    slow = validated({"standing_instruction": "red", "standing_rate": 0.1})
    standing = StandingInstruction(lambda: slow, {}, fail, lambda _: None, lambda *_: None, lambda: now[0])
    for now[0] in (10.0, 10.5, 11.5, 13.0, 20.0, 21.0):
        standing.frame_arrived("camera")
    assert asked == [10.0, 20.0]


def test_nothing_of_a_question_is_left_for_the_garbage_collector() -> None:
    asked: list[weakref.ref[Ticket]] = []

    def answer(ticket: Ticket) -> None:
        asked.append(weakref.ref(ticket))
        ticket.complete(Outcome(Code.OK))

    parameters = validated({"standing_instruction": "red"})
    standing = StandingInstruction(lambda: parameters, {}, answer, lambda _: None, lambda *_: None)
    gc.disable()
    try:
        for _ in range(3):
            standing.frame_arrived(parameters.cameras[0])
        assert [ticket() is not None for ticket in asked] == [False, False, True]
    finally:
        gc.enable()


def test_a_question_that_is_refused_does_not_stand_in_the_way_of_the_next() -> None:
    """As while the node is deactivated."""
    now, asked = [10.0], []

    def refuse_first(ticket: Ticket) -> None:
        asked.append(ticket.question)
        if len(asked) == 1:
            raise Refused(Code.INACTIVE, "not now")

    limits = {"max_frame_age": 2.0, "question_timeout": 3.0}
    parameters = validated({"standing_instruction": "red"} | limits)
    standing = StandingInstruction(
        lambda: parameters, {}, refuse_first, lambda _: None, lambda *_: None, lambda: now[0]
    )
    for now[0] in (10.0, 12.0):
        standing.frame_arrived("camera")
    assert [(question.max_age, question.timeout) for question in asked] == [(2.0, 3.0)] * 2


@pytest.mark.parametrize("words", ["", " \n"])
def test_an_instruction_without_words_is_not_asked(words: str) -> None:
    asked: list[Ticket] = []
    parameters = validated({"standing_instruction": words})
    standing = StandingInstruction(lambda: parameters, {}, asked.append, lambda _: None, lambda *_: None)
    standing.frame_arrived("camera")
    assert not asked


@pytest.mark.parametrize(("words", "rate"), [("red", 10.0), ("blue", 0.001)])
def test_a_faster_rate_and_other_words_count_at_once(words: str, rate: float) -> None:
    now, settings, asked = [10.0], ("red", 0.001), []

    def answer(ticket: Ticket) -> None:
        asked.append(now[0])
        ticket.complete(Outcome(Code.OK))

    def parameters() -> Parameters:
        return validated(dict(zip(("standing_instruction", "standing_rate"), settings, strict=True)))

    standing = StandingInstruction(parameters, {}, answer, lambda _: None, lambda *_: None, lambda: now[0])
    standing.follow_parameters()
    standing.frame_arrived("camera")
    settings, now[0] = (words, rate), 11.0
    standing.follow_parameters()
    standing.frame_arrived("camera")
    assert asked == [10.0, 11.0]


def test_an_instruction_that_is_set_while_another_is_being_asked_replaces_it() -> None:
    """The executor's thread sets it; the inference thread asks the next question as soon as one has ended."""
    words, asked, given_up = ["red"], [], []

    def parameters() -> Parameters:
        read = validated({"standing_instruction": words[0], "standing_rate": 0.001})
        if not asked and threading.current_thread() is not setter:
            words[0] = "blue"
            setter.start()
            setter.join(0.2)  # in vain, for it has to wait until the question that is being asked is known
        return read

    def answer(ticket: Ticket) -> None:
        asked.append(ticket.question.instruction)
        setter.join(PATIENCE)
        ticket.complete(Outcome(Code.CANCELED if ticket.cancel.is_set() else Code.OK))

    def give_up(ticket: Ticket) -> None:
        given_up.append(ticket.question.instruction)

    standing = StandingInstruction(parameters, {}, answer, give_up, lambda *_: None, lambda: 10.0)
    setter = threading.Thread(target=standing.follow_parameters)
    standing.frame_arrived("camera")
    standing.frame_arrived("camera")
    assert (asked, given_up) == (["red", "blue"], ["red"])


def test_what_fails_when_it_is_no_longer_asked_is_no_failure_of_it() -> None:
    words, tickets, ends = ["red"], [], []
    standing = StandingInstruction(
        lambda: validated({"standing_instruction": words[0]}),
        {},
        tickets.append,
        lambda _: None,
        lambda _, outcome: ends.append(outcome.code),
    )
    standing.frame_arrived("camera")
    words[0] = ""
    standing.follow_parameters()
    tickets[0].complete(Outcome(Code.OUT_OF_MEMORY, "while it was encoded"))
    assert ends == [Code.CANCELED]
    words[0] = "blue"
    standing.frame_arrived("camera")
    assert [ticket.question.instruction for ticket in tickets] == ["red", "blue"], "the next is not kept waiting"
    tickets[1].complete(Outcome(Code.OUT_OF_MEMORY))
    assert ends == [Code.CANCELED, Code.OUT_OF_MEMORY]


def test_a_failure_of_the_last_moment_is_forgotten_with_its_instruction() -> None:
    rclpy.init(args=["--ros-args", "-p", "checkpoint:=fake", "-p", "standing_instruction:=red"])
    node = LisaNode(FakeEngine.from_pretrained)
    follow = node._standing.follow_parameters

    def fail_first() -> None:
        node.ended(Question("red", "camera", standing=True), Outcome(Code.OUT_OF_MEMORY))
        follow()

    node._standing.follow_parameters = fail_first  # type: ignore[method-assign]
    node.set_parameters([Parameter("standing_instruction", value="")])
    assert not node._statistics.summary().standing_failure
    node.end()
    rclpy.shutdown()


def test_people_go_first(robot: Robot, answers: list[Any]) -> None:
    instruct(robot, "red")
    first = robot.pursue("green delay=100")
    eventually(lambda: ("answering", "") in first.feedback)
    others = [robot.pursue("blue delay=0.3") for _ in range(3)]
    eventually(lambda: all(("waiting", "") in other.feedback for other in others))
    answers.clear()
    assert first.cancel()
    assert all(other.result()[1].success for other in others)
    eventually(lambda: answers and answers[-1].instruction == "red")
    order = [answer.instruction.split()[0] for answer in answers]
    assert order[:3] == ["blue"] * 3


def test_one_mask_and_no_words(robot: Robot, answers: list[Any]) -> None:
    assert robot.set("standing_mask_only", True).successful
    instruct(robot, "red")
    assert eventually(lambda: answers and answers[-1]).text == "[SEG]."


def test_failures_show_in_the_diagnostics_and_are_not_repeated_at_full_speed(
    robot: Robot, answers: list[Any], diagnostics: list[Any]
) -> None:
    before = int(values(status(diagnostics, "questions"))["failed"])
    instruct(robot, "red fail=memory")

    def failing() -> Any:
        questions = status(diagnostics, "questions")
        return questions if "standing" in questions.message else None

    questions = eventually(failing)
    assert questions.level == DiagnosticStatus.WARN
    assert questions.message.startswith("the standing instruction fails with OUT_OF_MEMORY: out of memory on purpose")
    assert int(values(questions)["failed with OUT_OF_MEMORY"]) >= 1
    assert int(values(questions)["failed"]) - before <= 10
    instruct(robot, "red")
    eventually(lambda: answers)
    eventually(lambda: status(diagnostics, "questions").level == DiagnosticStatus.OK)


def test_a_failure_inside_shows_in_the_diagnostics_until_a_question_is_answered() -> None:
    statistics = Statistics()
    statistics.add_outcome(None, Outcome(Code.INTERNAL, "RuntimeError: CUDA error: an illegal memory access"))
    statistics.add_outcome(None, Outcome(Code.BAD_REQUEST, "no instruction"))
    broken = questions_status(statistics, 0)
    assert broken.level == DiagnosticStatus.ERROR
    assert broken.message == "the last question failed inside: RuntimeError: CUDA error: an illegal memory access"
    statistics.add_outcome(None, Outcome(Code.OK))
    assert questions_status(statistics, 0).level == DiagnosticStatus.OK


def test_diagnostics_tell_of_model_camera_and_questions(robot: Robot, diagnostics: list[Any]) -> None:
    assert robot.ask("red").success
    assert Code(robot.ask("").code) == Code.BAD_REQUEST
    model = status(diagnostics, "model")
    assert (model.level, model.message) == (DiagnosticStatus.OK, "active")
    assert values(model)["state"] == "active"
    assert values(model)["checkpoint"] == "fake"
    assert values(model)["precision"] == "fp32"
    assert values(model)["memory, MiB"] == "1.0"
    assert values(model)["memory of language, MiB"] == "1.0"
    view = status(diagnostics, "camera camera")
    assert view.level == DiagnosticStatus.OK
    assert float(values(view)["rate, Hz"]) > 5
    assert float(values(view)["age of the newest frame, s"]) < 5
    assert (values(view)["topic"], values(view)["qos"]) == ("/image", "sensor_data")
    questions = values(status(diagnostics, "questions"))
    assert int(questions["answered"]) >= 1
    assert int(questions["refused"]) >= 1
    for stage in ("waiting", "image", "encoding", "answering", "messages", "total"):
        assert float(questions[f"{stage}, last, s"]) >= 0
        assert float(questions[f"{stage}, p95, s"]) >= 0
