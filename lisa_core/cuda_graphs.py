"""Work of fixed sizes at one call of the driver: on a GPU it is recorded as a CUDA graph, and replayed.

An encoder or a step of decoding is some thousand small kernels, which take longer to launch than to run. At fixed
addresses they are always the same, so they are recorded once; only what stands at those addresses changes.
"""

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from typing import Any

import torch
from torch import Tensor

from lisa_core.errors import first_line
from lisa_core.options import ResolvedPrecision

Replay = Callable[[], None]
Capture = Callable[[Replay], Replay]
"""Takes work on fixed addresses; gives back what does the same work again."""

_ALIKE = 0.05
"""How far the first replay may be from the work as it is without a graph, as a share of the largest element: 16 bit
sums in another order differ by a tenth of that, and a graph that went wrong by far more."""


_MOST = 4
"""Sizes that a function is recorded for: of a mask decoder as many masks; an encoder has one."""


def capture_for(device: torch.device, precision: ResolvedPrecision, *, urgent: bool = True) -> Capture | None:
    """How work is captured on a device; None where it is not: LLM.int8 asks the host about outliers.

    What one of these has captured shares its memory, which it gives back once all of that is dropped. So none of it may
    be replayed while other work of the same runs, and none be dropped long before the rest: torch frees what cuBLAS
    works in for a whole stream. Work that is urgent goes before what runs beside it, with torch 2.10 or later.
    """
    if device.type != "cuda" or precision == "int8":
        return None

    @cache
    def own() -> tuple[Any, torch.cuda.Stream, list[torch.cuda.CUDAGraph]]:
        return torch.cuda.graph_pool_handle(), torch.cuda.Stream(device, priority=-1 if urgent else 0), []

    return lambda work: _cuda_graph(work, device, *own())


def can_record() -> bool:
    """Whether work may be recorded now: not under autocast, whose copies of weights are gone at the next replay."""
    return not torch.is_autocast_enabled("cuda")


class Recorded:
    """Work on tensors of fixed sizes.

    Args:
        work: of tensors, on the device; gives tensors of sizes that follow from those it is given.
        capture: how it is recorded.
        given: what it is recorded with.
        wanted: what the work has made of that, or of a part of it.

    Raises:
        RuntimeError: it cannot be recorded, or its first replay is not `wanted`.
    """

    def __init__(
        self,
        work: Callable[..., tuple[Tensor, ...]],
        capture: Capture,
        given: Sequence[Tensor],
        wanted: Sequence[Tensor],
    ) -> None:
        self._work = work
        self._given = [tensor.clone() for tensor in given]
        self._made: tuple[Tensor, ...]
        self._replay = capture(self._do)
        for made in self._made:
            made.zero_()  # so that a replay that does nothing is seen to be wrong
        self._check(wanted)

    def __call__(self, *given: Tensor) -> tuple[Tensor, ...]:
        """What the work makes of these."""
        for place, tensor in zip(self._given, given, strict=True):
            place[: len(tensor)].copy_(tensor, non_blocking=True)  # from the host, too, which does not wait for it
        self._replay()
        return tuple(tensor.clone() for tensor in self._made)

    def _do(self) -> None:
        self._made = self._work(*self._given)

    def _check(self, wanted: Sequence[Tensor]) -> None:
        for made, right in zip(self(*self._given), wanted, strict=False):
            off = float((made - right).abs().max() / right.abs().max().clamp(min=1e-9))
            if not off <= _ALIKE:
                raise RuntimeError(f"its first replay was off by {100 * off:.0f} %")


class Replayed:
    """A function of tensors, recorded for the first few sizes that it is called with.

    Args:
        work: what it does.
        capture: None: it is done anew each time, kernel by kernel.
    """

    def __init__(self, work: Callable[..., tuple[Tensor, ...]], capture: Capture | None) -> None:
        self._work = work
        self._capture = capture
        self._recorded: dict[tuple[torch.Size, ...], Recorded] = {}

    def __call__(self, *given: Tensor) -> tuple[Tensor, ...]:
        """What the work makes of these tensors."""
        sizes = tuple(tensor.shape for tensor in given)
        if sizes in self._recorded:
            return self._recorded[sizes](*given)
        made = self._work(*given)
        if self._capture is not None and can_record() and len(self._recorded) < _MOST:
            try:
                self._recorded[sizes] = Recorded(self._work, self._capture, given, made)
            except RuntimeError as error:
                self._capture = None  # never tried again
                self._recorded.clear()  # see `capture_for`: of one capture all go together
                warn(error)
        return made


def warn(error: RuntimeError) -> None:
    """That something could not be recorded."""
    logging.getLogger(__name__).warning("It goes on without a CUDA graph, and slower: %s", first_line(error))


def _cuda_graph(
    work: Replay, device: torch.device, pool: Any, aside: torch.cuda.Stream, graphs: list[torch.cuda.CUDAGraph]
) -> Replay:
    """Runs the work once, so that libraries are loaded and their workspaces made, and then records it.

    Args:
        aside: whose priority the kernels keep; torch's own for this belongs to whichever device captured first.
        graphs: takes the graph, so that it lives as long as the others, though its capture fail.
    """
    with torch.cuda.device(device):
        before = torch.cuda.current_stream()
        aside.wait_stream(before)
        graph = torch.cuda.CUDAGraph()
        graphs.append(graph)
        try:
            with torch.cuda.stream(aside):  # which goes back to `before` after a capture that failed, too
                work()
                with torch.cuda.graph(graph, pool=pool, stream=aside, capture_error_mode="thread_local"):
                    work()
        except BaseException:
            with suppress(Exception):  # torch before 2.12 may go on to count a capture that failed as under way
                torch._C._cuda_endAllocateToPool(device.index, pool)
            raise
        finally:
            before.wait_stream(aside)
    return graph.replay
