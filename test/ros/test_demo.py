"""The demo as `make demo` runs it: it answers, ends by itself, disturbs nobody and leaves no process behind."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from ament_index_python.packages import get_package_prefix
from harness import eventually

from lisa_core import LisaEngine, files, overlay
from lisa_ros.demo import CHECKPOINT, GOLDENS, IMAGE, QUESTION, VISION_TOWER

DEMO = Path(get_package_prefix("lisa_ros"), "lib", "lisa_ros", "demo")


class Demo:
    """A demo that runs beside the test."""

    def __init__(self, folder: Path, *arguments: object) -> None:
        self.out = folder / "out"
        self._process = subprocess.Popen(
            [sys.executable, str(DEMO), "--out", str(self.out), *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | {"COLUMNS": "300"},
        )

    def end(self) -> tuple[int, str]:
        """Its exit code and what it printed, once it ends by itself."""
        printed, _ = self._process.communicate(timeout=120)
        return self._process.returncode, printed

    def send(self, number: int) -> None:
        self._process.send_signal(number)

    def node(self) -> psutil.Process:
        """The node's process, once it is there."""
        demo = psutil.Process(self._process.pid)
        return eventually(
            lambda: next((child for child in demo.children() if "lisa_node" in " ".join(child.cmdline())), None),
            "the node's process",
        )

    def stop(self) -> None:
        if self._process.poll() is None:
            self._process.terminate()
            self._process.communicate(timeout=30)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Any]:
    started: list[Demo] = []

    def start_demo(*arguments: object) -> Demo:
        started.append(Demo(tmp_path, *arguments))
        return started[-1]

    yield start_demo
    for demo in started:
        demo.stop()


def test_it_shows_what_the_engine_answers(start: Any) -> None:
    demo = start()
    code, printed = demo.end()
    assert code == 0, printed
    engine = LisaEngine.from_pretrained(CHECKPOINT, "nf4", "cpu", vision_tower=VISION_TOWER)
    rgb = files.read_rgb(IMAGE)
    answer = engine.ask(engine.encode(rgb), QUESTION)
    assert len(answer.segments) == 2
    assert QUESTION in printed
    assert answer.text in printed
    for segment in answer.segments:
        assert f"{', '.join(map(str, segment.box))} " in printed
        assert f"{segment.score:.3f}" in printed
    assert "weights of this checkpoint are random" in printed
    path = demo.out / "portrait_360x640_overlay.png"
    assert str(path) in printed
    picture = files.read_rgb(path)
    expected = overlay.caption(overlay.draw(rgb, answer.segments), QUESTION, answer.text)
    assert picture.shape == expected.shape
    assert (picture != expected).any(axis=2).mean() < 0.001
    on_segment = picture[: len(rgb)][answer.segments[0].mask].astype(float)
    before = rgb[answer.segments[0].mask]
    colour = np.array(overlay.colour(0))
    assert np.abs(on_segment - colour).mean() < 0.7 * np.abs(before - colour).mean()


def test_another_picture_and_question(start: Any) -> None:
    code, printed = (
        demo := start(
            "--image", GOLDENS / "images" / "odd_333x217.png", "-q", "segment the handle", "--precision", "fp32"
        )
    ).end()
    assert code == 0, printed
    assert "[SEG]." in printed
    assert (demo.out / "odd_333x217_overlay.png").is_file()


def test_its_graph_is_its_own(start: Any) -> None:
    node = start().node()
    environment = node.environ()
    assert environment["ROS_DOMAIN_ID"] != os.environ["ROS_DOMAIN_ID"]
    assert environment["ROS_AUTOMATIC_DISCOVERY_RANGE"] == "LOCALHOST"
    assert any(argument.startswith("__ns:=/demo_") for argument in node.cmdline())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_stopped_it_leaves_no_process(start: Any, number: signal.Signals) -> None:
    demo = start()
    node = demo.node()
    demo.send(number)
    code, printed = demo.end()
    assert code == 128 + number, printed
    assert "Traceback" not in printed
    eventually(lambda: _has_ended(node), "the node's end")


def test_killed_it_leaves_no_process(start: Any) -> None:
    demo = start()
    node = demo.node()
    demo.send(signal.SIGKILL)
    assert demo.end()[0] == -signal.SIGKILL
    eventually(lambda: _has_ended(node), "the node's end")


def _has_ended(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_a_node_that_dies_is_told_about(start: Any) -> None:
    demo = start()
    demo.node().kill()
    code, printed = demo.end()
    assert code == 1
    assert "The node ended with exit code -9." in printed


def test_a_model_that_cannot_be_loaded_is_told_about(start: Any, tmp_path: Path) -> None:
    code, printed = start("--checkpoint", tmp_path).end()
    assert code == 1
    assert f"{tmp_path} is no checkpoint" in printed
    assert "cannot configure" in printed  # the node's own words
    assert "Traceback" not in printed


def test_a_picture_that_is_not_there(start: Any) -> None:
    code, printed = start("--image", "nowhere.png").end()
    assert code == 1
    assert "nowhere.png is not there" in printed
