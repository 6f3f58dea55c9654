"""Loads a checked checkpoint to a device one tensor at a time, so that no two copies of it are in memory."""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import get_args

import torch
from torch import nn

from lisa_core import quantization
from lisa_core.checkpoint import Checkpoint
from lisa_core.errors import (
    CheckpointError,
    DeviceError,
    DeviceUnusableError,
    OutOfMemoryError,
    first_line,
    is_out_of_memory,
)
from lisa_core.model import linear
from lisa_core.model.lisa import Lisa
from lisa_core.options import PRECISIONS, ResolvedPrecision

Progress = Callable[[float, str], None]
"""(share done in [0, 1], what is being done)"""

_DTYPES: Mapping[str, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_GIB = 1 << 30
_MEMINFO = Path("/proc/meminfo")
_NF4_BYTES: Mapping[str, float] = {"cpu": 0.5 + 1 / 64 + 4 / (64 * 256), "cuda": 0.5 + 4 / 64}
"""Per weight: 4 bit, and a scale for 64 of them: a byte, with one float for 256 of those (double quantisation);
on a GPU in fp32 (`quantization.expand_statistics`)."""


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


def current(device: torch.device) -> AbstractContextManager[object]:
    """A context in which this GPU is the thread's current one: that is where our own kernels are launched."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


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


def failure(device: torch.device, error: BaseException) -> DeviceError:
    """What to raise when an error has shown that the GPU is lost."""
    return DeviceError(f"{device} failed ({first_line(error)}); start this program anew.")


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


def load(
    checkpoint: Checkpoint,
    precision: ResolvedPrecision,
    device: torch.device,
    on_progress: Progress | None = None,
    *,
    to_learn: bool = False,
) -> Lisa:
    """Streams the weights in. On a CPU bf16 weights are packed for inference (`linear.pack`) unless `to_learn`.

    Raises:
        CheckpointError: a file turned out damaged, or the precision does not run on the device.
        OutOfMemoryError: the device is too small for it.
        DeviceUnusableError: the GPU does not work, whatever it is asked.
        DeviceError: it failed meanwhile.
    """
    dtype = compute_dtype(precision, device)
    check_host(checkpoint, precision, device)
    with fitting(precision, device):
        _try_device(device)
    model = Lisa.on_meta(checkpoint.shape)
    if precision in ("nf4", "int8"):
        with fitting(precision, device):
            quantization.check_works(precision, device, dtype)
        quantization.make_quantised(model, checkpoint.layout, precision, dtype)
    done, total = 0, len(checkpoint.stored)
    with fitting(precision, device):
        for parameter, tensor, statistics in checkpoint.tensors():
            if statistics:
                shape = model.get_parameter(parameter).shape
                filled = quantization.restored_weight(parameter, shape, tensor, statistics, device)
            elif precision in ("nf4", "int8") and _is_quantised(model, parameter):
                filled = quantization.quantised_weight(tensor, precision, device)
            else:
                filled = nn.Parameter(tensor.to(device=device, dtype=dtype, copy=True), requires_grad=False)
            if device.type == "cuda" and hasattr(filled, "quant_state"):  # a CPU gains no time by it
                quantization.expand_statistics(filled)
            linear.put(model, parameter, filled)
            done += 1
            if on_progress is not None:
                on_progress(done / total, parameter)
        if not to_learn:
            linear.pack(model)
    return model.eval().requires_grad_(False)


def _try_device(device: torch.device) -> None:
    """Adds two numbers there, so that a GPU that is taken, unknown to torch or broken is named as the cause."""
    try:
        (torch.ones(1, device=device) + 1).item()
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        raise DeviceUnusableError(
            f"{device} does not work here ({first_line(error)}): see whether nvidia-smi shows it free,"
            f" and that torch {torch.__version__} was built for it, or use the cpu."
        ) from error


@contextmanager
def fitting(precision: ResolvedPrecision, device: torch.device) -> Iterator[None]:
    """Around what makes a model ready: raises OutOfMemoryError with the remedy, or DeviceError if the GPU failed."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if is_lost(device):
            raise failure(device, error) from error
        if not is_out_of_memory(error):
            raise
        raise OutOfMemoryError(
            f"{device} has too little memory for this checkpoint in {precision}; choose a smaller precision"
            " (nf4 is the smallest) or a smaller checkpoint, or end what else is in its memory."
        ) from error


def _is_quantised(model: nn.Module, parameter: str) -> bool:
    owner, _, name = parameter.rpartition(".")
    module = model.get_submodule(owner)
    return name == "weight" and isinstance(module, nn.Linear) and not isinstance(module, linear.Linear)


def estimate_memory(opened: Checkpoint, precision: ResolvedPrecision, device: torch.device) -> dict[str, int]:
    """Bytes that the weights will take on the device, by part, computed from the shape and the layout alone."""
    model = Lisa.on_meta(opened.shape)
    quantised = {f"{layer}.weight" for layer in quantization.quantised_layers(model, opened.layout)}
    whole = compute_dtype(precision, device).itemsize
    small = {"nf4": _NF4_BYTES[device.type], "int8": 1.0}.get(precision, float(whole))
    parts: dict[str, float] = {}
    for name, parameter in model.named_parameters():
        part = name.split(".")[0]
        parts[part] = parts.get(part, 0.0) + parameter.numel() * (small if name in quantised else whole)
    return {part: round(size) for part, size in parts.items()}


def check_host(opened: Checkpoint, precision: ResolvedPrecision, device: torch.device) -> None:
    """Refuses a checkpoint whose weights the CPU's free memory cannot hold: Linux would kill the process instead.

    Raises:
        OutOfMemoryError
    """
    if device.type != "cpu" or opened.quantised or (free := _free_memory()) is None:
        return
    weights = sum(estimate_memory(opened, precision, device).values())
    if weights > free:
        unseen = (
            "" if torch.cuda.is_available() else " (torch sees none here: see nvidia-smi, and what torch is built for)"
        )
        raise OutOfMemoryError(
            f"{opened.folder} in {precision} takes {weights / _GIB:.2f} GiB of weights, but only {free / _GIB:.2f} GiB"
            " of memory are free here; choose a smaller precision (nf4 is the smallest) or checkpoint, or a GPU"
            f"{unseen}."
        )


def _free_memory() -> int | None:
    """Bytes of memory and swap that programs may still take; None where the system does not say."""
    try:
        fields = dict(line.split(":", 1) for line in _MEMINFO.read_text(encoding="ascii").splitlines())
        return sum(int(fields[name].split()[0]) << 10 for name in ("MemAvailable", "SwapFree"))
    except (OSError, ValueError, LookupError):
        return None


def check_limit(opened: Checkpoint, precision: ResolvedPrecision, device: torch.device, limit: float) -> None:
    """Refuses, with the arithmetic, what takes more than `limit` GiB with a frame and a full KV cache; 0: no limit.

    Raises:
        CheckpointError
    """
    if limit <= 0:
        return
    weights = sum(estimate_memory(opened, precision, device).values())
    language, sam = opened.shape.language, opened.shape.sam
    values = 2 * language.layers * language.kv_heads * language.head_width * language.context
    values += opened.shape.clip.tokens * language.width + sam.embedding * sam.grid**2
    cache = values * compute_dtype(precision, device).itemsize
    if weights + cache > limit * _GIB:
        raise CheckpointError(
            f"{opened.folder} in {precision} takes {weights / _GIB:.2f} GiB of weights and up to {cache / _GIB:.2f} GiB"
            f" of KV cache and a frame, together {(weights + cache) / _GIB:.2f} GiB, over the memory limit of"
            f" {limit:g} GiB; raise the limit, or choose a smaller precision or checkpoint."
        )
