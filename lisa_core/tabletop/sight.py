"""What is certain about a view: which things are clearly visible, and their places relative to each other."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np

from lisa_core.tabletop.kinds import KIND_BY_NAME
from lisa_core.tabletop.knowledge import GRIPS, HANDLED
from lisa_core.tabletop.scene import View

_CLEAR, _CLEAR_PART = 150 / (640 * 480), 100 / (640 * 480)
"""Least areas of a thing and of a part, as shares of the picture, for a question to be about it."""

_MARGIN = 0.06
"""Least horizontal distance for one thing to be left of another, as a share of the picture's height."""

_DEPTH_MARGIN = 0.04
"""Least distance along the table for one thing to be behind another, m."""

_NEAR = 0.25
"""Largest distance, m, of a thing that is next to another."""


@dataclass(frozen=True)
class Seen:
    """A thing that is at least partly visible.

    Attributes:
        index: among the scene's things.
        clear: whether one can ask about it: enough of it is visible, inside the square that the language model sees.
        coloured: whether its colour is visible; tools and cutlery have it on the handle only.
        parts: its parts that are clearly visible.
        x, left, right: columns of its centroid and its ends, px.
        spot: its place on the table relative to the camera, (right, forward), m.
        distance: from the camera, m.
    """

    index: int
    kind: str
    colour: str
    clear: bool
    coloured: bool
    parts: tuple[str, ...]
    x: float
    left: int
    right: int
    spot: tuple[float, float]
    distance: float


@dataclass(frozen=True)
class Sight:
    """The visible things, from left to right.

    Attributes:
        things: all that are at least partly visible.
        there: (colour, kind) of all things, including hidden ones.
        height: of the picture, px.
    """

    things: tuple[Seen, ...]
    there: frozenset[tuple[str, str]]
    height: int

    def of(self, kinds: Collection[str]) -> list[Seen]:
        """The visible things of these kinds."""
        return [thing for thing in self.things if thing.kind in kinds]

    def lacks(self, kinds: Collection[str]) -> bool:
        """Whether there is no thing of these kinds, not even a hidden one."""
        return not any(kind in kinds for _, kind in self.there)

    def alone(self, kinds: Collection[str]) -> Seen | None:
        """The only visible thing of these kinds if it is clear, else None."""
        return only(self.of(kinds))

    @property
    def clear(self) -> list[Seen]:
        """The things that a question can be about."""
        return [thing for thing in self.things if thing.clear]


def look(view: View) -> Sight:
    """Finds the visible things of a view."""
    height, width = view.owner.shape
    forward = view.camera[:2, 2] / np.linalg.norm(view.camera[:2, 2])
    side = np.array([forward[1], -forward[0]])
    there = frozenset((thing.colour, thing.kind) for thing in view.things)
    half = min(height, width) / 2
    extent = view.extent
    sizes, middles = extent.sizes, extent.middles
    seen = []
    for index, thing in enumerate(view.things):
        if not (size := sizes[index + 1]):
            continue
        x, y = (float(middle) for middle in middles[:, index + 1])
        central = abs(x - width / 2) < half and abs(y - height / 2) < half
        ends = np.flatnonzero(extent.columns[index + 1])[[0, -1]]
        parts = _clear_parts(view, index)
        offset = np.array(thing.position) - view.camera[:3, 3]
        seen.append(
            Seen(
                index=index,
                kind=thing.kind,
                colour=thing.colour,
                clear=bool(central and size >= _CLEAR * view.owner.size),
                coloured=thing.kind not in HANDLED or bool(GRIPS & set(parts)),
                parts=parts,
                x=x,
                left=int(ends[0]),
                right=int(ends[1]),
                spot=(float(offset[:2] @ side), float(offset[:2] @ forward)),
                distance=float(np.linalg.norm(offset)),
            )
        )
    return Sight(tuple(sorted(seen, key=lambda thing: thing.x)), there, height)


def _clear_parts(view: View, index: int) -> tuple[str, ...]:
    return tuple(
        part
        for number, part in enumerate(KIND_BY_NAME[view.things[index].kind].parts, start=1)
        if view.extent.parts[index + 1, number] >= _CLEAR_PART * view.owner.size
    )


def only(things: Sequence[Seen]) -> Seen | None:
    """The only element if there is just one and it is clear, else None."""
    return things[0] if len(things) == 1 and things[0].clear else None


def extreme(sight: Sight, things: Sequence[Seen], where: str) -> Seen | None:
    """The leftmost, rightmost, nearest, farthest or middle one of several; None if that is not certain."""
    if len(things) < 2 or not all(thing.clear for thing in things):
        return None
    if where == "middle":
        return _middle(sight, things)
    order, margin = {
        "leftmost": (lambda thing: thing.x, _MARGIN * sight.height),
        "rightmost": (lambda thing: -thing.x, _MARGIN * sight.height),
        "nearest": (lambda thing: thing.distance, _DEPTH_MARGIN),
        "farthest": (lambda thing: -thing.distance, _DEPTH_MARGIN),
    }[where]
    first, second = sorted(things, key=order)[:2]
    return first if order(second) - order(first) > margin else None


def _middle(sight: Sight, things: Sequence[Seen]) -> Seen | None:
    if len(things) != 3:
        return None
    left, middle, right = sorted(things, key=lambda thing: thing.x)
    margin = 2 * _MARGIN * sight.height
    return middle if middle.x - left.x > margin and right.x - middle.x > margin else None


def around(sight: Sight, anchor: Seen, where: str) -> list[Seen]:
    """The things left of, right of, behind, in front of or next to a thing; empty if that is not certain."""
    others = [thing for thing in sight.things if thing is not anchor]
    if where == "next":
        return _next(anchor, others)
    test: Callable[[Seen], bool | None] = {
        "left": lambda thing: _beside(anchor.x - thing.x, anchor.left - thing.x, _MARGIN * sight.height),
        "right": lambda thing: _beside(thing.x - anchor.x, thing.x - anchor.right, _MARGIN * sight.height),
        "behind": lambda thing: _in_line(anchor, thing, thing.spot[1] - anchor.spot[1]),
        "front": lambda thing: _in_line(anchor, thing, anchor.spot[1] - thing.spot[1]),
    }[where]
    verdicts = [(thing, test(thing)) for thing in others]
    found = [thing for thing, verdict in verdicts if verdict]
    certain = all(verdict is not None for _, verdict in verdicts) and all(thing.clear for thing in found)
    return found if certain else []


def _beyond(distance: float, margin: float) -> bool | None:
    """Whether the distance exceeds the margin; None if it is a close call."""
    if distance > margin:
        return True
    return None if distance > margin / 3 else False


def _beside(from_middle: float, from_end: float, margin: float) -> bool | None:
    """Whether the middle of a thing is to the side of another one, past its end; None if in doubt."""
    beyond = _beyond(from_middle, margin)
    return beyond if from_end > 0 or not beyond else None


def _in_line(anchor: Seen, thing: Seen, distance: float) -> bool | None:
    width = min(anchor.right - anchor.left, thing.right - thing.left) + 1
    shared = (min(anchor.right, thing.right) - max(anchor.left, thing.left) + 1) / width
    beyond = _beyond(distance, _DEPTH_MARGIN)
    if beyond is False or shared < 0.1:
        return False
    return True if beyond and shared > 0.5 else None


def _next(anchor: Seen, others: Sequence[Seen]) -> list[Seen]:
    def distance(thing: Seen) -> float:
        return float(np.hypot(thing.spot[0] - anchor.spot[0], thing.spot[1] - anchor.spot[1]))

    order = sorted(others, key=distance)
    if len(order) < 2 or not order[0].clear or distance(order[0]) > min(_NEAR, 0.7 * distance(order[1])):
        return []
    return order[:1]
