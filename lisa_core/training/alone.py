"""A training has its folder for itself: of two that write into one, the later would undo what the other has learnt."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from lisa_core import files
from lisa_core.errors import LisaError


def work_of(out: Path) -> Path:
    """Folder of the unfinished training that is to make `out`."""
    return out.parent / f"{out.name}.training"


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keeps other trainings out of a folder, which is made if need be, and deleted in the end if it is empty.

    Raises:
        LisaError: another process trains in it.
        OSError: it cannot be made.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with files.locked(folder, wait=False) as held:
        if held is False:
            raise LisaError(f"{folder} is being trained by another process; wait for it, or end it.")
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                folder.rmdir()
