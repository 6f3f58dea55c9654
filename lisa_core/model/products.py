"""Products of matrices, on a CPU by the library that makes the most of it.

torch multiplies fp32 matrices by MKL, which leaves AVX-512 unused on CPUs that are not Intel's. oneDNN, which torch
has, too, uses it on all: at the sizes of SAM ViT-B it is twice as fast on an AMD EPYC. Only what answers asks for it
(`torch.inference_mode`), for it knows no gradients; elsewhere these are torch's own products.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

_ROWS, _WEIGHTS = 16, 1 << 20
"""It gains from so many rows on, or of so many weights: those it fetches from memory with all cores, MKL with one."""


class Linear(nn.Linear):
    """(..., in_features) -> (..., out_features), as torch's."""

    def forward(self, states: Tensor) -> Tensor:
        if _suits(states, self.weight) and (product := _onednn()):
            return product(states, self.weight, self.bias, "none", [], "")
        return super().forward(states)


def side_by_side(states: Tensor, *layers: nn.Module) -> list[Tensor]:
    """What several linear layers make of the same (..., in_features), at once where they can."""
    (kind, *others) = {type(layer) for layer in layers}
    together = None if others else getattr(kind, "together", None)
    return together(states, layers) if together else [layer(states) for layer in layers]


def multiply(left: Tensor, right: Tensor) -> Tensor:
    """(B, P, K) @ (B, K, Q) -> (B, P, Q)."""
    if len(left) == 1 and _suits(left, right) and (product := _onednn()):
        return product(left[0], right[0].T, None, "none", [], "")[None]
    return torch.bmm(left, right)


def _suits(states: Tensor, weights: Tensor) -> bool:
    return (
        states.dtype == torch.float32
        and states.device.type == "cpu"
        and torch.is_inference_mode_enabled()
        and not torch.is_autocast_enabled("cpu")
        and (weights.numel() >= _WEIGHTS or states.numel() >= _ROWS * states.shape[-1])
    )


@cache
def _onednn() -> Callable[..., Any] | None:
    """A product of inputs (..., K), weights (N, K) and a bias (N,); None where there is none, or it gains nothing."""
    if not torch.backends.cpu.get_cpu_capability().startswith("AVX512") or not torch.backends.mkldnn.is_available():
        return None
    states, weight, bias = (torch.linspace(-1, 1, 6 * width).view(6, width) for width in (4, 4, 1))
    try:
        product = torch.ops.mkldnn._linear_pointwise  # torch's own compiler calls it, nothing public does
        found = product(states, weight, bias[:, 0], "none", [], "")
    except (AttributeError, RuntimeError):
        return None
    return product if torch.allclose(found, functional.linear(states, weight, bias[:, 0]), atol=1e-5) else None
