"""Masks as polygons in ReasonSeg's format, from which every pixel can be restored.

The format has no holes: each polygon is drawn filled (even-odd rule), and its outline on top. So the outline of a hole
is joined to the one around it by a line there and back, which encloses nothing.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Polygon = list[list[int]]
"""x, y in px, at least three."""

LONGEST_OUTLINE = 2_000_000
"""px; drawing a longer one takes seconds, and no real picture needs it."""


def outline_of(points: NDArray[np.float64]) -> float:
    """Length in px of the closed outline of (n, 2) points; nan if a point is not finite."""
    steps = np.abs(points - np.roll(points, -1, axis=0))
    return float(steps.max(axis=1).sum())


def polygons_of(mask: NDArray[np.bool_]) -> list[Polygon]:
    """One polygon for each connected part of an (H, W) mask; drawn together, they are the mask to the pixel."""
    contours, hierarchy = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    if not contours:
        return []
    rings = [contour[:, 0].astype(np.int32) for contour in contours]
    polygons = []
    for line in _joined(rings, _joints(mask, rings, hierarchy[0, :, 3].tolist())):
        points = _corners(line).tolist()
        polygons.append(points * 3 if len(points) == 1 else [*points, points[0]] if len(points) == 2 else points)
    return polygons


@dataclass(frozen=True)
class _Joint:
    """A vertical line from the top of a hole, a point by its index, to `end`, (x, y), on a ring above it."""

    hole: int
    top: int
    ring: int
    end: tuple[int, int]


def _joints(mask: NDArray[np.bool_], rings: Sequence[NDArray[np.int32]], parents: Sequence[int]) -> list[_Joint]:
    """The joints of all holes, from the highest hole to the lowest; `parents` has -1 for an outline.

    From the top of a hole the line goes up as long as it is on the mask. There it meets the outline, or a hole whose
    top is higher: so no joint leaves the mask, and those of a part make a tree.
    """
    grounds = cv2.connectedComponents((~mask).astype(np.uint8), connectivity=4)[1]
    first = np.maximum.accumulate(np.where(mask, 0, np.arange(1, len(mask) + 1)[:, None]), axis=0)  # row of each run
    tops = {hole: int(rings[hole][:, 1].argmin()) for hole, parent in enumerate(parents) if parent >= 0}
    places = {hole: rings[hole][top].tolist() for hole, top in tops.items()}
    hole_of = {int(grounds[y + 1, x]): hole for hole, (x, y) in places.items()}
    joints = []
    for hole, (x, y) in sorted(places.items(), key=lambda item: item[1][1]):
        row = int(first[y, x])
        ring = hole_of.get(int(grounds[row - 1, x]), -1) if row else -1
        if ring < 0 or parents[ring] != parents[hole]:
            ring = parents[hole]
        joints.append(_Joint(hole, tops[hole], ring, (x, row)))
    return joints


def _joined(rings: Sequence[NDArray[np.int32]], joints: Sequence[_Joint]) -> list[NDArray[np.int32]]:
    """Each outline and the holes in it as one line."""
    at: defaultdict[int, list[_Joint]] = defaultdict(list)
    for joint in joints:
        at[joint.ring].append(joint)
    starts = {joint.hole: joint.top for joint in reversed(joints)}
    lines: dict[int, NDArray[np.int32]] = {}
    for number in (*starts, *(number for number in range(len(rings)) if number not in starts)):
        ring = np.roll(rings[number], -starts.get(number, 0), axis=0)
        pieces, done = [], 0
        for here, joint in sorted(zip(_places(ring, at[number]), at[number], strict=True), key=lambda pair: pair[0]):
            pieces += [ring[done : here + 1], lines.pop(joint.hole), ring[here : here + 1]]
            done = here + 1
        pieces += [ring[done:], ring[:1]] if number in starts else [ring[done:]]
        lines[number] = np.concatenate(pieces)
    return list(lines.values())


def _places(ring: NDArray[np.int32], joints: Sequence[_Joint]) -> list[int]:
    """The indices in a ring of the ends of joints that lead to it."""
    wide = int(ring[:, 0].max()) + 1
    points = ring[:, 1].astype(np.int64) * wide + ring[:, 0]
    order = points.argsort()
    ends = [joint.end[1] * wide + joint.end[0] for joint in joints]
    indices: list[int] = order[points.searchsorted(ends, sorter=order)].tolist()
    return indices


def _corners(line: NDArray[np.int32]) -> NDArray[np.int32]:
    """The points of a closed line between which it is straight."""
    moves = np.roll(line, -1, axis=0) - line
    return line[(moves != np.roll(moves, 1, axis=0)).any(axis=1)] if moves.any() else line[:1]
