"""Which depth and which intrinsics a camera gives to its images, whenever they come, and how long it keeps them."""

import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import rclpy
from rclpy.node import Node
from rclpy.serialization import serialize_message
from sensor_msgs.msg import CameraInfo
from std_msgs.msg import Header

from lisa_ros.cameras import Camera
from lisa_ros.conversions import image_message
from lisa_ros.parameters import CameraParameters
from lisa_ros.pictures import COMPANIONS_KEPT, Picture

PARAMETERS = CameraParameters(image="/eye/image", depth="/eye/depth", camera_info="/eye/info", depth_max_dt=10.0)


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    context = rclpy.Context()
    rclpy.init(context=context)
    node = rclpy.create_node("eye", context=context)
    yield node
    node.destroy_node()
    rclpy.shutdown(context=context)


@pytest.fixture
def warnings(node: Node, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the camera warns of."""
    logged: list[str] = []
    monkeypatch.setattr(node, "get_logger", lambda: SimpleNamespace(warning=lambda text, **_: logged.append(text)))
    return logged


@pytest.fixture
def camera(node: Node) -> Iterator[Camera]:
    camera = Camera(node, "eye", PARAMETERS, lambda: None)
    yield camera
    camera.close()


def stamped(stamp: float) -> Header:
    header = Header(frame_id="eye")
    header.stamp.sec, header.stamp.nanosec = int(stamp), round(stamp % 1 * 1e9)
    return header


def image(stamp: float) -> bytes:
    return serialize_message(image_message(np.zeros((2, 2, 3), np.uint8), "rgb8", stamped(stamp)))


def depth(stamp: float) -> bytes:
    """2x2, as many millimetres everywhere as the stamp has milliseconds."""
    millimetres = np.full((2, 2), round(stamp * 1000), np.uint16)
    return serialize_message(image_message(millimetres, "16UC1", stamped(stamp)))


def info(stamp: float) -> bytes:
    """With the stamp for its focal length."""
    k = [stamp, 0.0, 1.0, 0.0, stamp, 1.0, 0.0, 0.0, 1.0]
    return serialize_message(CameraInfo(header=stamped(stamp), height=2, width=2, k=k))


def come(camera: Camera, *stamps: float) -> None:
    """Depth and intrinsics of these times come."""
    for stamp in stamps:
        camera._keep_depth(depth(stamp))
        camera._keep_info(info(stamp))


def taken(camera: Camera) -> Picture:
    """The picture of the newest image."""
    assert camera.newest is not None
    return camera.picture(camera.newest)


def stamps_of(picture: Picture) -> tuple[float | None, float | None]:
    """The times of its depth and of its intrinsics."""
    of_depth = None if picture.depth is None else round(float(picture.depth[0, 0]), 3)
    return of_depth, picture.intrinsics.fx if picture.intrinsics else None


LATER = [8.0 + number for number in range(2 * COMPANIONS_KEPT)]


@pytest.mark.parametrize("first", ["image", "companions"])
def test_an_image_that_waits_for_its_question_keeps_its_companions(camera: Camera, first: str) -> None:
    steps: list[Any] = [lambda: camera._keep_image(image(7.0)), lambda: come(camera, 7.25)]
    for step in steps if first == "image" else reversed(steps):
        step()
    come(camera, *LATER)
    assert stamps_of(taken(camera)) == (7.25, 7.25)


def test_of_those_that_come_later_only_nearer_ones_are_taken(camera: Camera) -> None:
    camera._keep_image(image(7.0))
    picture = taken(camera)
    assert stamps_of(picture) == (None, None)
    for come_now, taken_now in ((7.5, 7.5), (6.75, 6.75), (7.5, 6.75), (7.125, 7.125)):
        come(camera, come_now)
        camera.add_companions(picture)
        assert stamps_of(picture) == (taken_now, taken_now)


def test_what_an_answered_picture_has_is_not_replaced_by_what_is_farther(camera: Camera, warnings: list[str]) -> None:
    """It may be asked about again, long after."""
    camera._keep_image(image(7.0))
    come(camera, 7.25)
    picture = taken(camera)
    camera.let_go(picture)
    camera._keep_image(image(LATER[0]))
    come(camera, *LATER)
    camera.add_companions(picture)
    assert stamps_of(picture) == (7.25, 7.25)
    camera.let_go(picture)
    camera._keep_image(image(50.0))
    come(camera, *(40.0 + stamp for stamp in LATER))
    camera.add_companions(picture)
    camera.let_go(picture)
    assert stamps_of(picture) == (7.25, 7.25)
    assert not warnings


def test_why_an_answer_has_no_position_is_told_once_and_for_its_cause(camera: Camera, warnings: list[str]) -> None:
    for damaged, stamp, why in (
        (False, 20.5, "no position, for the depth nearest to the image is 13.500 s from it by its stamp"),
        (True, 7.25, "depth of camera eye: it is no Image, or damaged"),
    ):
        camera._keep_image(image(7.0))
        camera._keep_depth(depth(stamp)[: -1 if damaged else None])
        camera.let_go(taken(camera))
        [warning] = warnings
        assert why in warning
        warnings.clear()


def test_a_closed_camera_has_no_frame(camera: Camera) -> None:
    camera._keep_image(image(7.0))
    assert camera.newest is not None
    camera.close()
    assert camera.newest is None


def test_messages_of_an_answered_picture_are_not_held_as_long_as_it_is(camera: Camera) -> None:
    """Depth of a large camera takes megabytes, and conversations keep their pictures."""
    messages, kept_by_nobody = [depth(7.25), info(7.25)], [depth(0.0)]
    camera._keep_image(image(7.0))
    camera._keep_depth(messages[0])
    camera._keep_info(messages[1])
    picture = taken(camera)
    camera.let_go(picture)
    camera._keep_image(image(LATER[-1]))
    come(camera, *LATER)
    assert stamps_of(picture) == (7.25, 7.25)
    of_messages, of_others = ({sys.getrefcount(message) for message in each} for each in (messages, kept_by_nobody))
    assert of_messages == of_others
