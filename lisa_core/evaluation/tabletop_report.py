"""Results of tabletop questions: scores by kind of question, as JSON, as CSV, and as a contact sheet of the worst."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from lisa_core.evaluation import report
from lisa_core.evaluation.metrics import score
from lisa_core.evaluation.run import Failure
from lisa_core.evaluation.tabletop import Result, Verdict, held_out_dialogues
from lisa_core.overlay import Panel
from lisa_core.tabletop.dataset import StoredScene
from lisa_core.template import SEG


@dataclass(frozen=True)
class Scores:
    """Scores of some questions; None where no question counts.

    Attributes:
        questions: their number.
        giou, ciou: of those with a target.
        counts: of those with a target, the share answered with the right number of masks.
        refusals: of those about something that is not there, the share answered without a mask.
        named: of the explanations, the share that names the right object.
        words: of those to be answered in words alone, the share answered truly.
    """

    questions: int
    giou: float | None
    ciou: float | None
    counts: float | None
    refusals: float | None
    named: float | None
    words: float | None


def scores(results: Sequence[Result]) -> dict[str, Scores]:
    """The scores of `all` questions, then by kind."""
    verdicts = [verdict for result in results for verdict in result.verdicts]
    kinds = sorted({verdict.kind for verdict in verdicts})
    return {"all": _scores(verdicts)} | {
        kind: _scores([verdict for verdict in verdicts if verdict.kind == kind]) for kind in kinds
    }


def _scores(verdicts: Sequence[Verdict]) -> Scores:
    pixels = score([each.overlap for each in verdicts if each.overlap])
    return Scores(
        questions=len(verdicts),
        giou=pixels.giou,
        ciou=pixels.ciou,
        counts=_share(each.masks == each.targets for each in verdicts if each.targets),
        refusals=_share(each.masks == 0 for each in verdicts if each.refusal),
        named=_share(bool(each.says) for each in verdicts if each.targets and each.says is not None),
        words=_share(bool(each.says) for each in verdicts if not each.targets and each.says is not None),
    )


def _share(verdicts: Iterable[bool]) -> float | None:
    counted = list(verdicts)
    return sum(counted) / len(counted) if counted else None


def summary(settings: Mapping[str, Any], results: Sequence[Result], failures: Sequence[Failure]) -> dict[str, Any]:
    """The JSON of a run: settings, scores overall and by kind, each question, and what failed."""
    overall, *by_kind = scores(results).items()
    return {
        **settings,
        **asdict(overall[1]),
        "by_kind": {kind: asdict(each) for kind, each in by_kind},
        "asked": [_record(result.image, verdict) for result in results for verdict in result.verdicts],
        "failed": [asdict(failure) for failure in failures],
    }


_COLUMNS = ("image", "kind", "turn", "question", "expected", "answer", "targets", "masks", "says", "iou")


def _record(image: str, verdict: Verdict) -> dict[str, Any]:
    fields = {"image": image, **{name: getattr(verdict, name) for name in _COLUMNS[1:-1]}}
    pixels = verdict.overlap
    return fields | {"iou": pixels.iou if pixels else None}


def as_csv(results: Sequence[Result]) -> bytes:
    """A table with a line for each question."""
    return report.as_csv(
        _COLUMNS, (_record(result.image, verdict) for result in results for verdict in result.verdicts)
    )


def sheet(scenes: Sequence[StoredScene], results: Sequence[Result], dialogues: int) -> bytes:
    """A PNG of the worst answers, the worst first: each with its masks on the left and the truth on the right.

    Args:
        scenes: of the results, in any order.
        results: at least one, with at least one question.
        dialogues: how many were held about each scene.
    """
    by_name = {scene.name: scene for scene in scenes}
    asked = [(result, number) for result in results for number in range(len(result.verdicts))]
    worst = sorted(asked, key=lambda each: _goodness(each[0].verdicts[each[1]]))[: report.WORST]
    return report.sheet([_panels(by_name[result.image], result, number, dialogues) for result, number in worst])


def _goodness(verdict: Verdict) -> float:
    if verdict.overlap:
        return verdict.overlap.iou
    return float(verdict.says if verdict.says is not None else verdict.masks == 0)


def _panels(scene: StoredScene, result: Result, number: int, dialogues: int) -> tuple[Panel, Panel]:
    view = scene.read()
    turns = [turn for dialogue in held_out_dialogues(scene, view, dialogues) for turn in dialogue.turns]
    verdict = result.verdicts[number]
    said = f"IoU {verdict.overlap.iou:.3f}: {verdict.answer}" if verdict.overlap else verdict.answer
    masks = [verdict.mask] if np.any(verdict.mask) else []
    targets = {f"{place}. {SEG}": view.covered(each) for place, each in enumerate(turns[number].masks, 1)}
    words = verdict.expected.replace(SEG, "SEG")
    answer, truth = report.compared(view.rgb, f"{verdict.kind}: {verdict.question}", said, masks, targets)
    return answer, Panel(words, truth.picture, truth.text)
