"""Where kernels of our own run: on a GPU, for answers, if Triton is there and can compile them."""

import importlib
import logging
from functools import cache
from types import ModuleType
from typing import Literal

import torch
from torch import Tensor

_DEVICE = "cuda"


def kernels_for(states: Tensor, module: Literal["kernels", "sam_kernels"] = "kernels") -> ModuleType | None:
    """That module, or None where torch's own operations have to do: elsewhere, and for training."""
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
