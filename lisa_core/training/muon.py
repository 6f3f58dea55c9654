"""Muon: an optimiser that orthogonalises the momentum of each matrix (Jordan 2024).

A step equals that of `torch.optim.Muon` with `adjust_lr_fn="match_rms_adamw"` (Liu et al. 2025), but handles all
matrices of one shape together: small matrices one by one would leave a GPU idle.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

_MOMENTUM = 0.95
_A, _B, _C = 3.4445, -4.7750, 2.0315
"""Coefficients of the polynomial that brings singular values near 1."""
_ROUNDS, _LEAST = 5, 1e-7
_AS_ADAM = 0.2
"""Root mean square of an update by AdamW."""


class Muon(torch.optim.Optimizer):
    """Optimises matrices.

    Args:
        matrices: two-dimensional, of one dtype, on one device.
        lr: the learning rate, as for AdamW.
        weight_decay: decoupled, as AdamW's.
    """

    def __init__(self, matrices: Iterable[nn.Parameter], lr: float, weight_decay: float) -> None:
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Updates every matrix that has a gradient; `closure` is not used."""
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = {}
            for matrix in group["params"]:
                if matrix.grad is not None:
                    by_shape.setdefault(matrix.shape, []).append(matrix)
            for shape, matrices in by_shape.items():
                updates = _orthogonal(self._gathered(matrices)).to(matrices[0].dtype)
                torch._foreach_mul_(matrices, 1 - group["lr"] * group["weight_decay"])
                rate = _AS_ADAM * math.sqrt(max(shape)) * group["lr"]
                torch._foreach_add_(matrices, list(updates), alpha=-rate)

    def _gathered(self, matrices: list[Tensor]) -> Tensor:
        """(n, rows, columns): gradients with Nesterov momentum."""
        gradients = [matrix.grad for matrix in matrices if matrix.grad is not None]
        for matrix in matrices:
            if not self.state[matrix]:
                self.state[matrix]["momentum_buffer"] = torch.zeros_like(matrix)
        momenta = [self.state[matrix]["momentum_buffer"] for matrix in matrices]
        torch._foreach_lerp_(momenta, gradients, 1 - _MOMENTUM)
        return torch.stack(torch._foreach_lerp(gradients, momenta, _MOMENTUM))


def _orthogonal(matrices: Tensor) -> Tensor:
    """(n, rows, columns) bf16, orthogonalised by Newton-Schulz iteration: singular values near 1."""
    tall = matrices.shape[1] > matrices.shape[2]
    found = (matrices.mT if tall else matrices).bfloat16().contiguous()
    found = found / torch.linalg.vector_norm(found, dim=(1, 2), keepdim=True).clamp(min=_LEAST)
    for _ in range(_ROUNDS):
        gram = found @ found.mT
        found = torch.baddbmm(found, torch.baddbmm(gram, gram, gram, beta=_B, alpha=_C), found, beta=_A)
    return found.mT if tall else found
