"""Muon on all matrices of a shape together equals torch's, up to rounding."""

import pytest
import torch
from torch import nn

from lisa_core.training.muon import Muon

SHAPES = ((6, 6), (12, 5), (5, 12), (12, 5), (6, 6), (3, 1))


def learnt() -> list[nn.Parameter]:
    random = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=random)) for shape in SHAPES]


def steps(optimiser: torch.optim.Optimizer, matrices: list[nn.Parameter], numbers: range) -> None:
    for step in numbers:
        random = torch.Generator().manual_seed(step)
        for group in optimiser.param_groups:
            group["lr"] = 0.02 * (1 + step)
        for number, matrix in enumerate(matrices):
            gradient = torch.randn(matrix.shape, generator=random)
            matrix.grad = None if number == 4 and step % 2 else gradient
        optimiser.step()


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch has one from 2.9 on")
def test_it_steps_as_torch_does() -> None:
    ours, theirs, before = learnt(), learnt(), learnt()
    steps(Muon(ours, lr=1.0, weight_decay=0.1), ours, range(6))
    steps(torch.optim.Muon(theirs, lr=1.0, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"), theirs, range(6))
    for one, other, first in zip(ours, theirs, before, strict=True):
        moved = (other - first).norm()
        assert moved > 0.1
        assert (one - other).norm() < 0.01 * moved


def test_what_it_remembers_is_taken_up_again() -> None:
    whole, parted = learnt(), learnt()
    steps(Muon(whole, lr=1.0, weight_decay=0.0), whole, range(6))
    first = Muon(parted, lr=1.0, weight_decay=0.0)
    steps(first, parted, range(3))
    again = Muon(parted, lr=1.0, weight_decay=0.0)
    again.load_state_dict(first.state_dict())
    steps(again, parted, range(3, 6))
    assert all(torch.equal(one, other) for one, other in zip(whole, parted, strict=True))
