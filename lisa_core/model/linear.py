"""Linear layers and matrix products, on a CPU by the faster of torch's two libraries.

torch multiplies fp32 matrices with MKL, which leaves AVX-512 unused on CPUs that are not Intel's. oneDNN, which torch
also ships, uses it on all: at the sizes of SAM ViT-B it is twice as fast on an AMD EPYC. These calls know no gradients,
so they are made in `torch.inference_mode` only; elsewhere torch's own products are used.

In bf16 torch uses oneDNN by itself. But before every product of a few rows oneDNN reorders the weights, which takes as
long as the product. `pack` reorders them once, for a model that only answers.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

_ROWS, _WEIGHTS = 16, 1 << 20
"""oneDNN is faster from so many rows on, or so many weights, which it reads from memory with all cores and MKL with
one."""


class Linear(nn.Linear):
    """(..., in_features) -> (..., out_features), as torch's."""

    def forward(self, states: Tensor) -> Tensor:
        if self.weight.is_mkldnn:
            return _multiply_packed(states, self.weight, self.bias)
        if _suits(states, self.weight) and (product := _onednn()):
            return product(states, self.weight, self.bias, "none", [], "")
        return super().forward(states)


def put(model: nn.Module, name: str, part: nn.Module | nn.Parameter) -> None:
    """Sets a module or parameter by its name in the model; torch's own `set_submodule` is younger than JetPack 6's."""
    owner, _, last = name.rpartition(".")
    setattr(model.get_submodule(owner), last, part)


def pack(model: nn.Module) -> None:
    """Reorders the bf16 weights of a model's `Linear` layers for oneDNN on a CPU, in place and for good.

    The model answers as before, but can no longer be trained. Where oneDNN is not faster nothing is changed.
    """
    for layer in model.modules():
        if isinstance(layer, Linear) and layer.weight.dtype == torch.bfloat16 and layer.weight.device.type == "cpu":
            if not _packs():
                return
            layer.weight = nn.Parameter(_packed(layer.weight.data), requires_grad=False)


def _packed(weight: Tensor) -> Tensor:
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, None)  # torch's own compiler calls it
    return packed


def _multiply_packed(states: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    product: Tensor = torch.ops.mkldnn._linear_pointwise(states, weight, bias, "none", [], "")
    return product


@cache
def _packs() -> bool:
    """Whether this CPU multiplies bf16 and torch's oneDNN packs it."""
    if not torch.backends.cpu.get_cpu_capability().startswith("AVX512") or not torch.backends.mkldnn.is_available():
        return False
    states, weight = (torch.linspace(-1, 1, rows * 64).view(rows, 64).bfloat16() for rows in (3, 32))
    try:
        if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
            return False
        found = _multiply_packed(states, _packed(weight), None)
    except (AttributeError, RuntimeError):
        return False
    return torch.allclose(found, functional.linear(states, weight), atol=0.05, rtol=0.02)


def side_by_side(states: Tensor, *layers: nn.Module) -> list[Tensor]:
    """The outputs of several linear layers for the same input (..., in_features), by one kernel where there is one."""
    (kind, *others) = {type(layer) for layer in layers}
    together = None if others else getattr(kind, "together", None)
    return together(states, layers) if together else [layer(states) for layer in layers]


def multiply(left: Tensor, right: Tensor, more: Tensor | None = None) -> Tensor:
    """(B, P, K) @ (B, K, Q) -> (B, P, Q), plus `more` of that size, which may be overwritten with the result."""
    product = _onednn() if len(left) == 1 and _suits(left, right) else None
    if more is None:
        return product(left[0], right[0].T, None, "none", [], "")[None] if product else torch.bmm(left, right)
    return product(left[0], more[0], right[0].T, None, "add")[None] if product else more.baddbmm_(left, right)


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
    """The product of inputs (..., K) and weights (N, K) by oneDNN; None where it is missing or not faster.

    Arguments are (inputs, weights, bias (N,), ...), or (inputs, summand (..., N), weights, ...).
    """
    if not torch.backends.cpu.get_cpu_capability().startswith("AVX512") or not torch.backends.mkldnn.is_available():
        return None
    states, weight, bias = (torch.linspace(-1, 1, 6 * width).view(6, width) for width in (4, 4, 1))
    try:
        product = torch.ops.mkldnn._linear_pointwise  # torch's own compiler calls it, nothing public does
        found = product(states, weight, bias[:, 0], "none", [], "")
        added = product(states, bias.T.expand(6, 6), weight, None, "add")
    except (AttributeError, RuntimeError):
        return None
    expected = functional.linear(states, weight, bias[:, 0])
    return product if all(torch.allclose(each, expected, atol=1e-5) for each in (found, added)) else None
