"""`lisa label answers` with the bag itself: its frames become the pictures."""

import json
from pathlib import Path

import numpy as np
import tabletop
from pycocotools import mask as coco
from typer.testing import CliRunner

from lisa_core.cli import app
from lisa_core.datasets.reasonseg import TARGET, open_split
from lisa_ros.bag_frames import Frames
from lisa_ros.bags import BagReader

BAG = Path(__file__).resolve().parent.parent / "data" / "tabletop_bag"


def label(*words):
    return CliRunner(env={"COLUMNS": "300", "TERM": "dumb"}).invoke(app, ["label", "answers", *map(str, words)])


def answer(frame, mask, stamp=0):
    encoded = coco.encode(np.asfortranarray(mask, np.uint8))
    rle = {"size": list(encoded["size"]), "counts": encoded["counts"].decode()}
    segments = [{"box": [0, 0, 1, 1], "area": 1, "score": 0.9, "mask": rle}]
    sec, nanosec = divmod(stamp, 10**9)
    stamp = {"sec": sec, "nanosec": nanosec}
    return {"frame": frame, "stamp": stamp, "question": "segment the cup", "segments": segments}


def accepted(path, *frames):
    """A replay's JSON with an answer about each of these frames of the bag in `test/data`."""
    stamps = [frame["stamp"] for frame in tabletop.truth()["frames"]]
    mask = np.ones(tabletop.labels()[0].shape, bool)
    path.write_text(json.dumps({"answers": [answer(frame, mask, stamps[frame]) for frame in frames]}))
    return path


def test_frames_of_a_bag_become_pictures(tmp_path):
    with BagReader(BAG) as bag:
        frames = Frames(bag, "", "", "", 0)
        pictures = {frame.number: frames.rgb(frame) for frame in frames}
        stamps = [frame.stamp for frame in frames]
    last = max(pictures)
    mask = np.zeros(pictures[0].shape[:2], bool)
    mask[20:60, 30:90] = True
    content = {"answers": [answer(0, mask, stamps[0]), answer(last, mask, stamps[last]), answer(last + 1, mask)]}
    (tmp_path / "cups.json").write_text(json.dumps(content))
    result = label(tmp_path / "cups.json", BAG, "--out", tmp_path / "out", "--val", 0)
    assert result.exit_code == 1
    assert f"has no frame {last + 1}" in result.stderr
    samples = {entry.name: entry.read() for entry in open_split(tmp_path / "out", "train").entries}
    assert sorted(samples) == ["frame_000000.png", f"frame_{last:06}.png"]
    assert np.array_equal(samples["frame_000000.png"].image, pictures[0])
    assert np.array_equal(samples["frame_000000.png"].truth == TARGET, mask)


def test_a_damaged_frame_of_a_bag_is_told_and_the_rest_is_written(tmp_path):
    messages = tabletop.messages()
    first = next(message for message in messages if message.topic == tabletop.IMAGE)
    messages[messages.index(first)] = first._replace(data=first.data[:40])
    bag = tabletop.save(tmp_path / "bag", messages)
    answers = accepted(tmp_path / "cups.json", 0, 1)
    result = label(answers, bag, "--camera", tabletop.IMAGE, "--out", tmp_path / "out", "--val", 0)
    assert result.exit_code == 1
    assert f"{bag} is cut off or damaged" in result.stderr
    assert [entry.name for entry in open_split(tmp_path / "out", "train").entries] == ["frame_000001.png"]


def test_a_bag_that_lacks_a_frame_gives_no_answer_the_picture_of_another(tmp_path):
    messages = tabletop.messages()
    images = [message for message in messages if message.topic == tabletop.IMAGE]
    messages.remove(images[1])
    bag = tabletop.save(tmp_path / "bag", messages)
    answers = accepted(tmp_path / "cups.json", 0, 1, 2)
    result = label(answers, bag, "--camera", tabletop.IMAGE, "--out", tmp_path / "out", "--val", 0)
    assert result.exit_code == 1
    for shifted in (1, 2):
        assert f"Frame {shifted} of {bag} is not the one that was asked about" in result.stderr
    assert [entry.name for entry in open_split(tmp_path / "out", "train").entries] == ["frame_000000.png"]


def test_what_is_no_bag_is_told(tmp_path):
    (tmp_path / "cups.json").write_text('{"answers": []}')
    result = label(tmp_path / "cups.json", tmp_path / "nowhere", "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert "There is no bag at" in result.stderr
