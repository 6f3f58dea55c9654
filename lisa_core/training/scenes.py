"""Rendered tabletops as lessons: what is where, for the encoders, and dialogues with their masks, for the rest."""

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
from lisa_core.tabletop.questions import Dialogue, Target, dialogues
from lisa_core.tabletop.scene import View
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
"""How far pictures are changed while the encoders learn: brightness, each colour, gamma; shares."""
_MIRRORED, _ELSEWHERE, _NARROWEST = 0.5, 0.5, 0.65
"""Shares of those pictures that are mirrored, and of those in which CLIP sees another square than the middle's; the
least side of that, in shares of the middle's."""
_CLOSER, _ASIDE = 0.04, 0.025
"""Where dialogues are learnt, CLIP sees the middle's square so much smaller at most, and aside; shares of its side."""
_MASK_SIDE = 192
"""Masks are compared at half of SAM's input size, px of the longest side."""


@dataclass(frozen=True, eq=False)
class Shown:
    """Pictures as an encoder gets them, (B, h, w, 3) uint8, and what is where in them."""

    pictures: Tensor
    truth: Truth

    def to(self, device: torch.device) -> "Shown":
        """The same on a device."""
        return Shown(self.pictures.to(device), self.truth.to(device))


@dataclass(frozen=True, eq=False)
class Sights:
    """Pictures in changing light, for both encoders."""

    clip: Shown
    sam: Shown


@dataclass(frozen=True, eq=False)
class Talk:
    """Dialogues about B scenes.

    Attributes:
        scenes: their numbers.
        words: what is said.
        size: of the pictures, at the size of the masks.
        masks: (N, H, W) uint8, how much of every cell the targets of each `[SEG]` fill, picture by picture; 255: all.
        patches: (N, side, side) uint8, how much of every patch of CLIP's they fill.
        clip: what CLIP sees.
        sam: what SAM sees, where its encoder learns, too.
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
    """Lessons by the number of the step; the same number gives the same ones.

    Args:
        read: the view of a scene by its number.
        count: how many scenes there are.
        seed: of what is drawn.
    """

    def __init__(self, read: Callable[[int], View], count: int, seed: int) -> None:
        self._read, self._count, self._seed = read, count, seed

    def sights(self, step: int, size: int, shape: LisaShape) -> Sights:
        """Pictures in changing light, some of them mirrored; CLIP sees a square anywhere in them."""
        chosen, random = self._choose(step, size)
        views = [self._view(index) for index in chosen]
        views = [_mirrored(view) if random.random() < _MIRRORED else view for view in views]
        pictures = [_relit(view.rgb, random) for view in views]
        squares = [_somewhere(view, random) if random.random() < _ELSEWHERE else _centre(view) for view in views]
        return Sights(_for_clip(views, pictures, squares, shape), _for_sam(views, pictures, shape))

    def talk(
        self, step: int, size: int, dialogues_each: int, shape: LisaShape, tokenizer: Tokenizer, whole: bool = False
    ) -> Talk:
        """Dialogues about scenes, several to a scene; with `whole` for SAM's encoder, too.

        CLIP sees a little less than the middle of the picture, or beside it: no scene looks twice the same.
        """
        chosen, random = self._choose(step, size)
        told = [told for index in chosen if (told := self._told(index, dialogues_each, random))]
        views, pictures = [each.view for each in told], [each.rgb for each in told]
        side = shape.clip.image // shape.clip.patch
        return Talk(
            [each.index for each in told],
            pack(
                [[lesson(_as_text(one), BY_NAME[TEMPLATE], tokenizer) for one in each.said] for each in told],
                shape.clip.tokens,
            ),
            _mask_size(views[0], shape.sam.image),
            torch.from_numpy(np.concatenate([each.masks() for each in told])),
            torch.from_numpy(np.concatenate([each.patches(side) for each in told])),
            _for_clip(views, pictures, [each.square for each in told], shape),
            _for_sam(views, pictures, shape) if whole else None,
        )

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
        places = range(step * size, (step + 1) * size)
        epochs = range(places[0] // self._count, places[-1] // self._count + 1)
        orders = {epoch: np.random.default_rng([self._seed, epoch]).permutation(self._count) for epoch in epochs}
        chosen = [int(orders[place // self._count][place % self._count]) for place in places]
        return chosen, np.random.default_rng([self._seed, 1, step])

    def _told(self, index: int, count: int, random: np.random.Generator) -> "_Told | None":
        view = self._view(index)
        said = dialogues(view, random, "train", count)
        return _Told(index, view, said, _relit(view.rgb, random), _near_centre(view, random)) if said else None

    def _view(self, index: int) -> View:
        """A scene's, with labels that lie close together: whatever is asked of strided ones takes ten times as long."""
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
    """Left is right; camera and depth are not mirrored with it."""
    rgb, owner, part = (np.ascontiguousarray(each[:, ::-1]) for each in (view.rgb, view.owner, view.part))
    return replace(view, rgb=rgb, owner=owner, part=part)


@dataclass(frozen=True)
class _Square:
    """What an encoder sees of a picture, px: a square of it, or around it."""

    left: int
    top: int
    side: int

    def of(self, picture: NDArray[Any]) -> NDArray[Any]:
        """(side, side, ...) that."""
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
    """Two cells to a patch's side."""
    cells = 2 * shape.clip.image // shape.clip.patch
    cut = [square.of(rgb) for square, rgb in zip(squares, pictures, strict=True)]
    pixels = torch.stack([preprocess.for_clip(rgb, shape.clip.image) for rgb in cut])
    return Shown(pixels, _stacked([_what_is_where(*seen, cells) for seen in zip(views, squares, strict=True)]))


def _for_sam(views: Sequence[View], pictures: Sequence[NDArray[np.uint8]], shape: LisaShape) -> Shown:
    """Four cells to a patch's side."""
    pixels = torch.stack([preprocess.for_sam(rgb, shape.sam.image)[0] for rgb in pictures])
    return Shown(pixels, _stacked([_what_is_where(view, _padded(view), 4 * shape.sam.grid) for view in views]))


def _what_is_where(view: View, square: _Square, cells: int) -> tuple[NDArray[np.int8], NDArray[np.float16]]:
    """(3, cells, cells) kind, colour and part, and (2, cells, cells) the way to the middle in shares of the square."""
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
class _Told:
    """A scene, what is said about it, its picture in some light, and what CLIP sees of that."""

    index: int
    view: View
    said: Sequence[Dialogue]
    rgb: NDArray[np.uint8]
    square: _Square

    def masks(self) -> NDArray[np.uint8]:
        """(n, h, w) of each `[SEG]`."""
        return self._each(lambda targets: _mask(self.view, targets), _fitted(self.view.owner.shape, _MASK_SIDE))

    def patches(self, side: int) -> NDArray[np.uint8]:
        """(n, side, side) of each `[SEG]`, among CLIP's patches."""
        return self._each(lambda targets: _patches(self.view, targets, self.square, side), (side, side))

    def _each(
        self, made_of: Callable[[tuple[Target, ...]], NDArray[np.uint8]], size: tuple[int, int]
    ) -> NDArray[np.uint8]:
        asked = [targets for one in self.said for turn in one.turns for targets in turn.masks]
        made = {targets: made_of(targets) for targets in dict.fromkeys(asked)}
        return np.stack([made[targets] for targets in asked]) if asked else np.zeros((0, *size), np.uint8)


def _covered(view: View, targets: Sequence[Target]) -> Any:
    """(height, width) bool."""
    return np.logical_or.reduce([view.mask(target.thing, target.part) for target in targets])


def _mask(view: View, targets: Sequence[Target]) -> NDArray[np.uint8]:
    """(h, w) how much of every cell the targets fill; 255: all."""
    covered = _covered(view, targets)
    made = np.zeros(_fitted(covered.shape, _MASK_SIDE), np.uint8)
    (rows, to_rows), (columns, to_columns) = (_filled(covered.any(1 - axis), made.shape[axis]) for axis in (0, 1))
    into = made[to_rows, to_columns]
    into[:] = cv2.resize(covered[rows, columns] * np.uint8(255), into.shape[::-1], interpolation=cv2.INTER_AREA)
    return made


def _patches(view: View, targets: Sequence[Target], square: _Square, side: int) -> NDArray[np.uint8]:
    """(side, side) the same of the patches of a square."""
    seen = square.of(_covered(view, targets)) * np.uint8(255)
    return cv2.resize(seen, (side, side), interpolation=cv2.INTER_AREA).astype(np.uint8)


def _filled(covered: NDArray[np.bool_], cells: int) -> tuple[slice, slice]:
    """From the first covered pixel to the last, as far out as pixels and cells end together: both ranges."""
    blocks = math.gcd(len(covered), cells)
    places = np.flatnonzero(covered) * blocks // len(covered)
    first, stop = places[0], places[-1] + 1
    pixels, each = len(covered) // blocks, cells // blocks
    return slice(first * pixels, stop * pixels), slice(first * each, stop * each)


def _mask_size(view: View, image: int) -> SamSize:
    size = view.owner.shape
    return SamSize(_fitted(size, _MASK_SIDE), _fitted(size, image))


def _fitted(size: tuple[int, ...], longest: int) -> tuple[int, int]:
    scale = longest / max(size)
    return (max(1, int(size[0] * scale + 0.5)), max(1, int(size[1] * scale + 0.5)))
