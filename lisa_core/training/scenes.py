"""Batches from rendered tabletops: what is where, for the encoders; dialogues with masks, for everything else."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lisa_core import preprocess
from lisa_core.model.lisa import LisaShape
from lisa_core.preprocess import SamSize
from lisa_core.tabletop.kinds import KINDS
from lisa_core.tabletop.questions import Dialogue, dialogues
from lisa_core.tabletop.scene import Target, View
from lisa_core.template import BY_NAME
from lisa_core.tokenizer import Tokenizer
from lisa_core.training.batch import Packed, pack
from lisa_core.training.conversation import NOT_LEARNT, lesson
from lisa_core.training.fresh import TEMPLATE
from lisa_core.training.vision import Senses, Truth

_COLOURS = tuple(sorted({colour for kind in KINDS for colour in kind.colours}))
_KIND_IDS = {kind.name: number for number, kind in enumerate(KINDS, start=1)}
SENSES = Senses(len(KINDS), len(_COLOURS))

_BRIGHTER, _TINTED, _STEEPER = 0.25, 0.08, 0.2
"""Largest random change of brightness, of each colour, and of gamma, as shares."""
_MIRRORED, _ELSEWHERE, _NARROWEST = 0.5, 0.5, 0.65
"""First stage only: the share of pictures that are mirrored; the share in which CLIP gets a random square instead of
the central one; and the least side of that square, as a share of the central one's."""
_CLOSER, _ASIDE = 0.04, 0.025
"""Second stage: how much smaller than the central square CLIP's is at most, and how far it is shifted; shares of its
side."""
_MASK_SIDE = 192
"""Longest side, px, at which masks are compared: half of SAM's input size."""


@dataclass(frozen=True, eq=False)
class Shown:
    """Pictures as an encoder gets them, (B, h, w, 3) uint8, and the truth about them."""

    pictures: Tensor
    truth: Truth

    def to(self, device: torch.device) -> "Shown":
        """The same on a device."""
        return Shown(self.pictures.to(device), self.truth.to(device))


@dataclass(frozen=True, eq=False)
class Sights:
    """Pictures in random light, for both encoders."""

    clip: Shown
    sam: Shown


@dataclass(frozen=True, eq=False)
class Talk:
    """Dialogues about B scenes.

    Attributes:
        scenes: the numbers of the scenes.
        words: the packed dialogues.
        size: of the pictures, with the size of the masks as the source size.
        masks: (N, H, W) uint8, for each `[SEG]`, picture by picture: how much of a pixel its targets cover; 255: all.
        patches: (N, side, side) uint8, the same for each of CLIP's patches.
        clip: CLIP's input.
        sam: SAM's input, if its encoder is trained.
    """

    scenes: list[int]
    words: Packed
    size: SamSize
    masks: Tensor
    patches: Tensor
    clip: Shown
    sam: Shown | None

    def to(self, device: torch.device) -> "Talk":
        """The same on a device."""
        masks, patches = self.masks.to(device), self.patches.to(device)
        clip, sam = self.clip.to(device), self.sam and self.sam.to(device)
        return replace(self, words=self.words.to(device), masks=masks, patches=patches, clip=clip, sam=sam)


class Scenes:
    """Makes the batch of a step; the same number gives the same batch.

    Args:
        read: the view of a scene by its number.
        count: how many scenes there are.
        seed: of the random draws.
    """

    def __init__(self, read: Callable[[int], View], count: int, seed: int) -> None:
        self._read, self._count, self._seed = read, count, seed

    def sights(self, step: int, size: int, shape: LisaShape) -> Sights:
        """Pictures in random light, some of them mirrored; CLIP sees the central or a random square of them."""
        chosen, random = self._choose(step, size)
        views = [self._view(index) for index in chosen]
        views = [_mirrored(view) if random.random() < _MIRRORED else view for view in views]
        pictures = [_relit(view.rgb, random) for view in views]
        squares = [_somewhere(view, random) if random.random() < _ELSEWHERE else _centre(view) for view in views]
        return Sights(_for_clip(views, pictures, squares, shape), _for_sam(views, pictures, shape))

    def talk(
        self, step: int, size: int, dialogues_each: int, shape: LisaShape, tokenizer: Tokenizer, whole: bool = False
    ) -> Talk:
        """Several dialogues about each of some scenes; with `whole`, SAM's input as well.

        CLIP's square is a little smaller than the central one and shifted at random, so no scene looks the same twice.
        """
        chosen, random = self._choose(step, size)
        talks = [talk for index in chosen if (talk := self._about(index, dialogues_each, random))]
        views, pictures = [each.view for each in talks], [each.rgb for each in talks]
        side = shape.clip.image // shape.clip.patch
        return Talk(
            [each.index for each in talks],
            pack(
                [[lesson(_as_text(one), BY_NAME[TEMPLATE], tokenizer) for one in each.said] for each in talks],
                shape.clip.tokens,
            ),
            _mask_size(views[0], shape.sam.image),
            torch.from_numpy(np.concatenate([each.masks() for each in talks])),
            torch.from_numpy(np.concatenate([each.patches(side) for each in talks])),
            _for_clip(views, pictures, [each.square for each in talks], shape),
            _for_sam(views, pictures, shape) if whole else None,
        )

    def sentences(self, views: int) -> list[str]:
        """Questions and answers about some views, to train a tokenizer on."""
        random = np.random.default_rng([self._seed, 7])
        said = []
        for index in range(min(views, self._count)):
            for dialogue in dialogues(self._read(index), random, "train", 20):
                said += [words for turn in dialogue.turns for words in (turn.question, turn.answer)]
        return said

    def _choose(self, step: int, size: int) -> tuple[list[int], np.random.Generator]:
        """The scenes of a step, and its generator; every scene comes once before any comes again."""
        places = range(step * size, (step + 1) * size)
        epochs = range(places[0] // self._count, places[-1] // self._count + 1)
        orders = {epoch: np.random.default_rng([self._seed, epoch]).permutation(self._count) for epoch in epochs}
        chosen = [int(orders[place // self._count][place % self._count]) for place in places]
        return chosen, np.random.default_rng([self._seed, 1, step])

    def _about(self, index: int, count: int, random: np.random.Generator) -> "_SceneTalk | None":
        view = self._view(index)
        said = dialogues(view, random, "train", count)
        return _SceneTalk(index, view, said, _relit(view.rgb, random), _near_centre(view, random)) if said else None

    def _view(self, index: int) -> View:
        """The view of a scene with contiguous labels: operations on strided ones take ten times as long."""
        view = self._read(index)
        return replace(view, owner=np.ascontiguousarray(view.owner), part=np.ascontiguousarray(view.part))


def _as_text(dialogue: Dialogue) -> list[tuple[str, str]]:
    return [(turn.question, turn.answer) for turn in dialogue.turns]


def _relit(rgb: NDArray[np.uint8], random: np.random.Generator) -> NDArray[np.uint8]:
    gain = 1 + random.uniform(-_BRIGHTER, _BRIGHTER) + random.uniform(-_TINTED, _TINTED, 3)
    gamma = 1 + random.uniform(-_STEEPER, _STEEPER)
    table = 255 * np.clip((np.arange(256)[:, None] / 255) ** gamma * gain, 0, 1)
    return cv2.LUT(rgb, table.astype(np.uint8)[:, None]).astype(np.uint8)


def _mirrored(view: View) -> View:
    """Mirrors picture and labels left to right, but neither camera nor depth."""
    rgb, owner, part = (np.ascontiguousarray(each[:, ::-1]) for each in (view.rgb, view.owner, view.part))
    return replace(view, rgb=rgb, owner=owner, part=part)


@dataclass(frozen=True)
class _Square:
    """The square of a picture that an encoder sees, px; it may reach beyond the picture."""

    left: int
    top: int
    side: int

    def of(self, picture: NDArray[Any]) -> NDArray[Any]:
        """The part of the picture inside the square, (side, side, ...) if the square lies within it."""
        return np.ascontiguousarray(picture[self.top : self.top + self.side, self.left : self.left + self.side])


def _centre(view: View) -> _Square:
    height, width = view.owner.shape
    side = min(height, width)
    return _Square((width - side) // 2, (height - side) // 2, side)


def _somewhere(view: View, random: np.random.Generator) -> _Square:
    height, width = view.owner.shape
    side = int(min(height, width) * random.uniform(_NARROWEST, 1))
    return _Square(int(random.integers(width - side + 1)), int(random.integers(height - side + 1)), side)


def _near_centre(view: View, random: np.random.Generator) -> _Square:
    height, width = view.owner.shape
    middle = _centre(view)
    side = int(middle.side * random.uniform(1 - _CLOSER, 1))
    spare, aside = middle.side - side, _ASIDE * middle.side * random.uniform(-1, 1, 2)
    left, top = (int(start + spare / 2 + by) for start, by in zip((middle.left, middle.top), aside, strict=True))
    return _Square(min(max(left, 0), width - side), min(max(top, 0), height - side), side)


def _padded(view: View) -> _Square:
    return _Square(0, 0, max(view.owner.shape))


def _for_clip(
    views: Sequence[View], pictures: Sequence[NDArray[np.uint8]], squares: Sequence[_Square], shape: LisaShape
) -> Shown:
    """CLIP's input, and the truth on a grid of two cells to a patch's side."""
    cells = 2 * shape.clip.image // shape.clip.patch
    cut = [square.of(rgb) for square, rgb in zip(squares, pictures, strict=True)]
    pixels = torch.stack([preprocess.for_clip(rgb, shape.clip.image) for rgb in cut])
    return Shown(pixels, _stacked([_what_is_where(*seen, cells) for seen in zip(views, squares, strict=True)]))


def _for_sam(views: Sequence[View], pictures: Sequence[NDArray[np.uint8]], shape: LisaShape) -> Shown:
    """SAM's input, and the truth on a grid of four cells to a patch's side."""
    pixels = torch.stack([preprocess.for_sam(rgb, shape.sam.image)[0] for rgb in pictures])
    return Shown(pixels, _stacked([_what_is_where(view, _padded(view), 4 * shape.sam.grid) for view in views]))


def _what_is_where(view: View, square: _Square, cells: int) -> tuple[NDArray[np.int8], NDArray[np.float16]]:
    """(3, cells, cells) kind, colour and part; (2, cells, cells) offset to the middle in shares of the square."""
    height, width = view.owner.shape
    centres = (np.arange(cells) + 0.5) * square.side / cells
    rows, columns = square.top + centres, square.left + centres
    inside = (rows[:, None] < height) & (columns[None] < width)
    places = np.ix_(np.minimum(rows, height - 1).astype(int), np.minimum(columns, width - 1).astype(int))
    owner = np.where(inside, view.owner[places], 0)
    kinds = np.array([0, *(_KIND_IDS.get(thing.kind, 0) for thing in view.things)], np.int8)
    colours = np.array([NOT_LEARNT, *(_COLOURS.index(thing.colour) for thing in view.things)], np.int8)
    part = np.where(owner > 0, view.part[places].astype(np.int8), np.int8(NOT_LEARNT))
    middle_columns, middle_rows = view.extent.middles[:, owner]
    way = np.stack([middle_columns - columns[None], middle_rows - rows[:, None]]) / square.side
    return np.stack([kinds[owner], colours[owner], part]), np.where(owner > 0, way, 0).astype(np.float16)


def _stacked(grids: Sequence[tuple[NDArray[np.int8], NDArray[np.float16]]]) -> Truth:
    classes = torch.from_numpy(np.stack([classes for classes, _ in grids]))
    middle = torch.from_numpy(np.stack([way for _, way in grids]))
    kind, colour, part = classes.unbind(1)
    return Truth(kind, colour, part, middle)


@dataclass(frozen=True)
class _SceneTalk:
    """A scene, the dialogues about it, its picture in random light, and CLIP's square of it."""

    index: int
    view: View
    said: Sequence[Dialogue]
    rgb: NDArray[np.uint8]
    square: _Square

    def masks(self) -> NDArray[np.uint8]:
        """(n, h, w): the mask of each `[SEG]`."""
        return self._each(lambda targets: _mask(self.view, targets), _compared_size(self.view))

    def patches(self, side: int) -> NDArray[np.uint8]:
        """(n, side, side): how much of each of CLIP's patches the mask of each `[SEG]` covers."""
        return self._each(lambda targets: _patches(self.view, targets, self.square, side), (side, side))

    def _each(
        self, made_of: Callable[[tuple[Target, ...]], NDArray[np.uint8]], size: tuple[int, int]
    ) -> NDArray[np.uint8]:
        asked = [targets for one in self.said for turn in one.turns for targets in turn.masks]
        made = {targets: made_of(targets) for targets in dict.fromkeys(asked)}
        return np.stack([made[targets] for targets in asked]) if asked else np.zeros((0, *size), np.uint8)


def _mask(view: View, targets: Sequence[Target]) -> NDArray[np.uint8]:
    """(h, w): how much of each pixel, at `_MASK_SIDE`, the targets cover; 255: all."""
    covered = view.covered(targets)
    made = np.zeros(_compared_size(view), np.uint8)
    (rows, to_rows), (columns, to_columns) = (_filled(np.any(covered, 1 - axis), made.shape[axis]) for axis in (0, 1))
    into = made[to_rows, to_columns]
    into[:] = cv2.resize(covered[rows, columns] * np.uint8(255), into.shape[::-1], interpolation=cv2.INTER_AREA)
    return made


def _patches(view: View, targets: Sequence[Target], square: _Square, side: int) -> NDArray[np.uint8]:
    """(side, side): the same for the patches of a square."""
    seen = square.of(view.covered(targets)) * np.uint8(255)
    return cv2.resize(seen, (side, side), interpolation=cv2.INTER_AREA).astype(np.uint8)


def _filled(covered: NDArray[np.bool_], cells: int) -> tuple[slice, slice]:
    """The ranges of pixels and of cells that span all covered pixels and begin and end on the same boundaries."""
    blocks = math.gcd(len(covered), cells)
    places = np.flatnonzero(covered) * blocks // len(covered)
    first, stop = places[0], places[-1] + 1
    pixels, each = len(covered) // blocks, cells // blocks
    return slice(first * pixels, stop * pixels), slice(first * each, stop * each)


def _compared_size(view: View) -> tuple[int, int]:
    """(h, w) at which the masks of a view are compared."""
    return preprocess.sam_size(view.owner.shape, _MASK_SIDE).resized


def _mask_size(view: View, image: int) -> SamSize:
    return SamSize(_compared_size(view), preprocess.sam_size(view.owner.shape, image).resized)
