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

BLOCK = 64
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


def products(rows: Tensor, weights: Sequence[Nf4], biases: Sequence[Tensor | None]) -> list[Tensor] | None:
    """(T, K) fp16 by weights (N, K) with the same codes: (T, N) each; None where that cannot be.

    One row reads up to three weights in 4 bit at once; for several each weight is written out.
    """
    kernels = _suited(rows)
    if kernels is None:
        return None
    if len(rows) > 1:
        return [
            functional.linear(rows, _written(kernels, one, rows), bias)
            for one, bias in zip(weights, biases, strict=True)
        ]
    found = _row_products(kernels.row, rows, weights)
    return found and [one if bias is None else one + bias for one, bias in zip(found, biases, strict=True)]


def _suited(states: Tensor) -> _Kernels | None:
    if states.dtype != torch.float16 or states.shape[1] % BLOCK:
        return None
    return _kernels(states.device)


def _row_products(kernel: Callable[..., None], row: Tensor, weights: Sequence[Nf4]) -> list[Tensor] | None:
    width, blocks = row.shape[1], _multiprocessors(row.device)
    counts = [weight.rows(width) for weight in weights]
    shared = _TABLE + 2 * width
    if shared > _SHARED or len(weights) > _MOST or any(count % 2 for count in counts[:-1]):
        return None
    out = row.new_empty(1, sum(counts))
    none = [0] * (_MOST - len(counts))
    some = [tensor for weight in [*weights, *[weights[0]] * len(none)] for tensor in (weight.packed, weight.scales)]
    arguments = [row, *some, weights[0].codes, out, width, *counts, *none]
    kernel(grid=(blocks, 1, 1), block=(1024, 1, 1), args=arguments, shared_mem=shared)
    return list(out.split(counts, dim=1))


def _written(kernels: _Kernels, weight: Nf4, rows: Tensor) -> Tensor:
    """(N, K) of `rows`' dtype."""
    out = rows.new_empty(weight.rows(rows.shape[1]), rows.shape[1])
    arguments = [weight.packed, weight.scales, weight.codes, out, out.numel() // 8]
    grid = (2 * _multiprocessors(out.device), 1, 1)
    kernels.expand(grid=grid, block=(1024, 1, 1), args=arguments, shared_mem=_LARGER_TABLE)
    return out


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
        scales = torch.rand(count * width // BLOCK, generator=random).to(device)
        weights.append(Nf4(packed, scales, codes))
        values = torch.stack([codes[packed.long() >> 4], codes[packed.long() & 15]], -1)
        exact.append((values.view(-1, BLOCK) * scales[:, None]).view(count, width))
    wanted = torch.cat([row.float() @ weight.T for weight in exact], 1)
    found = _row_products(kernels.row, row, weights)
    off = (torch.cat(found or [torch.zeros_like(wanted)], 1) - wanted).abs().max() / wanted.abs().max()
    written = _written(kernels, weights[0], row)
    if not (off <= _RIGHT and torch.equal(written, exact[0].half())):
        raise RuntimeError(f"on this GPU its kernels are off by {100 * float(off):.1f} %")
