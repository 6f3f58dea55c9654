"""Masks as polygons in ReasonSeg's format, from which every pixel can be restored.

The format has no holes: each polygon is drawn filled (even-odd rule), and its outline on top. So the outline of a hole
is joined to the one around it by a line there and back, which encloses nothing.
"""

from collections import defaultdict
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Polygon = list[list[int]]
"""x, y in px, at least three."""

LONGEST_OUTLINE = 2_000_000
"""px; drawing a longer one takes seconds, and no real picture needs it."""

_PAIRS = 1 << 20
"""Distances that are computed at once."""


def outline_of(points: NDArray[np.float64]) -> float:
    """Length in px of the closed outline of (n, 2) points; nan if a point is not finite."""
    steps = np.abs(points - np.roll(points, -1, axis=0))
    return float(steps.max(axis=1).sum())


def polygons_of(mask: NDArray[np.bool_]) -> list[Polygon]:
    """One polygon for each connected part of an (H, W) mask."""
    contours, hierarchy = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    if not contours:
        return []
    rings = [contour[:, 0].astype(np.int32) for contour in contours]
    parents = hierarchy[0, :, 3]
    polygons = []
    for index, ring in enumerate(rings):
        if parents[index] < 0:
            holes = [rings[hole] for hole in np.flatnonzero(parents == index)]
            points = _joined(ring, holes).tolist()
            polygons.append(points * 3 if len(points) == 1 else [*points, points[0]] if len(points) == 2 else points)
    return polygons


@dataclass(frozen=True)
class _Joint:
    """A line from a corner of one ring to a corner of a hole; rings and corners by index."""

    ring: int
    here: int
    hole: int
    there: int


def _joined(ring: NDArray[np.int32], holes: list[NDArray[np.int32]]) -> NDArray[np.int32]:
    """The ring and its holes as one line, joined where they are nearest, so that no joint leaves the mask."""
    rings = [ring, *holes]
    joints = _nearest_first(rings)
    at: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
    for joint in joints:
        at[joint.ring, joint.here].append(joint.hole)
    lines: dict[int, list[NDArray[np.int32]]] = {}
    starts = [(joint.hole, joint.there) for joint in joints]
    for number, start in ((0, 0), *starts)[::-1]:  # a ring joined to a hole comes after it in `joints`
        line = lines[number] = []
        for corner in (*range(start, len(rings[number])), *range(start)):
            point = rings[number][corner : corner + 1]
            line.append(point)
            for hole in at[number, corner]:
                inner = lines.pop(hole)
                line += [*inner, inner[0], point]
    return np.concatenate(lines[0])


def _nearest_first(rings: list[NDArray[np.int32]]) -> list[_Joint]:
    """Joints that connect all rings to the first, by Prim's algorithm for a minimum spanning tree.

    Each unjoined corner remembers its nearest joined one, so it is compared only with those that were joined last.
    """
    corners = np.concatenate(rings).astype(np.int64)
    owner = np.repeat(np.arange(len(rings)), [len(ring) for ring in rings])
    place = np.concatenate([np.arange(len(ring)) for ring in rings])
    nearest, distance = np.zeros(len(corners), int), np.full(len(corners), np.inf)
    joints: list[_Joint] = []
    waiting = np.flatnonzero(owner > 0)
    joined = np.flatnonzero(owner == 0)
    while len(waiting):
        for some in np.array_split(waiting, 1 + len(waiting) * len(joined) // _PAIRS):
            squares = ((corners[some, None] - corners[joined]) ** 2).sum(-1)
            best = squares.argmin(axis=1)
            squares = squares[np.arange(len(some)), best]
            nearer = squares < distance[some]
            distance[some[nearer]], nearest[some[nearer]] = squares[nearer], joined[best[nearer]]
        there = waiting[distance[waiting].argmin()]
        here, hole = nearest[there], owner[there]
        joints.append(_Joint(int(owner[here]), int(place[here]), int(hole), int(place[there])))
        joined, waiting = waiting[owner[waiting] == hole], waiting[owner[waiting] != hole]
    return joints
