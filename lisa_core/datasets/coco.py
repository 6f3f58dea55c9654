"""Masks as COCO writes them: polygons, and run lengths, column by column, plain or packed into letters.

Polygons are drawn to the pixel as COCO's own code draws them: they cover other pixels than OpenCV's.

Source: the COCO API, `maskApi.c`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lisa_core.datasets.polygons import LONGEST_OUTLINE, outline_of
from lisa_core.files import MAX_PIXELS

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


def encode(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """An (H, W) mask as `{"size": [H, W], "counts": "..."}`, the run lengths packed as COCO's own code packs them."""
    flat = mask.T.ravel()
    bounds = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1, [flat.size]])
    runs = np.diff(bounds).tolist()
    return {"size": list(mask.shape), "counts": _packed([0, *runs] if flat[0] else runs)}


def decode(rle: Any) -> NDArray[np.bool_]:
    """The (H, W) mask of `{"size": [H, W], "counts": ...}`.

    Raises:
        ValueError, KeyError, TypeError, OverflowError: it is none, or larger than any picture.
    """
    height, width = size_of(*rle["size"])
    counts = rle["counts"]
    runs = _unpacked(counts) if isinstance(counts, str) else [int(run) for run in counts]
    if min(runs, default=0) < 0 or sum(runs) != height * width:
        raise ValueError(f"its runs do not fill {width}x{height} px")
    flat = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return flat.reshape(width, height).T


def size_of(height: Any, width: Any) -> tuple[int, int]:
    """Height and width of a picture in px; raises ValueError, TypeError or OverflowError if they are none."""
    rows, columns = int(height), int(width)
    if rows < 1 or columns < 1 or rows * columns > MAX_PIXELS:
        raise ValueError(f"{columns}x{rows} px is no size of a picture")
    return rows, columns


def _part(part: Any, height: int, width: int) -> NDArray[np.bool_]:
    if not isinstance(part, dict):
        return _filled(part, height, width)
    if tuple(part["size"]) != (height, width):
        raise ValueError(f"it is {part['size'][1]}x{part['size'][0]}, its picture {width}x{height}")
    return decode(part)


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


def _packed(runs: Sequence[int]) -> str:
    """The inverse of `_unpacked`."""
    letters = bytearray()
    for place, run in enumerate(runs):
        value = run - runs[place - 2] if place > 2 else run
        more = True
        while more:
            bits, value = value & 31, value >> 5
            more = value != (-1 if bits & 16 else 0)
            letters.append(48 + bits + (32 if more else 0))
    return letters.decode("ascii")


def _unpacked(letters: str) -> list[int]:
    """Five bits a letter, the lowest first, the sixth says that more follow; from the third run on, differences."""
    runs: list[int] = []
    value = shift = 0
    for letter in letters.encode():
        bits = letter - 48
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            if bits & 16:
                value -= 1 << shift
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    if shift:
        raise ValueError("its runs are cut off")
    return runs
