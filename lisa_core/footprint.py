"""The memory that a checkpoint takes: known before it is loaded, and named as the cause where it does not fit."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch

from lisa_core import devices, quantization
from lisa_core.checkpoint import Checkpoint
from lisa_core.errors import CheckpointError, OutOfMemoryError
from lisa_core.model.lisa import Lisa
from lisa_core.options import ResolvedPrecision

_GIB = 1 << 30
_MEMINFO = Path("/proc/meminfo")
_NF4_BYTES: Mapping[str, float] = {"cpu": 0.5 + 1 / 64 + 4 / (64 * 256), "cuda": 0.5 + 4 / 64}
"""Per weight: 4 bit, and a scale for 64 of them: a byte, with one float for 256 of those (double quantisation);
on a GPU in fp32 (`quantization.expand_statistics`)."""


def estimate_memory(opened: Checkpoint, precision: ResolvedPrecision, device: torch.device) -> dict[str, int]:
    """Bytes that the weights will take on the device, by part, computed from the shape and the layout alone."""
    model = Lisa.on_meta(opened.shape)
    quantised = set(quantization.quantised_parameters(model, opened.layout))
    whole = devices.compute_dtype(precision, device).itemsize
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
    cache = values * devices.compute_dtype(precision, device).itemsize
    if weights + cache > limit * _GIB:
        raise CheckpointError(
            f"{opened.folder} in {precision} takes {weights / _GIB:.2f} GiB of weights and up to {cache / _GIB:.2f} GiB"
            f" of KV cache and a frame, together {(weights + cache) / _GIB:.2f} GiB, over the memory limit of"
            f" {limit:g} GiB; raise the limit, or choose a smaller precision or checkpoint."
        )


@contextmanager
def fitting(precision: ResolvedPrecision, device: torch.device) -> Iterator[None]:
    """Around what makes a model ready: raises OutOfMemoryError with the remedy, or DeviceError if the GPU failed."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not devices.ran_out_of_memory(device, error):
            raise
        raise OutOfMemoryError(
            f"{device} has too little memory for this checkpoint in {precision}; choose a smaller precision"
            " (nf4 is the smallest) or a smaller checkpoint, or end what else is in its memory."
        ) from error
