"""Hardship: killed clients and nodes, clocks that jump or stop, unusual names."""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import rclpy
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseStamped, Quaternion
from harness import HERE, PATIENCE, Process, Robot, camera, eventually, lisa
from rclpy.time import Time as RosTime
from rosgraph_msgs.msg import Clock
from scenes import box_of, scene
from std_msgs.msg import Header
from test_depth import Scene, centre, depth_of

from lisa_ros import transforms
from lisa_ros.client import AskError, ask
from lisa_ros.questions import Code
from lisa_ros.transforms import TargetFrame, rotated


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """Starts processes that end with the test: `start(lisa, ...)`."""
    processes: list[Process] = []

    def start_process(kind: Callable[..., Process], *arguments: str, **options: Any) -> Process:
        processes.append(kind(tmp_path / f"{len(processes)}.log", *arguments, **options))
        return processes[-1]

    yield start_process
    for process in processes:
        process.stop()


@pytest.fixture
def robot() -> Iterator[Robot]:
    robot = Robot()
    yield robot
    robot.close()


def client(log: Path, instruction: str) -> Process:
    return Process("client_process.py", [instruction], log)


def test_clients_killed_in_mid_call_cost_nothing(start: Callable[..., Process], robot: Robot) -> None:
    node = start(lisa, frame_timeout=PATIENCE)
    start(camera)
    robot.until_active()
    for _ in range(3):
        doomed = start(client, "red delay=4")
        eventually(lambda: "still waiting" in robot.ask("blue", timeout=0.3).message, "the engine to be busy with it")
        doomed.kill()
        assert robot.ask("blue").success
    living = start(client, "green")
    assert living.wait() == 0
    assert "Turn 1: green is [SEG]." in living.output
    assert node.alive


def test_a_gpu_that_failed_ends_the_node_with_an_error_when_all_are_told(
    start: Callable[..., Process], robot: Robot
) -> None:
    """The process cannot use the GPU any more, so a launch file has to restart it."""
    node = start(lisa, frame_timeout=PATIENCE)
    start(camera)
    robot.until_active()
    told = robot.ask("red fail=device")
    assert Code(told.code) == Code.INTERNAL
    assert told.message == "the GPU failed on purpose; start this program anew"
    assert node.wait() == 1
    assert "[FATAL]" in node.output
    assert "Traceback" not in node.output
    start(lisa, frame_timeout=PATIENCE)
    eventually(lambda: robot.state() == "active", patience=60.0)
    assert eventually(lambda: robot.ask("red").success)


def test_who_waits_for_a_frame_is_told_that_the_gpu_failed(start: Callable[..., Process], robot: Robot) -> None:
    node = start(lisa, frame_timeout=PATIENCE)
    robot.until_active()
    goal = robot.pursue("red")
    waiting = robot.start("red")
    eventually(lambda: ("waiting", "") in goal.feedback)
    assert Code(robot.ask("red fail=device", image=scene(1)).code) == Code.INTERNAL
    reason = "the node is about to end: the GPU failed on purpose; start this program anew"
    for response in (robot.wait(waiting), goal.result()[1]):
        assert (Code(response.code), response.message) == (Code.INACTIVE, reason)
    assert node.wait() == 1


def test_a_standing_question_that_fails_and_fails_is_logged_once(start: Callable[..., Process], robot: Robot) -> None:
    node = start(lisa, standing_instruction="red fail=python")
    start(camera)
    robot.until_active()
    eventually(lambda: "broken on purpose" in node.output)
    time.sleep(3.5)  # it is asked again once a second
    assert node.output.count("Traceback") == 1
    assert Code(robot.ask("red fail=python").code) == Code.INTERNAL
    assert node.output.count("Traceback") == 2


def test_a_node_killed_in_mid_answer_is_replaced(start: Callable[..., Process], robot: Robot) -> None:
    node = start(lisa, frame_timeout=PATIENCE)
    start(camera)
    robot.until_active()

    async def failure() -> str:
        try:
            return (await ask(robot.node, "red delay=9", timeout=3.0)).text
        except AskError as error:
            return str(error)

    goal = robot.pursue("red tokens=1000 pause=0.05")
    reply = robot.executor.create_task(failure)
    eventually(lambda: any(text for _, text in goal.feedback))
    node.kill()
    start(lisa, frame_timeout=PATIENCE)
    eventually(lambda: robot.state() == "active", patience=60.0)
    assert robot.ask("red").success
    assert "went away, or did not answer in time" in robot.wait(reply)


def test_paused_clocks_and_jumps_back_change_nothing(start: Callable[..., Process], robot: Robot) -> None:
    start(lisa, use_sim_time=True, camera__qos="reliable")
    robot.until_active()
    diagnostics = robot.listen("/diagnostics", DiagnosticArray)
    for index, seconds in enumerate((7200, 7200, 3600, 0), start=1):

        def told(stamp: int = seconds) -> bool:
            robot.publish("/clock", Clock(clock=Time(sec=stamp)))
            return any(array.header.stamp.sec == stamp for array in diagnostics)

        def answered(stamp: int = seconds, index: int = index) -> bool:
            robot.show(scene(index), stamp=stamp)
            rois = [segment.roi for segment in robot.ask("red").answer.segments]
            return [(roi.x_offset, roi.y_offset, roi.width, roi.height) for roi in rois] == [box_of("red", index)]

        diagnostics.clear()
        eventually(told, "diagnostics at the clock's time")
        eventually(answered)


def test_namespaces_and_remaps(start: Callable[..., Process]) -> None:
    remaps = ["-r", "__ns:=/arm", "-r", "image:=wrist/rgb", "-r", "__node:=eyes"]
    start(lisa, *remaps, frame_timeout=PATIENCE)
    start(camera, "--topic", "/arm/wrist/rgb")
    robot = Robot("/arm/eyes")
    health = robot.listen("/diagnostics", DiagnosticArray)
    try:
        assert robot.until_active().ask("red").answer.header.frame_id == "/arm/wrist/rgb"
        names = [name for name, _ in robot.node.get_topic_names_and_types()]
        assert {"/arm/eyes/answer", "/arm/eyes/mask", "/diagnostics"} <= set(names)
        statuses = eventually(lambda: health and len(health[-1].status) == 3 and health[-1].status)
        assert [status.name for status in statuses] == [
            f"arm/eyes: {x}" for x in ("model", "camera camera", "questions")
        ]
        assert {status.hardware_id for status in statuses} == {"arm/eyes"}
    finally:
        robot.close()


def test_cameras_that_are_swapped_by_remapping(start: Callable[..., Process], robot: Robot) -> None:
    swap = ["-r", "left/image:=right/image", "-r", "right/image:=left/image"]
    start(lisa, *swap, "-p", "cameras:=[left, right]", left__qos="reliable", right__qos="reliable")
    robot.until_active()
    for index, (name, topic) in enumerate((("left", "/right/image"), ("right", "/left/image")), start=1):

        def seen(index: int = index, name: str = name, topic: str = topic) -> str:
            robot.show(scene(index), topic)
            return str(robot.ask("red", camera=name).answer.header.frame_id)

        assert eventually(seen, f"a frame of {name}") == topic


def test_a_clock_that_jumps_back_clears_what_tf_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(HERE / "tf2_double"))
    context = rclpy.Context()
    rclpy.init(context=context)
    node = rclpy.create_node("listener", context=context)
    clock = node.get_clock()
    clock._set_ros_time_is_active(True)
    target = TargetFrame(node, "base")
    cleared = []
    for seconds in (100, 101, 50, 60):
        clock.set_ros_time_override(RosTime(seconds=seconds))
        cleared.append(target._buffer.cleared)
    target.close()
    clock.set_ros_time_override(RosTime(seconds=1))
    assert [*cleared, target._buffer.cleared] == [0, 0, 1, 1, 1]
    node.destroy_node()
    rclpy.shutdown(context=context)


@pytest.fixture
def target(monkeypatch: pytest.MonkeyPatch) -> Iterator[TargetFrame]:
    monkeypatch.syspath_prepend(str(HERE / "tf2_double"))
    context = rclpy.Context()
    rclpy.init(context=context)
    node = rclpy.create_node("listener", context=context)
    yield TargetFrame(node, "base")
    node.destroy_node()
    rclpy.shutdown(context=context)


def test_a_stamp_before_all_times_has_no_transform(target: TargetFrame) -> None:
    header = Header(frame_id="optical")
    assert target.find(header) is not None
    header.stamp.sec = -1
    assert target.find(header) is None
    assert target(PoseStamped(header=header)) is None
    target.close()


def test_a_pose_is_moved_by_the_transform_of_its_time(target: TargetFrame) -> None:
    header = Header(frame_id="optical")
    header.stamp.sec, header.stamp.nanosec = 5, 7
    moved = target(PoseStamped(header=header))
    assert moved is not None
    assert (moved.header.frame_id, moved.header.stamp) == ("base", header.stamp)
    assert target.find(header) is not None
    assert target._buffer.asked == [(5_000_000_007, transforms.PATIENCE), (5_000_000_007, 0.0)]
    target.close()
    assert not target._listener.listens


def test_a_target_in_another_frame(
    start: Callable[..., Process], robot: Robot, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(HERE / "tf2_double"), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("TF_HAS_FORGOTTEN", str(tmp_path / "forgotten"))
    start(lisa, target_frame="base", camera__depth="depth", camera__camera_info="info", camera__qos="reliable")
    robot.until_active()
    targets = robot.listen("/lisa/target", PoseStamped)
    show = Scene(robot)
    target = eventually(lambda: show.position(20, depth_of(20)) and targets and targets[-1])
    x, y, z = centre(20, 1.0)
    assert target.header.frame_id == "base"
    at = target.pose.position
    assert (at.x, at.y, at.z) == pytest.approx((x + 10.0, 20.0 - z, 30.0 + y), abs=0.01)
    assert target.pose.orientation.w == 1.0
    (tmp_path / "forgotten").touch()  # tf does after ten seconds, and the picture may be asked about again
    targets.clear()
    assert show.again().has_position
    assert eventually(lambda: targets)[-1].pose.position == at


def test_a_target_frame_without_tf2_is_refused(start: Callable[..., Process], robot: Robot) -> None:
    process = start(lisa, target_frame="base")
    eventually(lambda: "target_frame is 'base', which takes tf2_ros" in process.output)
    assert robot.state() == "unconfigured"


def test_rotations() -> None:
    half = 0.5**0.5
    assert rotated(Quaternion(x=half, w=half), (1.0, 2.0, 3.0)) == pytest.approx((1.0, -3.0, 2.0))
    assert rotated(Quaternion(z=half, w=half), (1.0, 2.0, 3.0)) == pytest.approx((-2.0, 1.0, 3.0))
    assert rotated(Quaternion(w=1.0), (1.0, 2.0, 3.0)) == pytest.approx((1.0, 2.0, 3.0))


def test_help_needs_no_ros_graph_and_no_model(start: Callable[..., Process]) -> None:
    process = start(lambda log: Process("node_process.py", ["--help"], log))
    assert process.wait() == 0
    assert process.output.startswith("usage: lisa_node")
    assert "max_frame_age = 1.0" in process.output
