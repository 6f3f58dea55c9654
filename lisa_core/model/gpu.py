"""Where the language model's own kernels run: on a GPU, for answers, if Triton is there."""

import importlib
import logging
from functools import cache
from types import ModuleType

import torch
from torch import Tensor

_DEVICE = "cuda"


def kernels_for(states: Tensor) -> ModuleType | None:
    """`lisa_core.model.kernels`, or None where torch's own operations have to do: elsewhere, and for training."""
    if states.device.type != _DEVICE or not torch.is_inference_mode_enabled():
        return None
    return _kernels(states.device)


@cache
def _kernels(device: torch.device) -> ModuleType | None:
    try:
        kernels = importlib.import_module("lisa_core.model.kernels")
        kernels.rms_norm(torch.ones(1, 64, device=device), torch.ones(64, device=device), 1e-6)
    except Exception as error:  # besides being there it needs a compiler, and a GPU that it knows
        logging.getLogger(__name__).warning("Without Triton answers on a GPU are slower: %s", error)
        return None
    return kernels
