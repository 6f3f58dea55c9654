"""Evaluation on rendered tabletops: asks questions in held-out wordings, and judges the answers.

The questions about a scene depend only on its JSON file.
"""

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lisa_core import files
from lisa_core.answer import Answer, union
from lisa_core.datasets.reasonseg import TARGET, digest_of
from lisa_core.errors import Cancelled
from lisa_core.evaluation import DIALOGUES
from lisa_core.evaluation.metrics import Overlap, overlap
from lisa_core.options import MAX_NEW_TOKENS
from lisa_core.tabletop.dataset import StoredScene
from lisa_core.tabletop.questions import Dialogue, Turn, dialogues
from lisa_core.tabletop.scene import View
from lisa_core.template import SEG

if TYPE_CHECKING:
    from lisa_core.engine import LisaEngine


def held_out_dialogues(scene: StoredScene, view: View, count: int) -> list[Dialogue]:
    """Dialogues about a scene in the held-out wordings, the same each time."""
    seed = int(digest_of((scene.annotation,))[:16], 16)
    return dialogues(view, np.random.default_rng(seed), "held_out", count)


@dataclass(frozen=True)
class Verdict:
    """The result of one question.

    Attributes:
        kind: of the dialogue.
        turn: from 0.
        expected, answer: the true answer, and the model's.
        targets, masks: number of true masks, and of the model's.
        overlap: of the masks with the targets that they fit best, as no question asks for an order; None if there are
            no targets.
        says: whether the answer has the words that it must have; None if it need not have any.
        mask_png: the union of the masks as a PNG: 255 on it, 0 elsewhere.
    """

    kind: str
    turn: int
    question: str
    expected: str
    answer: str
    targets: int
    masks: int
    overlap: Overlap | None
    says: bool | None
    mask_png: bytes

    @property
    def refusal(self) -> bool:
        """Whether it asks for something that is not there."""
        return not self.targets and self.says is None

    @property
    def mask(self) -> NDArray[np.bool_]:
        """(H, W), of the size of the picture."""
        return files.mask_from_png(self.mask_png)


@dataclass(frozen=True)
class Result:
    """The results of the questions about one scene, in order."""

    image: str
    verdicts: tuple[Verdict, ...]

    def packed(self) -> dict[str, Any]:
        """Its fields, serialisable as JSON."""
        verdicts = [asdict(each) | {"mask_png": base64.b64encode(each.mask_png).decode()} for each in self.verdicts]
        return {"image": self.image, "verdicts": verdicts}


def unpacked(fields: Mapping[str, Any]) -> Result:
    """The inverse of `packed`; raises ValueError, LookupError or TypeError if it is given anything else."""
    verdicts = []
    for each in fields["verdicts"]:
        pixels = None if each["overlap"] is None else Overlap(**each["overlap"])
        mask_png = base64.b64decode(each["mask_png"], validate=True)
        verdicts.append(Verdict(**(each | {"overlap": pixels, "mask_png": mask_png})))
    return Result(str(fields["image"]), tuple(verdicts))


def evaluate(
    engine: "LisaEngine", scene: StoredScene, count: int = DIALOGUES, max_new_tokens: int = MAX_NEW_TOKENS
) -> Result:
    """Asks about a scene: the first turns of all dialogues in one batch, then the second ones and so on.

    The history of a turn has the model's own answers.

    Args:
        engine: with the model.
        scene: to ask about.
        count: number of dialogues; each has one question or more.
        max_new_tokens: of each answer.

    Raises:
        DatasetError, ImageError: the scene's files are damaged.
        PromptError, OutOfMemoryError: the engine cannot answer.
    """
    view = scene.read()
    frame = engine.encode(view.rgb)
    asked = held_out_dialogues(scene, view, count)
    said: list[list[Answer]] = [[] for _ in asked]
    for number in range(max((len(dialogue.turns) for dialogue in asked), default=0)):
        going = [index for index, dialogue in enumerate(asked) if number < len(dialogue.turns)]
        answers = engine.ask_many(
            frame,
            [asked[index].turns[number].question for index in going],
            [_history(asked[index], said[index]) for index in going],
            max_new_tokens=max_new_tokens,
        )
        for index, answer in zip(going, answers, strict=True):
            if not isinstance(answer, Cancelled):  # never: there is nothing to cancel it
                said[index].append(answer)
    verdicts = (
        judge(view, dialogue.kind, number, turn, answer)
        for dialogue, answers in zip(asked, said, strict=True)
        for number, (turn, answer) in enumerate(zip(dialogue.turns, answers, strict=True))
    )
    return Result(scene.name, tuple(verdicts))


def _history(dialogue: Dialogue, said: Sequence[Answer]) -> tuple[tuple[str, str], ...]:
    return tuple((turn.question, answer.text) for turn, answer in zip(dialogue.turns, said, strict=False))


def judge(view: View, kind: str, number: int, turn: Turn, answer: Answer) -> Verdict:
    """Compares an answer with the true one."""
    masks = [segment.mask for segment in answer.segments]
    return Verdict(
        kind=kind,
        turn=number,
        question=turn.question,
        expected=turn.answer,
        answer=answer.text,
        targets=len(turn.masks),
        masks=len(masks),
        overlap=_paired(masks, [view.covered(each) for each in turn.masks]) if turn.masks else None,
        says=_says(answer.text, turn) if turn.says else None,
        mask_png=files.mask_png(union(answer.segments, view.owner.shape)),
    )


def _paired(masks: Sequence[NDArray[np.bool_]], targets: Sequence[NDArray[np.bool_]]) -> Overlap:
    """Pairs masks and targets greedily, best IoU first; what is left over only adds to the union."""
    overlaps = {
        (mask, target): overlap(masks[mask], np.multiply(targets[target], TARGET, dtype=np.uint8))
        for mask in range(len(masks))
        for target in range(len(targets))
    }
    intersection, union = 0, sum(int(pixels.sum()) for pixels in (*masks, *targets))
    while overlaps:
        mask, target = max(overlaps, key=lambda pair: overlaps[pair].iou)
        intersection += overlaps[mask, target].intersection
        overlaps = {pair: each for pair, each in overlaps.items() if pair[0] != mask and pair[1] != target}
    return Overlap(intersection, union - intersection)


def _says(text: str, turn: Turn) -> bool:
    """Whether the answer has all the required words, and no mask if there is no target."""
    there = all(re.search(rf"\b{word}\b", text, re.IGNORECASE) for word in turn.says)
    return there and (bool(turn.masks) or SEG not in text)
