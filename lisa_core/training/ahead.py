"""Batches prefetched by a thread, or by several processes, where one core is too slow for the GPU."""

import shutil
import signal
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Generic, TypeVar

import cv2
from torch.utils.data import DataLoader, Dataset

from lisa_core.errors import LisaError
from lisa_core.signals import ENDING, postponed

Batch = TypeVar("Batch")

_SHARED, _ROOM = Path("/dev/shm"), 4 << 30
"""The shared memory in which processes hand over batches, and the bytes that must be free in it."""
_EACH = 2
"""Batches that each of several workers prefetches."""
_ALONE = 3
"""Batches that a single worker prefetches."""


def ahead(make: Callable[[int], Batch], steps: range, workers: int) -> Generator[Batch, None, None]:
    """Yields the batches of the steps in order, and makes the next ones meanwhile.

    Args:
        make: the batch of a step, on the host.
        steps: the numbers of the steps.
        workers: forked processes that make batches, and end with this one; 0: one thread instead. Without enough shared
            memory, as many threads instead.
    """
    if workers and steps and _can_share():
        return _by_processes(make, steps, workers)
    return _by_threads(make, steps, workers)


def _can_share() -> bool:
    return _SHARED.is_dir() and shutil.disk_usage(_SHARED).free >= _ROOM


def _by_threads(make: Callable[[int], Batch], steps: range, workers: int) -> Generator[Batch, None, None]:
    pool = ThreadPoolExecutor(max(1, workers), "batches")
    try:
        waiting: list[Future[Batch]] = []
        for step in steps:
            waiting.append(pool.submit(make, step))
            if len(waiting) > max(_ALONE, _EACH * workers):
                yield waiting.pop(0).result()
        while waiting:
            yield waiting.pop(0).result()
    finally:
        pool.shutdown(cancel_futures=True)


def _by_processes(make: Callable[[int], Batch], steps: range, workers: int) -> Generator[Batch, None, None]:
    loader = DataLoader(
        _Batches(make),
        batch_size=None,
        sampler=steps,
        num_workers=workers,
        prefetch_factor=_EACH,
        multiprocessing_context="fork",  # so that `make` need not be pickled
        worker_init_fn=_leave_it_to_the_first,
    )
    with ExitStack() as ended:
        with _forking():
            batches: Any = iter(loader)
            ended.callback(batches._shutdown_workers)  # now, not when the last traceback that refers to it is freed
        for made in batches:
            if isinstance(made, Exception):
                raise made
            yield made


def _leave_it_to_the_first(_: int) -> None:
    """A signal to the whole process group ends a worker quietly; otherwise the parent would take that for a crash."""
    for number in ENDING:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)  # KeyboardInterrupt ends torch's worker without an error


@contextmanager
def _forking() -> Iterator[None]:
    """Postpones signals until the forked workers can handle them; stops OpenCV's threads, which a fork would lose."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(0)
    try:
        with postponed():
            yield
    finally:
        cv2.setNumThreads(threads)


class _Batches(Dataset["Batch | Exception"], Generic[Batch]):
    """Batches by step; errors about files are returned, and raised by the consumer."""

    def __init__(self, make: Callable[[int], Batch]) -> None:
        self._make = make

    def __getitem__(self, step: int) -> Batch | Exception:
        try:
            return self._make(step)
        except (LisaError, OSError) as error:
            return error
