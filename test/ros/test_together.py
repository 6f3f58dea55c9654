"""Simultaneous questions to the node with the real engine: each gets the same answer as alone."""

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from harness import Process, Robot
from numpy.typing import NDArray
from PIL import Image as Picture

from lisa_core import LisaEngine
from lisa_ros.client import mask_array
from lisa_ros.questions import Code, Question

GOLDENS = Path(__file__).resolve().parent.parent / "data" / "goldens"
CHECKPOINT = GOLDENS / "lisa-tiny-v1-vicuna"
TOWER = GOLDENS / "clip-vit-tiny-patch14"
COMMAND = Path(sys.executable).parent / "lisa_node"
MOST = 24


@pytest.fixture(scope="module")
def engine() -> LisaEngine:
    return LisaEngine.from_pretrained(CHECKPOINT, "fp32", "cpu", TOWER)


@pytest.fixture(scope="module")
def robot(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Robot]:
    settings = {"checkpoint": CHECKPOINT, "vision_tower": TOWER, "precision": "fp32", "device": "cpu"}
    settings |= {"max_new_tokens": MOST, "memory_limit": 1.0}
    settings |= {"frame_timeout": 300.0, "question_timeout": 300.0}  # a turn waits for the one before it
    arguments = [part for name, value in settings.items() for part in ("-p", f"{name}:={value}")]
    process = Process(COMMAND, ["--ros-args", *arguments], tmp_path_factory.mktemp("together") / "node.log")
    robot = Robot()
    yield robot.until_active()
    robot.close()
    process.stop()


def test_masks_alone_and_the_standing_question_are_not_answered_together_with_words() -> None:
    words = Question("Where is the cup?", "front")
    masks, standing = replace(words, mask_only=True), replace(words, standing=True)
    assert words.goes_with(replace(words, camera="rear", conversation="cup"))
    assert masks.goes_with(replace(masks, instruction="the bowl"))
    for one, other in ((words, masks), (words, standing)):
        assert not one.goes_with(other)
        assert not other.goes_with(one)


def picture(name: str) -> NDArray[np.uint8]:
    return np.array(Picture.open(GOLDENS / "images" / name).convert("RGB"))


def test_words_masks_and_turns_are_those_of_each_alone(robot: Robot, engine: LisaEngine) -> None:
    square, table = picture("square_300.png"), picture("table_640x480.png")
    asked = [
        ("Describe this.", square, ""),
        ("segment the handle", square, "cup"),
        ("segment the cup and the plate", table, ""),
        ("Why is it hot?", None, "cup"),
        ("What is in this image?", table, "table"),
        ("word " * 10_000, square, ""),
    ]
    futures = [
        robot.start(words, conversation=conversation, include_masks=True, **({} if rgb is None else {"image": rgb}))
        for words, rgb, conversation in asked
    ]
    *answered, refused = [robot.wait(future, patience=300.0) for future in futures]
    assert Code(refused.code) == Code.BAD_REQUEST
    first = answered[1].answer.text
    for (words, rgb, _), response in zip(asked, answered, strict=False):
        history = [] if rgb is not None else [("segment the handle", first)]
        expected = engine.ask(engine.encode(square if rgb is None else rgb), words, history, max_new_tokens=MOST)
        assert response.answer.text == expected.text
        assert len(response.answer.segments) == len(expected.segments)
        for ours, theirs in zip(response.answer.segments, expected.segments, strict=True):
            assert (mask_array(ours.mask) != theirs.mask).mean() < 1e-4
