"""The node, one camera at 30 Hz, a client: what comes back belongs to one frame, on the service and on the topics."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from harness import PATIENCE, Robot, camera, eventually, lisa
from lisa_ros.msg import Answer
from scenes import box_of, found, scene
from sensor_msgs.msg import Image
from std_msgs.msg import String

from lisa_ros.client import ask, mask_array
from lisa_ros.questions import Code


@pytest.fixture(scope="module")
def robot(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Robot]:
    folder: Path = tmp_path_factory.mktemp("node")
    processes = [lisa(folder / "node.log", frame_timeout=PATIENCE), camera(folder / "camera.log")]
    robot = Robot()
    yield robot.until_active()
    robot.close()
    for process in processes:
        process.stop()


def index_of(message: Answer | Image) -> int:
    return int(message.header.stamp.sec)


def test_an_answer_is_about_the_frame_that_its_header_names(robot: Robot) -> None:
    response = robot.ask("red", include_masks=True)
    assert (response.success, response.code, response.message) == (True, Code.OK, "")
    answer = response.answer
    assert answer.text == "Turn 1: red is [SEG]."
    assert (answer.camera, answer.conversation, answer.instruction) == ("camera", "", "red")
    assert answer.header.frame_id == "image"
    assert answer.duration > 0
    segment = answer.segments[0]
    roi = segment.roi
    assert (roi.x_offset, roi.y_offset, roi.width, roi.height) == box_of("red", index_of(answer))
    expected = found(scene(index_of(answer)), "red")
    assert segment.area == expected.sum()
    assert segment.mask.header == answer.header
    assert np.array_equal(mask_array(segment.mask), expected)
    assert not segment.has_position


def test_masks_stay_out_of_the_response_unless_asked_for(robot: Robot) -> None:
    segment = robot.ask("blue").answer.segments[0]
    assert segment.area > 0
    assert len(segment.mask.data) == 0


def test_an_answer_without_masks_is_a_success(robot: Robot) -> None:
    masks = robot.listen("/lisa/mask", Image)
    response = eventually(lambda: (r := robot.ask("what is this")) and masks and r)
    assert response.success
    assert response.answer.text == "Turn 1: what is this is nothing."
    assert response.answer.segments == []
    mask = eventually(lambda: next((mask for mask in masks if mask.header == response.answer.header), None))
    assert not any(mask.data)


def test_the_topics_carry_the_answer_with_the_header_of_its_image(robot: Robot) -> None:
    heard = {
        "answer": robot.listen("/lisa/answer", Answer),
        "text": robot.listen("/lisa/text", String),
        "mask": robot.listen("/lisa/mask", Image),
        "labels": robot.listen("/lisa/labels", Image),
        "overlay": robot.listen("/lisa/overlay", Image),
    }
    response = eventually(lambda: (r := robot.ask("green red", include_masks=True)) and all(heard.values()) and r)
    stamped = ("answer", "mask", "labels", "overlay")
    eventually(lambda: all(heard[name][-1].header == response.answer.header for name in stamped))
    answer = heard["answer"][-1]
    assert answer.text == response.answer.text == heard["text"][-1].data
    assert [len(segment.mask.data) for segment in answer.segments] == [0, 0]
    picture = scene(index_of(answer))
    green, red = found(picture, "green"), found(picture, "red")
    assert heard["mask"][-1].encoding == "mono8"
    assert np.array_equal(mask_array(heard["mask"][-1]), green | red)
    labels = heard["labels"][-1]
    assert labels.encoding == "16UC1"
    pixels = np.frombuffer(labels.data, np.uint16).reshape(labels.height, labels.width)
    assert np.array_equal(pixels, np.where(green, 1, np.where(red, 2, 0)))
    overlay = heard["overlay"][-1]
    assert (overlay.encoding, overlay.height, overlay.width) == ("rgb8", 480, 640)
    assert np.frombuffer(overlay.data, np.uint8).reshape(480, 640, 3)[green].tolist() != picture[green].tolist()


def test_a_question_may_bring_its_image(robot: Robot) -> None:
    picture = scene(77, (200, 300))
    answer = robot.ask("green", image=picture, include_masks=True).answer
    assert (answer.camera, answer.header.frame_id) == ("", "asker")
    assert np.array_equal(mask_array(answer.segments[0].mask), found(picture, "green"))


def test_the_client_awaits_words_and_masks(robot: Robot) -> None:
    reply = robot.wait(robot.executor.create_task(ask(robot.node, "blue", server="/lisa")))
    assert reply.text == "Turn 1: blue is [SEG]."
    assert np.array_equal(reply.masks[0], found(scene(index_of(reply.answer)), "blue"))
    picture = scene(5, (100, 200))
    reply = robot.wait(robot.executor.create_task(ask(robot.node, "red", image=picture, server="/lisa")))
    assert np.array_equal(reply.masks[0], found(picture, "red"))


def test_one_mask_and_no_words(robot: Robot) -> None:
    assert robot.ask("red", mask_only=True).answer.text == "[SEG]."
