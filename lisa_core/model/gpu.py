"""When our own Triton kernels are used: on a GPU, in inference, if Triton is installed and can compile them."""

import importlib
import logging
from functools import cache
from types import ModuleType
from typing import Literal

import torch
from torch import Tensor

from lisa_core.errors import first_line, is_out_of_memory

_DEVICE = "cuda"


def kernels_for(states: Tensor, module: Literal["kernels", "sam_kernels"] = "kernels") -> ModuleType | None:
    """The module with kernels, or None where torch's operations are used: on a CPU, and for training."""
    if states.device.type != _DEVICE or not torch.is_inference_mode_enabled():
        return None
    return _kernels(module, states.device, states.dtype)


@cache
def _kernels(module: str, device: torch.device, dtype: torch.dtype) -> ModuleType | None:
    try:
        kernels = importlib.import_module(f"lisa_core.model.{module}")
        kernels.try_on(device, dtype)
    except Exception as error:  # besides being there Triton needs a compiler, and a GPU whose products it knows
        if is_out_of_memory(error):
            raise  # there may be memory for them next time
        logging.getLogger(__name__).warning("Without Triton answers on a GPU are slower: %s", first_line(error))
        return None
    return kernels
