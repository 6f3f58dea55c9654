"""Depth and intrinsics give each segment a position; wrong ones cost the position only."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseStamped
from harness import Robot, eventually, lisa, values
from numpy.typing import NDArray
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.serialization import serialize_message
from scenes import box_of, found, scene
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from std_msgs.msg import Header

from lisa_ros.conversions import image_message
from lisa_ros.pairing import of_one_moment
from lisa_ros.parameters import CameraParameters
from lisa_ros.pictures import Arrival, Companions, Picture

Vector = tuple[float, float, float]

F, CX, CY = 500.0, 320.0, 240.0
INFO = {"height": 480, "width": 640, "k": [F, 0.0, CX, 0.0, F, CY, 0.0, 0.0, 1.0]}


@pytest.fixture(scope="module")
def robot(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Robot]:
    process = lisa(
        tmp_path_factory.mktemp("depth") / "node.log",
        camera__depth="depth",
        camera__camera_info="info",
        camera__qos="reliable",
    )
    robot = Robot()
    robot.log = lambda: process.output  # type: ignore[attr-defined]
    yield robot.until_active()
    robot.close()
    process.stop()


def header(stamp: float, frame: str = "optical") -> Header:
    message = Header(frame_id=frame)
    message.stamp.sec, message.stamp.nanosec = int(stamp), round(stamp % 1 * 1e9)
    return message


def depth_of(index: int, near: float = 1.0, far: float = 2.0) -> NDArray[np.float32]:
    """(480, 640) m: the red square at `near`, all else at `far`."""
    return np.where(found(scene(index), "red"), np.float32(near), np.float32(far))


def centre(index: int, depth: float) -> Vector:
    """Where the middle of the red square is, m."""
    x, y, width, height = box_of("red", index)
    return ((x + (width - 1) / 2 - CX) * depth / F, (y + (height - 1) / 2 - CY) * depth / F, depth)


class Scene:
    """Publishes what a camera with depth would, and asks.

    Image, depth and CameraInfo each come as they like: what is asked right after the image has been seen may be
    answered without the others, so tests wait for what these bring.
    """

    def __init__(self, robot: Robot) -> None:
        self.robot = robot
        self.stamp = 0
        self.depth_frame = "optical"

    def ask(self, index: int, depth: Any, encoding: str = "32FC1", late: float = 0.0, **info: Any) -> Any:
        """The first segment of the answer about colour frame `index` with this depth, `late` s later by its stamp."""
        self.stamp += 10
        self.say(self.stamp, **info)
        self.robot.publish("/depth", image_message(depth, encoding, header(self.stamp + late, self.depth_frame)))
        self.robot.publish("/image", image_message(scene(index), "rgb8", header(self.stamp)))
        eventually(lambda: self.again() and self.answer.header.stamp.sec == self.stamp, f"frame {index}")
        return self.answer.segments[0]

    def say(self, stamp: float, **info: Any) -> None:
        """Publish the CameraInfo for that moment."""
        self.robot.publish("/info", CameraInfo(header=header(stamp), **(INFO | info)))

    def again(self) -> Any:
        """The first segment of another answer about the newest frame, None before the first."""
        response = self.robot.ask("red", max_age=-1.0)
        self.answer = response.answer
        return self.answer.segments[0] if response.success else None

    def position(self, index: int, depth: Any, encoding: str = "32FC1", late: float = 0.0) -> Vector:
        """Where that segment is, once its depth has come too."""
        self.ask(index, depth, encoding, late)
        self.segment = eventually(lambda: (segment := self.again()).has_position and segment, "a position")
        return (self.segment.position.x, self.segment.position.y, self.segment.position.z)


@pytest.fixture(scope="module")
def show(robot: Robot) -> Scene:
    return Scene(robot)


def test_a_segment_has_its_position_and_size(show: Scene) -> None:
    for encoding, scale in (("32FC1", np.float32(1)), ("16UC1", np.uint16(1000))):
        depth = (depth_of(20) * scale).astype(scale.dtype)
        assert show.position(20, depth, encoding) == pytest.approx(centre(20, 1.0), abs=0.01)
        size = show.segment.size
        assert size.x == pytest.approx(44 / F, abs=0.01), "the rim of 2 px is left out"
        assert size.z == pytest.approx(0.0, abs=0.01)


def test_holes_and_edges_do_not_move_it(show: Scene) -> None:
    depth = depth_of(30)
    x, y, width, height = box_of("red", 30)
    depth[y : y + height, x + width - 2 : x + width] = 2.0  # the background bleeds in
    depth[y : y + 10, x : x + 20] = 0.0
    depth[y + 20 : y + 30, x : x + 10] = np.nan
    depth[y + 12, x + 12] = np.inf
    assert show.position(30, depth) == pytest.approx(centre(30, 1.0), abs=0.01)


def test_the_depth_nearest_in_time_is_taken_within_reason(show: Scene) -> None:
    assert show.position(40, depth_of(40), late=0.04)[2] == pytest.approx(1.0)
    assert not show.ask(41, depth_of(41), late=0.06).has_position
    warning = "no position, for the depth nearest to the image is 0.060 s from it by its stamp"
    eventually(lambda: show.again() and warning in show.robot.log(), "a warning")  # type: ignore[attr-defined]
    assert show.position(42, depth_of(42), late=-0.04)[2] == pytest.approx(1.0)


def test_depth_of_another_frame_is_warned_about_once(show: Scene) -> None:
    """Positions from it are wrong by what lies between the two sensors, unless only its name is another."""
    show.position(47, depth_of(47))
    warning = "depth is in frame depth_optical, images are in optical"
    assert warning not in show.robot.log()  # type: ignore[attr-defined]
    show.depth_frame = "depth_optical"
    for index in (48, 49):
        show.position(index, depth_of(index))
    show.depth_frame = "optical"
    eventually(lambda: show.robot.log().count(warning) == 1, "a warning")  # type: ignore[attr-defined]


def depth_came(told: list[DiagnosticArray], since: float) -> bool:
    """Whether diagnostics tell of depth that the node has taken after `since`, in s of system time."""
    for array in told:
        (status,) = (status for status in array.status if status.name == "lisa: camera camera")
        age = values(status)["age of the newest depth, s"]
        if age != "none yet" and array.header.stamp.sec + array.header.stamp.nanosec / 1e9 - float(age) > since:
            return True
    return False


def test_depth_may_come_while_it_is_answered(show: Scene, tmp_path: Path) -> None:
    told = show.robot.listen("/diagnostics", DiagnosticArray)
    show.position(45, depth_of(45))
    show.stamp += 10
    show.say(show.stamp)
    show.robot.publish("/image", image_message(scene(46), "rgb8", header(show.stamp)))
    eventually(lambda: show.again() and show.answer.header.stamp.sec == show.stamp, "the next frame")
    assert not show.answer.segments[0].has_position
    goal = show.robot.pursue(f"red until={tmp_path / 'gate'}", max_age=-1.0)
    eventually(lambda: ("answering", "") in goal.feedback, "the question to be answered")
    began = time.time()
    show.robot.publish("/depth", image_message(depth_of(46), "32FC1", header(show.stamp)))
    # The middleware keeps one until the node takes it.
    eventually(lambda: depth_came(told, began), "the depth of the image")
    for number in range(1, 21):  # and the camera goes on
        began = time.time()
        show.robot.publish("/image", image_message(scene(46), "rgb8", header(show.stamp + number / 15)))
        show.robot.publish("/depth", image_message(depth_of(46, 9.0), "32FC1", header(show.stamp + number / 15)))
    eventually(lambda: depth_came(told, began), "the depth of later images")
    (tmp_path / "gate").touch()
    segment = goal.result()[1].answer.segments[0]
    assert segment.has_position
    assert segment.position.z == pytest.approx(1.0)
    show.stamp += 10


def test_a_camera_info_may_come_after_its_image(show: Scene) -> None:
    show.position(43, depth_of(43))
    show.robot.publish("/image", image_message(scene(44), "rgb8", header(show.stamp + 2)))
    show.robot.publish("/depth", image_message(depth_of(44), "32FC1", header(show.stamp + 2)))
    eventually(lambda: show.again().has_position and show.answer.header.stamp.sec == show.stamp + 2, "the last info")
    show.say(show.stamp + 1, k=[0.0] * 9)
    eventually(lambda: not show.again().has_position, "an info nearer in time")
    show.say(show.stamp + 2, k=[2 * F, 0.0, CX, 0.0, 2 * F, CY, 0.0, 0.0, 1.0])
    segment = eventually(lambda: (segment := show.again()).has_position and segment, "the info of the same time")
    x, y, z = centre(44, 1.0)
    assert (segment.position.x, segment.position.y, segment.position.z) == pytest.approx((x / 2, y / 2, z), abs=0.01)


def test_depth_without_the_topic_of_its_camera_info_is_warned_about(tmp_path: Path) -> None:
    process = lisa(tmp_path / "node.log", "-r", "__node:=blind", camera__depth="depth")
    try:
        warning = "camera camera: depth without camera_info gives no positions; name its topic, too"
        eventually(lambda: warning in process.output, "a warning")
    finally:
        process.stop()


def test_a_camera_info_that_was_latched_before_is_heard(tmp_path: Path) -> None:
    topics = {"camera__depth": "depth", "camera__camera_info": "latched", "camera__qos": "reliable"}
    process = lisa(tmp_path / "node.log", "-r", "__node:=late", **topics)
    robot = Robot("/late")
    try:
        once = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        publisher = robot.node.create_publisher(CameraInfo, "/latched", once)
        publisher.publish(CameraInfo(header=header(1.0), **INFO))
        robot.until_active()

        def has_position() -> bool:
            robot.publish("/depth", image_message(depth_of(20), "32FC1", header(1.0)))
            robot.publish("/image", image_message(scene(20), "rgb8", header(1.0)))
            return any(segment.has_position for segment in robot.ask("red").answer.segments)

        eventually(has_position, "a position, once the node has discovered who publishes")
    finally:
        robot.close()
        process.stop()


@pytest.mark.parametrize(
    ("stamps", "receipts", "belongs"),
    [(0.0, 0.1, True), (0.04, 0.1, True), (0.06, 0.1, False), (0.0, 60.0, False), (0.05, 5.0, True)],
)
def test_depth_of_another_moment_is_not_taken(stamps: float, receipts: float, belongs: bool) -> None:
    assert of_one_moment((stamps * 1e9, receipts), CameraParameters().depth_max_dt) is belongs


def test_among_equal_stamps_the_receipt_decides() -> None:
    picture = Picture(header(0.0), "camera", scene(1), received=5.0)
    depths = [arrival(0.0, received) for received in (4.8, 5.1, 9.0)]
    assert min(depths, key=lambda each: each.apart(picture)).received == 5.1
    assert depths[2].apart(picture) < arrival(0.01, 5.0).apart(picture), "stamps come first"


def arrival(stamp: float, received: float) -> Arrival:
    return Arrival(serialize_message(Image(header=header(stamp))), received)


@pytest.mark.parametrize("first", ["depth", "image"])
def test_depth_waits_for_its_image_however_much_comes_after_it(first: str) -> None:
    image, depth, kept = arrival(7.0, 7.0), arrival(7.01, 7.1), Companions()
    steps = [lambda: kept.add(depth), lambda: kept.nearest_to(image)]
    for step in steps if first == "depth" else reversed(steps):
        step()
    later = [arrival(7.1 + number / 30, 7.2 + number / 30) for number in range(99)]
    for each in later:
        kept.add(each)
    assert kept.nearest_to(Picture(header(7.0), "camera", scene(1), received=7.0)) is depth
    assert kept.last is later[-1]
    other = arrival(10.0, 10.1)
    assert kept.nearest_to(other) is min(later[-8:], key=other.apart)
    kept.add(nearer := arrival(10.0, 10.2))
    assert kept.nearest_to(other) is nearer
    assert kept.nearest_to(image) is depth


@pytest.mark.parametrize(
    "info",
    [
        {"k": [0.0] * 9},
        {"k": [float("nan")] * 9},
        {"height": 0, "width": 0, "k": [0.0] * 9},
        {"height": 720, "width": 1280},
    ],
)
def test_a_camera_info_that_is_none_takes_the_position_only(show: Scene, info: dict[str, Any]) -> None:
    segment = show.ask(50, depth_of(50), **info)
    assert segment.area > 0
    eventually(lambda: not show.again().has_position, "the position to go")
    warning = "px, or uncalibrated, and images are of 640x480 px: no positions"
    eventually(lambda: warning in show.robot.log(), "a warning")  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("depth", "encoding"),
    [
        (np.ones((480, 480), np.float32), "32FC1"),
        (np.zeros((480, 640), np.float32), "32FC1"),
        (np.full((480, 640), np.nan, np.float32), "32FC1"),
        (np.ones((480, 640), np.uint8), "mono8"),
    ],
)
def test_a_depth_that_is_none_takes_the_position_only(show: Scene, depth: Any, encoding: str) -> None:
    segment = show.ask(60, depth, encoding)
    assert segment.area > 0
    eventually(lambda: not show.again().has_position, "the position to go")


@pytest.mark.parametrize("damaged", ["depth", "camera_info"])
def test_bytes_that_are_no_message_take_the_position_only(show: Scene, damaged: str) -> None:
    warning = f"{damaged} of camera camera: it is no"

    def told() -> bool:  # the log has one warning of depth in five seconds, and tests before this one have theirs
        show.stamp += 10
        depth = serialize_message(image_message(depth_of(62), "32FC1", header(show.stamp)))
        info = serialize_message(CameraInfo(header=header(show.stamp), **INFO))
        show.robot.publish("/depth", depth[:-100] if damaged == "depth" else depth, Image)
        show.robot.publish("/info", info[:-100] if damaged == "camera_info" else info, CameraInfo)
        show.robot.publish("/image", image_message(scene(62), "rgb8", header(show.stamp)))
        segment = show.again()
        assert segment.area > 0
        return warning in show.robot.log() and not segment.has_position  # type: ignore[attr-defined]

    show.position(61, depth_of(61))
    eventually(told, "a warning")


def test_points_and_target(show: Scene, robot: Robot) -> None:
    clouds = robot.listen("/lisa/points", PointCloud2)
    targets = robot.listen("/lisa/target", PoseStamped)
    eventually(lambda: show.position(70, depth_of(70)) and clouds and targets)
    cloud = eventually(lambda: next((c for c in clouds if c.header == show.answer.header), None))
    target = eventually(lambda: next((t for t in targets if t.header == show.answer.header), None))
    assert {field.name for field in cloud.fields} == {"x", "y", "z", "rgb"}
    assert cloud.width * cloud.height == 44 * 44
    at, turned = target.pose.position, target.pose.orientation
    assert (at.x, at.y, at.z) == pytest.approx(centre(70, 1.0), abs=0.01)
    assert (turned.x, turned.y, turned.z, turned.w) == (0.0, 0.0, 0.0, 1.0)
