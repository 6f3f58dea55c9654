"""One picture from a topic, as `/camera TOPIC` of `lisa chat` takes it."""

import gc
import json

import cv2
import pytest
from harness import Robot, camera, eventually
from rclpy.qos import qos_profile_sensor_data
from scenes import found, scene
from sensor_msgs.msg import CompressedImage
from std_msgs.msg import Header
from typer.testing import CliRunner

from lisa_core.answer import Answer
from lisa_core.cli import app
from lisa_core.errors import ImageError
from lisa_ros.conversions import image_message
from lisa_ros.snapshot import snapshot


class Engine:
    """Answers with the number of red pixels."""

    checkpoint, precision, device = "fake", "fp32", "cpu"

    def encode(self, rgb):
        self.image, self.size, self.timings = rgb, rgb.shape[:2], {}
        return self

    def ask(self, frame, instruction, history=(), *, on_token, **_):
        on_token(f"red is on {found(frame.image, 'red').sum()} px of {frame.size}")
        return Answer("red")

    def close(self):
        pass


@pytest.fixture(scope="module", params=[(), ("--reliable",)], ids=["sensor_data", "reliable"])
def topic(request, tmp_path_factory):
    name = f"/seen{len(request.param)}/image"
    log = tmp_path_factory.mktemp("camera") / "log"
    running = camera(log, "--topic", name, "--size", "240", "320", *request.param)
    yield name
    running.stop()


def test_the_next_picture_is_taken(topic):
    rgb = snapshot(topic, 60)
    assert rgb.shape == (240, 320, 3)
    assert found(rgb, "red").sum() > 1000


def compressed(rgb):
    return CompressedImage(format="png", data=cv2.imencode(".png", rgb[..., ::-1])[1].tobytes())


def raw(rgb):
    return image_message(rgb, "rgb8", Header())


@pytest.mark.parametrize("message", [raw, compressed])
def test_the_camera_is_left_at_once(message):
    robot = Robot()
    picture = scene(1)
    sent = message(picture)
    camera = robot.node.create_publisher(type(sent), "/left/image", qos_profile_sensor_data)
    robot.node.create_timer(0.05, lambda: camera.publish(sent))
    gc.disable()  # which would end the subscription, too, at any time
    try:
        assert (snapshot("/left/image", 60) == picture).all()
        eventually(lambda: camera.get_subscription_count() == 0, "no subscriber")
    finally:
        gc.enable()
        robot.close()


def test_a_topic_without_pictures_is_told_with_those_that_have_some(topic):
    with pytest.raises(ImageError, match=rf"No picture came on /nowhere; .*{topic}"):
        snapshot("/nowhere", 15)


def test_a_topic_of_something_else_has_no_picture():
    robot = Robot()  # whose node logs to it
    with pytest.raises(ImageError, match="No picture came on /rosout"):
        snapshot("/rosout", 5)
    robot.close()


def test_lisa_chat_talks_about_what_a_camera_sees(topic, tmp_path):
    typed = f"/camera {topic}\nwhere is red\n/save\n/camera no topic\n"
    words = ["chat", "--checkpoint", "fake", "--out", str(tmp_path)]
    result = CliRunner(env={"COLUMNS": "300"}).invoke(app, words, input=typed, obj=lambda **_: Engine())
    assert "(240, 320)" in result.stdout
    assert "'no topic' is no name of a topic" in result.stderr
    saved = json.loads(next(tmp_path.glob("*_chat.json")).read_text())
    assert saved["image"] == topic.strip("/").replace("/", "_")
