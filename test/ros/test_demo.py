"""The demo as `make demo` runs it: it answers, ends by itself, disturbs nobody and leaves no process behind."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import numpy as np
import psutil
import pytest
import tabletop
from ament_index_python.packages import get_package_prefix
from harness import eventually
from std_msgs.msg import Header

import lisa_core
from lisa_core import LisaEngine, files, overlay
from lisa_core.answer import Segment, tight_box
from lisa_core.geometry import Placement, deproject
from lisa_ros.bags import BagReader, TopicError
from lisa_ros.client import Reply
from lisa_ros.contact_sheet import Shown, contact_sheet
from lisa_ros.conversions import answer_message, intrinsics, to_depth, to_rgb_compressed
from lisa_ros.demo import QUESTIONS, own_graph
from lisa_ros.pairing import nanoseconds, stamp_of
from lisa_ros.recording import CAMERA_INFO, COMPRESSED, DEPTH, Recording

DEMO = Path(get_package_prefix("lisa_ros"), "lib", "lisa_ros", "demo")
DATA = Path(__file__).parents[1] / "data"
BAG = DATA / "demo_bag"
GOLDENS = DATA / "goldens"
CHECKPOINT, VISION_TOWER = GOLDENS / "lisa-tiny-v1-vicuna", GOLDENS / "clip-vit-tiny-patch14"
MODEL = ("--checkpoint", CHECKPOINT, "--vision-tower", VISION_TOWER)
FRAME = "camera_color_optical_frame"
GAP = 640 // 40
"""px between the panels of the sheet."""


class Demo:
    """A demo that runs beside the test."""

    def __init__(self, folder: Path, *arguments: object, **environment: str) -> None:
        self.out = folder / "out"
        self._process = subprocess.Popen(
            [sys.executable, str(DEMO), "--out", str(self.out), *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | {"COLUMNS": "300"} | environment,
        )

    def end(self) -> tuple[int, str]:
        """Its exit code and what it printed, once it ends by itself."""
        printed, _ = self._process.communicate(timeout=240)
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

    def start_demo(*arguments: object, **environment: str) -> Demo:
        started.append(Demo(tmp_path, *arguments, **environment))
        return started[-1]

    yield start_demo
    for demo in started:
        demo.stop()


def recorded(topic: str) -> list[Any]:
    with BagReader(BAG) as bag:
        return [bag.decode(message) for message in bag.messages([f"/{topic}"])]


def tiles(sheet: np.ndarray, heights: list[int], columns: int) -> list[np.ndarray]:
    """The panels of the sheet, of these heights; checks that there is nothing else."""
    rows = [max(heights[start : start + columns]) for start in range(0, len(heights), columns)]
    assert sheet.shape == (sum(rows) + GAP * (len(rows) + 1), columns * (640 + GAP) + GAP, 3)
    parts = []
    for index, height in enumerate(heights):
        row, column = divmod(index, columns)
        top, left = sum(rows[:row]) + GAP * (row + 1), GAP + column * (640 + GAP)
        parts.append(sheet[top : top + height, left : left + 640])
    return parts


def assert_shows(part: np.ndarray, expected: np.ndarray) -> None:
    """That the expected picture is there, except for rounding at the rims of masks."""
    assert part[: len(expected)].shape == expected.shape
    assert (part[: len(expected)] != expected).any(axis=2).mean() < 0.001


def test_five_questions_about_a_camera_that_moves(start: Any) -> None:
    demo = start(*MODEL, "--precision", "fp32")
    code, printed = demo.end()
    assert code == 0, printed
    path = demo.out / "contact_sheet.png"
    assert str(path) in printed
    sheet = files.read_rgb(path)
    engine = LisaEngine.from_pretrained(CHECKPOINT, "fp32", "cpu", vision_tower=VISION_TOWER)
    _, *blocks = re.split("^question", printed, flags=re.MULTILINE)
    assert len(blocks) == len(QUESTIONS) == 5
    numbers, expected = [], []
    for question, block in zip(QUESTIONS, blocks, strict=True):
        found = re.search(r"frame (\d+) of 12", block)
        assert found is not None
        numbers.append(int(found[1]))
        rgb = to_rgb_compressed(recorded(COMPRESSED)[numbers[-1] - 1])
        answer = engine.ask(engine.encode(rgb), question)
        assert question in block
        assert answer.text in block
        positions = assert_told(block, answer, numbers[-1] - 1)
        drawn = overlay.draw(rgb, answer.segments)
        where = f"frame {numbers[-1]} of 12" + (f": {positions} in {FRAME}" if positions else "")
        captioned, line = overlay.caption(drawn, question, answer.text), overlay.caption(drawn, where, "")[480:]
        expected.append((rgb, answer, captioned, line))
    parts = tiles(sheet, [len(captioned) + len(line) for _, _, captioned, line in expected], columns=3)
    for part, (rgb, answer, captioned, line) in zip(parts, expected, strict=True):
        assert_shows(part, captioned)
        assert_shows(part[len(captioned) :], line)
        if answer.segments:
            mask, colour = answer.segments[0].mask, np.array(overlay.colour(0))
            before, after = (np.abs(picture[mask] - colour.astype(float)).mean() for picture in (rgb, part[:480]))
            assert after < 0.7 * before
    assert len(set(numbers)) > 1  # the camera moves


def assert_told(block: str, answer: lisa_core.Answer, frame: int) -> str:
    """Checks that box, score and position of each segment are printed; the positions as the sheet shows them."""
    depth = to_depth(recorded(DEPTH)[frame])
    lens = intrinsics(recorded(CAMERA_INFO)[frame], depth.shape)
    assert lens is not None
    told = re.findall(r"\((-?[\d.]+), (-?[\d.]+), (-?[\d.]+)\) m", block)
    for segment, position in zip(answer.segments, told, strict=True):
        assert f"{', '.join(map(str, segment.box))} " in block
        assert f" {segment.score:.3f} " in block
        placement = deproject(segment.mask, depth, lens).placement
        assert placement is not None
        assert [float(number) for number in position] == pytest.approx(placement.position, abs=0.0011)
    assert bool(told) == (f"position in {FRAME}" in block)
    return ", ".join(f"[SEG] ({', '.join(position)}) m" for position in told)


def test_ones_own_picture_and_questions(start: Any) -> None:
    picture, questions = GOLDENS / "images" / "odd_333x217.png", ("segment the handle", "Where is the orange?")
    demo = start(*MODEL, "--precision", "fp32", "--image", picture, "-q", questions[0], "-q", questions[1])
    code, printed = demo.end()
    assert code == 0, printed
    engine = LisaEngine.from_pretrained(CHECKPOINT, "fp32", "cpu", vision_tower=VISION_TOWER)
    rgb = files.read_rgb(picture)
    frame, sheet = engine.encode(rgb), files.read_rgb(demo.out / "contact_sheet.png")
    panels = []
    for question in questions:
        answer = engine.ask(frame, question)
        assert printed.index(question) < printed.index(answer.text, printed.index(question))
        panels.append(overlay.Panel(question, overlay.draw(rgb, answer.segments), answer.text, picture.name))
    expected = overlay.contact_sheet(panels)
    assert sheet.shape == expected.shape
    assert_shows(sheet, expected)
    assert printed.count(picture.name) == 2
    assert "knows rendered tables" not in printed  # which is said of the bundled model


def shown(question: str, text: str, *masks: np.ndarray, placed: bool = True) -> Shown:
    """An answer about a grey picture, as from the node; only its first segment has a position."""
    nothing = np.zeros(0, np.float32)
    segments = tuple(Segment(mask, 0.9, tight_box(mask), nothing, nothing) for mask in masks)
    places = [Placement((0.1, -0.2, 0.75), (0.1, 0.1, 0.1)) if placed and not i else None for i in range(len(masks))]
    header = Header(frame_id=FRAME)
    message = answer_message(lisa_core.Answer(text, segments), header, placements=places, include_masks=True)
    return Shown(question, "frame 3 of 12", np.full((480, 640, 3), 90, np.uint8), Reply(text, masks, message))


def test_a_contact_sheet_has_a_tile_for_each_answer() -> None:
    left, right = np.zeros((480, 640), bool), np.zeros((480, 640), bool)
    left[100:200, 50:150], right[300:400, 400:600] = True, True
    answers = [
        shown("Where are the fruits?", "They are [SEG] and [SEG].", left, right),
        shown("Find the scissors.", "There is no such thing."),
        shown("Where is the mug?", "It is [SEG].", right, placed=False),
    ]
    sheet = contact_sheet(answers)
    drawn = np.full((480, 640, 3), 90, np.uint8)
    where = [f"frame 3 of 12: [SEG] (0.100, -0.200, 0.750) m, [SEG] unknown in {FRAME}", *["frame 3 of 12"] * 2]
    lines = [overlay.caption(drawn, words, "")[480:] for words in where]
    heights = [
        len(overlay.caption(drawn, answer.question, answer.reply.text)) + len(line)
        for answer, line in zip(answers, lines, strict=True)
    ]
    for answer, part, line in zip(answers, tiles(sheet, heights, columns=2), lines, strict=True):
        blank = (part == overlay.BACKGROUND).all(axis=2)
        assert (part[20:40, 20:40] == 90).all()  # the frame itself
        assert not blank[490:].all()  # words
        for number, mask in enumerate(answer.reply.masks):
            box = tight_box(mask)
            middle = part[box[1] + box[3] // 4, box[0] + box[2] // 4].astype(float)
            expected = (1 - overlay.OPACITY) * 90 + overlay.OPACITY * np.array(overlay.colour(number))
            assert np.abs(middle - expected).max() < 2
        assert np.array_equal(part[-len(line) :], line)
    assert (sheet[2 * GAP + max(heights[:2]) :, 2 * GAP + 640 :] == overlay.BACKGROUND).all()


def test_a_recording_is_played_at_its_pace_once_all_of_it_is_listened_to() -> None:
    sent: list[tuple[str, int]] = []
    listeners = dict.fromkeys((COMPRESSED, DEPTH, CAMERA_INFO), 1)
    timers: list[tuple[float, Callable[[], None]]] = []

    def publisher(_: type, topic: str, __: object) -> SimpleNamespace:
        return SimpleNamespace(
            publish=lambda data: sent.append((topic, stamp_of(data))), get_subscription_count=lambda: listeners[topic]
        )

    node: Any = SimpleNamespace(create_publisher=publisher, create_timer=lambda *timer: timers.append(timer))
    Recording(BAG).play(node)
    [(period, publish_next)] = timers
    stamps = {
        topic: [nanoseconds(message.header.stamp.sec, message.header.stamp.nanosec) for message in recorded(topic)]
        for topic in (DEPTH, CAMERA_INFO, COMPRESSED)
    }
    assert period == pytest.approx((stamps[COMPRESSED][-1] - stamps[COMPRESSED][0]) / 11e9, rel=0.01)
    for topic in listeners:
        listeners[topic] = 0
        publish_next()
        assert not sent
        listeners[topic] = 1
    for _ in range(13):
        publish_next()
    assert sent == [(topic, stamps[topic][frame]) for frame in (*range(12), 0) for topic in stamps]


def test_a_recording_without_what_the_demo_needs() -> None:
    with pytest.raises(TopicError, match="has no topic camera/image/compressed"):
        Recording(tabletop.BAG)


def test_a_recording_that_is_not_installed(start: Any, tmp_path: Path) -> None:
    for folder in ("share/ament_index/resource_index/packages", "share/lisa_ros"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "share/ament_index/resource_index/packages/lisa_ros").touch()
    code, printed = start(*MODEL, AMENT_PREFIX_PATH=f"{tmp_path}:{os.environ['AMENT_PREFIX_PATH']}").end()
    assert code == 1
    assert f"There is no bag at {tmp_path}/share/lisa_ros/demo_bag" in printed


def test_its_graph_is_its_own(start: Any) -> None:
    node = start(*MODEL).node()
    environment = node.environ()
    assert environment["ROS_DOMAIN_ID"] != os.environ["ROS_DOMAIN_ID"]
    assert environment["ROS_AUTOMATIC_DISCOVERY_RANGE"] == "LOCALHOST"
    assert any(argument.startswith("__ns:=/demo_") for argument in node.cmdline())


@pytest.mark.parametrize("number", ["", "7", "007", "abc", "-3"])
def test_its_graph_is_its_own_whatever_others_are_called(monkeypatch: pytest.MonkeyPatch, number: str) -> None:
    monkeypatch.setenv("ROS_DOMAIN_ID", number)
    for name in ("ROS_AUTOMATIC_DISCOVERY_RANGE", "ROS_LOG_DIR"):  # which it sets, too
        monkeypatch.setenv(name, "")
    monkeypatch.setattr("lisa_ros.demo.rclpy", Mock())
    with own_graph() as graph:
        assert graph.domain in range(1, 102)
        assert graph.domain != 7 or "7" not in number


@contextmanager
def hang_ups(handler: signal.Handlers) -> Iterator[None]:
    """What a process that is started in the block does about a hang-up: it inherits this process's way."""
    before = signal.signal(signal.SIGHUP, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_stopped_it_leaves_no_process(start: Any, number: signal.Signals) -> None:
    with hang_ups(signal.SIG_DFL):  # as on a terminal, however these tests were started
        demo = start(*MODEL)
    node = demo.node()
    demo.send(number)
    code, printed = demo.end()
    assert code == 128 + number, printed
    assert "Traceback" not in printed
    eventually(lambda: _has_ended(node), "the node's end")


def test_under_nohup_it_answers_after_a_hang_up(start: Any) -> None:
    with hang_ups(signal.SIG_IGN):
        demo = start(*MODEL, "--image", GOLDENS / "images" / "odd_333x217.png", "-q", "Where?")
    demo.node()
    demo.send(signal.SIGHUP)
    code, printed = demo.end()
    assert code == 0, printed


def test_killed_it_leaves_no_process(start: Any) -> None:
    demo = start(*MODEL)
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
    demo = start(*MODEL)
    demo.node().kill()
    code, printed = demo.end()
    assert code == 1
    assert "The node ended with exit code -9." in printed
    assert "Warning" not in printed


def test_a_model_that_cannot_be_loaded_is_told_about(start: Any, tmp_path: Path) -> None:
    code, printed = start("--checkpoint", tmp_path).end()
    assert code == 1
    assert f"{tmp_path} is no checkpoint" in printed
    assert "cannot configure" in printed  # the node's own words
    assert "Traceback" not in printed


def test_a_picture_that_is_not_there(start: Any) -> None:
    code, printed = start(*MODEL, "--image", "nowhere.png", "-q", "Where?").end()
    assert code == 1
    assert "nowhere.png is not there" in printed


def test_a_picture_without_a_question_is_wrong_usage(start: Any) -> None:
    code, printed = start(*MODEL, "--image", GOLDENS / "images" / "odd_333x217.png").end()
    assert code == 2
    assert "--question" in printed
