"""Results of single masks: scores by length of query, as JSON, as CSV, and as a contact sheet of the worst."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, get_args

from lisa_core.datasets.reasonseg import IGNORED, TARGET, Length
from lisa_core.evaluation import report
from lisa_core.evaluation.masks import Result, SampleEntry
from lisa_core.evaluation.metrics import Score, score
from lisa_core.evaluation.run import Failure
from lisa_core.overlay import Panel
from lisa_core.template import SEG

_COLUMNS = ("image", "query", "length", "iou", "intersection", "union", "answer")


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
    return report.as_csv(_COLUMNS, (_record(result, {}) for result in results))


def sheet(entries: Sequence[SampleEntry], results: Sequence[Result]) -> bytes:
    """A PNG of the worst images, the worst first: each with its mask on the left and the ground truth on the right.

    Args:
        entries: of the results, in any order.
        results: at least one.
    """
    by_name = {entry.name: entry for entry in entries}
    worst = sorted(results, key=lambda result: result.overlap.iou)[: report.WORST]
    return report.sheet([_panels(by_name[result.image], result) for result in worst])


def _panels(entry: SampleEntry, result: Result) -> tuple[Panel, Panel]:
    sample = entry.read()
    regions = {f"target {SEG}": sample.truth == TARGET}
    if (ignored := sample.truth == IGNORED).any():
        regions[f"ignored {SEG}"] = ignored
    said = f"IoU {result.overlap.iou:.3f}: {result.answer}"
    return report.compared(sample.image, f"{result.image}: {result.query}", said, [result.mask], regions)
