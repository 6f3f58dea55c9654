"""Processes and a client to test the node with, over the real middleware, in a domain of their own."""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
import rclpy
from domain_coordinator import domain_id
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from lisa_ros.action import ReasonSegment as Action
from lisa_ros.srv import ReasonSegment
from numpy.typing import NDArray
from rcl_interfaces.srv import DescribeParameters, GetParameters, ListParameters, SetParameters
from rclpy.action import ActionClient
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.parameter import Parameter, parameter_value_to_python
from rclpy.qos import QoSProfile
from std_msgs.msg import Header
from std_srvs.srv import Trigger

from lisa_ros.conversions import image_message

HERE = Path(__file__).parent
ROOM_FOR_IMAGES = str(HERE.parents[1] / "config" / "fastdds.xml")
PATIENCE = 40.0
"""Seconds that a test waits for what should happen at once: the machine may be loaded."""

T = TypeVar("T")


def eventually(condition: Callable[[], T], what: str = "", patience: float = PATIENCE) -> T:
    """The condition's value once it is true; fails after a while, naming what was waited for."""
    deadline = time.monotonic() + patience
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {patience:g} s in vain for {what or condition}")
        time.sleep(0.01)
    return value


def values(status: Any) -> dict[str, str]:
    """The pairs of a DiagnosticStatus."""
    return {pair.key: pair.value for pair in status.values}


@contextlib.contextmanager
def own_graph() -> Iterator[None]:
    """A ROS graph for this process and its children only."""
    with domain_id() as number:
        os.environ["ROS_DOMAIN_ID"] = str(number)
        os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
        if os.environ.get("ROS_DISTRO") == "humble":  # which does not know the range
            os.environ["ROS_LOCALHOST_ONLY"] = "1"
        os.environ["FASTRTPS_DEFAULT_PROFILES_FILE"] = os.environ["FASTDDS_DEFAULT_PROFILES_FILE"] = ROOM_FOR_IMAGES
        yield


def environment() -> dict[str, str]:
    """The environment of a process beside the test."""
    return os.environ | {
        "PYTHONPATH": os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")]),
        "PYTHONUNBUFFERED": "1",
    }


def _die_with_parent() -> None:
    """Called in a new process: it is killed when the test's process dies (Linux: PR_SET_PDEATHSIG)."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


class Process:
    """A Python script of this folder, or a command, running beside the test; its output goes to a file."""

    running: ClassVar[list["Process"]] = []

    def __init__(self, script: str | Path, arguments: Sequence[str], log: Path) -> None:
        self.log = log
        with log.open("w") as output:
            self._process = subprocess.Popen(
                [*([sys.executable] if Path(script).suffix == ".py" else []), str(HERE / script), *arguments],
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment(),
                cwd=log.parent,
                preexec_fn=_die_with_parent,  # noqa: PLW1509 - no thread of ours holds a lock that it needs
            )
        self.running[:] = [process for process in [*self.running, self] if process.alive]

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self._process.poll() is None

    @property
    def output(self) -> str:
        """What it has written so far."""
        return self.log.read_text()

    def kill(self) -> None:
        """Kill it, as the kernel would; leaves its shared memory behind."""
        self._process.kill()
        self._process.wait()

    def stop(self, patience: float = 20.0) -> int:
        """End it as a person would, with Ctrl-C; its exit code."""
        if self.alive:
            self._process.send_signal(signal.SIGINT)
        try:
            return self._process.wait(patience)
        except subprocess.TimeoutExpired:
            self.kill()
            return -signal.SIGKILL

    def wait(self, patience: float = PATIENCE) -> int:
        """Its exit code, once it ends by itself."""
        return self._process.wait(patience)


def lisa(log: Path, *arguments: str, checkpoint: str = "fake", **parameters: object) -> Process:
    """The node with the fake engine; parameters by name, `__` for a dot."""
    settings = {"checkpoint": checkpoint} | {name.replace("__", "."): value for name, value in parameters.items()}
    ros = [part for name, value in settings.items() for part in ("-p", f"{name}:={_yaml(value)}")]
    return Process("node_process.py", ["--ros-args", *arguments, *ros], log)


def camera(log: Path, *arguments: str) -> Process:
    """A camera, as `camera_process.py` describes."""
    return Process("camera_process.py", arguments, log)


def _yaml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else str(value)


class Robot:
    """A node of the test, which asks, listens, publishes and sets parameters; its calls block."""

    def __init__(self, server: str = "/lisa") -> None:
        self._context = rclpy.Context()
        rclpy.init(context=self._context)
        self.node = rclpy.create_node(f"robot_{time.monotonic_ns()}", context=self._context)
        self.server = server
        self.executor = SingleThreadedExecutor(context=self._context)
        self.executor.add_node(self.node)
        self._questions = self.node.create_client(ReasonSegment, f"{server}/reason_segment")
        self._goals = ActionClient(self.node, Action, f"{server}/reason_segment")
        self._greeted: set[str] = set()
        self._clients: dict[str, Any] = {}
        self._publishers: dict[str, Any] = {}
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()

    def _spin(self) -> None:
        with contextlib.suppress(ExternalShutdownException):
            self.executor.spin()

    def close(self) -> None:
        """Leave the graph."""
        rclpy.shutdown(context=self._context)
        self._thread.join(10.0)
        self.executor.shutdown()
        self.node.destroy_node()

    def wait(self, future: Any, patience: float = PATIENCE) -> Any:
        """The result of an rclpy future."""
        done = threading.Event()
        future.add_done_callback(lambda _: done.set())
        assert done.wait(patience), f"no answer within {patience:g} s"
        return future.result()

    def on_executor(self, call: Callable[[], Any]) -> Any:
        """What `call` returns, on the executor's thread: rclpy's ActionClient is not thread-safe."""
        return self.wait(self.executor.create_task(call))

    # Questions

    def start(self, instruction: str, **fields: Any) -> Any:
        """Ask through the service; a future of the response."""
        self._greet("service", self._call_service)
        return self._questions.call_async(_request(ReasonSegment.Request, instruction, fields))

    def _greet(self, server: str, say_something: Callable[[], Any]) -> None:
        """Wait until the node hears us and we hear it.

        That a client finds a server says nothing of the other direction, and an answer to a client that the server has
        not found yet is dropped by the middleware without a word.
        """
        deadline = time.monotonic() + PATIENCE
        while server not in self._greeted:
            try:
                say_something()
                self._greeted.add(server)
            except AssertionError:
                if time.monotonic() > deadline:
                    raise

    def _call_service(self) -> None:
        eventually(self._questions.service_is_ready, "the service")
        self.wait(self._questions.call_async(ReasonSegment.Request()), patience=2.0)

    def ask(self, instruction: str, **fields: Any) -> ReasonSegment.Response:
        """Ask through the service, and wait."""
        return self.wait(self.start(instruction, **fields))

    def pursue(self, instruction: str, **fields: Any) -> "Goal":
        """Ask through the action."""
        self._greet("action", lambda: Goal(self, self._goals, Action.Goal(), patience=2.0).result(patience=2.0))
        return Goal(self, self._goals, _request(Action.Goal, instruction, fields))

    def until_active(self) -> "Robot":
        """Wait for the node to serve."""
        eventually(lambda: self.state() == "active", "the node to be active")
        return self

    # Lifecycle and parameters

    def call(self, name: str, kind: type, request: Any, patience: float = PATIENCE) -> Any:
        """Call one of the node's other services."""
        if name not in self._clients:
            self._clients[name] = self.node.create_client(kind, f"{self.server}/{name}")
        client = self._clients[name]
        eventually(client.service_is_ready, name)
        if kind is not Trigger:  # an empty request for which is a whole one
            self._greet(name, lambda: self.wait(client.call_async(kind.Request()), patience=2.0))
        return self.wait(client.call_async(request), patience)

    def state(self) -> str:
        """The label of the lifecycle state; asked again if the node was killed before it replied."""
        while True:
            with contextlib.suppress(AssertionError):
                return str(self.call("get_state", GetState, GetState.Request(), patience=2.0).current_state.label)

    def change_state(self, transition: int) -> bool:
        """Do a transition, by id."""
        request = ChangeState.Request(transition=Transition(id=transition))
        return bool(self.call("change_state", ChangeState, request).success)

    def set(self, name: str, value: object) -> Any:
        """Set a parameter; the result with `successful` and `reason`."""
        request = SetParameters.Request(parameters=[Parameter(name, value=value).to_parameter_msg()])
        return self.call("set_parameters", SetParameters, request).results[0]

    def get(self, name: str) -> object:
        """The value of a parameter."""
        values = self.call("get_parameters", GetParameters, GetParameters.Request(names=[name])).values
        return parameter_value_to_python(values[0])

    def parameters(self) -> list[str]:
        """The names of all parameters."""
        return list(self.call("list_parameters", ListParameters, ListParameters.Request()).result.names)

    def describe(self, names: Sequence[str]) -> Any:
        """The descriptors of parameters."""
        request = DescribeParameters.Request(names=list(names))
        return self.call("describe_parameters", DescribeParameters, request).descriptors

    # Topics

    def listen(self, topic: str, kind: type, depth: int = 100, raw: bool = False) -> list[Any]:
        """A list to which the messages on a topic are added; returns when its publisher is discovered.

        The publisher may discover us later, so a message that it publishes once may still be missed.
        """
        heard: list[Any] = []
        subscription = self.node.create_subscription(kind, topic, heard.append, QoSProfile(depth=depth), raw=raw)
        self.executor.wake()
        eventually(subscription.get_publisher_count, f"a publisher of {topic}")
        return heard

    def publish(self, topic: str, message: Any, kind: type | None = None) -> None:
        """Publish one message, or the bytes of one of that kind, once somebody listens."""
        if topic not in self._publishers:
            self._publishers[topic] = self.node.create_publisher(kind or type(message), topic, QoSProfile(depth=5))
        eventually(self._publishers[topic].get_subscription_count, f"a subscriber of {topic}")
        self._publishers[topic].publish(message)

    def show(self, picture: NDArray[np.uint8], topic: str = "/image", encoding: str = "rgb8", stamp: int = 0) -> None:
        """Publish a picture; set the camera's QoS to `reliable`, or a loaded machine may lose it."""
        header = Header(frame_id=topic)
        header.stamp.sec = stamp
        self.publish(topic, image_message(picture, encoding, header))


class Goal:
    """One goal of the action, from sending it to its result."""

    def __init__(self, robot: Robot, client: ActionClient, goal: Any, patience: float = PATIENCE) -> None:
        self._robot = robot
        self.feedback: list[tuple[str, str]] = []
        eventually(client.server_is_ready, "the action")
        sent = robot.on_executor(lambda: client.send_goal_async(goal, feedback_callback=self._on_feedback))
        self._handle = robot.wait(sent, patience)
        self.accepted = bool(self._handle.accepted)
        self._result = robot.on_executor(self._handle.get_result_async)

    def _on_feedback(self, message: Any) -> None:
        self.feedback.append((message.feedback.stage, message.feedback.partial_text))

    def cancel(self) -> bool:
        """Cancel it; whether the node accepted that."""
        return bool(self._robot.wait(self._robot.on_executor(self._handle.cancel_goal_async)).goals_canceling)

    @property
    def ended(self) -> bool:
        """Whether its result has come."""
        return bool(self._result.done())

    def result(self, patience: float = PATIENCE) -> tuple[int, Any]:
        """Its final status (GoalStatus) and result."""
        answer = self._robot.wait(self._result, patience)
        return int(answer.status), answer.result

    def result_again(self) -> int:
        """The status (GoalStatus) when the result is requested once more."""
        return int(self._robot.wait(self._robot.on_executor(self._handle.get_result_async)).status)


def _request(kind: Callable[..., T], instruction: str, fields: Mapping[str, Any]) -> T:
    values = dict(fields)
    if isinstance(values.get("image"), np.ndarray):
        values["image"] = image_message(values["image"], "rgb8", Header(frame_id="asker"))
    return kind(instruction=instruction, **values)
