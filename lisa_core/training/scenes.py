"""Rendered tabletops as lessons: what is where, for the encoders, and dialogues with their masks, for the rest."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lisa_core import preprocess
from lisa_core.model.lisa import LisaShape
from lisa_core.preprocess import SamSize
from lisa_core.tabletop.kinds import KINDS
from lisa_core.tabletop.questions import Dialogue, Turn, dialogues
from lisa_core.tabletop.scene import View
from lisa_core.template import BY_NAME
from lisa_core.tokenizer import Tokenizer
from lisa_core.training.batch import Packed, pack
from lisa_core.training.conversation import NOT_LEARNT, lesson
from lisa_core.training.vision import Senses, Truth

_COLOURS = tuple(sorted({colour for kind in KINDS for colour in kind.colours}))
_KIND_IDS = {kind.name: number for number, kind in enumerate(KINDS, start=1)}
SENSES = Senses(len(KINDS), len(_COLOURS))

_BRIGHTER, _TINTED, _STEEPER = 0.25, 0.08, 0.2
"""How far pictures are changed while the encoders learn: brightness, each colour, gamma; shares."""
_MASK_SIDE = 192
"""Masks are compared at half of SAM's input size, px of the longest side."""


@dataclass(frozen=True, eq=False)
class Sights:
    """Pictures for the encoders, and what is where in them."""

    for_clip: Tensor
    for_sam: Tensor
    clip_truth: Truth
    sam_truth: Truth


@dataclass(frozen=True, eq=False)
class Talk:
    """Dialogues about scenes: which scenes, what CLIP sees of them, what is said, where that is, and what is where."""

    scenes: list[int]
    for_clip: Tensor
    words: Packed
    sizes: list[SamSize]
    masks: list[Tensor]
    clip_truth: Truth


class Scenes:
    """Lessons by the number of the step; the same number gives the same ones.

    Args:
        read: the view of a scene by its number.
        count: how many scenes there are.
        seed: of what is drawn.
    """

    def __init__(self, read: Callable[[int], View], count: int, seed: int) -> None:
        self._read, self._count, self._seed = read, count, seed

    def sights(self, step: int, size: int, shape: LisaShape) -> Sights:
        """Pictures in changing light."""
        chosen, random = self._choose(step, size)
        views = [self._read(index) for index in chosen]
        pictures = [_relit(view.rgb, random) for view in views]
        side = 2 * shape.clip.image // shape.clip.patch
        return Sights(
            torch.stack([preprocess.for_clip(rgb, shape.clip.image) for rgb in pictures]),
            torch.stack([preprocess.for_sam(rgb, shape.sam.image)[0] for rgb in pictures]),
            _stacked([_what_is_where(view, _centre(view), side) for view in views]),
            _stacked([_what_is_where(view, _padded(view), 4 * shape.sam.grid) for view in views]),
        )

    def talk(self, step: int, size: int, dialogues_each: int, shape: LisaShape, tokenizer: Tokenizer) -> Talk:
        """Dialogues about scenes, several to a scene."""
        chosen, random = self._choose(step, size)
        lessons, masks, sizes, kept, pictures, truths = [], [], [], [], [], []
        side = 2 * shape.clip.image // shape.clip.patch
        for index in chosen:
            view = self._read(index)
            said = dialogues(view, random, "train", dialogues_each)
            if not said:
                continue
            kept.append(index)
            pictures.append(preprocess.for_clip(_relit(view.rgb, random), shape.clip.image))
            lessons.append([lesson(_as_text(one), BY_NAME["llava_v1"], tokenizer) for one in said])
            masks.append(_masks(view, [turn for one in said for turn in one.turns]))
            sizes.append(_mask_size(view, shape.sam.image))
            truths.append(_what_is_where(view, _centre(view), side))
        words = pack(lessons, shape.clip.tokens)
        return Talk(kept, torch.stack(pictures), words, sizes, masks, _stacked(truths))

    def sentences(self, views: int) -> list[str]:
        """All that is said about some views, for a tokenizer."""
        random = np.random.default_rng([self._seed, 7])
        said = []
        for index in range(min(views, self._count)):
            for dialogue in dialogues(self._read(index), random, "train", 20):
                said += [words for turn in dialogue.turns for words in (turn.question, turn.answer)]
        return said

    def _choose(self, step: int, size: int) -> tuple[list[int], np.random.Generator]:
        """All scenes once before one comes again."""
        chosen = []
        for place in range(step * size, (step + 1) * size):
            epoch, index = divmod(place, self._count)
            chosen.append(int(np.random.default_rng([self._seed, epoch]).permutation(self._count)[index]))
        return chosen, np.random.default_rng([self._seed, 1, step])


def _as_text(dialogue: Dialogue) -> list[tuple[str, str]]:
    return [(turn.question, turn.answer) for turn in dialogue.turns]


def _relit(rgb: NDArray[np.uint8], random: np.random.Generator) -> NDArray[np.uint8]:
    gain = 1 + random.uniform(-_BRIGHTER, _BRIGHTER) + random.uniform(-_TINTED, _TINTED, 3)
    gamma = 1 + random.uniform(-_STEEPER, _STEEPER)
    table = 255 * np.clip((np.arange(256)[:, None] / 255) ** gamma * gain, 0, 1)
    return cv2.LUT(rgb, table.astype(np.uint8)[:, None]).astype(np.uint8)


@dataclass(frozen=True)
class _Square:
    """What an encoder sees of a picture, px: a square of it, or around it."""

    left: float
    top: float
    side: float


def _centre(view: View) -> _Square:
    height, width = view.owner.shape
    side = min(height, width)
    return _Square((width - side) / 2, (height - side) / 2, side)


def _padded(view: View) -> _Square:
    return _Square(0, 0, max(view.owner.shape))


def _what_is_where(view: View, square: _Square, cells: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """(3, cells, cells) kind, colour and part, and (2, cells, cells) the way to the middle in shares of the square."""
    height, width = view.owner.shape
    centres = (np.arange(cells) + 0.5) * square.side / cells
    rows, columns = square.top + centres, square.left + centres
    inside = (rows[:, None] < height) & (columns[None] < width)
    places = np.ix_(np.minimum(rows, height - 1).astype(int), np.minimum(columns, width - 1).astype(int))
    owner = np.where(inside, view.owner[places], 0)
    kinds = np.array([0, *(_KIND_IDS.get(thing.kind, 0) for thing in view.things)])
    colours = np.array([NOT_LEARNT, *(_COLOURS.index(thing.colour) for thing in view.things)])
    part = np.where(owner > 0, view.part[places].astype(np.int64), NOT_LEARNT)
    middle_columns, middle_rows = _middles(view)[:, owner]
    way = np.stack([middle_columns - columns[None], middle_rows - rows[:, None]]) / square.side
    return np.stack([kinds[owner], colours[owner], part]), np.where(owner > 0, way, 0).astype(np.float32)


def _middles(view: View) -> NDArray[np.float64]:
    """(2, things + 1) column and row of the middle of what is seen of each thing, px; the first is of nothing."""
    rows, columns = np.nonzero(view.owner)
    owner, count = view.owner[rows, columns], len(view.things) + 1
    seen = np.maximum(1, np.bincount(owner, minlength=count))
    return np.stack([np.bincount(owner, where, count) / seen for where in (columns, rows)])


def _stacked(grids: Sequence[tuple[NDArray[np.int64], NDArray[np.float32]]]) -> Truth:
    classes = torch.from_numpy(np.stack([classes for classes, _ in grids])).long()
    middle = torch.from_numpy(np.stack([way for _, way in grids]))
    kind, colour, part = classes.unbind(1)
    return Truth(kind, colour, part, middle)


def _masks(view: View, turns: Sequence[Turn]) -> Tensor:
    """(n, h, w) float32: for each `[SEG]` in the turns how much of every cell its targets fill."""
    height, width = view.owner.shape
    size = _fitted((height, width), _MASK_SIDE)
    masks = []
    for targets in (targets for turn in turns for targets in turn.masks):
        whole = np.zeros((height, width), np.float32)
        for target in targets:
            whole[view.mask(target.thing, target.part)] = 1
        masks.append(cv2.resize(whole, size[::-1], interpolation=cv2.INTER_AREA))
    return torch.from_numpy(np.stack(masks)) if masks else torch.zeros(0, *size)


def _mask_size(view: View, image: int) -> SamSize:
    height, width = view.owner.shape
    return SamSize(_fitted((height, width), _MASK_SIDE), _fitted((height, width), image))


def _fitted(size: tuple[int, int], longest: int) -> tuple[int, int]:
    scale = longest / max(size)
    return (max(1, int(size[0] * scale + 0.5)), max(1, int(size[1] * scale + 0.5)))
