"""Batches made ahead of their use: by a thread, or, for a GPU that would wait for one core, by many processes."""

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
"""Where processes hand batches over, and how many bytes must be free there."""
_EACH = 2
"""Batches that each of several workers has ready."""
_ALONE = 3
"""Batches that a single one has."""


def ahead(make: Callable[[int], Batch], steps: range, workers: int) -> Generator[Batch, None, None]:
    """The batches of the steps in order, the next ones made while one is used.

    Args:
        make: a batch of its number, on the host.
        steps: their numbers.
        workers: processes that make them, forked off this one, which they never outlive; 0: a thread does. Where
            processes have no memory to share, so many threads.
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
        multiprocessing_context="fork",  # what makes them need not be pickled
        worker_init_fn=_leave_it_to_the_first,
    )
    with ExitStack() as ended:
        with _forking():
            batches: Any = iter(loader)
            ended.callback(batches._shutdown_workers)  # at once, not when a traceback that refers to it is forgotten
        for made in batches:
            if isinstance(made, Exception):
                raise made
            yield made


def _leave_it_to_the_first(_: int) -> None:
    """Who is told to end with the whole group waits for the first process; its own end would look like a crash."""
    for number in ENDING:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)  # which torch's worker takes for Ctrl-C, and goes on


@contextmanager
def _forking() -> Iterator[None]:
    """Forks obey no signal before they know how, and have none of OpenCV's threads to wait for."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(0)
    try:
        with postponed():
            yield
    finally:
        cv2.setNumThreads(threads)


class _Batches(Dataset["Batch | Exception"], Generic[Batch]):
    """Batches by the step's number; what is wrong with files is told by the one who asks."""

    def __init__(self, make: Callable[[int], Batch]) -> None:
        self._make = make

    def __getitem__(self, step: int) -> Batch | Exception:
        try:
            return self._make(step)
        except (LisaError, OSError) as error:
            return error
