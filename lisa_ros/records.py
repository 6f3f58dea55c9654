"""Answers in files: JSON with masks as COCO RLE, a journal that survives a kill, and the comparison of two runs."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lisa_core.answer import Answer, Box, Segment
from lisa_core.datasets import coco
from lisa_core.errors import LisaError, brief
from lisa_core.files import write_whole
from lisa_core.geometry import Placement, Vector
from lisa_core.json_lines import JsonLines, decoded, encoded
from lisa_ros.pairing import nanoseconds

SHIFT, RELATIVE_SHIFT = 0.005, 0.02
"""How far a position may move without counting as a difference: m, plus m per metre of distance from the camera."""


class RecordError(LisaError):
    """A file of answers cannot be read, or is of another run; the sentence names the file and the remedy."""


@dataclass(frozen=True)
class SegmentRecord:
    """A segment of an answer, as `lisa segment` writes it too.

    Attributes:
        box: (x, y, width, height), px.
        area: px.
        score: the decoder's raw IoU estimate.
        mask: COCO RLE, `{"size": [height, width], "counts": "..."}`.
        position, size: m, along the camera's optical axes; None without depth.
    """

    box: Box
    area: int
    score: float
    mask: Mapping[str, Any]
    position: Vector | None = None
    size: Vector | None = None

    @property
    def pixels(self) -> NDArray[np.bool_]:
        """The mask, (H, W)."""
        return coco.decode(self.mask)

    @property
    def placement(self) -> Placement | None:
        """Position and size; None if unknown."""
        return Placement(self.position, self.size) if self.position and self.size else None


@dataclass(frozen=True)
class Record:
    """The answer to one question about one frame of a bag, or why there is none.

    Attributes:
        frame: the frame's number on its topic, from 0; stamps are no key, for they may repeat or all be 0.
        stamp: of the frame's header, ns.
        text: of the answer; empty if there is an error.
        error: why there is no answer; empty if there is one.
    """

    frame: int
    stamp: int
    question: str
    text: str = ""
    segments: tuple[SegmentRecord, ...] = ()
    error: str = ""

    @property
    def key(self) -> tuple[int, str]:
        """Identifies the record among those of its bag."""
        return self.frame, self.question

    @classmethod
    def of(
        cls, frame: int, stamp: int, question: str, answer: Answer, placements: Sequence[Placement | None]
    ) -> "Record":
        """The record of an answer, with one placement (or None) per segment."""
        segments = tuple(
            SegmentRecord(
                box=segment.box,
                area=segment.area,
                score=float(segment.score),
                mask=coco.encode(segment.mask),
                position=placement.position if placement else None,
                size=placement.size if placement else None,
            )
            for segment, placement in zip(answer.segments, placements, strict=True)
        )
        return cls(frame, stamp, question, answer.text, segments)

    @property
    def answer(self) -> Answer:
        """The answer, without tokens, timings, embeddings and logits, which a record does not keep."""
        nothing = np.zeros(0, np.float32)
        segments = (Segment(s.pixels, s.score, s.box, nothing, nothing) for s in self.segments)
        return Answer(self.text, tuple(segments))

    def to_json(self) -> dict[str, Any]:
        """The record as JSON: the stamp as ROS writes it, and either the answer or the error."""
        sec, nanosec = divmod(self.stamp, 1_000_000_000)
        entry = {
            "frame": self.frame,
            "stamp": {"sec": sec, "nanosec": nanosec},
            "question": self.question,
        }
        if self.error:
            return entry | {"error": self.error}
        return entry | {"text": self.text, "segments": [asdict(segment) for segment in self.segments]}

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> "Record":
        """The inverse of `to_json`; raises KeyError, TypeError, ValueError or OverflowError if it is no record."""
        segments = (
            SegmentRecord(
                box=_box(segment["box"]),
                area=int(segment["area"]),
                score=float(segment["score"]),
                mask=_mask(segment["mask"]),
                position=_vector(segment.get("position")),
                size=_vector(segment.get("size")),
            )
            for segment in entry.get("segments", ())
        )
        return cls(
            frame=int(entry["frame"]),
            stamp=nanoseconds(int(entry["stamp"]["sec"]), int(entry["stamp"]["nanosec"])),
            question=str(entry["question"]),
            text=str(entry.get("text", "")),
            segments=tuple(segments),
            error=str(entry.get("error", "")),
        )


def _box(values: Iterable[int]) -> Box:
    x, y, width, height = map(int, values)
    return x, y, width, height


def _mask(rle: Mapping[str, Any]) -> dict[str, Any]:
    mask = {"size": list(rle["size"]), "counts": str(rle["counts"])}
    coco.decode(mask)  # raises for a damaged mask now, while its file is known and before anything is asked
    return mask


def _vector(values: Iterable[float] | None) -> Vector | None:
    if values is None:
        return None
    x, y, z = map(float, values)
    return x, y, z


def write_records(path: Path, run: Mapping[str, Any], records: Iterable[Record]) -> None:
    """Writes `{"run": ..., "answers": [...]}`, one line per record; replaces an older file only when it is complete."""
    answers = b",\n".join(encoded(record.to_json()) for record in records)
    write_whole({path: b'{"run": %b,\n"answers": [\n%b\n]}\n' % (encoded(run), answers)})


def read_records(path: Path) -> list[Record]:
    """The records in a file of `write_records`; raises RecordError if it is no such file."""
    try:
        return [Record.from_json(entry) for entry in decoded(path.read_text(encoding="utf-8"))["answers"]]
    except (OSError, LookupError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise RecordError(f"{path} is no file of answers that replay wrote: {brief(error)}.") from error


def has_answers(journal: Path) -> bool:
    """Whether there is a journal at that path with more than its first line."""
    return journal.exists() and journal.read_bytes().count(b"\n") > 1


class Journal:
    """The answers that a run has so far, one JSON line each, in a file that survives a kill at any time.

    The first line describes the run: only the same run may continue it. An incomplete last line, which was being
    written when the process was killed, is dropped.
    """

    def __init__(self, path: Path, run: Mapping[str, Any]) -> None:
        """Opens the journal, or starts one; raises RecordError if it is damaged, or has answers of another run."""
        self.path = path
        self.resumed = path.exists()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lines = JsonLines(path)
        try:
            self.records = self._found(run)
        except RecordError:
            self._lines.close()
            raise
        if not self.records:
            self._lines.clear()
            self._lines.add(run)

    def _found(self, run: Mapping[str, Any]) -> dict[tuple[int, str], Record]:
        whole = self._lines.lines()
        try:
            lines = [decoded(line) for line in whole]
            changed = sorted(key for key in run if lines[0].get(key, run[key]) != run[key]) if lines else []
            records = [Record.from_json(line) for line in lines[1:]]
        except (LookupError, TypeError, ValueError, OverflowError, AttributeError) as error:
            raise RecordError(f"{self.path} is damaged ({brief(error)}): delete it to start again.") from error
        if changed and records:
            raise RecordError(
                f"{self.path} has the answers of a run that was not finished, and of which this one differs in "
                f"{', '.join(changed)}: give the same arguments, files and device to finish that one, or delete the "
                "file to start again."
            )
        return {record.key: record for record in records}

    def add(self, record: Record) -> None:
        """Adds a record; it is on the disk when this returns."""
        self._lines.add(record.to_json())
        self.records[record.key] = record

    def close(self) -> None:
        """Closes the file, and leaves it for the next run to continue, unless there is no answer in it."""
        self._lines.close()
        if not self.records:
            self.path.unlink(missing_ok=True)

    def delete(self) -> None:
        """Closes and removes the file, when the run is finished."""
        self._lines.close()
        self.path.unlink(missing_ok=True)


@dataclass(frozen=True)
class Difference:
    """One way in which an answer differs from the expected one; `what`, `expected` and `got` are for people."""

    frame: int
    stamp: int
    question: str
    what: str
    expected: str
    got: str


def compare(expected: Sequence[Record], got: Sequence[Record], min_iou: float) -> Iterator[Difference]:
    """The differences, in the order of the frames.

    An answer is new or missing, or has another error, text or number of masks; a mask is below `min_iou`; a position is
    new, missing or moved.
    """
    before, now = ({record.key: record for record in records} for records in (expected, got))
    for key in sorted(before.keys() | now.keys()):
        old, new = before.get(key), now.get(key)
        shown = new or old
        assert shown is not None
        for what, was, has in _changes(old, new, min_iou):
            yield Difference(shown.frame, shown.stamp, shown.question, what, was, has)


def _changes(old: Record | None, new: Record | None, min_iou: float) -> Iterator[tuple[str, str, str]]:
    if old is None or new is None:
        yield "asked", "yes" if old else "no", "yes" if new else "no"
        return
    if old.error != new.error:
        yield "error", old.error or "none", new.error or "none"
    if old.text != new.text:
        yield "text", old.text, new.text
    if len(old.segments) != len(new.segments):
        yield "masks", str(len(old.segments)), str(len(new.segments))
        return
    for index, (was, has) in enumerate(zip(old.segments, new.segments, strict=True)):
        iou = _iou(was.pixels, has.pixels)
        if iou < min_iou:
            yield f"mask {index}", f"IoU >= {min_iou:g}", f"{iou:.3f}"
        if _moved(was.position, has.position):
            yield f"position {index}", _metres(was.position), _metres(has.position)


def _moved(old: Vector | None, new: Vector | None) -> bool:
    """Whether a position was added, is missing, or moved further than noise of depth explains."""
    if old is None or new is None:
        return old is not new
    return math.dist(old, new) > SHIFT + RELATIVE_SHIFT * math.hypot(*old)


def _metres(position: Vector | None) -> str:
    return "none" if position is None else ", ".join(f"{value:.3f}" for value in position) + " m"


def _iou(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    """IoU of two masks; 1 for two empty masks, 0 for masks of different sizes."""
    if a.shape != b.shape:
        return 0.0
    union = np.count_nonzero(a | b)
    return np.count_nonzero(a & b) / union if union else 1.0
