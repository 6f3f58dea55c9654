"""An answer that another thread completes reaches the client at once, though nothing else wakes the executor."""

import contextlib
import threading
from collections.abc import Iterator
from typing import Any
from unittest.mock import Mock

import pytest
import rclpy
from action_msgs.msg import GoalStatus
from harness import Robot, eventually
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.parameter import Parameter

from lisa_ros import requests as requests_module
from lisa_ros.inference import Ticket
from lisa_ros.lifecycle import SelfStartingNode
from lisa_ros.questions import Code, Outcome, Question
from lisa_ros.requests import Requests


class SlowDesk:
    """Answers from a thread of its own, after a while."""

    def question(self, request: Any) -> Question:
        if request.instruction == "broken":
            raise RuntimeError("broken on purpose")
        return Question(request.instruction, "camera")

    def submit(self, ticket: Ticket) -> None:
        threading.Timer(0.3, ticket.complete, [Outcome(Code.CANCELED, "by another thread")]).start()

    def cancel(self, ticket: Ticket) -> None:
        raise AssertionError("nobody cancels here")

    def ended(self, question: Question | None, outcome: Outcome) -> None:
        raise RuntimeError("an error in the counting costs nobody the answer")


@pytest.fixture
def robot(monkeypatch: pytest.MonkeyPatch) -> Iterator[Robot]:
    """A client of a node with the two servers only: no timer, no camera, and a clock that stands still."""
    monkeypatch.setattr(requests_module, "RESULT_KEPT", 5)
    context = rclpy.Context()
    robot = Robot()
    rclpy.init(context=context)
    node = SelfStartingNode("lisa", context=context)
    node.set_parameters([Parameter("use_sim_time", value=True)])
    clock = node.get_clock()
    requests = Requests(node, SlowDesk())
    assert node.get_clock() is clock, "all but the results goes by the node's own time"
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)

    def spin() -> None:
        with contextlib.suppress(ExternalShutdownException):
            executor.spin()

    thread = threading.Thread(target=spin)
    thread.start()
    yield robot
    robot.close()
    rclpy.shutdown(context=context)
    thread.join()
    requests.close()
    node.destroy_node()


def test_results_are_given_up_by_the_time_on_the_wall(robot: Robot) -> None:
    goal = robot.pursue("red")
    assert goal.result()[1].message == "by another thread"
    assert goal.result_again() != GoalStatus.STATUS_UNKNOWN
    eventually(lambda: goal.result_again() == GoalStatus.STATUS_UNKNOWN, "the result to be given up")


def test_service_and_action(robot: Robot) -> None:
    assert robot.ask("red").message == "by another thread"
    status, result = robot.pursue("red").result()
    assert (status, result.message) == (GoalStatus.STATUS_ABORTED, "by another thread"), "the client did not cancel it"


def test_what_nobody_thought_of_is_told_and_the_next_is_asked(robot: Robot) -> None:
    expected = (Code.INTERNAL, "internal error, the node's log has more: broken on purpose")
    response = robot.ask("broken")
    assert (response.code, response.message) == expected
    status, result = robot.pursue("broken").result()
    assert (status, result.code, result.message) == (GoalStatus.STATUS_ABORTED, *expected)
    assert robot.ask("red").message == "by another thread"


@pytest.mark.parametrize("trouble", [None, RuntimeError("the client is gone")])
def test_a_goal_that_is_cancelled_before_it_waits_is_not_asked(trouble: Exception | None) -> None:
    class Closed(SlowDesk):
        def submit(self, ticket: Ticket) -> None:
            raise AssertionError("nobody wants the answer")

        def ended(self, question: Question | None, outcome: Outcome) -> None:
            ends.append(outcome)

    ends: list[Outcome] = []
    requests: Any = Requests.__new__(Requests)
    requests._desk, requests._tickets, requests._node = Closed(), {}, Mock()
    goal = Mock(is_cancel_requested=True, request=Mock(instruction="red"), goal_id=Mock(uuid=bytes(16)))
    goal.publish_feedback.side_effect = goal.canceled.side_effect = trouble
    with pytest.raises(StopIteration) as returned:
        requests._on_goal(goal).send(None)
    assert [outcome.code for outcome in ends] == [Code.CANCELED]
    assert returned.value.value.code == Code.CANCELED
    goal.canceled.assert_called_once_with()
    assert [call.args[0].stage for call in goal.publish_feedback.call_args_list] == ["waiting"]
    assert requests._tickets == {}
