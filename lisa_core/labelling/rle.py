"""Masks as COCO writes them: run lengths, column by column, plain or packed into letters.

Source: the COCO API, `maskApi.c`.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lisa_core.files import MAX_PIXELS


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
