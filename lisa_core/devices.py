"""The device and the precision that a model runs on, by the names that users give, and what a GPU's failure means."""

import re
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import get_args

import torch

from lisa_core.errors import CheckpointError, DeviceError, DeviceUnusableError, first_line, is_out_of_memory
from lisa_core.options import PRECISIONS, ResolvedPrecision

_DTYPES: Mapping[str, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_REMEDY = "start this program anew"


def resolve_device(device: str | None) -> torch.device:
    """The device by name; None: the GPU if there is one."""
    if device is None:
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    device = str(device)  # of a torch.device it is the name
    if device in ("cpu", "cpu:0"):
        return torch.device("cpu")
    named = re.fullmatch(r"cuda(?::([0-9]{1,9}))?", device)  # torch itself takes cuda:256 for cuda:0
    if named is None:
        raise CheckpointError(f"There is no device {device!r}; give cpu, cuda or cuda:1: LISA runs on nothing else.")
    index = int(named[1] or 0)
    if index >= torch.cuda.device_count():
        raise CheckpointError(
            f"{device} was asked for, but torch {torch.__version__} sees {torch.cuda.device_count()} CUDA devices"
            " here: check the driver (nvidia-smi) and that torch was built for CUDA, or use the cpu."
        )
    return torch.device("cuda", index)


def resolve_precision(precision: str, device: torch.device, quantised: bool = False) -> ResolvedPrecision:
    """The precision that is meant. `auto` is nf4 on a GPU and fp32 on the CPU; nf4 if the checkpoint is stored so."""
    if quantised and precision not in ("auto", "nf4"):
        raise CheckpointError(
            f"This checkpoint is stored in 4 bit, so its precision is nf4, not {precision}; for that give the original."
        )
    if precision == "auto":
        return "nf4" if quantised or device.type == "cuda" else "fp32"
    for known in get_args(ResolvedPrecision):
        if precision == known:
            return known
    raise CheckpointError(f"There is no precision {precision!r}; choose one of {', '.join(PRECISIONS)}.")


def compute_dtype(precision: ResolvedPrecision, device: torch.device) -> torch.dtype:
    """The dtype of activations; with 4 and 8 bit weights fp16 on a GPU, as in the reference, and fp32 on the CPU."""
    if precision in _DTYPES:
        return _DTYPES[precision]
    return torch.float16 if device.type == "cuda" else torch.float32


def current(device: torch.device) -> AbstractContextManager[object]:
    """A context in which this GPU is the thread's current one: that is where our own kernels are launched."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def check_works(device: torch.device) -> None:
    """Adds two numbers there, so that a GPU that is taken, unknown to torch or broken is named as the cause.

    Raises:
        DeviceUnusableError
        RuntimeError: there is no memory left for two numbers.
    """
    try:
        (torch.ones(1, device=device) + 1).item()
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        raise DeviceUnusableError(
            f"{device} does not work here ({first_line(error)}): see whether nvidia-smi shows it free,"
            f" and that torch {torch.__version__} was built for it, or use the cpu."
        ) from error


def is_lost(device: torch.device) -> bool:
    """Whether the GPU has failed for good in this process: then every call to it fails, a synchronisation too.

    Where others have filled it the process cannot even begin to use it, but may when they have ended.
    """
    if device.type != "cuda":
        return False
    try:
        torch.cuda.synchronize(device)
    except RuntimeError as error:
        return not is_out_of_memory(error)
    return False


def raise_if_lost(device: torch.device, error: BaseException, remedy: str = _REMEDY) -> None:
    """To be asked when an error was caught that a lost GPU may have caused.

    Raises:
        DeviceError: the GPU is lost; ends with the remedy.
    """
    if is_lost(device):
        raise DeviceError(f"{device} failed ({first_line(error)}); {remedy}.") from error


def ran_out_of_memory(device: torch.device, error: BaseException, remedy: str = _REMEDY) -> bool:
    """Whether memory ran out, by an error of torch or Python; a lost GPU may say so, too, and is told apart here.

    Raises:
        DeviceError: the GPU is lost; ends with the remedy.
    """
    raise_if_lost(device, error, remedy)
    return is_out_of_memory(error)
