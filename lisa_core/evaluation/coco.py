"""COCO's masks, drawn to the pixel as COCO's own code draws them: its polygons cover other pixels than OpenCV's.

Source: the COCO API, `maskApi.c`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lisa_core.labelling import rle
from lisa_core.labelling.polygons import LONGEST_OUTLINE, outline_of

_SCALE = 5
"""Of the finer grid on which outlines are drawn."""


def layers_of(segmentation: Any, size: tuple[int, int]) -> NDArray[np.uint8]:
    """How often polygons, run lengths, or a list with several of either cover each pixel, (H, W), modulo 256.

    Raises:
        ValueError, TypeError, LookupError: it is no segmentation, or one of another size.
    """
    if not isinstance(segmentation, dict | list):
        raise TypeError("it is neither polygons nor run lengths")
    parts = [segmentation] if isinstance(segmentation, dict) else segmentation
    layers = np.zeros(size, np.uint8)
    for part in parts:
        layers += _part(part, *size)
    return layers


def _part(part: Any, height: int, width: int) -> NDArray[np.bool_]:
    if not isinstance(part, dict):
        return _filled(part, height, width)
    if tuple(part["size"]) != (height, width):
        raise ValueError(f"it is {part['size'][1]}x{part['size'][0]}, its picture {width}x{height}")
    return rle.decode(part)


def _filled(polygon: Sequence[float], height: int, width: int) -> NDArray[np.bool_]:
    """A polygon x, y, x, y ... in px: column by column, each crossing of its outline begins or ends a run."""
    points = np.array(polygon, float)
    if len(points) < 4 or len(points) % 2:
        raise ValueError("a polygon takes at least two points x, y")
    points = points.reshape(-1, 2)
    if not np.all(np.abs(points) <= LONGEST_OUTLINE) or outline_of(points) > LONGEST_OUTLINE:
        raise ValueError(f"the outline of a polygon is no line of at most {LONGEST_OUTLINE} px")
    corners = (points * _SCALE + 0.5).astype(int)
    outline = np.concatenate([_line(*pair) for pair in zip(corners, np.roll(corners, -1, axis=0), strict=True)])
    before, after = outline[:-1], outline[1:]
    crossing = before[:, 0] != after[:, 0]
    before, after = before[crossing], after[crossing]
    x = (np.where(after[:, 0] < before[:, 0], after[:, 0], after[:, 0] - 1) + 0.5) / _SCALE - 0.5
    y = (np.minimum(after[:, 1], before[:, 1]) + 0.5) / _SCALE - 0.5
    inside = (np.floor(x) == x) & (x >= 0) & (x <= width - 1)
    row = np.ceil(np.clip(y[inside], 0, height)).astype(int)
    starts = np.bincount(x[inside].astype(int) * height + row, minlength=height * width)
    return (np.cumsum(starts[: height * width]) % 2 == 1).reshape(width, height).T


def _line(start: NDArray[np.int_], end: NDArray[np.int_]) -> NDArray[np.int_]:
    """(n, 2) grid points from start to end, drawn from the lower end, which decides how the others are rounded."""
    long = 0 if abs(end[0] - start[0]) >= abs(end[1] - start[1]) else 1
    low, high = (end, start) if start[long] > end[long] else (start, end)
    steps = np.arange(high[long] - low[long] + 1)
    slope = (high[1 - long] - low[1 - long]) / max(high[long] - low[long], 1)
    points = np.empty((len(steps), 2), int)
    points[:, long] = low[long] + steps
    points[:, 1 - long] = (low[1 - long] + slope * steps + 0.5).astype(int)
    return points if low is start else points[::-1]
