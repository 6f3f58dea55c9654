"""When our own Triton kernels are used: on a GPU, in inference, if Triton is installed and can compile them."""

import importlib
import logging
from functools import cache
from types import ModuleType
from typing import Literal

import torch
from torch import Tensor

_DEVICE = "cuda"


def kernels_for(states: Tensor, module: Literal["kernels", "sam_kernels"] = "kernels") -> ModuleType | None:
    """The module with kernels, or None where torch's operations are used: on a CPU, and for training."""
    if states.device.type != _DEVICE or not torch.is_inference_mode_enabled():
        return None
    return _kernels(module, states.device)


@cache
def _kernels(module: str, device: torch.device) -> ModuleType | None:
    try:
        kernels = importlib.import_module(f"lisa_core.model.{module}")
        kernels.try_on(device)
    except Exception as error:  # besides being there Triton needs a compiler, and a GPU that it knows
        logging.getLogger(__name__).warning("Without Triton answers on a GPU are slower: %s", error)
        return None
    return kernels
