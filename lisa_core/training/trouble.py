"""Torch's errors about a full disk, too little memory or a GPU that failed, translated into errors that say so."""

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from lisa_core import devices
from lisa_core.errors import OutOfMemoryError

_WRITER = re.compile(r"inline_container|PytorchStreamWriter|iostream")
"""Found in the messages of torch's writer when a file cannot be written, whatever the cause."""


@contextmanager
def translated(folder: Path, device: torch.device) -> Iterator[None]:
    """Wraps training on a device that writes into a folder.

    Raises:
        DeviceError: the GPU failed.
        OSError: a file could not be written: the disk is full or broken.
        OutOfMemoryError: a step needs more memory than there is.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, RuntimeError) and _WRITER.search(str(error)):
            number = _cause(error, folder)
            raise OSError(number, os.strerror(number), str(folder)) from error
        if "DataLoader worker (pid" in str(error):
            raise OutOfMemoryError(
                "A process that makes batches was killed, most likely for want of memory; take fewer pictures a step."
            ) from error
        again = "run the same command again, and it goes on from what was kept"
        if not devices.ran_out_of_memory(device, error, again):
            raise
        raise OutOfMemoryError(
            "A step needs more memory than there is; take fewer pictures a step, or a smaller precision (nf4)."
        ) from error


def _cause(error: RuntimeError, folder: Path) -> int:
    """The errno that torch hides: of Python's failed write, if there was one, else guessed from the free space."""
    if isinstance(error.__context__, OSError) and error.__context__.errno:
        return error.__context__.errno
    return errno.ENOSPC if shutil.disk_usage(folder).free < 1 << 20 else errno.EIO
