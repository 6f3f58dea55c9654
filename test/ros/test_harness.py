"""The client that the tests ask with."""

import threading
from types import SimpleNamespace
from typing import Any

from harness import Goal, Robot
from rclpy.task import Future


def test_the_action_client_is_used_on_its_executors_thread_only() -> None:
    """It is not thread-safe: of goals that the test's thread sends, some are never heard of again."""
    threads: list[threading.Thread] = []
    reply = SimpleNamespace(accepted=True, status=4, result="result", goals_canceling=["goal"])

    def replied(*_: Any, **__: Any) -> Future:
        threads.append(threading.current_thread())
        future = Future()
        future.set_result(reply)
        return future

    reply.get_result_async = reply.cancel_goal_async = replied
    client: Any = SimpleNamespace(server_is_ready=lambda: True, send_goal_async=replied)
    robot = Robot()
    try:
        goal = Goal(robot, client, "goal")
        assert goal.cancel()
        assert goal.result() == (4, "result")
        assert goal.result_again() == 4
        assert threads == [robot._thread] * 4
    finally:
        robot.close()
