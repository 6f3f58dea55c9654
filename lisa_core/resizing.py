"""Pillow's resizing on a GPU, equal to the bit. On the host it takes milliseconds, for which the GPU would idle.

Source: Pillow's `Resample.c`. Weights are rounded to 22 bits, columns are resized first, rows then, and both round to
bytes.
"""

import math
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Filter = Literal["bilinear", "bicubic"]

_BITS = 22
_SUPPORT = {"bilinear": 1.0, "bicubic": 2.0}
_SHARPNESS = -0.5
"""Of the cubic."""


def resized(pixels: Tensor, size: tuple[int, int], kind: Filter) -> Tensor:
    """(H, W, 3) uint8 -> (height, width, 3) uint8, on its device."""
    height, width = size
    if width != pixels.shape[1]:
        pixels = _along(pixels.transpose(0, 1), width, kind).transpose(0, 1)
    return _along(pixels, height, kind) if height != pixels.shape[0] else pixels


def _along(lines: Tensor, count: int, kind: Filter) -> Tensor:
    """(N, M, 3) uint8 -> (count, M, 3) uint8."""
    first, weights = _weights(len(lines), count, kind, lines.device)
    if lines.is_cuda:
        for kept in (first, weights):  # the cache may drop them while this stream still reads them
            kept.record_stream(torch.cuda.current_stream(lines.device))
    total = torch.full((count, *lines.shape[1:]), 1 << (_BITS - 1), dtype=torch.int32, device=lines.device)
    for tap, weight in enumerate(weights):  # past the end they are zero
        total += lines.index_select(0, (first + tap).clamp(max=len(lines) - 1)).int() * weight[:, None, None]
    return (total >> _BITS).clamp(0, 255).to(torch.uint8)


@lru_cache(maxsize=32)
def _weights(source: int, target: int, kind: Filter, device: torch.device) -> tuple[Tensor, Tensor]:
    """Of each target pixel its first source pixel, (target,), and the weights from there on, (taps, target) int32."""
    scale = source / target
    wider = max(scale, 1.0)
    support = _SUPPORT[kind] * wider
    centre = (np.arange(target) + 0.5) * scale
    first = np.maximum((centre - support + 0.5).astype(np.int64), 0)
    last = np.minimum((centre + support + 0.5).astype(np.int64), source)
    tap = np.arange(2 * math.ceil(support) + 1)[:, None]
    distance = (tap + first - centre + 0.5) * (1.0 / wider)
    exact = np.where(tap < last - first, _filter(np.abs(distance), kind), 0.0)
    exact /= _summed(exact)
    rounded = np.trunc(exact * (1 << _BITS) + np.copysign(0.5, exact)).astype(np.int32)
    return torch.from_numpy(first).to(device), torch.from_numpy(rounded).to(device)


def _filter(distance: NDArray[np.float64], kind: Filter) -> NDArray[np.float64]:
    if kind == "bilinear":
        return np.maximum(1.0 - distance, 0.0)
    a = _SHARPNESS
    near = ((a + 2.0) * distance - (a + 3.0)) * distance * distance + 1
    far = (((distance - 5) * distance + 8) * distance - 4) * a
    return np.where(distance < 1.0, near, np.where(distance < 2.0, far, 0.0))


def _summed(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Over the taps, one after the other as Pillow does: numpy's own order would round otherwise."""
    total = np.zeros(weights.shape[1])
    for weight in weights:
        total += weight
    return total
