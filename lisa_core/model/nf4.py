"""Products with NF4 weights, by CUDA kernels of our own: a token's step is mostly this.

They are compiled when they are first needed, by the compiler that torch has with it; where that fails, or computes
something else on the GPU at hand, bitsandbytes' do.
"""

import logging
from collections.abc import Callable, Sequence
from functools import cache
from importlib import resources
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

_BLOCK = 64
"""Weights that share a scale."""
_MOST = 3
"""Weights that are multiplied at once."""
_TABLE, _LARGER_TABLE = 32 << 10, 64 << 10
_SHARED = 96 << 10
"""Bytes of shared memory of the tables, and at most."""
_RIGHT = 2e-3
"""How far a first product may be off, as a share of its largest element."""


class Nf4(NamedTuple):
    """A weight (N, K) in 4 bit.

    Attributes:
        packed: N * K / 2 uint8, two values to a byte, the first in its upper half.
        scales: (N * K / 64) fp32.
        codes: (16) fp32, what each value stands for.
    """

    packed: Tensor
    scales: Tensor
    codes: Tensor

    def rows(self, width: int) -> int:
        """N, if K is `width`."""
        return self.packed.numel() * 2 // width


class _Kernels(NamedTuple):
    row: Callable[..., None]
    expand: Callable[..., None]


def row_products(row: Tensor, weights: Sequence[Nf4]) -> list[Tensor] | None:
    """(1, K) fp16 by up to three weights with the same codes: (1, N) each; None where that cannot be."""
    kernels = _suited(row)
    if kernels is None or len(weights) > _MOST:
        return None
    return _row_products(kernels.row, row, weights)


def product(states: Tensor, weight: Nf4, bias: Tensor | None) -> Tensor | None:
    """(T, K) fp16 by a weight that is written out for it: (T, N); None where that cannot be."""
    kernels = _suited(states)
    if kernels is None:
        return None
    width = states.shape[1]
    written = states.new_empty(weight.rows(width), width)
    _expand(kernels.expand, weight, written)
    return functional.linear(states, written, bias)


def _suited(states: Tensor) -> _Kernels | None:
    if states.dtype != torch.float16 or states.shape[1] % _BLOCK:
        return None
    return _kernels(states.device)


def _row_products(kernel: Callable[..., None], row: Tensor, weights: Sequence[Nf4]) -> list[Tensor] | None:
    width, blocks = row.shape[1], _multiprocessors(row.device)
    counts = [weight.rows(width) for weight in weights]
    shared = _TABLE + 2 * width
    if shared > _SHARED or any(count % 2 for count in counts[:-1]):
        return None
    out = row.new_empty(1, sum(counts))
    none = [0] * (_MOST - len(counts))
    some = [tensor for weight in [*weights, *[weights[0]] * len(none)] for tensor in (weight.packed, weight.scales)]
    arguments = [row, *some, weights[0].codes, out, width, *counts, *none]
    kernel(grid=(blocks, 1, 1), block=(1024, 1, 1), args=arguments, shared_mem=shared)
    return list(out.split(counts, dim=1))


def _expand(kernel: Callable[..., None], weight: Nf4, out: Tensor) -> None:
    arguments = [weight.packed, weight.scales, weight.codes, out, out.numel() // 8]
    grid = (2 * _multiprocessors(out.device), 1, 1)
    kernel(grid=grid, block=(1024, 1, 1), args=arguments, shared_mem=_LARGER_TABLE)


@cache
def _multiprocessors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count


@cache
def _kernels(device: torch.device) -> _Kernels | None:
    if device.type != "cuda":
        return None
    try:
        with torch.cuda.device(device):
            kernels = _Kernels(*map(_compiled, ("nf4_row", "nf4_expand")))
            _check(kernels, device)
    except (AttributeError, OSError, RuntimeError, ValueError) as error:
        logging.getLogger(__name__).warning("4 bit is multiplied by bitsandbytes, and slower: %s", error)
        return None
    return kernels


def _compiled(name: str) -> Callable[..., None]:
    source = resources.files(__package__).joinpath("nf4.cu").read_text()
    kernel: Any = torch.cuda._compile_kernel(source, name)  # nothing public compiles without a toolkit
    kernel.set_shared_memory_config(_SHARED)
    return kernel


def _check(kernels: _Kernels, device: torch.device) -> None:
    """Raises RuntimeError unless both kernels compute what torch does."""
    random = torch.Generator().manual_seed(0)
    width, counts = 192, (32, 48, 17)
    row = torch.randn(1, width, generator=random).half().to(device)
    weights, exact = [], []
    codes = torch.linspace(-1, 1, 16, device=device)
    for count in counts:
        packed = torch.randint(0, 256, (count * width // 2,), generator=random).to(device, torch.uint8)
        scales = torch.rand(count * width // _BLOCK, generator=random).to(device)
        weights.append(Nf4(packed, scales, codes))
        values = torch.stack([codes[packed.long() >> 4], codes[packed.long() & 15]], -1)
        exact.append((values.view(-1, _BLOCK) * scales[:, None]).view(count, width))
    wanted = torch.cat([row.float() @ weight.T for weight in exact], 1)
    products = _row_products(kernels.row, row, weights)
    off = (torch.cat(products or [torch.zeros_like(wanted)], 1) - wanted).abs().max() / wanted.abs().max()
    written = row.new_empty(counts[0], width)
    _expand(kernels.expand, weights[0], written)
    if not (off <= _RIGHT and torch.equal(written, exact[0].half())):
        raise RuntimeError(f"on this GPU its kernels are off by {100 * float(off):.1f} %")
