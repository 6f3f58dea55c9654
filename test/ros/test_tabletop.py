"""The live tabletop: a camera's topics, a new scene on request, and the truth about it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from geometry_msgs.msg import PoseArray
from harness import Process, Robot, eventually
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import String
from std_srvs.srv import Trigger

from lisa_core.tabletop.sampling import sample_scene
from lisa_ros.conversions import intrinsics, to_depth, to_rgb

pytestmark = pytest.mark.render


@pytest.fixture(scope="module")
def robot(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Robot]:
    log = tmp_path_factory.mktemp("tabletop") / "node.log"
    process = Process("tabletop_process.py", ["--ros-args", "-p", "seed:=3"], log)
    robot = Robot("/tabletop")
    yield robot
    robot.close()
    assert process.stop() == 0


def things(robot: Robot, heard: list[Any]) -> list[dict[str, Any]]:
    eventually(lambda: heard, "the names of the things")
    return json.loads(heard[-1].data)


def listen_latched(robot: Robot) -> list[Any]:
    heard: list[Any] = []
    qos = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    robot.node.create_subscription(String, "/tabletop/things", heard.append, qos)
    robot.executor.wake()
    return heard


def test_it_publishes_a_camera_and_the_truth_that_fits_it(robot):
    images, depths = robot.listen("/camera/image", Image), robot.listen("/camera/depth", Image)
    infos, poses = robot.listen("/camera/camera_info", CameraInfo), robot.listen("/tabletop/poses", PoseArray)
    names = things(robot, listen_latched(robot))
    eventually(lambda: images and depths and infos and poses, "the camera")
    assert [(thing["kind"], thing["colour"]) for thing in names] == [(t.kind, t.colour) for t in sample_scene(3).things]
    assert to_rgb(images[-1]).shape == (480, 640, 3)
    assert images[-1].header.frame_id == poses[-1].header.frame_id == "camera_color_optical_frame"
    lens, depth = intrinsics(infos[-1], (480, 640)), to_depth(depths[-1])
    for pose, name in zip(poses[-1].poses, names, strict=True):
        x, y, z = pose.position.x, pose.position.y, pose.position.z
        column, row = round(lens.fx * x / z + lens.cx), round(lens.fy * y / z + lens.cy)
        assert -0.25 < depth[row, column] - z < 0.01, f"the {name['kind']} or what stands before it hides its foot"
        turn = np.array([getattr(pose.orientation, axis) for axis in "xyzw"])
        assert np.linalg.norm(turn) == pytest.approx(1)


def test_pictures_keep_coming_with_later_stamps(robot):
    images = robot.listen("/camera/image", Image)
    eventually(lambda: len(images) >= 30, "thirty pictures")
    stamps = [(image.header.stamp.sec, image.header.stamp.nanosec) for image in images]
    assert stamps == sorted(set(stamps))


def test_a_new_scene_comes_when_asked_for_and_by_its_seed(robot):
    heard = listen_latched(robot)
    before = things(robot, heard)
    answer = robot.call("new_scene", Trigger, Trigger.Request())
    assert answer.success
    assert answer.message.startswith("seed 4: ")
    eventually(lambda: things(robot, heard) != before, "other things")
    assert robot.get("seed") == 4
    assert robot.set("seed", 3).successful
    eventually(lambda: things(robot, heard) == before, "the first scene again")
    assert not robot.set("seed", -1).successful


@pytest.mark.parametrize(("seed", "why"), [("-1", "out of range"), ("x", "expecting type 'INTEGER'")])
def test_a_seed_that_is_none_is_told_in_a_sentence(tmp_path: Path, seed: str, why: str) -> None:
    process = Process("tabletop_process.py", ["--ros-args", "-p", f"seed:={seed}"], tmp_path / "node.log")
    assert process.wait() == 2
    assert why in process.output
    assert "Traceback" not in process.output
