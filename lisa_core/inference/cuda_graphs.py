"""Work of fixed tensor sizes is recorded as a CUDA graph on a GPU, and replayed by one call of the driver.

An encoder or a decoding step launches some thousand small kernels, and launching them takes longer than running them.
A graph is recorded once for tensors at fixed addresses; before each replay new values are copied to those addresses.
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
"""Records work on tensors at fixed addresses; returns a function that does the same work again."""

_ALIKE = 0.05
"""Most that the first replay may differ from the same work without a graph, as a share of the largest element. Sums in
16 bit that are taken in another order differ by a tenth of that, a broken graph by far more."""


_MOST = 4
"""Most sizes that a function is recorded for. The mask decoder has one size for each number of masks, and an answer
rarely has more than this many; an encoder has a single size."""


def capture_for(device: torch.device, precision: ResolvedPrecision, *, urgent: bool = True) -> Capture | None:
    """What records work on a device; None where nothing can be recorded: on a CPU, and in int8, which asks the host.

    All graphs that one `Capture` has recorded share a memory pool and a stream. So only one of them may run at a time,
    and they have to be dropped together: when torch drops a graph it frees cuBLAS's workspace of the whole stream.

    Args:
        urgent: its kernels go before those of work that is not and runs at the same time (torch 2.10 or later).
    """
    if device.type != "cuda" or precision == "int8":
        return None

    @cache
    def own() -> tuple[Any, torch.cuda.Stream, list[torch.cuda.CUDAGraph]]:
        return torch.cuda.graph_pool_handle(), torch.cuda.Stream(device, priority=-1 if urgent else 0), []

    return lambda work: _cuda_graph(work, device, *own())


def can_record() -> bool:
    """Whether work may be recorded now: not under autocast, whose casted weights are freed before the next replay."""
    return not torch.is_autocast_enabled("cuda")


class Recorded:
    """A function of tensors of fixed sizes, recorded.

    Args:
        work: the function; tensors on the device in, tensors on the device out.
        capture: what records it.
        given: arguments to record it with.
        wanted: what `work` returns for these arguments, or the first rows of it.

    Raises:
        RuntimeError: it cannot be recorded, or its first replay returns something else than `wanted`.
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
            made.zero_()  # so that `_check` notices a replay that does nothing
        self._check(wanted)

    def __call__(self, *given: Tensor) -> tuple[Tensor, ...]:
        """What the work returns for these arguments; shorter ones fill the first rows of those it was recorded with."""
        for place, tensor in zip(self._given, given, strict=True):
            place[: len(tensor)].copy_(tensor, non_blocking=True)  # some are on the host, which need not wait
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
        work: the function.
        new_capture: returns what records it, or None where its kernels are launched one by one each time.
    """

    def __init__(self, work: Callable[..., tuple[Tensor, ...]], new_capture: Callable[[], Capture | None]) -> None:
        self._work = work
        self._new_capture = new_capture
        self._capture = new_capture()
        self._recorded: dict[tuple[torch.Size, ...], Recorded] = {}

    def __call__(self, *given: Tensor) -> tuple[Tensor, ...]:
        """What the work returns for these tensors."""
        sizes = tuple(tensor.shape for tensor in given)
        if sizes in self._recorded:
            return self._recorded[sizes](*given)
        made = self._work(*given)
        if self._capture is not None and can_record() and len(self._recorded) < _MOST:
            try:
                self._recorded[sizes] = Recorded(self._work, self._capture, given, made)
            except RuntimeError as error:
                self._capture = None  # never tried again
                self._recorded.clear()  # graphs of one capture have to be dropped together
                warn(error)
        return made

    def forget(self) -> None:
        """Drops what is recorded, and its memory; it is recorded again when it is called again."""
        self._recorded.clear()
        if self._capture is not None:
            self._capture = self._new_capture()


def warn(error: RuntimeError) -> None:
    """Logs that something could not be recorded."""
    logging.getLogger(__name__).warning("It goes on without a CUDA graph, and slower: %s", first_line(error))


def _cuda_graph(
    work: Replay, device: torch.device, pool: Any, aside: torch.cuda.Stream, graphs: list[torch.cuda.CUDAGraph]
) -> Replay:
    """Runs the work once, so that libraries are loaded and have their workspaces, and then records it.

    Args:
        aside: the stream to record on; the kernels keep its priority. (torch's default stream for this is on whichever
            device recorded first.)
        graphs: gets the graph, so that it lives as long as the others even if recording fails.
    """
    with torch.cuda.device(device):
        before = torch.cuda.current_stream()
        aside.wait_stream(before)
        graph = torch.cuda.CUDAGraph()
        graphs.append(graph)
        try:
            with torch.cuda.stream(aside):  # so that `before` is current again even if recording fails
                work()
                with torch.cuda.graph(graph, pool=pool, stream=aside, capture_error_mode="thread_local"):
                    work()
        except BaseException:
            with suppress(Exception):  # older torch would believe for good that a recording is under way
                torch._C._cuda_endAllocateToPool(device.index, pool)
            raise
        finally:
            before.wait_stream(aside)
    return graph.replay
