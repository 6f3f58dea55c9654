"""Triton kernels for what surrounds attention in SAM's image encoder on a GPU; each moves its bytes once.

Relative positions become extra columns of queries and keys. So attention needs no bias for every pair, and any of
torch's fused kernels can do it. Import this module by `gpu.kernels_for`: Triton is not everywhere.
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor


def fold(
    qkv: Tensor, padding: Tensor, down: Tensor, across: Tensor, heads: int, side: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Splits an image into squares, with the relative positions in extra columns of queries and keys.

    Attention has to be scaled as for heads of `width`.

    Args:
        qkv: (B, H, W, 3 * heads * width).
        padding: (3 * heads * width,), the qkv of patches beyond the right and bottom edge.
        down, across: (2 * side - 1, width), for the distances of rows and of columns.

    Returns:
        Queries and keys (B * squares, heads, side * side, at least width + 2 * side), values (..., width).
    """
    batch, height, image_width, channels = qkv.shape
    width = channels // (3 * heads)
    high, wide = math.ceil(height / side), math.ceil(image_width / side)
    columns, line = (max(16, triton.next_power_of_2(size)) for size in (width + 2 * side, side))
    size = (batch * high * wide, heads, side * side)
    query, key, value = (qkv.new_empty(*size, last) for last in (columns, columns, width))
    _fold[(heads, side, len(query))](
        qkv.contiguous(), padding, down, across, query, key, value, height, image_width, high, wide, width**0.5,
        HEADS=heads, SIDE=side, WIDTH=width, COLUMNS=columns, LINE=line, num_warps=16 if line * columns > 8192 else 4,
    )  # fmt: skip
    return query, key, value


def unfold(mixed: Tensor, image: tuple[int, int, int], side: int) -> Tensor:
    """(B * squares, heads, side * side, width) of the squares of `image`, (B, H, W) -> (B, H, W, heads * width)."""
    batch, height, image_width = image
    heads, width = mixed.shape[1], mixed.shape[3]
    out = mixed.new_empty(*image, heads * width)
    _unfold[(image_width, height, batch)](
        mixed, *mixed.stride(), out, height, image_width, math.ceil(height / side), math.ceil(image_width / side),
        HEADS=heads, SIDE=side, WIDTH=width, LANES=triton.next_power_of_2(width),
        MANY=triton.next_power_of_2(heads), num_warps=4,
    )  # fmt: skip
    return out


def sum_and_norm(states: Tensor, more: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The sum of two (..., width), rounded to their dtype, and its layer norm, computed in fp32."""
    width = states.shape[-1]
    rows, others = states.contiguous(), more.contiguous()
    total, out = torch.empty_like(rows), torch.empty_like(rows)
    _sum_and_norm[(rows.numel() // width,)](
        rows, others, weight, bias, total, out, width, eps, BLOCK=triton.next_power_of_2(width), num_warps=4
    )
    return total, out


def try_on(device: torch.device, dtype: torch.dtype) -> None:
    """Runs every kernel once; raises if one does not compile or run."""
    qkv, table = (torch.ones(size, dtype=dtype, device=device) for size in ((1, 4, 4, 48), (7, 16)))
    _, _, value = fold(qkv, qkv[0, 0, 0], table, table, heads=1, side=4)
    states = unfold(value, (1, 4, 4), 4)
    sum_and_norm(states, states, table[0], table[0], 1e-6)


@triton.jit
def _fold(
    qkv, padding, down, across, query, key, value, height, width, high, wide, scale,
    HEADS: tl.constexpr, SIDE: tl.constexpr, WIDTH: tl.constexpr, COLUMNS: tl.constexpr, LINE: tl.constexpr,
):  # fmt: skip
    """One program for each (head, line, square): writes queries, keys and values of a row of patches.

    It also writes what relative positions add: for the queries of row `line`, and for those of column `line`.
    """
    head, line, square = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    qkv += (square // (high * wide)).to(tl.int64) * height * width * (3 * HEADS * WIDTH)
    start = (square.to(tl.int64) * HEADS + head) * (SIDE * SIDE)
    query, key, value = query + start * COLUMNS, key + start * COLUMNS, value + start * WIDTH
    top, left = square // wide % high * SIDE, square % wide * SIDE
    step, lane = tl.arange(0, LINE), tl.arange(0, COLUMNS)
    within, inside = step < SIDE, lane < WIDTH
    dtype = query.dtype.element_ty
    place = line * SIDE + step
    there = place[:, None] * COLUMNS + lane[None, :]

    real = within & (top + line < height) & (left + step < width)
    patch = (top + line) * width + left + step
    asked = _part(qkv, padding, patch, real, head, lane, HEADS, WIDTH)
    rest = (lane < WIDTH) | (lane >= WIDTH + 2 * SIDE)
    tl.store(query + there, asked, mask=within[:, None] & rest[None, :])
    known = _part(qkv, padding, patch, real, HEADS + head, lane, HEADS, WIDTH)
    here = (lane[None, :] == WIDTH + line) | (lane[None, :] == WIDTH + SIDE + step[:, None])
    tl.store(key + there, tl.where(here, 1.0, known).to(dtype), mask=within[:, None])
    told = _part(qkv, padding, patch, real, 2 * HEADS + head, lane, HEADS, WIDTH)
    tl.store(value + place[:, None] * WIDTH + lane[None, :], told, mask=within[:, None] & inside[None, :])

    pairs = within[:, None] & within[None, :]
    rows = _products(qkv, padding, down, patch, real, head, line, HEADS, SIDE, WIDTH, LINE) * scale
    tl.store(query + place[:, None] * COLUMNS + WIDTH + step[None, :], rows.to(dtype), mask=pairs)
    real = within & (top + step < height) & (left + line < width)
    patch = (top + step) * width + left + line
    columns = _products(qkv, padding, across, patch, real, head, line, HEADS, SIDE, WIDTH, LINE) * scale
    place = step * SIDE + line
    tl.store(query + place[:, None] * COLUMNS + WIDTH + SIDE + step[None, :], columns.to(dtype), mask=pairs)


@triton.jit
def _products(
    qkv, padding, table, patch, real, head, line,
    HEADS: tl.constexpr, SIDE: tl.constexpr, WIDTH: tl.constexpr, LINE: tl.constexpr,
):  # fmt: skip
    """(LINE, LINE): queries of these patches times the table's rows for the distances from `line` to each line."""
    step = tl.arange(0, LINE)
    distance = line + SIDE - 1 - step
    product = tl.zeros([LINE, LINE], tl.float32)
    for first in range(0, WIDTH, 16):
        lane = first + tl.arange(0, 16)
        asked = _part(qkv, padding, patch, real, head, lane, HEADS, WIDTH)
        known = (step < SIDE)[:, None] & (lane < WIDTH)[None, :]
        away = tl.load(table + distance[:, None] * WIDTH + lane[None, :], mask=known, other=0.0).to(asked.dtype)
        product = tl.dot(asked, tl.trans(away), product, input_precision="ieee")
    return product


@triton.jit
def _part(qkv, padding, patch, real, part, lane, HEADS: tl.constexpr, WIDTH: tl.constexpr):
    """(patches, lanes): a head's query, key or value, or that of the padding; zeros from lane WIDTH on."""
    inside = lane < WIDTH
    place = part * WIDTH + lane
    filled = tl.load(padding + place, mask=inside, other=0.0).to(qkv.dtype.element_ty)
    at = patch[:, None] * (3 * HEADS * WIDTH) + place[None, :]
    found = tl.load(qkv + at, mask=real[:, None] & inside[None, :], other=0.0)
    return tl.where(real[:, None], found, filled[None, :])


@triton.jit
def _unfold(
    mixed, by_square, by_head, by_patch, by_lane, out, height, width, high, wide,
    HEADS: tl.constexpr, SIDE: tl.constexpr, WIDTH: tl.constexpr, LANES: tl.constexpr, MANY: tl.constexpr,
):  # fmt: skip
    column, row, image = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    square = (image * high + row // SIDE) * wide + column // SIDE
    patch = row % SIDE * SIDE + column % SIDE
    head, lane = tl.arange(0, MANY)[:, None], tl.arange(0, LANES)[None, :]
    inside = (head < HEADS) & (lane < WIDTH)
    found = tl.load(
        mixed + square.to(tl.int64) * by_square + patch * by_patch + head * by_head + lane * by_lane, mask=inside
    )
    at = ((image.to(tl.int64) * height + row) * width + column) * (HEADS * WIDTH)
    tl.store(out + at + head * WIDTH + lane, found, mask=inside)


@triton.jit
def _sum_and_norm(states, more, weight, bias, total, out, width, eps, BLOCK: tl.constexpr):
    start = tl.program_id(0).to(tl.int64) * width
    place = tl.arange(0, BLOCK)
    inside = place < width
    dtype = out.dtype.element_ty
    first = tl.load(states + start + place, mask=inside, other=0.0).to(tl.float32)
    second = tl.load(more + start + place, mask=inside, other=0.0).to(tl.float32)
    rounded = (first + second).to(dtype)
    tl.store(total + start + place, rounded, mask=inside)
    exact = rounded.to(tl.float32)
    away = tl.where(inside, exact - tl.sum(exact, 0) / width, 0.0)
    away *= tl.rsqrt(tl.sum(away * away, 0) / width + eps)
    scale = tl.load(weight + place, mask=inside, other=0.0).to(tl.float32)
    shift = tl.load(bias + place, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + start + place, (away * scale + shift).to(dtype), mask=inside)
