"""Loads a checked checkpoint to a device one tensor at a time, so that no two copies of it are in memory."""

from collections.abc import Callable

import torch
from torch import nn

from lisa_core import devices, quantization
from lisa_core.checkpoint import Checkpoint
from lisa_core.footprint import check_host, fitting
from lisa_core.model import linear
from lisa_core.model.lisa import Lisa
from lisa_core.options import ResolvedPrecision

Progress = Callable[[float, str], None]
"""(share done in [0, 1], what is being done)"""


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
    dtype = devices.compute_dtype(precision, device)
    check_host(checkpoint, precision, device)
    with fitting(precision, device):
        devices.check_works(device)
    model = Lisa.on_meta(checkpoint.shape)
    small = set(quantization.quantised_parameters(model, checkpoint.layout))
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
            elif precision in ("nf4", "int8") and parameter in small:
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
