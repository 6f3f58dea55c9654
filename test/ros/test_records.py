"""Answers in files are read back unchanged, survive a kill, and can be compared."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lisa_core import Answer, Segment
from lisa_core.answer import tight_box
from lisa_core.geometry import Placement, Vector
from lisa_ros.records import Difference, Journal, Record, RecordError, compare, has_answers, read_records, write_records

RUN: Mapping[str, Any] = {"bag": "drive", "every": 1.0}


def answer(*boxes: tuple[int, int, int, int], text: str = "It is [SEG].") -> Answer:
    """An answer with one mask per box, in an image of 30x20."""
    segments = []
    for x, y, width, height in boxes:
        mask = np.zeros((20, 30), bool)
        mask[y : y + height, x : x + width] = True
        nothing = np.zeros(0, np.float32)
        segments.append(Segment(mask, 0.1, tight_box(mask), nothing, nothing))
    return Answer(text, tuple(segments))


def record(*boxes: tuple[int, int, int, int], frame: int = 0, question: str = "where?", **fields: str) -> Record:
    return Record.of(frame, 1_500_000_000 + frame, question, answer(*boxes, **fields), [None] * len(boxes))


def test_a_record_comes_back_from_json_as_it_was() -> None:
    placement = Placement((0.1, 0.2, 1 / 3), (0.01, 0.02, 0.03))
    whole = answer((3, 4, 5, 6), (0, 0, 0, 0))
    before = Record.of(7, 1_750_000_000_123_456_789, "où? 🤖", whole, [placement, None])
    after = Record.from_json(json.loads(json.dumps(before.to_json())))
    assert after == before
    assert after.answer.text == whole.text
    for got, was in zip(after.answer.segments, whole.segments, strict=True):
        assert (got.mask == was.mask).all()
        assert (got.box, got.score) == (was.box, was.score)
    assert [segment.placement for segment in after.segments] == [placement, None]


def test_what_a_file_says_for_people_and_programs() -> None:
    entry = record((3, 4, 5, 6)).to_json()
    [segment] = entry["segments"]
    assert entry["stamp"] == {"sec": 1, "nanosec": 500_000_000}
    assert (entry["question"], entry["text"]) == ("where?", "It is [SEG].")
    assert (segment["box"], segment["area"], segment["mask"]["size"]) == ((3, 4, 5, 6), 30, [20, 30])
    assert "error" not in entry
    assert Record(0, 0, "where?", error="no").to_json().keys() == {"frame", "stamp", "question", "error"}


def test_a_file_comes_back(tmp_path: Path) -> None:
    records = [
        record((1, 1, 4, 4)),
        Record(1, 2, "where?", error="it was dark"),
        record((2, 2, 4, 4), frame=2, text=""),
    ]
    write_records(tmp_path / "out.json", RUN, records)
    assert read_records(tmp_path / "out.json") == records
    assert list(tmp_path.iterdir()) == [tmp_path / "out.json"]


DEEP = "[" * 100_000


@pytest.mark.parametrize(
    "content",
    ["", "{}", "[1]", '{"answers": [{"frame": 1}]}', '{"answers": 5}', "\x00\xff", pytest.param(DEEP, id="deep")],
)
def test_a_file_that_is_none_of_answers(tmp_path: Path, content: str) -> None:
    (tmp_path / "old.json").write_text(content)
    with pytest.raises(RecordError, match=r"old\.json is no file of answers"):
        read_records(tmp_path / "old.json")


def test_a_file_of_bytes_is_not_repeated(tmp_path: Path) -> None:
    for name, read in (("old.json", read_records), ("out.journal", lambda path: Journal(path, RUN))):
        (tmp_path / name).write_bytes(b"\xff" * 100_000 + b"\n")
        with pytest.raises(RecordError) as caught:
            read(tmp_path / name)
        assert len(str(caught.value)) < 500


DAMAGED: list[Mapping[str, Any]] = [
    {"size": [20, 30], "counts": ""},
    {"size": [20, 30], "counts": "abc"},
    {"size": [20, 30], "counts": "é"},
    {"size": [20, 30], "counts": "\udcff"},
    {"size": [20, 30], "counts": [1, 599]},
    {"size": [20], "counts": "hb0"},
    {"size": [0, 30], "counts": "0"},
    {"size": ["a", 30], "counts": "hb0"},
    {"size": [float("inf"), 30], "counts": "hb0"},
    {"size": [1e9, 1e9], "counts": "hb0"},
    {"size": [30, 20]},
]


@pytest.mark.parametrize("mask", DAMAGED)
def test_a_damaged_mask_is_told_when_its_file_is_read(tmp_path: Path, mask: Mapping[str, Any]) -> None:
    entry = record((1, 1, 4, 4)).to_json()
    entry["segments"][0]["mask"] = mask
    (tmp_path / "old.json").write_text(json.dumps({"run": {}, "answers": [entry]}))
    with pytest.raises(RecordError, match=r"old\.json is no file of answers"):
        read_records(tmp_path / "old.json")
    path = tmp_path / "out.journal"
    path.write_text(json.dumps(RUN) + "\n" + json.dumps(entry) + "\n")
    with pytest.raises(RecordError, match="delete it to start again"):
        Journal(path, RUN)


def test_a_journal_goes_on_where_it_was(tmp_path: Path) -> None:
    path = tmp_path / "out.journal"
    first, second = record((1, 1, 4, 4)), record((2, 2, 4, 4), frame=1)
    journal = Journal(path, RUN)
    assert not journal.resumed
    journal.add(first)
    journal.close()
    again = Journal(path, RUN)
    assert again.resumed
    assert again.records == {first.key: first}
    again.add(second)
    again.close()
    assert Journal(path, RUN).records == {first.key: first, second.key: second}


def test_a_journal_is_good_wherever_the_kill_cut_it_off(tmp_path: Path) -> None:
    path = tmp_path / "out.journal"
    journal = Journal(path, RUN)
    for frame in range(3):
        journal.add(record((1, 1, 4, 4), frame=frame))
    journal.close()
    whole = path.read_bytes()
    ends = [i + 1 for i, byte in enumerate(whole) if byte == ord("\n")]
    for length in range(len(whole) + 1):
        path.write_bytes(whole[:length])
        finished = max(0, sum(end <= length for end in ends) - 1)
        assert has_answers(path) == (finished > 0)
        journal = Journal(path, RUN)
        assert len(journal.records) == finished
        for frame in range(finished, 3):
            journal.add(record((1, 1, 4, 4), frame=frame))
        journal.close()
        assert path.read_bytes() == whole


def test_a_journal_of_another_run_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "out.journal"
    journal = Journal(path, RUN)
    journal.add(record((1, 1, 4, 4)))
    journal.close()
    with pytest.raises(RecordError, match="differs in every: give the same arguments") as refused:
        Journal(path, {**RUN, "every": 2.0})
    opened = [link.readlink() for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    assert refused.traceback, "which still has the frames that opened it"
    assert path not in opened


def test_a_journal_without_answers_gives_way_to_another_run(tmp_path: Path) -> None:
    path = tmp_path / "out.journal"
    Journal(path, RUN)  # and a kill
    assert (path.exists(), has_answers(path)) == (True, False)
    other = {**RUN, "every": 2.0}
    journal = Journal(path, other)
    journal.add(record((1, 1, 4, 4)))
    journal.close()
    assert has_answers(path)
    assert len(Journal(path, other).records) == 1


def test_of_a_journal_without_answers_nothing_is_left(tmp_path: Path) -> None:
    Journal(tmp_path / "out.journal", RUN).close()
    assert list(tmp_path.iterdir()) == []
    assert not has_answers(tmp_path / "out.journal")


@pytest.mark.parametrize(
    "content", ["a diary\n", "[1]\n", "{}\n[1]\n", "{}\n{}\n", "5\n", pytest.param(f"{{}}\n{DEEP}\n", id="deep")]
)
def test_a_journal_that_something_else_wrote_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "out.journal"
    path.write_text(content)
    with pytest.raises(RecordError, match="delete it to start again"):
        Journal(path, RUN)
    assert path.read_text() == content


def test_a_finished_journal_is_gone(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "out.journal", RUN)
    journal.delete()
    assert list(tmp_path.iterdir()) == []


def changes(old: Record | None, new: Record | None, min_iou: float = 0.95) -> list[tuple[str, str, str]]:
    found = compare([old] if old else [], [new] if new else [], min_iou)
    return [(change.what, change.expected, change.got) for change in found]


def test_the_same_is_no_difference() -> None:
    old = record((1, 1, 10, 10), (0, 0, 0, 0))
    assert changes(old, old) == []


def placed(*positions: Vector | None) -> Record:
    """An answer whose masks are at these positions."""
    placements = [Placement(position, (0.1, 0.1, 0.1)) if position else None for position in positions]
    return Record.of(0, 0, "where?", answer(*[(0, 0, 10, 10)] * len(positions)), placements)


@pytest.mark.parametrize(
    ("far", "allowed"),
    [(0.5, 0.015), (2.0, 0.045)],
)
def test_a_position_may_move_a_little_more_where_it_is_far(far: float, allowed: float) -> None:
    x, z = 0.6 * far, 0.8 * far
    old = placed((x, 0.0, z))
    assert changes(old, placed((x, 0.0, z + allowed - 1e-4))) == []
    [(what, expected, got)] = changes(old, placed((x, allowed + 1e-3, z)))
    assert (what, expected, got) == (
        "position 0",
        f"{x:.3f}, 0.000, {z:.3f} m",
        f"{x:.3f}, {allowed + 1e-3:.3f}, {z:.3f} m",
    )


def test_positions_come_and_go() -> None:
    old, new = placed(None, (0.1, 0.2, 1.0), None), placed((0.0, 0.0, 1.0), None, None)
    assert changes(old, new) == [
        ("position 0", "none", "0.000, 0.000, 1.000 m"),
        ("position 1", "0.100, 0.200, 1.000 m", "none"),
    ]


def test_a_mask_may_differ_a_little() -> None:
    old, new = record((0, 0, 10, 10)), record((0, 0, 10, 9))
    assert changes(old, new, min_iou=0.9) == []
    assert changes(old, new) == [("mask 0", "IoU >= 0.95", "0.900")]


def test_what_changed_is_named() -> None:
    old = record((0, 0, 10, 10), text="[SEG].")
    assert changes(old, record((0, 0, 10, 10), text="Yes, [SEG].")) == [("text", "[SEG].", "Yes, [SEG].")]
    assert changes(old, record(text="[SEG].")) == [("masks", "1", "0")]
    assert changes(record(text="[SEG]."), old) == [("masks", "0", "1")]
    assert changes(old, None) == [("asked", "yes", "no")]
    assert changes(None, old) == [("asked", "no", "yes")]
    failed = Record(0, 0, "where?", error="it was dark")
    assert ("error", "none", "it was dark") in changes(old, failed)
    assert changes(failed, failed) == []
    assert changes(failed, Record(0, 0, "where?", error="it was cold")) == [("error", "it was dark", "it was cold")]


def test_masks_of_another_size_are_not_the_same() -> None:
    old = record((0, 0, 10, 10))
    [segment] = answer((0, 0, 10, 10)).segments
    small = Segment(segment.mask[:15], 0.1, segment.box, segment.embedding, segment.low_res_logits)
    new = Record.of(0, 0, "where?", Answer("It is [SEG].", (small,)), [None])
    assert changes(old, new) == [("mask 0", "IoU >= 0.95", "0.000")]


def test_differences_come_in_the_order_of_the_frames() -> None:
    old = [record((0, 0, 5, 5), frame=frame, question=question) for frame in (2, 0) for question in ("b?", "a?")]
    new = [record(frame=frame, question=question) for frame in (0, 2) for question in ("a?", "b?")]
    found = list(compare(old, new, 0.95))
    assert [(change.frame, change.question) for change in found] == [(0, "a?"), (0, "b?"), (2, "a?"), (2, "b?")]
    assert found[0] == Difference(0, 1_500_000_000, "a?", "masks", "1", "0")
