"""Triton kernels of the language model on a GPU, each in place of about a dozen of torch's.

A decoding step is bound by kernel launches and by reading the weights once. Import this module by `gpu.kernels_for`:
Triton is not everywhere. Source of the attention: Milakov and Gimelshein 2018, "Online normalizer calculation".
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

_PARTS, _SEEN = 8, 64
"""Blocks that share a head's attention, and tokens that each reads at a time."""


def rms_norm(states: Tensor, weight: Tensor, eps: float) -> Tensor:
    """(..., width) normed in fp32, as `language.RMSNorm`."""
    out = torch.empty_like(states, memory_format=torch.contiguous_format)
    width = states.shape[-1]
    rows = states.reshape(-1, width)
    _rms_norm[(len(rows),)](rows, weight, out, width, eps, BLOCK=triton.next_power_of_2(width), num_warps=8)
    return out


def sum_and_norm(states: Tensor, more: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The sum of two (..., width), rounded to their dtype, and its `rms_norm`."""
    width = states.shape[-1]
    rows, others = (tensor.reshape(-1, width).contiguous() for tensor in (states, more))
    total, out = torch.empty_like(rows), torch.empty_like(rows)
    _sum_and_norm[(len(rows),)](
        rows, others, weight, total, out, width, eps, BLOCK=triton.next_power_of_2(width), num_warps=8
    )
    return total.view(states.shape), out.view(states.shape)


def gated(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up, of any shape."""
    out = torch.empty_like(gate)
    count = gate.numel()
    _gated[(triton.cdiv(count, 1024),)](gate.contiguous(), up.contiguous(), out, count, BLOCK=1024)
    return out


def rotate_and_store(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    rotation: tuple[Tensor, Tensor],
    places: Tensor,
    keys: Tensor,
    values: Tensor,
) -> Tensor:
    """Rotates T queries and keys by their positions, and stores keys and values in the cache.

    Args:
        query: (T, heads * head_width).
        key, value: (T, kv_heads * head_width).
        rotation: cosines and sines, (T, head_width) each.
        places: (T,) int64 positions of the tokens, on the device.
        keys, values: (kv_heads, capacity, head_width), written to.

    Returns:
        (heads, T, head_width) rotated queries.
    """
    tokens, width = len(query), keys.shape[2]
    heads, kv_heads = query.shape[1] // width, keys.shape[0]
    turned = query.new_empty(heads, tokens, width)
    _rotate_and_store[(tokens, heads + kv_heads)](
        query, key, value, *rotation, places, keys, values, turned, tokens, keys.shape[1], heads, kv_heads,
        HALF=width // 2, LANES=triton.next_power_of_2(width // 2), num_warps=1,
    )  # fmt: skip
    return turned


def attend(query: Tensor, keys: Tensor, values: Tensor, position: Tensor) -> Tensor:
    """One token's attention to all tokens up to itself.

    Args:
        query: (heads, 1, head_width), rotated.
        keys, values: (kv_heads, capacity, head_width), its own included.
        position: (1,) int64 of the token, on the device.

    Returns:
        (1, heads * head_width).
    """
    heads, _, width = query.shape
    out, lanes = query.new_empty(1, heads * width), triton.next_power_of_2(width)
    mixed = query.new_empty(heads, _PARTS, lanes, dtype=torch.float32)
    notes = query.new_empty(heads, _PARTS, 2, dtype=torch.float32)
    _attend_in_part[(heads, _PARTS)](
        query, keys, values, position, mixed, notes, keys.shape[1], heads // len(keys), width**-0.5,
        WIDTH=width, LANES=lanes, SEEN=_SEEN, num_warps=4,
    )  # fmt: skip
    _join_parts[(heads,)](mixed, notes, out, width, LANES=lanes, PARTS=_PARTS, num_warps=4)
    return out


def try_on(device: torch.device, dtype: torch.dtype) -> None:
    """Runs every kernel once; raises if one does not compile or run."""
    places = torch.zeros(1, dtype=torch.long, device=device)
    states = torch.ones(1, 16, dtype=dtype, device=device)
    cache = torch.zeros(1, 1, 16, dtype=dtype, device=device)
    query = rotate_and_store(states, states, states, (states, states), places, cache, cache.clone())
    opened = gated(states, attend(query, cache, cache, places))
    sum_and_norm(rms_norm(opened, states[0], 1e-6), opened, states[0], 1e-6)


@triton.jit
def _rms_norm(states, weight, out, width, eps, BLOCK: tl.constexpr):
    start = tl.program_id(0).to(tl.int64) * width
    place = tl.arange(0, BLOCK)
    inside = place < width
    exact = tl.load(states + start + place, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + start + place, _normed(exact, weight, place, inside, width, eps, out.dtype.element_ty), mask=inside)


@triton.jit
def _sum_and_norm(states, more, weight, total, out, width, eps, BLOCK: tl.constexpr):
    start = tl.program_id(0).to(tl.int64) * width
    place = tl.arange(0, BLOCK)
    inside = place < width
    dtype = out.dtype.element_ty
    first = tl.load(states + start + place, mask=inside, other=0.0).to(tl.float32)
    second = tl.load(more + start + place, mask=inside, other=0.0).to(tl.float32)
    rounded = (first + second).to(dtype)
    tl.store(total + start + place, rounded, mask=inside)
    normed = _normed(rounded.to(tl.float32), weight, place, inside, width, eps, dtype)
    tl.store(out + start + place, normed, mask=inside)


@triton.jit
def _normed(exact, weight, place, inside, width, eps, dtype: tl.constexpr):
    """A row in fp32, zero where it is not `inside`, normed and times the weight, in `dtype`."""
    exact = exact * tl.rsqrt(tl.sum(exact * exact, 0) / width + eps)
    scaled = tl.load(weight + place, mask=inside, other=0.0).to(tl.float32) * exact.to(dtype).to(tl.float32)
    return scaled.to(dtype)


@triton.jit
def _gated(gate, up, out, count, BLOCK: tl.constexpr):
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = place < count
    exact = tl.load(gate + place, mask=inside, other=0.0).to(tl.float32)
    dtype = out.dtype.element_ty
    opened = (exact * tl.sigmoid(exact)).to(dtype).to(tl.float32)
    closed = tl.load(up + place, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + place, (opened * closed).to(dtype), mask=inside)


@triton.jit
def _rotate_and_store(
    query, key, value, cosines, sines, places, keys, values, turned, tokens, capacity, heads, kv_heads,
    HALF: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    token, head = tl.program_id(0), tl.program_id(1)
    width = 2 * HALF
    lane = tl.arange(0, LANES)
    inside = lane < HALF
    # the same for both halves of a head
    cosine = tl.load(cosines + token * width + lane, mask=inside, other=0.0).to(tl.float32)
    sine = tl.load(sines + token * width + lane, mask=inside, other=0.0).to(tl.float32)
    dtype = keys.dtype.element_ty
    if head < heads:
        source = query + (token * heads + head) * width
        target = turned + (head * tokens + token) * width
    else:
        number = head - heads
        source = key + (token * kv_heads + number) * width
        at = (number.to(tl.int64) * capacity + tl.load(places + token)) * width
        target = keys + at
        said = value + (token * kv_heads + number) * width
        tl.store(values + at + lane, tl.load(said + lane, mask=inside), mask=inside)
        tl.store(values + at + HALF + lane, tl.load(said + HALF + lane, mask=inside), mask=inside)
    left = tl.load(source + lane, mask=inside, other=0.0).to(tl.float32)
    right = tl.load(source + HALF + lane, mask=inside, other=0.0).to(tl.float32)
    tl.store(target + lane, (left * cosine - right * sine).to(dtype), mask=inside)
    tl.store(target + HALF + lane, (right * cosine + left * sine).to(dtype), mask=inside)


@triton.jit
def _attend_in_part(
    query, keys, values, position, mixed_of, notes_of, capacity, group, scale,
    WIDTH: tl.constexpr, LANES: tl.constexpr, SEEN: tl.constexpr,
):  # fmt: skip
    head, part = tl.program_id(0), tl.program_id(1)
    lane = tl.arange(0, LANES)
    inside = lane < WIDTH
    asked = tl.load(query + head * WIDTH + lane, mask=inside, other=0.0).to(tl.float32) * scale
    start = (head // group).to(tl.int64) * capacity * WIDTH
    end = (tl.load(position) + 1).to(tl.int32)
    highest = tl.full([], -1e30, tl.float32)
    total = tl.full([], 0.0, tl.float32)
    mixed = tl.zeros([LANES], tl.float32)
    first = part * SEEN
    while first < end:
        token = first + tl.arange(0, SEEN)
        seen = (token < end)[:, None] & inside[None, :]
        where = start + token[:, None] * WIDTH + lane[None, :]
        key = tl.load(keys + where, mask=seen, other=0.0).to(tl.float32)
        told = tl.load(values + where, mask=seen, other=0.0).to(tl.float32)
        scores = tl.where(token < end, tl.sum(key * asked[None, :], 1), -1e30)
        higher = tl.maximum(highest, tl.max(scores, 0))
        shares = tl.where(token < end, tl.exp(scores - higher), 0.0)
        kept = tl.exp(highest - higher)
        mixed = mixed * kept + tl.sum(shares[:, None] * told, 0)
        total = total * kept + tl.sum(shares, 0)
        highest = higher
        first += tl.num_programs(1) * SEEN
    place = head * tl.num_programs(1) + part
    tl.store(mixed_of + place * LANES + lane, mixed)
    tl.store(notes_of + place * 2, highest)
    tl.store(notes_of + place * 2 + 1, total)


@triton.jit
def _join_parts(mixed_of, notes_of, out, width, LANES: tl.constexpr, PARTS: tl.constexpr):
    head = tl.program_id(0)
    lane, part = tl.arange(0, LANES), tl.arange(0, PARTS)
    place = head * PARTS + part
    highest = tl.load(notes_of + place * 2)
    shares = tl.exp(highest - tl.max(highest, 0))
    total = tl.sum(shares * tl.load(notes_of + place * 2 + 1), 0)
    mixed = tl.sum(tl.load(mixed_of + place[:, None] * LANES + lane[None, :]) * shares[:, None], 0)
    tl.store(out + head * width + lane, (mixed / total).to(out.dtype.element_ty), mask=lane < width)
