"""The client, used in a callback of another node, whose callback group is busy until the reply is there."""

import time
from collections.abc import Iterator

import pytest
import rclpy
from harness import PATIENCE
from lisa_ros.srv import ReasonSegment
from rclpy.executors import MultiThreadedExecutor, SingleThreadedExecutor
from rclpy.node import Node

from lisa_ros import client
from lisa_ros.client import AskError, ask
from lisa_ros.questions import Code


class Picker(Node):
    """Asks once, in the callback of its timer; `heard` is the answer's text or the error's code."""

    def __init__(self, context: rclpy.Context) -> None:
        super().__init__("picker", context=context)
        self.heard = ""
        self._timer = self.create_timer(0.05, self._on_timer)

    async def _on_timer(self) -> None:
        self._timer.cancel()
        try:
            self.heard = (await ask(self, "red", timeout=PATIENCE)).text
        except AskError as error:
            self.heard = error.code.name


@pytest.fixture
def executor() -> Iterator[SingleThreadedExecutor]:
    context = rclpy.Context()
    rclpy.init(context=context)
    made = SingleThreadedExecutor(context=context)
    yield made
    rclpy.shutdown(context=context)
    made.shutdown()


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine may be loaded."""
    monkeypatch.setattr(client, "DISCOVERY", PATIENCE)


def heard(executor: SingleThreadedExecutor) -> str:
    picker = Picker(executor.context)
    executor.add_node(picker)
    for _ in range(round(PATIENCE / 0.1)):
        executor.spin_once(timeout_sec=0.1)
        if picker.heard:
            break
    picker.destroy_node()
    return picker.heard


def test_the_reply_comes_in_a_callback(executor: SingleThreadedExecutor) -> None:
    server = Node("lisa", context=executor.context)

    def on_request(request: ReasonSegment.Request, response: ReasonSegment.Response) -> ReasonSegment.Response:
        response.success = True
        response.answer.text = f"{request.instruction} is [SEG]."
        return response

    server.create_service(ReasonSegment, "~/reason_segment", on_request)
    executor.add_node(server)
    assert heard(executor) == "red is [SEG]."
    server.destroy_node()


def test_seconds_may_be_whole_numbers(executor: SingleThreadedExecutor) -> None:
    server, asker = Node("lisa", context=executor.context), Node("asker", context=executor.context)
    asked: list[ReasonSegment.Request] = []

    def on_request(request: ReasonSegment.Request, response: ReasonSegment.Response) -> ReasonSegment.Response:
        asked.append(request)
        response.success = True
        return response

    server.create_service(ReasonSegment, "~/reason_segment", on_request)
    for node in (server, asker):
        executor.add_node(node)
    task = executor.create_task(ask, asker, "red", max_age=2, timeout=30)
    executor.spin_until_future_complete(task, timeout_sec=PATIENCE)
    assert task.result().answer is not None
    assert [(request.max_age, request.timeout) for request in asked] == [(2.0, 30.0)]
    for node in (server, asker):
        node.destroy_node()


def test_that_nobody_serves_is_said_in_a_callback(
    executor: SingleThreadedExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "DISCOVERY", 0.5)
    assert heard(executor) == Code.TIMEOUT.name


def test_of_questions_at_once_each_waits_until_the_client_is_known(
    executor: SingleThreadedExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "SETTLING", 1.0)
    server, asker = Node("lisa", context=executor.context), Node("asker", context=executor.context)
    came: list[float] = []

    def on_request(request: ReasonSegment.Request, response: ReasonSegment.Response) -> ReasonSegment.Response:
        came.append(time.monotonic())
        response.success = True
        return response

    server.create_service(ReasonSegment, "~/reason_segment", on_request)
    for node in (server, asker):
        executor.add_node(node)
    began = time.monotonic()
    tasks = [executor.create_task(ask, asker, words, timeout=PATIENCE) for words in ("red", "blue")]
    for task in tasks:
        executor.spin_until_future_complete(task, timeout_sec=PATIENCE)
        assert task.result().answer is not None
    assert len(came) == 2
    assert min(came) - began >= 1.0
    for node in (server, asker):
        node.destroy_node()


def test_a_server_that_is_replaced_has_to_find_the_client_anew(
    executor: SingleThreadedExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "SETTLING", 1.0)
    asker = Node("asker", context=executor.context)
    executor.add_node(asker)
    took: list[float] = []

    def on_request(_: ReasonSegment.Request, response: ReasonSegment.Response) -> ReasonSegment.Response:
        response.success = True
        return response

    for _ in range(2):
        task = executor.create_task(ask, asker, "red", timeout=PATIENCE)
        for _ in range(5):
            executor.spin_once(timeout_sec=0.1)
        server, began = Node("lisa", context=executor.context), time.monotonic()
        server.create_service(ReasonSegment, "~/reason_segment", on_request)
        executor.add_node(server)
        executor.spin_until_future_complete(task, timeout_sec=PATIENCE)
        assert task.result().answer is not None
        took.append(time.monotonic() - began)
        executor.remove_node(server)
        server.destroy_node()
        known = client._servers[asker]["lisa/reason_segment"].client
        deadline = time.monotonic() + PATIENCE
        while known.service_is_ready() and time.monotonic() < deadline:
            executor.spin_once(timeout_sec=0.1)
    assert min(took) >= 1.0
    asker.destroy_node()


def test_many_questions_in_an_executor_of_several_threads() -> None:
    """No timer is made and destroyed for them: that could end Humble's executor."""
    context = rclpy.Context()
    rclpy.init(context=context)
    executor = MultiThreadedExecutor(num_threads=4, context=context)
    server, asker = Node("lisa", context=context), Node("asker", context=context)
    made: list[object] = []
    create_timer = asker.create_timer
    asker.create_timer = lambda *args, **options: made.append(args) or create_timer(*args, **options)  # type: ignore[method-assign]

    def on_request(request: ReasonSegment.Request, response: ReasonSegment.Response) -> ReasonSegment.Response:
        response.success = True
        response.answer.text = request.instruction
        return response

    server.create_service(ReasonSegment, "~/reason_segment", on_request)
    for node in (server, asker):
        executor.add_node(node)
    try:
        for number in range(30):
            task = executor.create_task(ask, asker, str(number), timeout=PATIENCE)
            executor.spin_until_future_complete(task, timeout_sec=PATIENCE)
            assert task.result().text == str(number)
        assert not made
    finally:
        executor.shutdown()
        for node in (server, asker):
            node.destroy_node()
        rclpy.shutdown(context=context)
