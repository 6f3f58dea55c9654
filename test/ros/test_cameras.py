"""Difficult cameras: slow, silent, with wrong stamps, changing, broken; and depth."""

import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import rclpy
from diagnostic_msgs.msg import DiagnosticStatus
from harness import Robot, eventually, lisa, values
from numpy.typing import NDArray
from rclpy.qos import DurabilityPolicy, QoSProfile, qos_profile_sensor_data
from rclpy.serialization import deserialize_message, serialize_message
from scenes import box_of, found, scene
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from lisa_ros import cameras
from lisa_ros.client import mask_array
from lisa_ros.diagnostics import camera_status
from lisa_ros.parameters import CameraParameters
from lisa_ros.questions import Code

YOUNG = 0.5
"""s, the node's max_frame_age here."""


@pytest.fixture(scope="module")
def robot(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Robot]:
    process = lisa(
        tmp_path_factory.mktemp("cameras") / "node.log",
        "-p",
        "cameras:=[front, rear, zipped, strict]",
        front__image="/front/rgb",
        front__qos="reliable",
        rear__qos="reliable",
        zipped__qos="reliable",
        zipped__transport="compressed",
        strict__qos="reliable",
        rear__depth="/rear/depth",
        rear__camera_info="/rear/info",
        max_frame_age=YOUNG,
        frame_timeout=0.3,
    )
    robot = Robot()
    wrong = robot.node.create_publisher(CompressedImage, "/rear/depth", 1)
    robot.log = lambda: process.output  # type: ignore[attr-defined]
    yield robot.until_active()
    robot.node.destroy_publisher(wrong)
    robot.close()
    process.stop()


def code(response: Any) -> Code:
    return Code(response.code)


def roi(response: Any) -> tuple[int, int, int, int]:
    roi = response.answer.segments[0].roi
    return (roi.x_offset, roi.y_offset, roi.width, roi.height)


def show_and_ask(robot: Robot, index: int, camera: str = "front", topic: str = "/front/rgb", **fields: Any) -> Any:
    """Publish frame `index` until the node answers about it."""

    def seen() -> Any:
        robot.show(scene(index), topic, stamp=index)
        response = robot.ask("red", camera=camera, **fields)
        return response if response.success and response.answer.header.stamp.sec == index else None

    return eventually(seen)


def until_too_old(robot: Robot) -> Any:
    """Wait until the front camera's newest frame is too old; the node's message then."""
    return eventually(lambda: (response := robot.ask("red", camera="front")).code == Code.NO_FRAME and response)


def test_before_the_first_frame(robot: Robot) -> None:
    response = robot.ask("red", camera="strict", max_age=-1.0)
    assert code(response) == Code.NO_FRAME
    assert "/strict/image" in response.message
    assert "reliable" in response.message


def test_each_camera_has_frames_of_its_own(robot: Robot) -> None:
    front = show_and_ask(robot, 3)
    rear = show_and_ask(robot, 9, "rear", "/rear/image")
    assert (front.answer.camera, front.answer.header.frame_id, roi(front)) == ("front", "/front/rgb", box_of("red", 3))
    assert (rear.answer.camera, rear.answer.header.frame_id, roi(rear)) == ("rear", "/rear/image", box_of("red", 9))
    assert robot.ask("red", max_age=-1.0).answer.camera == "front", "the first is the default"


def test_a_frame_that_is_too_old_will_not_do(robot: Robot) -> None:
    show_and_ask(robot, 4)
    response = until_too_old(robot)
    assert "the newest frame of camera front is" in response.message
    assert "max_age is 0.5 s (/front/rgb)" in response.message
    assert robot.ask("red", camera="front", max_age=60.0).answer.header.stamp.sec == 4
    assert robot.ask("red", camera="front", max_age=-1.0).answer.header.stamp.sec == 4


def test_a_question_waits_for_the_next_frame(robot: Robot) -> None:
    show_and_ask(robot, 5)
    until_too_old(robot)
    assert robot.set("frame_timeout", 30.0).successful
    waiting = robot.start("red", camera="front")
    other = show_and_ask(robot, 6, "rear", "/rear/image", max_age=-1.0)
    assert other.success, "nobody waits for the one who waits"
    assert not waiting.done()
    robot.show(scene(7), "/front/rgb", stamp=7)
    assert robot.wait(waiting).answer.header.stamp.sec == 7
    assert robot.set("frame_timeout", 0.3).successful


def test_stamps_of_zero_and_clocks_that_jump_back_change_nothing(robot: Robot) -> None:
    for index in (7200, 3600, 0, 3601):
        response = show_and_ask(robot, index)
        assert roi(response) == box_of("red", index)


def test_a_camera_may_change_size_and_encoding_between_frames(robot: Robot) -> None:
    for index, (size, encoding) in enumerate([((480, 640), "rgb8"), ((240, 320), "bgr8"), ((720, 1280), "rgba8")]):
        picture = scene(index + 20, size)
        channels = {"rgb8": picture, "bgr8": picture[..., ::-1], "rgba8": np.dstack([picture, picture[..., 0]])}
        pixels = np.ascontiguousarray(channels[encoding])

        def answer(pixels: Any = pixels, encoding: str = encoding, stamp: int = index + 20) -> Any:
            robot.show(pixels, "/front/rgb", encoding, stamp)
            response = robot.ask("red", camera="front", include_masks=True)
            return response.answer if response.answer.header.stamp.sec == stamp else None

        assert np.array_equal(mask_array(eventually(answer).segments[0].mask), found(picture, "red"))


def test_a_frame_that_cannot_be_read_is_said_to_be_so(robot: Robot) -> None:
    robot.publish("/front/rgb", Image(height=2, width=2, step=2, encoding="16UC7", data=b"1234"))
    response = eventually(lambda: (r := robot.ask("red", camera="front", max_age=-1.0)).code == Code.NO_FRAME and r)
    assert "the newest frame of camera front cannot be read" in response.message
    assert "16UC7" in response.message
    assert show_and_ask(robot, 30).success


def test_bytes_that_are_no_message_are_said_to_be_so(robot: Robot) -> None:
    whole = serialize_message(Image(height=2, width=2, step=6, encoding="rgb8", data=bytes(12)))
    for damaged in (whole[:5], whole[:-8]):
        robot.publish("/front/rgb", damaged, Image)
        response = eventually(lambda: (r := robot.ask("red", camera="front", max_age=-1.0)).code == Code.NO_FRAME and r)
        assert "the newest frame of camera front cannot be read: it is no Image, or damaged" in response.message
        assert show_and_ask(robot, 31).success


def png(picture: NDArray[np.uint8]) -> bytes:
    return cv2.imencode(".png", picture[..., ::-1])[1].tobytes()


def test_compressed_images_and_garbage(robot: Robot) -> None:
    topic = "/zipped/image/compressed"
    good = CompressedImage(format="png", data=png(scene(12)))
    bad = [b"", b"\xff\xd8\xff\xe0 no jpeg", png(scene(12))[:200], np.random.default_rng(0).bytes(10_000)]
    for data in bad:
        robot.publish(topic, CompressedImage(format="jpeg", data=data))
        response = eventually(
            lambda: (r := robot.ask("red", camera="zipped", max_age=-1.0)).code == Code.NO_FRAME and r
        )
        assert "cannot be read" in response.message
        robot.publish(topic, good)
        response = eventually(lambda: (r := robot.ask("red", camera="zipped", max_age=-1.0)).success and r)
        assert roi(response) == box_of("red", 12)


def test_depth_and_intrinsics_that_do_not_come_are_warned_about(robot: Robot) -> None:
    def warned() -> str:
        robot.show(scene(3), "/rear/image")
        time.sleep(0.1)
        log = str(robot.log())  # type: ignore[attr-defined]
        return log if "camera rear: no camera_info" in log and "camera rear: no depth" in log else ""

    log = eventually(warned, "two warnings")
    assert "no camera_info for 5 s on /rear/info (QoS reliable): nothing publishes there" in log
    assert "no depth for 5 s on /rear/depth (QoS reliable): 1 publish sensor_msgs/msg/CompressedImage there" in log


def test_the_rate_is_that_of_the_last_seconds(robot: Robot, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(cameras, "time", SimpleNamespace(monotonic=lambda: clock[-1]))
    camera = cameras.Camera(robot.node, "still", CameraParameters(image="/still/image"), lambda: None)
    assert (camera.health.ages["image"], camera.health.rate) == (None, 0.0)
    for now in (100.0, 100.5, 110.0, 110.25, 110.5):
        clock.append(now)
        camera._keep_image(b"")
    clock.append(111.5)
    assert (camera.health.ages["image"], camera.health.rate) == (1.0, 3 / 5)
    clock.append(120.0)
    assert (camera.health.ages["image"], camera.health.rate) == (9.5, 0.0)
    for number in range(60):
        clock.append(130.0 + number / 8)
        camera._keep_image(b"")
    assert camera.health.rate == pytest.approx(8.0, rel=0.05)
    camera.close()


def test_one_image_makes_no_rate_of_hundreds(robot: Robot, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(cameras, "time", SimpleNamespace(monotonic=lambda: clock[-1]))
    camera = cameras.Camera(robot.node, "slow", CameraParameters(image="/slow/image"), lambda: None)
    camera._keep_image(b"")
    clock.append(100.004)
    assert camera.health.rate == 1.0
    clock.append(104.0)
    assert camera.health.rate == 1 / 4
    for received in (106.0, 112.0, 118.0):
        clock.append(received)
        camera._keep_image(b"")
        clock.append(received + 0.004)
        assert camera.health.rate == 1 / 5
    camera.close()


def test_diagnostics_tell_of_depth_that_has_fallen_silent(robot: Robot, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(cameras, "time", SimpleNamespace(monotonic=lambda: clock[-1]))
    parameters = CameraParameters(image="/deep/image", depth="/deep/depth", camera_info="/deep/info")
    camera = cameras.Camera(robot.node, "deep", parameters, lambda: None)
    assert (camera_status(camera).level, camera_status(camera).message) == (DiagnosticStatus.WARN, "silent")
    assert values(camera_status(camera))["age of the newest depth, s"] == "none yet"
    camera._keep_depth(b"")
    for now in (101.0, 104.0, 106.0):
        clock.append(now)
        camera._keep_image(b"")
    without = camera_status(camera)
    assert (without.level, without.message) == (DiagnosticStatus.WARN, "0.4 Hz, but no camera_info and no depth")
    assert values(without)["age of the newest depth, s"] == "6.000"
    camera._keep_info(b"")
    camera._keep_depth(b"")
    assert (camera_status(camera).level, camera_status(camera).message) == (DiagnosticStatus.OK, "0.4 Hz")
    clock.append(130.0)
    camera._keep_image(b"")
    camera._keep_depth(b"")
    assert camera_status(camera).level == DiagnosticStatus.OK, "a CameraInfo may come once and never again"
    assert values(camera_status(camera))["age of the newest camera_info, s"] == "24.000"
    camera.close()


def test_a_camera_that_starts_again_with_another_latched_camera_info_is_heard(robot: Robot) -> None:
    parameters = CameraParameters(image="/again/image", camera_info="/again/info")
    once = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    publisher = robot.node.create_publisher(CameraInfo, "/again/info", once)
    publisher.publish(CameraInfo(width=640))  # before anybody listens
    others = len(list(robot.node.subscriptions))
    camera = cameras.Camera(robot.node, "again", parameters, lambda: None)
    camera._keep_info(b"of the first start, which was heard")

    def heard() -> list[CameraInfo]:
        camera.ask_for_latched()
        newest = camera._newest()["camera_info"]
        return [deserialize_message(newest.serialized, CameraInfo)] if newest and len(newest.serialized) > 100 else []

    assert eventually(heard, "the CameraInfo of the second start")[0].width == 640
    camera.ask_for_latched()
    assert len(list(robot.node.subscriptions)) == others + 3, "image, camera_info and the latched one"
    camera.close()
    assert len(list(robot.node.subscriptions)) == others
    robot.node.destroy_publisher(publisher)


def test_each_silence_is_warned_about_once(robot: Robot, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, warnings = [100.0], []
    monkeypatch.setattr(cameras, "time", SimpleNamespace(monotonic=lambda: clock[-1]))
    logger = SimpleNamespace(warning=lambda text, **_: warnings.append(text))
    monkeypatch.setattr(robot.node, "get_logger", lambda: logger)
    parameters = CameraParameters(image="/mute/image", depth="/mute/depth", camera_info="/mute/info")
    camera = cameras.Camera(robot.node, "mute", parameters, lambda: None)
    told = []
    for now in (104.0, 106.0, 107.0, 108.0, 114.0):
        clock.append(now)
        if now == 108.0:
            for keep in (camera._keep_image, camera._keep_depth, camera._keep_info):
                keep(b"")
        camera.warn_if_silent()
        told.append(len(warnings))
    assert told == [0, 1, 1, 1, 2]
    assert all(warning.startswith("camera mute: no image for 5 s on /mute/image") for warning in warnings)
    camera.close()


@pytest.mark.parametrize(("qos", "hint"), [("reliable", True), ("sensor_data", False)])
def test_a_camera_that_cannot_be_heard_reliably_is_told_with_the_remedy(robot: Robot, qos: str, hint: bool) -> None:
    publisher = robot.node.create_publisher(Image, "/faint/image", qos_profile_sensor_data)
    camera = cameras.Camera(robot.node, "faint", CameraParameters(image="/faint/image", qos=qos), lambda: None)
    why = eventually(lambda: "best_effort" in camera.why_silent() and camera.why_silent())
    assert ("; set faint.qos to sensor_data to hear them" in why) == hint
    camera.close()
    robot.node.destroy_publisher(publisher)


def test_an_image_that_is_remapped_is_so_compressed_too(robot: Robot) -> None:
    remap = ["--ros-args", "-r", "zip/image:=/front/rgb"]
    node = rclpy.create_node("remapped", context=robot.node.context, cli_args=remap)
    camera = cameras.Camera(node, "zip", CameraParameters(image="zip/image", transport="compressed"), lambda: None)
    assert camera.topic == "/front/rgb/compressed"
    camera.close()
    node.destroy_node()


def test_silence_is_warned_about_with_topic_and_qos(robot: Robot) -> None:
    log = eventually(lambda: robot.log() if "camera strict" in robot.log() else "")  # type: ignore[attr-defined]
    assert "camera strict: no image for 5 s on /strict/image (QoS reliable): nothing publishes there" in log
