"""Rendered tabletops as labels: the things of one kind, and others beside them so that these are not forgotten."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from lisa_core.errors import DatasetError
from lisa_core.evaluation.tabletop import Tabletop, open_scenes
from lisa_core.labelling.sources import Label, Mask
from lisa_core.tabletop import english, wordings
from lisa_core.tabletop.asking import Asker
from lisa_core.tabletop.kinds import Kind
from lisa_core.tabletop.sight import Seen, look

_SENTENCES = 6
"""Ways to ask for a thing by name, for each picture, at most."""


def from_scenes(folder: Path, kind: Kind, questions: Sequence[str], others: int) -> tuple[list[Label], list[str]]:
    """What is clearly seen of a kind in the scenes of a folder, by its name, in instructions with it, and in questions.

    Args:
        folder: as `lisa tabletop render` writes it.
        kind: of what is to be found; pictures with several of it are left out.
        questions: that the kind is the answer to.
        others: at most so many other things of each picture become labels, too, drawn by lot but the same each time.

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
        rng = np.random.default_rng(scene.index)
        asker = Asker(look(view), rng, "train")
        if (wanted := asker.sight.alone({kind.name})) is None:
            continue
        labels += _labels(asker, scene, wanted, questions)
        rest = [thing for thing in asker.sight.clear if asker.sight.alone({thing.kind}) and thing is not wanted]
        for place in rng.permutation(len(rest))[:others]:
            labels += _labels(asker, scene, rest[place], ())
    if not labels and not faults:
        raise DatasetError(f"{folder} shows no {kind.name}; render scenes: lisa tabletop render --with '{kind.name}'.")
    return labels, faults


def _labels(asker: Asker, scene: Tabletop, thing: Seen, questions: Sequence[str]) -> list[Label]:
    """Two of a thing: as the format has it, names and sentences are apart."""
    names = english.names(thing.kind)
    asked = [asker.words(wordings.SHOW, it=f"the {asker.name(thing.kind)}") for _ in range(_SENTENCES)]
    sentences = tuple(dict.fromkeys((*questions, *(sentence[0].upper() + sentence[1:] for sentence in asked))))
    masks = partial(_masks, scene, thing.index)
    return [
        Label(scene.picture.stem, queries, is_sentence, lambda: scene.picture, masks)
        for queries, is_sentence in ((names, False), (sentences, True))
    ]


def _masks(scene: Tabletop, thing: int) -> tuple[Mask, Mask]:
    """What is seen of a thing; nothing of it is in doubt."""
    seen = scene.read().mask(thing)
    return seen, np.zeros_like(seen)
