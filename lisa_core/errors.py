"""What can go wrong in `lisa_core`: every error names the cause and the remedy in one sentence."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module

_OUT_OF_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "ALLOC_FAILED",
    "ALLOCATION_FAILED",
    "NVML_SUCCESS ==",  # torch fails to say who holds a GPU's memory: on a Jetson, and on parts of a GPU (MIG)
    "CUBLAS_STATUS_NOT_INITIALIZED",  # cuBLAS found no room for itself; a broken GPU says so, too: see `is_lost`
)


class LisaError(Exception):
    """Base of every error that `lisa_core` raises on purpose; anything else that escapes is a bug."""


class CheckpointError(LisaError):
    """The checkpoint cannot be loaded as asked: missing, damaged, of another layout, or not at that precision."""


class ImageError(LisaError):
    """The image is not (H, W, 3) uint8, or has a size that cannot be segmented."""


class DatasetError(LisaError):
    """A data set, or a file of it, cannot be used: not there, empty, damaged or incomplete."""


class PromptError(LisaError):
    """The instruction or history cannot be asked: empty, too long for the context, or not text."""


class OutOfMemoryError(LisaError):
    """The device ran out of memory; what the question had allocated has been released."""


class DeviceError(LisaError):
    """The GPU failed, and answers this process nothing any more: only a new process can use it."""


class DeviceUnusableError(DeviceError):
    """The GPU does not work from the start, as it would not in a new process: something has to be mended first."""


class Cancelled(LisaError):
    """The caller cancelled the question."""


def cancelled() -> Cancelled:
    """What to say of a question that the caller gave up."""
    return Cancelled("The question was cancelled.")


def raise_if_cancelled(cancel: threading.Event | None) -> None:
    """Raises `Cancelled` if the caller has set it; to be called between two stages, and between two tokens."""
    if cancel is not None and cancel.is_set():
        raise cancelled()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of torch or Python means that memory ran out; on the CPU only torch's words say so."""
    import torch  # late: most of who catches errors needs none

    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _OUT_OF_MEMORY)


@contextmanager
def done_without_if_memory_runs_out() -> Iterator[None]:
    """Around what may be left undone: leaves it when memory runs out."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise


def installing(extra: str) -> str:
    """The remedy where a package of an extra is missing, as README has it."""
    return f"pip install '.[{extra}]' in the clone of this package"


def check_imports(package: str, purpose: str, extra: str) -> None:
    """Raises LisaError if a package of that extra cannot be imported; its sentence begins with the purpose."""
    try:
        import_module(package)
    except ImportError as error:
        raise LisaError(f"{purpose} {package}, which does not import here ({error}); {installing(extra)}.") from error


def brief(error: BaseException) -> str:
    """Its type and the first line of what it says; the `repr` of a UnicodeDecodeError has the whole file in it."""
    return f"{type(error).__name__}: {first_line(error)}"


def first_line(error: BaseException) -> str:
    """What it says, without what libraries add about themselves; its type if it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
