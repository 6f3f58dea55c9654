"""Soak test of the node: many questions at once, cancels, overload and running cameras; then lifecycle cycles.

    .venv/bin/python benchmarks/soak.py [--questions 10000] [--cycles 1000]

Everything is real except the engine, which answers at once. Fails if a call gets no answer or two, if an answer belongs
to another question or mixes two frames, or if memory, threads or files grow.
"""

import argparse
import os
import random
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import psutil
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.action import ActionClient
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import QoSProfile
from sensor_msgs.msg import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "test" / "ros"))

from harness import Process, Robot, camera, eventually, lisa, own_graph
from lifecycle_msgs.msg import Transition
from lisa_ros.action import ReasonSegment as Action
from lisa_ros.msg import Answer
from lisa_ros.srv import ReasonSegment as Service
from scenes import COLOURS, box_of, found, scene

from lisa_ros.client import mask_array
from lisa_ros.qos import BURST
from lisa_ros.questions import Code

CAMERAS = ("left", "right")
CLIENTS = 16
GROWTH = 4.0
"""MiB that the node may grow by after warm-up."""
WARM_UP = 400
"""Least questions of the warm-up: until each client has asked in every way, and the node's memory has settled."""

CYCLE = (
    Transition.TRANSITION_DEACTIVATE,
    Transition.TRANSITION_CLEANUP,
    Transition.TRANSITION_CONFIGURE,
    Transition.TRANSITION_ACTIVATE,
)


@dataclass(frozen=True)
class Footprint:
    """A process's private memory in MiB (without the shared memory of images), threads and open files."""

    memory: float
    threads: int
    files: int

    @classmethod
    def of(cls, process: Process) -> "Footprint":
        """Measures; memory is the least of a second, as frames come and go."""
        node = psutil.Process(process.pid)
        memory = []
        for _ in range(10):
            time.sleep(0.1)
            now = node.memory_info()
            memory.append((now.rss - now.shared) / 2**20)
        return cls(min(memory), node.num_threads(), node.num_fds())

    def assert_no_leak(self, later: "Footprint") -> None:
        assert later.memory - self.memory < GROWTH, f"memory grew by {later.memory - self.memory:.1f} MiB"
        assert (later.threads, later.files) == (self.threads, self.files), f"{self} became {later}"


@dataclass
class Tally:
    """Counts of the questions, and how they ended."""

    asked: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)


class Client:
    """Asks one question after the other, and checks each answer."""

    def __init__(self, number: int, context: Any, tally: Tally) -> None:
        self.node = rclpy.create_node(f"client_{number}", context=context)
        self._number = number
        self._random = random.Random(number)
        self._tally = tally
        self._service = self.node.create_client(Service, "/lisa/reason_segment", qos_profile=BURST)
        self._action = ActionClient(
            self.node,
            Action,
            "/lisa/reason_segment",
            goal_service_qos_profile=BURST,
            result_service_qos_profile=BURST,
            cancel_service_qos_profile=BURST,
        )

    def greet(self, executor: Any) -> None:
        """Ask empty questions until service and action are connected in both directions."""
        eventually(self._service.service_is_ready, "the service")
        eventually(self._action.server_is_ready, "the action")
        _until_done(executor, lambda: self._service.call_async(Service.Request()))
        goal = _until_done(executor, lambda: self._action.send_goal_async(Action.Goal())).result()
        _until_done(executor, goal.get_result_async)
        _until_done(executor, goal.cancel_goal_async)

    async def ask(self, count: int) -> None:
        for index in range(count):
            colour, view = self._random.choice(list(COLOURS)), self._random.choice(CAMERAS)
            kind = self._random.random()
            words = f"{colour} {self._number}/{index}"
            fields = {"instruction": words, "camera": view, "include_masks": kind < 0.3}
            self._tally.asked += 1
            asked = time.monotonic()
            if kind < 0.7:
                response = await self._service.call_async(Service.Request(**fields))
            else:
                response = await self._pursue(fields, cancel=kind > 0.85)
            self._tally.seconds.append(time.monotonic() - asked)
            self._tally.ends[Code(response.code).name] += 1
            _check(response, colour, fields["instruction"], view)

    async def _pursue(self, fields: dict[str, Any], cancel: bool) -> Any:
        if cancel:
            fields["instruction"] += " tokens=50 pause=0.01"
        goal = await self._action.send_goal_async(Action.Goal(**fields))
        result = goal.get_result_async()
        if cancel:
            await goal.cancel_goal_async()
        return (await result).result


def _check(response: Any, colour: str, instruction: str, view: str) -> None:
    """Checks that the answer belongs to the question, and is about one frame."""
    if not response.success:
        assert response.message, "a refusal says why"
        assert Code(response.code) in (Code.BUSY, Code.CANCELED), f"{Code(response.code).name}: {response.message}"
        return
    answer = response.answer
    assert (answer.instruction, answer.camera) == (instruction, view), "crossed"
    assert answer.header.frame_id == f"/{view}/image", "crossed"
    assert instruction in answer.text, "crossed"
    index = answer.header.stamp.sec
    segment = answer.segments[0]
    roi = segment.roi
    assert (roi.x_offset, roi.y_offset, roi.width, roi.height) == box_of(colour, index), "mixed frames"
    if segment.mask.width:
        assert segment.mask.header == answer.header, "mixed frames"
        assert np.array_equal(mask_array(segment.mask), found(scene(index), colour)), "mixed frames"


def _check_topics(node: Any) -> list[int]:
    """Checks the answers and masks on the topics as well; the returned list counts them."""
    seen = [0]

    def on_answer(answer: Any) -> None:
        colour = answer.instruction.split()[0]
        roi = answer.segments[0].roi
        box = (roi.x_offset, roi.y_offset, roi.width, roi.height)
        assert box == box_of(colour, answer.header.stamp.sec), "mixed frames on ~/answer"
        seen[0] += 1

    def on_mask(message: Any) -> None:
        mask, picture = mask_array(message), scene(message.header.stamp.sec)
        assert any(np.array_equal(mask, found(picture, colour)) for colour in COLOURS), "mixed frames on ~/mask"
        seen[0] += 1

    node.create_subscription(Answer, "/lisa/answer", on_answer, QoSProfile(depth=1))
    node.create_subscription(Image, "/lisa/mask", on_mask, QoSProfile(depth=1))
    return seen


def _node(log: Path, **parameters: object) -> Process:
    """A node that returns freed images to the system at once, so that its RSS is what it holds."""
    with patch.dict(os.environ, MALLOC_MMAP_THRESHOLD_="65536"):
        return lisa(log, "-p", f"cameras:=[{', '.join(CAMERAS)}]", **parameters)


def soak_questions(count: int, folder: Path) -> str:
    """`CLIENTS` clients ask `count` questions with two cameras running, after a warm-up of a fifth, or of `WARM_UP`."""
    processes = [_node(folder / "node.log", queue_size=4, frame_timeout=30.0)]
    processes += [camera(folder / f"{view}.log", "--topic", f"/{view}/image") for view in CAMERAS]
    robot = Robot()
    try:
        return _soak_questions(count, processes[0], robot)
    finally:
        robot.close()
        for process in processes:
            process.stop()


def _soak_questions(count: int, node: Process, robot: Robot) -> str:
    statuses = robot.listen("/diagnostics", DiagnosticArray)
    robot.until_active()
    for view in CAMERAS:
        eventually(lambda view=view: robot.ask("red", camera=view).success, f"frames of {view}")
    context = rclpy.Context()
    rclpy.init(context=context)
    executor = SingleThreadedExecutor(context=context)
    tally = Tally()
    clients = [Client(number, context, tally) for number in range(CLIENTS)]
    for client in clients:
        executor.add_node(client.node)
    seen = _check_topics(clients[0].node)
    for client in clients:
        client.greet(executor)
    before = eventually(lambda: _settled(statuses), "the greetings to be counted")

    def run(per_client: int) -> None:
        for task in [executor.create_task(client.ask, per_client) for client in clients]:
            executor.spin_until_future_complete(task)

    run(max(WARM_UP, count // 5) // CLIENTS)
    first = Footprint.of(node)
    began = time.monotonic()
    warmed = tally.asked
    run(count // CLIENTS)
    elapsed = time.monotonic() - began
    last = Footprint.of(node)
    eventually(lambda: _ended(statuses) - before == tally.asked, "as many ends as questions")
    assert {"OK", "BUSY", "CANCELED"} <= set(tally.ends), f"too one-sided: {tally.ends}"
    assert seen[0], "nothing came on the topics"
    rclpy.shutdown(context=context)
    first.assert_no_leak(last)
    p50, p99 = np.percentile(tally.seconds, (50, 99))
    return (
        f"{tally.asked} questions ({dict(tally.ends)}), {(tally.asked - warmed) / elapsed:.0f}/s, "
        f"median {p50 * 1e3:.0f} ms, p99 {p99 * 1e3:.0f} ms, {seen[0]} checked on topics; "
        f"memory {first.memory:.1f} -> {last.memory:.1f} MiB, threads {last.threads}, files {last.files}"
    )


def _until_done(executor: Any, call: Any) -> Any:
    """Calls until it is answered: a call is lost if the node has not discovered this client yet."""
    while True:
        future = call()
        executor.spin_until_future_complete(future, timeout_sec=2.0)
        if future.done():
            return future


def _settled(statuses: list[Any]) -> int:
    """The number of finished questions, once two diagnostics agree; else 0."""
    statuses.clear()
    eventually(lambda: len(statuses) >= 2)
    return _ended(statuses[:1]) if _ended(statuses[:1]) == _ended(statuses[1:2]) else 0


def _ended(statuses: list[Any]) -> int:
    """The number of finished questions in the newest diagnostics."""
    newest = eventually(lambda: statuses and statuses[-1])
    questions = next(status for status in newest.status if status.name == "lisa: questions")
    values = {pair.key: pair.value for pair in questions.values}
    return sum(int(values[key]) for key in ("answered", "refused", "canceled", "failed"))


def soak_cycles(count: int, folder: Path) -> str:
    """Cycles `count` times down to unconfigured and up again, after a tenth of them as warm-up."""
    node = _node(folder / "cycled.log")
    robot = Robot()
    try:
        robot.until_active()
        for _ in range(max(5, count // 10)):
            _cycle(robot)
        assert robot.ask("red", image=scene(1)).success
        first = Footprint.of(node)
        for _ in range(count):
            _cycle(robot)
        assert robot.ask("red", image=scene(1)).success
        last = Footprint.of(node)
        first.assert_no_leak(last)
    finally:
        robot.close()
        node.stop()
    memory = f"{first.memory:.1f} -> {last.memory:.1f} MiB"
    return f"{count} cycles; memory {memory}, threads {last.threads}, files {last.files}"


def _cycle(robot: Robot) -> None:
    for transition in CYCLE:
        assert robot.change_state(transition), f"transition {transition} from {robot.state()}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=10_000)
    parser.add_argument("--cycles", type=int, default=1_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, own_graph():
        print(soak_questions(options.questions, Path(folder)))
        print(soak_cycles(options.cycles, Path(folder)))


if __name__ == "__main__":
    main()
