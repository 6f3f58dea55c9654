"""The lifecycle: by itself or by hand, responsive meanwhile, with reasons for failures, and without leaks."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from fake_engine import FakeEngine
from harness import PATIENCE, Process, Robot, eventually, lisa
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import GetAvailableTransitions
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter
from scenes import scene

from lisa_core import DeviceError
from lisa_ros.inference import Ticket
from lisa_ros.lifecycle import TransitionFailed
from lisa_ros.node import LisaNode
from lisa_ros.questions import Code, Question

CONFIGURE = Transition.TRANSITION_CONFIGURE
ACTIVATE = Transition.TRANSITION_ACTIVATE
DEACTIVATE = Transition.TRANSITION_DEACTIVATE
CLEANUP = Transition.TRANSITION_CLEANUP
SUCCESS = TransitionCallbackReturn.SUCCESS

Start = Callable[..., tuple[Robot, Process]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a node, and a robot that knows it; both end with the test."""
    ends: list[Callable[[], Any]] = []

    def start_node(**parameters: Any) -> tuple[Robot, Process]:
        process, robot = lisa(tmp_path / "node.log", **parameters), Robot()
        ends.extend([robot.close, process.stop])
        return robot, process

    yield start_node
    for end in ends:
        end()


@pytest.fixture
def node() -> Iterator[LisaNode]:
    """A node in this process that nobody spins."""
    rclpy.init(args=["--ros-args", "-p", "checkpoint:=fake"])
    made = LisaNode(FakeEngine.from_pretrained)
    yield made
    made.end()
    if made.lost:
        eventually(lambda: not made.context.ok(), "the end that it has set itself")
    rclpy.try_shutdown()


def model_says(statuses: list[DiagnosticArray], words: str) -> bool:
    return any(s.name == "lisa: model" and words in s.message for array in statuses for s in array.status)


def test_it_comes_up_by_itself_and_listens_while_the_model_loads(start: Start, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    robot, _ = start(checkpoint=f"until {gate}")
    statuses = robot.listen("/diagnostics", DiagnosticArray)
    eventually(lambda: robot.state() == "configuring")
    response = robot.ask("red", image=scene(1))
    assert Code(response.code) == Code.LOADING
    assert response.message.startswith("the model is being loaded (")
    goal = robot.pursue("red", image=scene(1))
    assert Code(goal.result()[1].code) == Code.LOADING
    assert not robot.change_state(CONFIGURE), "an illegal transition is answered"
    assert not robot.change_state(ACTIVATE)
    eventually(lambda: model_says(statuses, "loading: 50%, shard"))
    gate.touch()
    robot.until_active()
    assert robot.ask("red", image=scene(1)).success
    eventually(lambda: model_says(statuses, "active"))


def test_the_log_says_what_answers_and_what_it_listens_to(start: Start) -> None:
    robot, process = start(checkpoint="mine", precision="fp32", camera__depth="depth")
    robot.until_active()
    log = process.output
    assert "loading mine" in log
    assert "mine answers in fp32 on cpu; loaded in 0." in log
    assert "torch sees no GPU here" in log
    assert "camera camera: listening to image /image, depth /depth" in log


def test_a_cpu_that_is_meant_is_no_warning(start: Start) -> None:
    robot, process = start(checkpoint="mine", device="cpu")
    robot.until_active()
    assert "torch sees no GPU here" not in process.output


def test_the_qos_of_what_it_publishes_can_be_overridden(start: Start, tmp_path: Path) -> None:
    overridden = {"qos_overrides./lisa/overlay.publisher.reliability": "best_effort", "qos_overrides./typo": 1}
    robot, process = start(**overridden)
    robot.until_active()
    for topic, reliability in (("overlay", "BEST_EFFORT"), ("mask", "RELIABLE"), ("target", "RELIABLE")):
        (publisher,) = eventually(lambda topic=topic: robot.node.get_publishers_info_by_topic(f"/lisa/{topic}"))
        assert publisher.qos_profile.reliability.name == reliability
    assert "qos_overrides./typo is not a parameter of this node" in process.output
    assert "overlay.publisher.reliability is not" not in process.output


def test_a_failed_configure_leaves_a_node_that_says_why(start: Start) -> None:
    robot, process = start(checkpoint="fails")
    statuses = robot.listen("/diagnostics", DiagnosticArray)
    reason = "fails is no checkpoint: name a folder that is one"
    eventually(lambda: model_says(statuses, reason))
    assert robot.state() == "unconfigured"
    response = robot.ask("red", image=scene(1))
    assert (Code(response.code), response.message) == (Code.INACTIVE, f"the node is unconfigured: {reason}")
    assert reason in process.output
    assert "Traceback" not in process.output
    assert not robot.change_state(CONFIGURE)
    assert robot.set("checkpoint", "good").successful
    assert robot.change_state(CONFIGURE)
    assert robot.change_state(ACTIVATE)
    assert robot.ask("red", image=scene(1)).success


@pytest.mark.parametrize(
    ("before", "checkpoint", "ends"),
    [
        ([], "no device", False),  # a launch file that starts it again and again would not help
        ([], "lost", True),
        (["fake"], "no device", False),
        (["on a gpu"], "lost", True),
        (["on a gpu"], "no device", True),
    ],
)
def test_a_gpu_that_fails_at_load_ends_the_node_unless_it_never_worked(
    node: LisaNode, before: list[str], checkpoint: str, ends: bool
) -> None:
    for name in [*before, checkpoint]:
        if node.state == "inactive":
            assert node.trigger_cleanup() == SUCCESS
        node.set_parameters([Parameter("checkpoint", value=name)])
        node.trigger_configure()
    assert (node.state, node.lost) == ("unconfigured", ends)
    assert "on purpose" in node.reason


@pytest.mark.parametrize("error", [DeviceError("the GPU is lost"), RuntimeError("broken")])
def test_an_engine_that_cannot_be_closed_is_let_go_of(node: LisaNode, error: Exception) -> None:
    def close() -> None:
        raise error

    node.trigger_configure()
    engine: Any = node._model.engine
    engine.close = close
    assert node.trigger_cleanup() == SUCCESS
    assert (node.state, node.lost) == ("unconfigured", isinstance(error, DeviceError))
    if not node.lost:
        assert node.trigger_configure() == SUCCESS
        assert node.trigger_activate() == SUCCESS


def test_an_unforeseen_error_in_configure_is_logged_and_not_fatal(start: Start) -> None:
    robot, process = start(checkpoint="breaks")
    eventually(lambda: "cannot configure: RuntimeError: an error that nobody thought of" in process.output)
    assert "Traceback" in process.output
    assert robot.state() == "unconfigured"


def test_up_and_down_by_hand_and_with_another_checkpoint(start: Start) -> None:
    robot, process = start(autostart=False)
    assert robot.state() == "unconfigured"
    assert Code(robot.ask("red").code) == Code.INACTIVE
    assert not robot.change_state(ACTIVATE)
    assert robot.change_state(CONFIGURE)
    assert robot.state() == "inactive"
    told = robot.listen("/diagnostics", DiagnosticArray)
    unheard = eventually(
        lambda: [each for each in told[-1].status if each.name == "lisa: camera camera"] if told else []
    )
    assert (unheard[0].level, unheard[0].message) == (DiagnosticStatus.WARN, "not heard while inactive")
    response = robot.ask("red", image=scene(1))
    assert (Code(response.code), response.message) == (
        Code.INACTIVE,
        "the node is inactive; ros2 lifecycle set /lisa activate",
    )
    assert robot.change_state(ACTIVATE)
    assert not robot.change_state(CONFIGURE)
    assert not robot.change_state(200), "a transition that does not exist"
    assert robot.ask("red", image=scene(1)).success
    available = robot.call("get_available_transitions", GetAvailableTransitions, GetAvailableTransitions.Request())
    assert {t.transition.label for t in available.available_transitions} == {"deactivate", "shutdown"}
    assert robot.change_state(DEACTIVATE)
    assert robot.change_state(CLEANUP)
    assert robot.set("checkpoint", "another").successful
    statuses = robot.listen("/diagnostics", DiagnosticArray)
    assert robot.change_state(CONFIGURE)
    assert robot.change_state(ACTIVATE)
    eventually(lambda: any("another" in str(array) for array in statuses))
    assert robot.ask("red", image=scene(1)).success
    assert robot.change_state(Transition.TRANSITION_ACTIVE_SHUTDOWN)
    assert robot.state() == "finalized"
    assert Code(robot.ask("red").code) == Code.INACTIVE
    assert process.stop() == 0


def test_deactivating_ends_the_questions_politely(start: Start) -> None:
    robot, _ = start()
    robot.until_active()
    goal = robot.pursue("red delay=100", image=scene(1))
    eventually(lambda: ("answering", "") in goal.feedback)
    waiting = robot.pursue("blue", image=scene(1))
    eventually(lambda: ("waiting", "") in waiting.feedback)
    assert robot.change_state(DEACTIVATE)
    for response in (waiting.result()[1], goal.result()[1]):
        assert (Code(response.code), response.message) == (Code.INACTIVE, "the node was deactivated")
    assert robot.change_state(ACTIVATE)
    assert robot.ask("red", image=scene(1)).success


def test_deactivating_ends_the_questions_before_it_closes_what_they_need(node: LisaNode) -> None:
    node.configure()
    node.activate()
    cameras: list[list[str]] = []
    node.submit(Ticket(Question("red", "camera"), lambda _: cameras.append(list(node._cameras))))
    node.deactivate()
    assert (cameras, node._cameras) == ([["camera"]], {})


def test_cleanup_gives_the_memory_of_model_and_frames_back(start: Start) -> None:
    robot, process = start(autostart=False, checkpoint="heavy")
    node = psutil.Process(process.pid)
    assert robot.change_state(CONFIGURE)
    assert robot.change_state(ACTIVATE)
    for conversation in ("a", "b", "c"):
        assert robot.ask("red", image=scene(1), conversation=conversation).success
    full = node.memory_info().rss
    assert robot.change_state(DEACTIVATE)
    assert robot.change_state(CLEANUP)
    freed = full - node.memory_info().rss
    assert freed > 240 << 20, f"of 250 MiB it gave back {freed / 2**20:.0f}"


def test_a_node_that_is_half_cleaned_up_does_not_pretend_to_be_active(node: LisaNode) -> None:
    node.configure()
    assert node._inference is not None
    node._inference.close(timeout=PATIENCE)  # as after a cleanup in which the engine did not come back
    with pytest.raises(TransitionFailed, match="clean up again"):
        node.activate()
    node.cleanup()
    node.configure()
    node.activate()


def test_cycles_leave_nothing_behind(start: Start) -> None:
    robot, process = start()
    robot.until_active()
    node = psutil.Process(process.pid)

    def cycle() -> None:
        for transition in (DEACTIVATE, CLEANUP, CONFIGURE, ACTIVATE):
            assert robot.change_state(transition)

    for _ in range(5):
        cycle()
    threads, files = node.num_threads(), node.num_fds()
    for _ in range(20):
        cycle()
    assert robot.ask("red", image=scene(1)).success
    eventually(lambda: node.num_threads() <= threads and node.num_fds() <= files, "threads and files to be given back")


def test_ctrl_c_ends_it_at_once_even_while_it_loads_or_answers(start: Start) -> None:
    robot, process = start(checkpoint="until never")
    eventually(lambda: robot.state() == "configuring")
    assert process.stop() == 0
    robot, process = start()
    robot.until_active()
    goal = robot.pursue("red hang=100", image=scene(1))
    eventually(lambda: ("answering", "") in goal.feedback)
    assert process.stop() == 0
    eventually(lambda: "lisa" not in robot.node.get_node_names(), "the graph to be left", 10.0)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_who_waits_is_told_when_it_is_to_end(start: Start, number: int) -> None:
    robot, process = start()
    robot.until_active()
    goal = robot.pursue("red delay=100", image=scene(1))
    eventually(lambda: ("answering", "") in goal.feedback)
    waiting = robot.start("blue", image=scene(1))
    os.kill(process.pid, number)
    for response in (robot.wait(waiting), goal.result()[1]):
        assert (Code(response.code), response.message) == (Code.INACTIVE, "the node is about to end")
    assert process.wait() == 0


def test_a_topic_of_another_type_is_named_and_leaves_no_subscription(start: Start) -> None:
    robot, process = start(camera__image="/seen", camera__camera_info="/seen")
    reason = "camera camera: camera_info cannot be heard on /seen, which may be a topic of another type"
    eventually(lambda: reason in process.output)
    assert robot.state() == "inactive"
    assert not robot.change_state(ACTIVATE)
    eventually(lambda: robot.node.count_subscribers("/seen") == 0, "no subscription")
    assert robot.change_state(CLEANUP)
    assert robot.set("camera.image", "/image").successful
    assert robot.change_state(CONFIGURE)
    assert robot.change_state(ACTIVATE)
