"""Masks as the polygons of ReasonSeg's format, which give every pixel of them back.

The format knows no holes: it draws each polygon filled, and its outline. So the outline of a hole is joined to the
one around it by a line there and back, which the rule of even and odd crossings fills with nothing.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

Polygon = list[list[int]]
"""x, y in px, at least three."""


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


def _joined(ring: NDArray[np.int32], holes: list[NDArray[np.int32]]) -> NDArray[np.int32]:
    """The ring and its holes as one line, joined where they are nearest: no shorter way could leave the mask."""
    waiting = list(holes)
    while waiting:
        nearest = [_nearest(ring, hole) for hole in waiting]
        chosen = min(range(len(waiting)), key=lambda index: nearest[index][0])
        _, here, there = nearest[chosen]
        hole = np.roll(waiting.pop(chosen), -there, axis=0)
        ring = np.concatenate([ring[: here + 1], hole, hole[:1], ring[here:]])
    return ring


def _nearest(ring: NDArray[np.int32], hole: NDArray[np.int32]) -> tuple[float, int, int]:
    """The distance of the nearest two corners, and which they are."""
    squares = ((ring[:, None].astype(np.int64) - hole[None]) ** 2).sum(-1)
    here, there = np.unravel_index(squares.argmin(), squares.shape)
    return float(squares[here, there]), int(here), int(there)
