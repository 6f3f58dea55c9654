"""`replay` gives the same answers about a bag each time, whatever happens in between, and says what differs."""

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from tabletop import BAG, DEPTH, IMAGE, INFO, TabletopEngine, changed, labels, messages, save, truth
from test_bags import as_sqlite3

from lisa_core import CheckpointError
from lisa_ros import conversions
from lisa_ros.bags import BagReader, Message, typestore, write_bag
from lisa_ros.records import Record, read_records
from lisa_ros.replay import main

BALL, BOTH = "where is the green ball", "the red box and the white cup"


class Replay:
    """The command in this process, with the engine that knows the bag."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self._capsys = capsys

    def __call__(self, *arguments: object, bag: Path = BAG, load: Any = TabletopEngine, code: int = 0) -> str:
        """What it prints, spaces made one; it has to exit with that code."""
        with pytest.raises(SystemExit) as end:
            main([str(bag), "--checkpoint", "tabletop", *map(str, arguments)], load=load)
        printed = self._capsys.readouterr()
        text = " ".join((printed.out + printed.err).split())
        assert (end.value.code or 0) == code, text
        return text

    def ask(self, name: str, *arguments: object, **options: Any) -> str:
        """Asks about the ball, of every frame unless told otherwise, and writes `name`."""
        return self("--ask", BALL, "--out", self.folder / name, "--every", 0, *arguments, **options)

    def answers(self, name: str) -> list[Record]:
        return read_records(self.folder / f"{name}.json")


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that no sentence is broken into lines."""
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setenv("TERM", "dumb")


@pytest.fixture
def replay(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Replay:
    return Replay(tmp_path, capsys)


def contents(path: Path) -> list[tuple[str, int, Any]]:
    """Topic, time and content of all messages in a bag of answers."""
    with BagReader(path) as bag:
        return [(message.topic, message.time, bag.decode(message)) for message in bag.messages(bag.topics)]


def frames_of(path: Path = BAG) -> list[Message]:
    return [message for message in messages(path) if message.topic == IMAGE]


# What comes out


def test_every_frame_is_answered_with_its_own_mask(replay: Replay) -> None:
    printed = replay("--ask", BALL, "--ask", BOTH, "--camera", IMAGE, "--every", 0, "--out", replay.folder / "out")
    records = replay.answers("out")
    assert "28 answered, 0 failed" in printed
    assert [record.key for record in records] == [(frame, question) for frame in range(14) for question in (BALL, BOTH)]
    assert [record.stamp for record in records[::2]] == [frame["stamp"] for frame in truth()["frames"]]
    for record in records:
        numbers = [2] if record.question == BALL else [1, 5]
        assert len(record.segments) == len(numbers)
        for segment, number in zip(record.segments, numbers, strict=True):
            mask = labels()[record.frame] == number
            assert (segment.pixels == mask).all()
            assert segment.area == mask.sum()
            assert segment.position is None


def test_the_bag_of_answers_has_the_headers_of_the_images(replay: Replay) -> None:
    replay.ask("out")
    sources = {message.time: message.stamp for message in frames_of()}
    found = contents(replay.folder / "out")
    assert sorted({topic for topic, _, _ in found}) == ["/lisa/answer", "/lisa/mask", "/lisa/overlay"]
    assert len(found) == 3 * 14
    for topic, time, content in found:
        assert content.header.stamp.sec * 10**9 + content.header.stamp.nanosec == sources[time]
        assert content.header.frame_id == "camera_color_optical_frame"
        if topic == "/lisa/mask":
            mask = content.data.reshape(240, 320)
            assert content.encoding == "mono8"
            assert ((mask == 255) == (labels()[list(sources).index(time)] == 2)).all()
        if topic == "/lisa/answer":
            assert (content.instruction, content.text) == (BALL, "It is [SEG].")
            assert content.segments[0].mask.data.size == 0
        if topic == "/lisa/overlay":
            assert (content.encoding, content.height, content.width) == ("rgb8", 240, 320)


def test_positions_come_from_depth_and_intrinsics(replay: Replay) -> None:
    replay.ask("out", "--depth", DEPTH, "--camera-info", INFO)
    for record in replay.answers("out"):
        seen = truth()["frames"][record.frame]["seen"]["green ball"]
        assert record.segments[0].position is not None
        assert np.linalg.norm(np.subtract(record.segments[0].position, seen["position"])) < 0.01
    [segment] = contents(replay.folder / "out")[0][2].segments
    assert segment.has_position
    assert segment.position.z == replay.answers("out")[0].segments[0].position[2]


def test_one_frame_a_second_is_the_default(replay: Replay) -> None:
    replay("--ask", BALL, "--out", replay.folder / "a" / "new folder" / "out")
    assert [record.frame for record in replay.answers("a/new folder/out")] == [0, 4, 8, 12]


def test_frames_of_the_same_time_are_told_apart(replay: Replay) -> None:
    slow_clock = save(replay.folder / "slow", [m._replace(time=m.time // 10**9 * 10**9) for m in messages()])
    for name, bag in (("one", BAG), ("other", slow_clock)):
        replay.ask(name, "--depth", DEPTH, "--camera-info", INFO, bag=bag)
    assert replay.answers("one") == replay.answers("other")
    assert len({str(record.segments) for record in replay.answers("other")}) > 10


def test_both_formats_give_the_same_answers(replay: Replay) -> None:
    replay.ask("mcap")
    replay.ask("sqlite3", bag=as_sqlite3(replay.folder / "other"))
    assert replay.answers("mcap") == replay.answers("sqlite3")


def test_compressed_images(replay: Replay) -> None:
    store, with_answers = typestore(), []
    for message in frames_of():
        image = store.deserialize_cdr(message.data, "sensor_msgs/msg/Image")
        _, png = cv2.imencode(".png", image.data.reshape(240, 320, 3)[..., ::-1])
        kind = "sensor_msgs/msg/CompressedImage"
        compressed = store.types[kind](image.header, "png", png.ravel())
        with_answers.append(Message("/c/image/compressed", message.time, bytes(store.serialize_cdr(compressed, kind))))
    bag = save(replay.folder / "bag", with_answers, **{"/c/image/compressed": "sensor_msgs/msg/CompressedImage"})
    replay.ask("raw")
    replay.ask("png", bag=bag)
    assert replay.answers("raw") == replay.answers("png")


def test_an_image_is_read_once_to_ask_and_once_to_write(replay: Replay, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    as_it_is = BagReader.at

    def at(self: BagReader, topic: str, time: int, place: int) -> Message:
        read.append(time)
        return as_it_is(self, topic, time, place)

    monkeypatch.setattr(BagReader, "at", at)
    replay.ask("out", "--camera", IMAGE)
    assert read == [message.time for message in frames_of()] * 2


def test_options_reach_the_engine(replay: Replay) -> None:
    made: list[TabletopEngine] = []
    asked: list[dict[str, Any]] = []

    class Noting(TabletopEngine):
        def ask(self, *arguments: Any, **options: Any) -> Any:
            asked.append(options)
            return super().ask(*arguments, **options)

    def load(checkpoint: str, **options: Any) -> TabletopEngine:
        made.append(Noting(checkpoint, **options))
        return made[-1]

    arguments = ["--precision", "nf4", "--device", "cuda:1", "--vision-tower", "clip", "--template", "llava_v1"]
    replay.ask("out", *arguments, "--mask-only", "--max-new-tokens", 7, load=load)
    [options] = [dict(engine.options) for engine in made]
    del options["on_progress"]
    assert options == {
        "checkpoint": "tabletop",
        "precision": "nf4",
        "device": "cuda:1",
        "vision_tower": "clip",
        "template": "llava_v1",
    }
    assert asked == [{"max_new_tokens": 7, "mask_only": True}] * 14
    assert replay.answers("out")[0].text == "[SEG]."


# The same each time


def test_two_runs_give_the_same_files(replay: Replay) -> None:
    replay.ask("a", "--depth", DEPTH, "--camera-info", INFO)
    replay.ask("b", "--depth", DEPTH, "--camera-info", INFO)
    assert (replay.folder / "a.json").read_bytes() == (replay.folder / "b.json").read_bytes()
    assert messages(replay.folder / "a") == messages(replay.folder / "b")


KILLED = """
import os, shutil, signal, sys
from pathlib import Path
from tabletop import TabletopEngine
from lisa_ros import replay

class Killed(TabletopEngine):
    questions = 0
    def ask(self, *arguments, **options):
        Killed.questions += 1
        if Killed.questions == 6:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().ask(*arguments, **options)

moment, _, number = sys.argv[1].partition(" ")

def kill(*_, **__):
    os.kill(os.getpid(), int(number or signal.SIGKILL))

load, rename, replace = TabletopEngine, Path.rename, Path.replace
if moment == "asking":
    load = Killed
elif moment == "loading":
    load = kill
elif moment == "moving":
    Path.rename = lambda path, to: kill() if to.name == "out" else rename(path, to)
elif moment == "removing":
    shutil.rmtree = lambda path, **_: kill(next(path.rglob("metadata.yaml")).unlink())
elif moment == "replacing":
    Path.replace = lambda path, to: kill() if to.name == "out.json" else replace(path, to)
else:
    setattr(replay, moment, kill)
replay.main(sys.argv[2:], load=load)
"""


def in_a_process(moment: str, *arguments: object, limit: int | None = None) -> "subprocess.CompletedProcess[str]":
    """The command in a process, killed at that moment, or on a disk that takes files of `limit` bytes at most."""
    return subprocess.run(
        [sys.executable, "-c", KILLED, moment, str(BAG), "--checkpoint", "tabletop", *map(str, arguments)],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        preexec_fn=limit and (lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))),
    )


@pytest.mark.parametrize("moment", ["asking", "_write_bag", "write_records"])
def test_a_run_that_was_killed_ends_like_one_that_was_not(replay: Replay, moment: str) -> None:
    killed = replay.folder / "killed"
    ended = in_a_process(moment, "--ask", BALL, "--every", 0, "--out", killed)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert not killed.with_name("killed.json").exists()
    finished = len(killed.with_name("killed.journal").read_bytes().splitlines()) - 1
    assert finished == (5 if moment == "asking" else 14)

    printed = replay.ask("killed")
    assert f"going on after {finished} of 14 answers" in printed
    replay.ask("whole")
    assert (replay.folder / "killed.json").read_bytes() == (replay.folder / "whole.json").read_bytes()
    assert messages(killed) == messages(replay.folder / "whole")
    assert sorted(path.name for path in replay.folder.iterdir()) == ["killed", "killed.json", "whole", "whole.json"]


@pytest.mark.parametrize("moment", ["moving", "removing", "replacing"])
def test_a_run_that_was_killed_while_it_replaced_an_earlier_one_goes_on(replay: Replay, moment: str) -> None:
    replay.ask("out", "--every", 1)
    arguments = ("--ask", BALL, "--every", 0, "--out", replay.folder / "out", "--overwrite")
    ended = in_a_process(moment, *arguments)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert "going on after 14 of 14 answers" in replay(*arguments)
    assert len(replay.answers("out")) == 14
    assert len(messages(replay.folder / "out")) == 3 * 14
    assert sorted(path.name for path in replay.folder.iterdir()) == ["out", "out.json"]


@pytest.mark.parametrize("loaded", ["is stopped", "is wrong", "is killed"])
def test_a_run_without_an_answer_does_not_stand_in_the_way_of_another(replay: Replay, loaded: str) -> None:
    def load(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt if loaded == "is stopped" else CheckpointError("it is none: name another")

    if loaded == "is killed":
        in_a_process("loading", "--ask", "where is the gren ball", "--out", replay.folder / "out")
    else:
        replay.ask("out", "--checkpoint", "tabletoop", load=load, code=130 if loaded == "is stopped" else 1)
        assert list(replay.folder.iterdir()) == []
    assert "going on" not in replay.ask("out")
    assert sorted(path.name for path in replay.folder.iterdir()) == ["out", "out.json"]


def test_a_run_without_an_answer_is_no_leave_to_replace_an_earlier_one(replay: Replay) -> None:
    replay.ask("out")
    in_a_process("loading", "--ask", BOTH, "--out", replay.folder / "out", "--overwrite")
    assert (replay.folder / "out.journal").exists()
    assert "out exists: choose another --out" in replay.ask("out", "--every", 1, code=2)
    assert len(replay.answers("out")) == 14


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_of_a_bag_that_was_not_finished(replay: Replay, number: signal.Signals) -> None:
    ended = in_a_process(f"_messages {number:d}", "--ask", BALL, "--every", 0, "--out", replay.folder / "out")
    assert ended.returncode == (143 if number is signal.SIGTERM else -number), ended.stderr
    assert len(list(replay.folder.glob(".out.*.partial"))) == (number is signal.SIGKILL)
    assert "going on after 14 of 14 answers" in replay.ask("out")
    assert sorted(path.name for path in replay.folder.iterdir()) == ["out", "out.json"]


def test_answers_behind_a_link_are_replaced(replay: Replay) -> None:
    replay.ask("out")
    (replay.folder / "out").rename(replay.folder / "disk")
    (replay.folder / "out").symlink_to(replay.folder / "disk")
    replay.ask("out", "--every", 1, "--overwrite")
    assert (replay.folder / "out").is_symlink()
    assert len(messages(replay.folder / "disk")) == 12


def test_a_killed_run_goes_on_only_as_it_was(replay: Replay) -> None:
    in_a_process("asking", "--ask", BALL, "--every", 0, "--out", replay.folder / "out")
    assert "differs in every, max_new_tokens" in replay.ask("out", "--every", 0.5, "--max-new-tokens", 7, code=2)
    model = ("--precision", "nf4", "--device", "cuda:7", "--vision-tower", "clip", "--template", "llava_v1")
    printed = replay.ask("out", "--depth-max-dt", 0.1, *model, "--mask-only", code=2)
    differences = "depth_max_dt, device, mask_only, precision, runs_on, template, tower, vision_tower"
    assert f"differs in {differences}" in printed


def test_a_killed_run_goes_on_only_with_the_weights_that_it_began_with(replay: Replay) -> None:
    weights = replay.folder / "model"
    weights.mkdir()
    (weights / "pytorch_model.bin").write_bytes(b"before")

    replay.ask("out", "--checkpoint", weights, load=Impatient, code=130)
    (weights / "pytorch_model.bin").write_bytes(b"after it")
    assert "differs in weights" in replay.ask("out", "--checkpoint", weights, load=Impatient, code=2)


def test_a_question_of_no_unicode_is_asked_and_kept(replay: Replay) -> None:
    replay.ask("out", "--ask", os.fsdecode(b"caf\xe9"), code=0)
    assert {record.question for record in replay.answers("out")} == {BALL, "caf\ufffd"}


def test_a_full_disk_costs_no_answer(replay: Replay) -> None:
    """A limit on file sizes simulates the full disk: first the journal, then the bag, does not fit."""
    for name, limit in (("early", 2000), ("late", 20_000)):
        arguments = ("--ask", BALL, "--every", 0, "--out", replay.folder / name)
        ended = in_a_process("none", *arguments, limit=limit)
        assert ended.returncode == 1, ended.stderr
        assert "File too large" in ended.stderr
        assert "The same command goes on" in " ".join(ended.stderr.split())
        assert not (replay.folder / name).exists()
        replay.ask(name)
    replay.ask("whole")
    assert replay.answers("early") == replay.answers("late") == replay.answers("whole")


class Impatient(TabletopEngine):
    """It is stopped by Ctrl-C at the third question."""

    questions = 0

    def ask(self, *arguments: Any, **options: Any) -> Any:
        self.questions += 1
        if self.questions == 3:
            raise KeyboardInterrupt
        return super().ask(*arguments, **options)


def test_ctrl_c_costs_no_answer(replay: Replay) -> None:
    assert "the same command goes on from here" in replay.ask("out", load=Impatient, code=130)
    assert "going on after 2 of 14 answers" in replay.ask("out")


def test_an_earlier_result_is_replaced_only_on_demand(replay: Replay) -> None:
    replay.ask("out")
    assert "out exists: choose another --out, or replace it with --overwrite" in replay.ask("out", code=2)
    replay.ask("out", "--every", 1, "--overwrite")
    assert len(replay.answers("out")) == 4
    assert len(messages(replay.folder / "out")) == 12


def test_what_is_left_of_an_earlier_result_is_replaced_only_on_demand(replay: Replay) -> None:
    replay.ask("out")
    shutil.rmtree(replay.folder / "out")
    assert "out.json exists: choose another --out" in replay.ask("out", "--every", 1, code=2)
    assert len(replay.answers("out")) == 14
    replay.ask("out", "--every", 1, "--overwrite")
    assert len(replay.answers("out")) == 4


def test_what_is_no_bag_is_never_replaced(replay: Replay) -> None:
    (replay.folder / "out").mkdir()
    (replay.folder / "out" / "thesis.tex").write_text("years of work")
    assert "exists and is no bag" in replay.ask("out", "--overwrite", code=2)
    assert (replay.folder / "out" / "thesis.tex").read_text() == "years of work"


@pytest.mark.parametrize("out", ["recording", "other"])
def test_a_recording_is_never_replaced(replay: Replay, out: str) -> None:
    recording, _ = (save(replay.folder / name, messages()[:20]) for name in ("recording", "other"))
    (replay.folder / "thesis.json").write_text("{}")
    assert "thesis.json is no file of answers" in replay.ask("thesis", "--overwrite", code=2)
    before = messages(replay.folder / out)
    for bag in (recording, next(recording.glob("*.mcap"))):
        for how in ((), ("--overwrite",)):
            assert "choose another --out" in replay.ask(out, *how, bag=bag, code=2)
    assert messages(replay.folder / out) == before


def test_a_recording_of_a_nodes_answers_is_never_replaced(replay: Replay) -> None:
    replay.ask("out")
    save(replay.folder / "other", messages()[:20])
    (replay.folder / "out.json").rename(replay.folder / "other.json")  # none is written beside a recording
    assert "is no bag of answers, but a recording" in replay.ask("other", "--overwrite", code=2)
    assert messages(replay.folder / "other") == messages()[:20]
    assert "is no bag of answers, but a recording" in replay.ask("out", "--overwrite", code=2)
    assert len(messages(replay.folder / "out")) == 3 * 14


# As expected, or not


def test_what_was_expected_is_no_failure(replay: Replay) -> None:
    replay.ask("old")
    assert "all answers are as expected" in replay.ask("new", "--expect", replay.folder / "old.json")


def test_what_was_not_expected_is_a_failure_with_a_table(replay: Replay) -> None:
    replay.ask("old")
    old = json.loads((replay.folder / "old.json").read_text())
    old["answers"][3]["text"] = "It was [SEG]."
    old["answers"][5]["segments"][0]["mask"] = old["answers"][0]["segments"][0]["mask"]
    (replay.folder / "old.json").write_text(json.dumps(old))
    printed = replay.ask("new", "--expect", replay.folder / "old.json", code=1)
    assert re.search(
        r"│ 3 │ 1750000000\.900 │ where is the green ball │ text │ It was \[SEG\]\. │ It is \[SEG\]\.", printed
    )
    assert re.search(r"│ 5 │ 1750000001\.500 │ where is the green ball │ mask 0 │ IoU >= 0\.95 │ 0\.\d+ │", printed)
    assert len(replay.answers("new")) == 14
    del old["answers"][3]
    (replay.folder / "old.json").write_text(json.dumps(old))
    assert "│ asked │ no │ yes │" in replay.ask("third", "--expect", replay.folder / "old.json", "--min-iou", 0, code=1)


def test_expectations_that_are_none(replay: Replay) -> None:
    (replay.folder / "old.json").write_text("{}")
    assert "no file of answers" in replay.ask("new", "--expect", replay.folder / "old.json", code=2)
    (replay.folder / "old.json").write_text('{"answers": ["The cup is [SEG]."]}')
    assert "no file of answers" in replay.ask("new", "--expect", replay.folder / "old.json", code=2)
    assert "does not exist" in replay.ask("new", "--expect", replay.folder / "never.json", code=2)
    assert not (replay.folder / "new.journal").exists()


def test_a_damaged_mask_that_was_expected_is_told_before_anything_is_asked(replay: Replay) -> None:
    replay.ask("old")
    old = json.loads((replay.folder / "old.json").read_text())
    old["answers"][3]["segments"][0]["mask"]["counts"] = "abc"
    (replay.folder / "old.json").write_text(json.dumps(old))
    printed = replay.ask("new", "--expect", replay.folder / "old.json", code=2)
    assert "old.json is no file of answers that replay wrote: ValueError: its runs are cut off." in printed
    assert not (replay.folder / "new").exists()
    assert not (replay.folder / "new.journal").exists()


# What goes wrong


def test_a_frame_that_cannot_be_read_is_reported_and_the_rest_goes_on(replay: Replay) -> None:
    odd = frames_of()
    bad = {4: {"encoding": "yuv999"}, 6: {"data": np.zeros(100, np.uint8)}}
    edited = [changed(message, **bad[i]) if i in bad else message for i, message in enumerate(odd)]
    edited[8] = edited[8]._replace(data=edited[8].data[:1000])
    bag = save(replay.folder / "bag", edited)
    printed = replay.ask("out", bag=bag, code=1)
    assert "11 answered, 3 failed" in printed
    records = replay.answers("out")
    assert [record.frame for record in records if record.error] == [4, 6, 8]
    assert "yuv999" in records[4].error
    assert len(messages(replay.folder / "out")) == 3 * 11


@pytest.mark.parametrize("topic", [IMAGE, DEPTH])
def test_a_bag_with_fewer_messages_than_it_says_is_no_success(replay: Replay, topic: str) -> None:
    bag = replay.folder / "damaged"
    shutil.copytree(BAG, bag)
    metadata = bag / "metadata.yaml"
    counted = rf"(message_count: )14(\s+topic_metadata:\s+name: {topic}\s)"
    metadata.write_text(re.sub(counted, r"\g<1>16\2", metadata.read_text()))
    topics = ("--camera", IMAGE, "--depth", DEPTH, "--camera-info", INFO)
    assert f"2 of 16 messages on {topic} are lost" in replay.ask("out", *topics, bag=bag, code=1)
    assert len(replay.answers("out")) == 14


def test_a_question_that_fails_is_reported_and_the_rest_goes_on(replay: Replay) -> None:
    printed = replay.ask("out", "--ask", "the unspeakable", code=1)
    assert "14 answered, 14 failed" in printed
    assert "that cannot be asked: ask something else" in printed


def test_nothing_is_said_that_a_terminal_would_obey(replay: Replay) -> None:
    words = "the \x1b[2J[b]green ball"
    for said in (replay("--ask", words, "--out", replay.folder / "out"), replay.ask("x", "--camera", words, code=2)):
        assert "\x1b[2J" not in said
        assert "the \ufffd[2J[b]green ball" in said


def test_depth_that_is_none_costs_the_position_only(replay: Replay) -> None:
    edited = [changed(m, encoding="rgb8") if m.topic == DEPTH and i > 20 else m for i, m in enumerate(messages())]
    bag = save(replay.folder / "bag", edited)
    replay.ask("out", "--camera", IMAGE, "--depth", DEPTH, "--camera-info", INFO, bag=bag)
    found = [record.segments[0].position for record in replay.answers("out")]
    assert found[0] is not None
    assert found[-1] is None


def test_depth_that_is_cut_off_costs_the_position_only(replay: Replay) -> None:
    depths = [index for index, message in enumerate(messages()) if message.topic == DEPTH]
    cut = {depths[0]: 7, depths[2]: 500}
    edited = [m._replace(data=m.data[: cut.get(index)]) for index, m in enumerate(messages())]
    printed = replay.ask("out", "--depth", DEPTH, "--camera-info", INFO, bag=save(replay.folder / "bag", edited))
    found = [record.segments[0].position is not None for record in replay.answers("out")]
    assert found == [index not in (0, 2) for index in range(14)]
    assert "frame 2: no positions" in printed


def test_depth_without_stamps_is_that_of_the_same_time(replay: Replay) -> None:
    store = typestore()
    header = store.types["std_msgs/msg/Header"](store.types["builtin_interfaces/msg/Time"](0, 0), "camera")
    bag = save(replay.folder / "bag", [changed(message, header=header) for message in messages()])
    topics = ("--camera", IMAGE, "--depth", DEPTH, "--camera-info", INFO)
    replay.ask("stamped", *topics)
    replay.ask("bare", *topics, bag=bag)
    positions = [[record.segments[0].position for record in replay.answers(name)] for name in ("stamped", "bare")]
    assert positions[0] == positions[1]
    assert len(set(positions[0])) > 5


def test_depth_from_another_moment_is_not_used(replay: Replay) -> None:
    kept = [message for message in messages() if message.topic != DEPTH or message.stamp < 1_750_000_001_000_000_000]
    bag = save(replay.folder / "bag", kept)
    printed = replay.ask("out", "--depth", DEPTH, "--camera-info", INFO, bag=bag)
    assert [r.segments[0].position is not None for r in replay.answers("out")] == [True] * 4 + [False] * 10
    reason = f"{DEPTH} is 0.293 s from the image by its stamp; --depth-max-dt is 0.05 s"
    assert f"no positions in 10 of 14 frames, such as 4: {reason}" in printed
    replay.ask("wide", "--depth", DEPTH, "--camera-info", INFO, "--depth-max-dt", 0.7, bag=bag)
    assert [r.segments[0].position is not None for r in replay.answers("wide")] == [True] * 6 + [False] * 8


def test_depth_without_stamps_of_another_time_is_told_by_its_time(replay: Replay) -> None:
    store = typestore()
    header = store.types["std_msgs/msg/Header"](store.types["builtin_interfaces/msg/Time"](0, 0), "camera")
    bare = [changed(message, header=header) for message in messages()]
    kept = [message for message in bare if message.topic != DEPTH]
    late = [message._replace(time=message.time + 60 * 10**9) for message in bare if message.topic == DEPTH]
    printed = replay.ask("out", "--depth", DEPTH, "--camera-info", INFO, bag=save(replay.folder / "bag", kept + late))
    assert f"no positions in 14 of 14 frames, such as 0: {DEPTH} was recorded" in printed
    assert "more than 5 s" in printed


def test_intrinsics_without_numbers_are_told(replay: Replay) -> None:
    zero = {"p": np.zeros(12), "k": np.zeros(9)}
    edited = [changed(m, **zero) if m.topic == INFO else m for m in messages()]
    printed = replay.ask("out", "--depth", DEPTH, "--camera-info", INFO, bag=save(replay.folder / "bag", edited))
    assert f"no positions in 14 of 14 frames, such as 0: {INFO} is uncalibrated" in printed


def test_intrinsics_of_another_size_are_told(replay: Replay) -> None:
    edited = [changed(m, width=640, height=480) if m.topic == INFO else m for m in messages()]
    bag = save(replay.folder / "bag", edited)
    printed = replay.ask("out", "--ask", BOTH, "--depth", DEPTH, "--camera-info", INFO, bag=bag)
    assert {segment.position for record in replay.answers("out") for segment in record.segments} == {None}
    reason = f"{INFO} is of 640x480 px, or uncalibrated, and images are of 320x240 px"
    assert printed.count("no positions") == 1
    assert f"no positions in 14 of 14 frames, such as 0: {reason}" in printed


@pytest.mark.parametrize("topic", [DEPTH, INFO])
def test_a_topic_without_messages_gives_no_positions_and_is_told(replay: Replay, topic: str) -> None:
    bag = replay.folder / "bag"
    with BagReader(BAG) as recorded, write_bag(bag, typestore()) as writer:
        for name, known in recorded.topics.items():
            writer.add_topic(name, known.type)
        for message in messages():
            if message.topic != topic:
                writer.write(message.topic, message.time, message.data)
    printed = replay.ask("out", "--camera", IMAGE, "--depth", DEPTH, "--camera-info", INFO, bag=bag)
    assert f"no positions in 14 of 14 frames, such as 0: {topic} has no message" in printed


def test_positions_that_vanished_are_not_as_expected(replay: Replay) -> None:
    topics = ("--depth", DEPTH, "--camera-info", INFO)
    replay.ask("old", *topics)
    assert "all answers are as expected" in replay.ask("same", *topics, "--expect", replay.folder / "old.json")
    kept = [message for message in messages() if message.topic != DEPTH or message.stamp < 1_750_000_001_000_000_000]
    bag = save(replay.folder / "bag", kept)
    printed = replay.ask("new", *topics, "--expect", replay.folder / "old.json", bag=bag, code=1)
    assert len(re.findall(r"│ position 0 │ -?\d\.\d+, -?\d\.\d+, \d\.\d+ m │ none │", printed)) == 10


def test_frames_without_a_stamp(replay: Replay) -> None:
    time = typestore().types["builtin_interfaces/msg/Time"](0, 0)
    header = typestore().types["std_msgs/msg/Header"](time, "camera")
    bag = save(replay.folder / "bag", [changed(message, header=header) for message in frames_of()])
    replay.ask("out", bag=bag)
    assert [(record.frame, record.stamp) for record in replay.answers("out")] == [(i, 0) for i in range(14)]
    assert "as expected" in replay.ask("again", "--expect", replay.folder / "out.json", bag=bag)


def test_a_topic_that_is_not_there(replay: Replay) -> None:
    printed = replay.ask("out", "--camera", "/front/image", code=2)
    assert "has no topic /front/image. Its topics, with types and numbers of messages: " in printed
    assert "/camera/image sensor_msgs/msg/Image (14)" in printed
    assert "is of type sensor_msgs/msg/CameraInfo" in replay.ask("out", "--camera", INFO, code=2)


def test_several_cameras_are_a_choice(replay: Replay) -> None:
    second = [message._replace(topic="/rear/image") for message in frames_of()]
    everything = sorted([*messages(), *second], key=lambda message: message.time)
    bag = save(replay.folder / "bag", everything, **{"/rear/image": "sensor_msgs/msg/Image"})
    assert "several topics with colour images: choose one with --camera" in replay.ask("out", bag=bag, code=2)
    replay.ask("out", "--camera", "/rear/image", bag=bag)
    assert len(replay.answers("out")) == 14


def test_compressed_depth_and_a_topic_without_messages_are_no_second_camera(replay: Replay) -> None:
    kind, depth = "sensor_msgs/msg/CompressedImage", "/camera/depth/compressedDepth"
    everything = [*messages(), *(message._replace(topic=depth) for message in frames_of())]
    bag = save(replay.folder / "bag", everything, **{depth: kind, "/rear/image/compressed": kind})
    replay.ask("out", bag=bag)
    assert len(replay.answers("out")) == 14


def test_no_camera_at_all(replay: Replay) -> None:
    bag = save(replay.folder / "bag", [message for message in messages() if message.topic != IMAGE])
    assert "no colour images" in replay.ask("out", bag=bag, code=2)


def test_no_bag(replay: Replay) -> None:
    assert "does not exist" in replay.ask("out", bag=replay.folder / "nothing", code=2)


def test_a_bag_that_is_cut_off(replay: Replay) -> None:
    shutil.copytree(BAG, replay.folder / "bag")
    os.truncate(replay.folder / "bag" / "tabletop_bag.mcap", 300_000)
    assert "cut off or damaged" in replay.ask("out", bag=replay.folder / "bag", code=1)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--depth", DEPTH],
        ["--camera-info", INFO],
        ["--every", "-1"],
        ["--every", "inf"],
        ["--every", "1e300"],
        ["--depth-max-dt", "nan"],
        ["--depth-max-dt", "11"],
        ["--out", "."],
        ["--min-iou", "2"],
        ["--precision", "fp4"],
        ["--max-new-tokens", "0"],
        ["--unheard-of"],
    ],
)
def test_wrong_usage(replay: Replay, arguments: Sequence[str]) -> None:
    replay.ask("out", *arguments, code=2)
    assert list(replay.folder.iterdir()) == []


def test_a_checkpoint_that_cannot_be_loaded(replay: Replay) -> None:
    def load(*_: Any, **__: Any) -> Any:
        raise CheckpointError("nowhere is no checkpoint: name a folder that is one")

    assert "nowhere is no checkpoint" in replay.ask("out", load=load, code=1)


def test_the_help_teaches(replay: Replay) -> None:
    printed = replay("--help")
    for part in ("--ask", "--expect", "--vision-tower", "ros2 run lisa_ros replay", "Exit codes: 0"):
        assert part in printed


def test_pictures_are_read_by_the_nodes_own_conversions() -> None:
    """A bag's image is decoded to what the node would see: there is one decoder."""
    with BagReader(BAG) as bag:
        image = bag.decode(next(bag.messages([IMAGE])))
    assert (conversions.to_rgb(image) == image.data.reshape(240, 320, 3)).all()
