"""Labels from rendered tabletops: things of one kind, and reminders of what the model knows already."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from lisa_core.errors import DatasetError
from lisa_core.labelling.sources import Label, Mask
from lisa_core.tabletop import english, wordings
from lisa_core.tabletop.asking import Asker, shown
from lisa_core.tabletop.dataset import StoredScene, open_scenes
from lisa_core.tabletop.kinds import Kind
from lisa_core.tabletop.questions import Turn, dialogues
from lisa_core.tabletop.scene import View
from lisa_core.tabletop.sight import Seen, look

_INSTRUCTIONS = 6
"""Most instructions with the name of a thing, for each picture."""


def from_scenes(
    folder: Path, kind: Kind | None, questions: Sequence[str], others: int
) -> tuple[list[Label], list[str]]:
    """Labels for things of a kind in the scenes of a folder: by name, in instructions, and in questions.

    Args:
        folder: of `lisa tabletop render`.
        kind: to find; pictures without exactly one clearly seen thing of it are left out. None: `others` only.
        questions: whose answer is the kind.
        others: number of questions about anything in each picture (by name, colour, place, use, about what is not
            there ...) that become labels as well, with their answers.

    Returns:
        The labels, and a sentence for each scene that is damaged.

    Raises:
        DatasetError: there are no scenes, or none shows the kind.
    """
    labels, faults = [], []
    for scene in open_scenes(folder):
        try:
            view = scene.read()
        except DatasetError as error:
            faults.append(str(error))
            continue
        asker = Asker(look(view), np.random.default_rng(scene.index), "train")
        wanted = asker.sight.alone({kind.name}) if kind else None
        if wanted:
            labels += _of_thing(asker, scene, wanted, questions)
        if wanted or not kind:
            labels += _of_anything(asker, scene, view, others)
    if kind and not labels and not faults:
        raise DatasetError(f"{folder} shows no {kind.name}; render scenes: lisa tabletop render --with '{kind.name}'.")
    return labels, faults


def _of_thing(asker: Asker, scene: StoredScene, thing: Seen, questions: Sequence[str]) -> list[Label]:
    """A label by name, and one with instructions and questions that are answered as the bundled model does."""
    it = f"the {thing.kind}"
    asked = dict.fromkeys((*questions, *(asker.ask(wordings.SHOW, it=it) for _ in range(_INSTRUCTIONS))))
    turns = [shown(asker, question, [thing]) for question in asked]
    answers = tuple(turn.answer for turn in turns if turn)
    masks = partial(_thing_masks, scene, thing.index)
    return [
        Label(scene.stem, english.names(thing.kind), False, lambda: scene.picture, masks),
        Label(scene.stem, tuple(asked), True, lambda: scene.picture, masks, answers),
    ]


def _of_anything(asker: Asker, scene: StoredScene, view: View, count: int) -> list[Label]:
    """Labels from the first turns of random dialogues."""
    asked = [dialogue.turns[0] for dialogue in dialogues(view, asker.rng, "train", count)]
    return [
        Label(
            scene.stem,
            (turn.question,),
            True,
            lambda: scene.picture,
            partial(_turn_masks, scene, turn),
            (turn.answer,),
        )
        for turn in asked
    ]


def _thing_masks(scene: StoredScene, thing: int) -> tuple[Mask, Mask]:
    """The visible pixels of a thing; none are ignored."""
    seen = scene.read().mask(thing)
    return seen, np.zeros_like(seen)


def _turn_masks(scene: StoredScene, turn: Turn) -> tuple[Mask, ...]:
    view = scene.read()
    nothing = np.zeros(view.owner.shape, bool)
    return (*([view.covered(targets) for targets in turn.masks] or [nothing]), nothing)
