"""Results as JSON, as CSV, and as a contact sheet of the worst."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from lisa_core import files, overlay
from lisa_core.answer import Box, tight_box
from lisa_core.evaluation.metrics import Score, score
from lisa_core.evaluation.runner import Question, Result
from lisa_core.reasonseg import IGNORED, TARGET, Length

WORST = 12
"""Images on the contact sheet."""

_PANEL_WIDTH = 480


@dataclass(frozen=True)
class Failure:
    """An image that could not be evaluated, and why."""

    image: str
    reason: str


def summary(
    settings: Mapping[str, Any],
    results: Sequence[Result],
    failures: Sequence[Failure],
    faults: Sequence[str],
    explanations: Mapping[tuple[str, str], str],
) -> dict[str, Any]:
    """The JSON of a run: settings, scores overall and by length of query, each image, and what failed."""
    overall, *by_length = scores(results).items()
    return {
        **settings,
        "giou": overall[1].giou,
        "ciou": overall[1].ciou,
        "by_length": {length: asdict(each) for length, each in by_length},
        "images": [_record(result, explanations) for result in results],
        "failed": [asdict(failure) for failure in failures],
        "faults": list(faults),
    }


def scores(results: Sequence[Result]) -> dict[str, Score]:
    """The scores of `all` images, then by length of query."""
    overlaps = {"all": [result.overlap for result in results]}
    for length in get_args(Length):
        overlaps[length] = [result.overlap for result in results if result.length == length]
    return {name: score(each) for name, each in overlaps.items()}


def _record(result: Result, explanations: Mapping[tuple[str, str], str]) -> dict[str, Any]:
    explanation = explanations.get((result.image, result.query))
    return {
        "image": result.image,
        "query": result.query,
        "length": result.length,
        "iou": result.overlap.iou,
        "intersection": result.overlap.intersection,
        "union": result.overlap.union,
        "answer": result.answer,
        **({} if explanation is None else {"explanation": explanation}),
    }


def as_csv(results: Sequence[Result]) -> bytes:
    """A table with a line for each image."""
    columns = ("image", "query", "length", "iou", "intersection", "union", "answer")
    table = io.StringIO(newline="")
    writer = csv.DictWriter(table, columns)
    writer.writeheader()
    writer.writerows(_record(result, {}) for result in results)
    return table.getvalue().encode(errors="backslashreplace")


class _Region(NamedTuple):
    mask: NDArray[np.bool_]
    box: Box


def sheet(entries: Sequence[Question], results: Sequence[Result]) -> bytes:
    """A PNG of the worst images, the worst first: each with its mask on the left and the ground truth on the right.

    Args:
        entries: of the results, in any order.
        results: at least one.
    """
    by_name = {entry.name: entry for entry in entries}
    worst = sorted(results, key=lambda result: result.overlap.iou)[:WORST]
    panels = [panel for result in worst for panel in _panels(by_name[result.image], result)]
    columns = 2 if len(worst) < 3 else 4
    return files.png(overlay.contact_sheet(panels, columns, _PANEL_WIDTH))


def _panels(entry: Question, result: Result) -> tuple[overlay.Panel, overlay.Panel]:
    sample = entry.read()
    regions = {"target [SEG]": sample.truth == TARGET}
    if (ignored := sample.truth == IGNORED).any():
        regions["ignored [SEG]"] = ignored
    said = f"IoU {result.overlap.iou:.3f}: {result.answer}"
    return compared(sample.image, f"{result.image}: {result.query}", said, [result.mask], regions)


def compared(
    image: NDArray[np.uint8],
    question: str,
    said: str,
    masks: Sequence[NDArray[np.bool_]],
    truth: Mapping[str, NDArray[np.bool_]],
) -> tuple[overlay.Panel, overlay.Panel]:
    """Two panels: the answer to a question, and the ground truth.

    Args:
        image: (H, W, 3) uint8 RGB.
        question: heading of the answer's panel.
        said: the score of the answer, and its words.
        masks: (H, W) each, of the answer.
        truth: the true masks by name; `[SEG]` in a name is drawn as the badge of the mask.
    """
    badges = "".join("[SEG]" for _ in masks)
    words = said.replace("[SEG]", "SEG")
    return (
        overlay.Panel(question, overlay.draw(image, _drawn(masks)), f"answer {badges} {words}"),
        overlay.Panel("ground truth", overlay.draw(image, _drawn(list(truth.values()))), ", ".join(truth)),
    )


def _drawn(masks: Sequence[NDArray[np.bool_]]) -> list[_Region]:
    return [_Region(mask, tight_box(mask)) for mask in masks]
