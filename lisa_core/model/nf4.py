"""Products with NF4 weights by CUDA kernels of our own: most of a decoding step's time.

They are compiled at first use by the compiler that torch brings along, without a CUDA toolkit. Where that fails (before
torch 2.10, or on a GPU before compute capability 8.0), or where a kernel computes something wrong on the GPU at hand,
bitsandbytes' kernels are used.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib import resources
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from lisa_core.errors import first_line, is_out_of_memory

BLOCK = 64
"""Weights that share a scale."""
_MOST = 3
"""Weights that are multiplied at once."""
_ROWS = 32
"""Most rows that are multiplied by weights in 4 bit: nf4_rows.cu has room for no more."""
_ROW_THREADS = 768
"""Of a block that multiplies one row: THREADS in nf4.cu."""
_SLICE = 1024
"""Numbers of that row that one warp holds."""
_WIDEST = _ROW_THREADS // 32 * _SLICE
_TABLE = 64 << 10
"""Bytes of shared memory of each kernel's table."""
_BEFORE_TABLE = 1 << 10
"""Bytes that may lie before it where it stands at a fixed address, as nf4_row's and nf4_rows' do."""
_SHARED = 96 << 10
"""Bytes of shared memory at most."""
_CAPABILITY = (8, 0)
"""The least compute capability: the kernels are compiled for no older GPU, and none has that much shared memory."""
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
    """(T, K) fp16 times each of the weights (N, K), which have the same codes: (T, N) each; None if no kernel can.

    One row is multiplied by up to three 4-bit weights at once, 2 to 32 rows by one at a time. For more rows each weight
    is first written out in fp16.
    """
    kernels = _suited(rows)
    if kernels is None:
        return None
    few = _rows_kernel(rows.device) if 1 < len(rows) <= _ROWS else None
    if len(rows) > 1 and few is None:
        return [
            functional.linear(rows, _written(kernels, one, rows), bias)
            for one, bias in zip(weights, biases, strict=True)
        ]
    found = _rows_products(few, rows, weights) if few else _row_products(kernels.row, rows, weights)
    return found and [one if bias is None else one + bias for one, bias in zip(found, biases, strict=True)]


def _suited(states: Tensor) -> _Kernels | None:
    if states.dtype != torch.float16 or states.shape[1] % BLOCK:
        return None
    return _kernels(states.device)


def _row_products(kernel: Callable[..., None], row: Tensor, weights: Sequence[Nf4]) -> list[Tensor] | None:
    width = row.shape[1]
    if width > _WIDEST or len(weights) > _MOST:
        return None
    counts = [weight.rows(width) for weight in weights]
    blocks, shared = _row_layout(width, sum(counts), _multiprocessors(row.device))
    out = row.new_empty(1, sum(counts))
    none = [0] * (_MOST - len(counts))
    some = [tensor for weight in [*weights, *[weights[0]] * len(none)] for tensor in (weight.packed, weight.scales)]
    arguments = [row, *some, weights[0].codes, out, width, *counts, *none]
    kernel(grid=(blocks, 1, 1), block=(_ROW_THREADS, 1, 1), args=arguments, shared_mem=shared)
    return list(out.split(counts, dim=1))


def _row_layout(width: int, count: int, multiprocessors: int) -> tuple[int, int]:
    """How many blocks, and bytes of shared memory of each, for a row by weights (count, width).

    As many blocks as multiprocessors, but where those are few, and a block's sums had no room, a multiple of them.
    """
    sums = 4 * -(-width // _SLICE)
    most = (_SHARED - _BEFORE_TABLE - _TABLE) // sums
    blocks = multiprocessors * -(-count // (multiprocessors * most))
    return blocks, _BEFORE_TABLE + _TABLE + sums * -(-count // blocks)


def _rows_products(kernel: Callable[..., None], rows: Tensor, weights: Sequence[Nf4]) -> list[Tensor]:
    """Up to `_ROWS` rows by each weight."""
    count, width = rows.shape
    chunks = -(-width // 128)
    whole = functional.pad(rows, (0, 128 * chunks - width, 0, _ROWS - count))
    arranged = whole.view(_ROWS // 8, 8, chunks, 4, 4, 8).permute(2, 0, 4, 1, 3, 5).contiguous()  # as its lanes read it
    found = []
    for weight in weights:
        out = rows.new_empty(count, weight.rows(width))
        arguments = [arranged, weight.packed, weight.scales, weight.codes, out, count, width, out.shape[1]]
        grid = (-(-out.shape[1] // 32), 1, 1)
        kernel(grid=grid, block=(512, 1, 1), args=arguments, shared_mem=_BEFORE_TABLE + _TABLE)
        found.append(out)
    return found


def _written(kernels: _Kernels, weight: Nf4, rows: Tensor) -> Tensor:
    """(N, K) of `rows`' dtype."""
    out = rows.new_empty(weight.rows(rows.shape[1]), rows.shape[1])
    arguments = [weight.packed, weight.scales, weight.codes, out, out.numel() // 8]
    grid = (2 * _multiprocessors(out.device), 1, 1)
    kernels.expand(grid=grid, block=(1024, 1, 1), args=arguments, shared_mem=_TABLE)
    return out


@cache
def _multiprocessors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count


@cache
def _kernels(device: torch.device) -> _Kernels | None:
    if device.type != "cuda":
        return None
    try:
        _check_able(device)
        with torch.cuda.device(device):
            kernels = _Kernels(*map(_compiled, ("nf4_row", "nf4_expand")))
            _check(kernels, device)
            _rows_kernel(device)  # now: compiling while a graph is recorded would break the graph
    except Exception as error:  # whatever keeps a compiler from its work, the answer can be had without
        if is_out_of_memory(error):
            raise  # there may be memory for them next time
        logging.getLogger(__name__).warning("4 bit is multiplied by bitsandbytes, and slower: %s", first_line(error))
        return None
    return kernels


@cache
def _rows_kernel(device: torch.device) -> Callable[..., None] | None:
    """What multiplies a few rows; None where the weights have to be written out."""
    try:
        with torch.cuda.device(device):
            kernel = _compiled("nf4_rows", "nf4_rows.cu")
            _check_rows(kernel, device)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        said = first_line(error)
        logging.getLogger(__name__).warning("A few rows are multiplied by weights that are written out: %s", said)
        return None
    return kernel


def _check_able(device: torch.device) -> None:
    """Raises RuntimeError, with the cause in a sentence, where the kernels cannot be compiled at all."""
    if torch.__version__ < "2.10.0a0":
        raise RuntimeError(f"torch {torch.__version__} does not compile kernels as 2.10 does.")
    if (capability := torch.cuda.get_device_capability(device)) < _CAPABILITY:
        has, needs = (".".join(map(str, each)) for each in (capability, _CAPABILITY))
        raise RuntimeError(f"{device} has compute capability {has}, and our kernels need {needs}.")


def _compiled(name: str, file: str = "nf4.cu") -> Callable[..., None]:
    source = resources.files(__package__).joinpath(file).read_text()
    with _without_toolkit():
        kernel: Any = torch.cuda._compile_kernel(source, name)  # nothing public compiles without a toolkit
    kernel.set_shared_memory_config(_SHARED)
    return kernel


@contextmanager
def _without_toolkit() -> Iterator[None]:
    """Around a compilation: torch asks for the folder of CUDA's headers, which our sources need not; any will do."""
    from torch.utils import cpp_extension  # late: it needs setuptools

    found = cpp_extension.CUDA_HOME
    cpp_extension.CUDA_HOME = found or str(resources.files(__package__))
    try:
        yield
    finally:
        cpp_extension.CUDA_HOME = found


def _check(kernels: _Kernels, device: torch.device) -> None:
    """Raises RuntimeError unless both kernels compute what torch does."""
    width = 192
    row = torch.randn(1, width, generator=torch.Generator().manual_seed(1)).half().to(device)
    weights, exact = _trial(width, device)
    wanted = torch.cat([row.float() @ weight.T for weight in exact], 1)
    found = _row_products(kernels.row, row, weights)
    off = (torch.cat(found or [torch.zeros_like(wanted)], 1) - wanted).abs().max() / wanted.abs().max()
    written = _written(kernels, weights[0], row)
    if not (off <= _RIGHT and torch.equal(written, exact[0].half())):
        raise RuntimeError(f"on this GPU its kernels are off by {100 * float(off):.1f} %")


def _check_rows(kernel: Callable[..., None], device: torch.device) -> None:
    """Raises RuntimeError unless it computes what torch does."""
    width = 192
    rows = torch.randn(13, width, generator=torch.Generator().manual_seed(1)).half().to(device)
    weights, exact = _trial(width, device)
    wanted = torch.cat([rows.float() @ weight.T for weight in exact], 1)
    off = (torch.cat(_rows_products(kernel, rows, weights), 1) - wanted).abs().max() / wanted.abs().max()
    if not off <= _RIGHT:
        raise RuntimeError(f"on this GPU its kernel is off by {100 * float(off):.1f} %")


def _trial(width: int, device: torch.device) -> tuple[list[Nf4], list[Tensor]]:
    """Random weights, and what they stand for."""
    random = torch.Generator().manual_seed(0)
    weights, exact = [], []
    codes = torch.linspace(-1, 1, 16, device=device)
    for count in (33, 48, 17):
        packed = torch.randint(0, 256, (count * width // 2,), generator=random).to(device, torch.uint8)
        scales = torch.rand(count * width // BLOCK, generator=random).to(device)
        weights.append(Nf4(packed, scales, codes))
        values = torch.stack([codes[packed.long() >> 4], codes[packed.long() & 15]], -1)
        exact.append((values.view(-1, BLOCK) * scales[:, None]).view(count, width))
    return weights, exact
