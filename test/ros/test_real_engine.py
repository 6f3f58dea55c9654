"""The node with the real engine and the tiny checkpoint: what it answers is what the engine answers by itself."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from action_msgs.msg import GoalStatus
from harness import Process, Robot, eventually
from numpy.typing import NDArray
from PIL import Image as Picture
from sensor_msgs.msg import Image

from lisa_core import LisaEngine
from lisa_ros.bridge import CvBridge
from lisa_ros.client import mask_array
from lisa_ros.questions import Code

GOLDENS = Path(__file__).resolve().parent.parent / "data" / "goldens"
CHECKPOINT = GOLDENS / "lisa-tiny-v1-vicuna"
TOWER = GOLDENS / "clip-vit-tiny-patch14"
COMMAND = Path(sys.executable).parent / "lisa_node"


@pytest.fixture(scope="module")
def engine() -> LisaEngine:
    return LisaEngine.from_pretrained(CHECKPOINT, "fp32", "cpu", TOWER)


@pytest.fixture(scope="module")
def picture() -> NDArray[np.uint8]:
    return np.array(Picture.open(GOLDENS / "images" / "table_640x480.png").convert("RGB"))


@pytest.fixture(scope="module")
def robot(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Robot]:
    settings = {"checkpoint": CHECKPOINT, "vision_tower": TOWER, "precision": "fp32", "device": "cpu"}
    settings["camera.qos"] = "reliable"
    arguments = [part for name, value in settings.items() for part in ("-p", f"{name}:={value}")]
    process = Process(COMMAND, ["--ros-args", *arguments], tmp_path_factory.mktemp("real") / "node.log")
    robot = Robot()
    robot.log = lambda: process.output  # type: ignore[attr-defined]
    yield robot.until_active()
    robot.close()
    process.stop()


def masks(message: Any) -> list[NDArray[np.bool_]]:
    return [mask_array(segment.mask) for segment in message.segments]


INSTRUCTION = "segment the cup and the plate"


def test_words_and_masks_are_those_of_the_engine(robot: Robot, engine: LisaEngine, picture: NDArray[np.uint8]) -> None:
    expected = engine.ask(engine.encode(picture), INSTRUCTION, max_new_tokens=64)
    assert robot.set("max_new_tokens", 64).successful

    def answer() -> Any:
        robot.show(picture, stamp=1)
        response = robot.ask(INSTRUCTION, include_masks=True)
        return response.answer if response.success else None

    message = eventually(answer)
    assert message.text == expected.text
    assert len(message.segments) == len(expected.segments)
    for mask, score, segment in zip(masks(message), message.segments, expected.segments, strict=True):
        assert np.array_equal(mask, segment.mask)
        assert score.score == pytest.approx(segment.score, rel=1e-5)


def test_one_mask_without_words(robot: Robot, engine: LisaEngine, picture: NDArray[np.uint8]) -> None:
    expected = engine.ask(engine.encode(picture), INSTRUCTION, mask_only=True)
    message = robot.ask(INSTRUCTION, image=picture, mask_only=True, include_masks=True).answer
    assert message.text == expected.text
    (mask,) = masks(message)
    assert np.array_equal(mask, expected.segments[0].mask)


def test_a_conversation_is_told_to_the_model(robot: Robot, engine: LisaEngine, picture: NDArray[np.uint8]) -> None:
    frame = engine.encode(picture)
    first = engine.ask(frame, INSTRUCTION, max_new_tokens=64)
    second = engine.ask(frame, "And what else?", [(INSTRUCTION, first.text)], max_new_tokens=64)
    assert robot.ask(INSTRUCTION, image=picture, conversation="a").answer.text == first.text
    assert robot.ask("And what else?", conversation="a").answer.text == second.text


def test_words_come_one_by_one(robot: Robot, picture: NDArray[np.uint8]) -> None:
    def told() -> bool:  # rclpy's client drops feedback that it finds after the result
        goal = robot.pursue("Describe this.", image=picture)
        text = goal.result()[1].answer.text
        partial = [text for _, text in goal.feedback if text]
        assert all(text.startswith(words) for words in partial)
        assert partial == sorted(partial, key=len)
        return len(set(partial)) > 1

    eventually(told, "words as feedback")


def test_a_cancel_stops_the_words(robot: Robot, picture: NDArray[np.uint8]) -> None:
    def stopped() -> bool:  # the tiny model may be faster than the cancel
        goal = robot.pursue("Describe this at length.", image=picture)
        eventually(lambda: any(text for _, text in goal.feedback) or goal.ended, "its first words")
        goal.cancel()
        status, result = goal.result()
        assert (status == GoalStatus.STATUS_CANCELED) == (Code(result.code) == Code.CANCELED)
        return bool(status == GoalStatus.STATUS_CANCELED)

    eventually(stopped)
    assert robot.ask(INSTRUCTION, image=picture).success


def test_bad_questions_have_sentences(robot: Robot, picture: NDArray[np.uint8]) -> None:
    response = robot.ask("word " * 10_000, image=picture)
    assert not response.success
    assert "token" in response.message
    assert robot.ask("<image> [SEG] </s> 🤖", image=picture).success
    assert robot.ask(INSTRUCTION, image=picture).success


def blank(height: int, width: int, encoding: str = "rgb8", channels: int = 3, kind: type = np.uint8) -> Image:
    pixels = np.zeros((height, width, channels) if channels > 1 else (height, width), kind)
    return CvBridge().cv2_to_imgmsg(pixels, encoding)


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (blank(1, 1), ""),
        (blank(1, 4000), ""),
        (blank(6000, 8000), ""),
        (blank(48, 64, "mono8", 1), ""),
        (blank(48, 64, "bgra8", 4), ""),
        (blank(48, 64, "32FC3", 3, np.float32), "'32FC3' holds measurements"),
        (Image(encoding="rgb8", height=0, width=5), "the image is empty: 5x0 px"),
    ],
    ids=["1x1", "4000x1", "8000x6000", "grey", "alpha", "float", "empty"],
)
def test_images_of_all_kinds_are_answered_or_told_and_the_next_too(
    robot: Robot, picture: NDArray[np.uint8], image: Image, words: str
) -> None:
    response = robot.ask(INSTRUCTION, image=image, mask_only=True)
    assert response.success is not bool(words)
    assert words in response.message
    assert robot.ask(INSTRUCTION, image=picture, mask_only=True).success
