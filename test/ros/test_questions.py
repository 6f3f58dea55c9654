"""A question's stages, and its end by cancel, timeout, refusal or failure, by service and by action."""

import time
from collections.abc import Callable, Iterator

import pytest
from action_msgs.msg import GoalStatus
from harness import PATIENCE, Goal, Robot, camera, eventually, lisa
from lisa_ros.msg import Answer
from scenes import scene
from sensor_msgs.msg import Image

from lisa_ros.questions import Code


@pytest.fixture(scope="module")
def robot(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Robot]:
    folder = tmp_path_factory.mktemp("questions")
    processes = [lisa(folder / "node.log", queue_size=3, frame_timeout=PATIENCE), camera(folder / "camera.log")]
    robot = Robot()
    yield robot.until_active()
    robot.close()
    for process in processes:
        process.stop()


def code(response: object) -> Code:
    return Code(response.code)  # type: ignore[attr-defined]


def test_the_action_tells_stages_and_words(robot: Robot) -> None:
    def told() -> Goal | None:  # rclpy's client drops feedback that it finds after the result
        goal = robot.pursue("red tokens=5 pause=0.05", include_masks=True)
        status, result = goal.result()
        assert goal.accepted
        assert status == GoalStatus.STATUS_SUCCEEDED
        assert (result.success, code(result)) == (True, Code.OK)
        assert result.answer.segments[0].mask.width == 640
        return goal if goal.feedback and goal.feedback[-1][0] == "masking" else None

    feedback = eventually(told, "feedback to the end").feedback
    assert list(dict.fromkeys(stage for stage, _ in feedback)) == ["waiting", "encoding", "answering", "masking"]
    texts = [text for _, text in feedback]
    assert texts[-1] == "word " * 5
    assert sorted(texts, key=len) == texts
    assert len(set(texts)) == 6, "the text comes word by word"


def test_a_goal_is_canceled_while_it_is_answered(robot: Robot) -> None:
    goal = robot.pursue("red tokens=1000 pause=0.05")
    eventually(lambda: any(text for _, text in goal.feedback), "the first word")
    assert goal.cancel()
    status, result = goal.result()
    assert status == GoalStatus.STATUS_CANCELED
    assert (result.success, code(result), result.message) == (False, Code.CANCELED, "canceled while answering")
    assert robot.ask("red").success


def test_a_goal_is_canceled_while_it_waits_its_turn(robot: Robot) -> None:
    first = robot.pursue("red delay=100")
    eventually(lambda: ("answering", "") in first.feedback)
    second = robot.pursue("blue")
    eventually(lambda: ("waiting", "") in second.feedback)
    assert second.cancel()
    status, result = second.result()
    assert (status, code(result)) == (GoalStatus.STATUS_CANCELED, Code.CANCELED)
    assert "waited" in result.message
    assert first.cancel()
    assert first.result()[0] == GoalStatus.STATUS_CANCELED


def test_a_goal_that_fails_is_accepted_and_aborted_with_a_code(robot: Robot) -> None:
    goal = robot.pursue("")
    assert goal.accepted
    status, result = goal.result()
    assert (status, code(result)) == (GoalStatus.STATUS_ABORTED, Code.BAD_REQUEST)
    assert "instruction is empty" in result.message


def test_a_question_ends_with_its_timeout_and_frees_the_engine(robot: Robot) -> None:
    response = robot.ask("red delay=100", timeout=1.0)
    assert (response.success, code(response)) == (False, Code.TIMEOUT)
    assert response.message == "no answer within 1 s: it was still answering"
    assert robot.ask("red").success


def test_a_hang_ends_with_its_timeout_and_the_node_serves_on(robot: Robot) -> None:
    hanging = robot.pursue("red hang=3", timeout=1.0)
    eventually(lambda: ("answering", "") in hanging.feedback)
    response = robot.ask("blue", timeout=0.5)
    assert (code(response), response.message) == (Code.TIMEOUT, "no answer within 0.5 s: it was still waiting")
    assert code(hanging.result()[1]) == Code.TIMEOUT
    assert robot.ask("green").answer.text == "Turn 1: green is [SEG]."


def test_who_gives_up_while_masks_are_made_gets_none(robot: Robot) -> None:
    told = robot.listen("/lisa/answer", Answer)
    goal = robot.pursue("red masks=100")
    eventually(lambda: goal.feedback[-1:] and goal.feedback[-1][0] == "masking")
    assert goal.cancel()
    status, result = goal.result()
    assert (status, code(result)) == (GoalStatus.STATUS_CANCELED, Code.CANCELED)
    assert result.message == "canceled while masking"
    assert robot.ask("green").success
    eventually(lambda: told)
    assert [answer.instruction for answer in told] == ["green"]


def test_the_timeout_is_that_of_the_parameter_unless_given(robot: Robot) -> None:
    assert robot.set("question_timeout", 1.0).successful
    assert robot.ask("red delay=100").message == "no answer within 1 s: it was still answering"
    assert robot.set("question_timeout", 60.0).successful


def test_a_full_queue_refuses_at_once_and_says_how_many_are_ahead(robot: Robot) -> None:
    goals = [robot.pursue("red delay=100")]
    eventually(lambda: ("answering", "") in goals[0].feedback)
    goals += [robot.pursue("red delay=100") for _ in range(3)]
    asked = time.monotonic()
    response = robot.ask("blue")
    assert code(response) == Code.BUSY
    assert response.message == "busy: 4 questions are ahead; ask later, or raise queue_size"
    assert response.answer.text == ""
    assert time.monotonic() - asked < 5.0
    for goal in goals:
        assert goal.cancel()
    assert {goal.result()[0] for goal in goals} == {GoalStatus.STATUS_CANCELED}
    assert robot.ask("blue").success


def test_questions_are_answered_in_order(robot: Robot) -> None:
    assert robot.set("queue_size", 8).successful  # for four may wait, if the engine has not taken the first yet
    first = robot.pursue("red delay=1")
    finished: list[str] = []
    futures = []
    for colour, delay in (("red", 0.3), ("green", 0.6), ("blue", 0.9)):
        future = robot.start(f"{colour} delay={delay}")  # far enough apart to be told apart, together or not
        future.add_done_callback(lambda _, colour=colour: finished.append(colour))
        futures.append(future)
    answers = [robot.wait(future).answer for future in futures]
    assert first.result()[1].success
    assert [answer.instruction.split()[0] for answer in answers] == ["red", "green", "blue"]
    assert finished == ["red", "green", "blue"]
    assert robot.set("queue_size", 3).successful


@pytest.fixture
def crowd(robot: Robot) -> Iterator[Callable[..., list[Goal]]]:
    """`crowd(instruction, ...)`: goals that wait until all of them are there, and are then taken as one batch."""
    assert robot.set("queue_size", 8).successful

    def gathered(*instructions: str, **fields: object) -> list[Goal]:
        first = robot.pursue("red delay=100")
        eventually(lambda: ("answering", "") in first.feedback)
        goals = [robot.pursue(instruction, **fields) for instruction in instructions]
        for goal in goals:
            eventually(lambda goal=goal: ("waiting", "") in goal.feedback)  # type: ignore[misc]
        assert first.cancel()
        assert first.result()[0] == GoalStatus.STATUS_CANCELED
        return goals

    yield gathered
    assert robot.set("queue_size", 3).successful


def test_what_waits_is_answered_together(robot: Robot, crowd: Callable[..., list[Goal]]) -> None:
    goals = crowd("red company", "green company tokens=3", "blue company", include_masks=True)
    for goal, colour, order in zip(goals, ("red", "green", "blue"), ("", " tokens=3", ""), strict=True):
        status, result = goal.result()
        assert status == GoalStatus.STATUS_SUCCEEDED
        assert result.answer.text == f"Turn 1: {colour} company{order} is [SEG] (3 at once)."
        assert len(result.answer.segments) == 1
    assert robot.ask("red company").answer.text == "Turn 1: red company is [SEG] (1 at once)."


def test_of_those_together_one_is_canceled_and_the_others_go_on(crowd: Callable[..., list[Goal]]) -> None:
    quick, slow, long = crowd("red delay=0.5", "green delay=100", "blue tokens=1000 pause=0.05")
    assert quick.result()[1].success, "it does not wait for the others"
    eventually(lambda: any(text for _, text in long.feedback), "the words of one among several")
    assert slow.cancel()
    status, result = slow.result()
    assert (status, result.message) == (GoalStatus.STATUS_CANCELED, "canceled while answering")
    said = len(long.feedback)
    eventually(lambda: len(long.feedback) > said + 3, "the others to go on")
    assert long.cancel()
    assert code(long.result()[1]) == Code.CANCELED


def test_of_those_together_one_times_out(crowd: Callable[..., list[Goal]]) -> None:
    slow, quick = crowd("red delay=100", "green delay=0.1", timeout=8.0)
    assert quick.result()[1].success
    assert code(slow.result()[1]) == Code.TIMEOUT


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ("fail=prompt", Code.BAD_REQUEST),
        ("fail=memory", Code.OUT_OF_MEMORY),
        ("fail=python", Code.INTERNAL),
        ("fail=exit", Code.INTERNAL),
        ("fail_together=memory", Code.OK),
    ],
)
def test_of_those_together_each_fails_by_itself(crowd: Callable[..., list[Goal]], order: str, expected: Code) -> None:
    goals = crowd("red tokens=2 pause=0.15", f"green delay=0.2 {order}", "blue alone company")
    results = [goal.result()[1] for goal in goals]
    assert [code(result) for result in results] == [Code.OK, expected, Code.OK]
    assert results[2].answer.text.endswith("(1 at once).")
    texts = {text for _, text in goals[0].feedback}
    assert texts <= {"", "word ", "word word "}, "what is asked again begins with no words"


@pytest.mark.parametrize(
    ("order", "expected", "message"),
    [
        ("fail=memory", Code.OUT_OF_MEMORY, "out of memory on purpose: free some"),
        ("fail=allocation", Code.OUT_OF_MEMORY, "out of memory"),
        ("fail=prompt", Code.BAD_REQUEST, "too long on purpose: say less"),
        ("fail=python", Code.INTERNAL, "internal error, the node's log has more: RuntimeError: broken on purpose"),
        ("fail=exit", Code.INTERNAL, "internal error, the node's log has more: SystemExit: left on purpose"),
    ],
)
def test_what_the_engine_raises_becomes_a_code_and_a_sentence(
    robot: Robot, order: str, expected: Code, message: str
) -> None:
    response = robot.ask(f"red {order}")
    assert (response.success, code(response), response.message) == (False, expected, message)
    assert robot.ask("red").success


def test_two_hundred_failures_are_answered_and_the_node_serves_on(robot: Robot) -> None:
    kinds = {
        "fail=memory": Code.OUT_OF_MEMORY,
        "fail=python": Code.INTERNAL,
        "fail=exit": Code.INTERNAL,
        "deaf=0.2": Code.TIMEOUT,
    }
    for _ in range(50):
        for order, expected in kinds.items():
            assert code(robot.ask(f"red {order}", timeout=0.02 if expected == Code.TIMEOUT else 0.0)) == expected
    assert robot.ask("red").success


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"instruction": ""}, "the instruction is empty: say what to find or answer, in words"),
        ({"instruction": " \n"}, "the instruction is empty: say what to find or answer, in words"),
        ({"camera": "rear"}, "there is no camera 'rear': the cameras are camera"),
        ({"max_age": float("nan")}, "max_age must be a number of seconds, not NaN"),
        ({"timeout": -1.0}, "timeout must be a number of seconds, 0 or more, not -1"),
        ({"timeout": float("nan")}, "timeout must be a number of seconds, 0 or more, not nan"),
        ({"timeout": float("inf")}, "timeout must be a number of seconds, 0 or more, not inf"),
    ],
)
def test_a_bad_request_is_told_why(robot: Robot, fields: dict[str, object], message: str) -> None:
    response = robot.ask(**({"instruction": "red"} | fields))  # type: ignore[arg-type]
    assert (code(response), response.message) == (Code.BAD_REQUEST, message)


@pytest.mark.parametrize("instruction", ["<image> [SEG] </s>", "a\x01b", "🤖 färbe", "word " * 10_000])
def test_odd_words_are_words(robot: Robot, instruction: str) -> None:
    assert robot.ask(instruction).answer.instruction == instruction


def test_an_image_that_is_none_is_a_bad_request(robot: Robot) -> None:
    assert code(robot.ask("red", image=scene(1)[:1, :1])) == Code.BAD_REQUEST
    pixels = {"encoding": "rgb8", "step": 30, "data": b"123"}
    for fields in ({"height": 10, "width": 10, **pixels}, pixels, {"width": 10}, {"height": 10}):
        response = robot.ask("red", image=Image(**fields))
        assert code(response) == Code.BAD_REQUEST
        assert response.message
    assert robot.ask("red").success
