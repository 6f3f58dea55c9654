"""Auxiliary losses of the second stage: pointing at the target is right, targets that CLIP does not see are ignored."""

import pytest
import torch
from torch import Tensor

from lisa_core.training import fresh
from lisa_core.training.hints import Hints
from lisa_core.training.scenes import SENSES
from lisa_core.training.vision import Truth, at_patches

SIDE = 12
SHAPE = fresh.small_shape(300)


@pytest.fixture
def hints() -> Hints:
    torch.manual_seed(0)
    return Hints(SHAPE, SENSES)


def truth() -> Truth:
    """Things of one kind in the left half of one picture."""
    grid = torch.zeros(1, 2 * SIDE, 2 * SIDE, dtype=torch.long)
    grid[..., :SIDE] = 1
    return Truth(grid, torch.zeros_like(grid), torch.zeros_like(grid), torch.zeros(1, 2, 2 * SIDE, 2 * SIDE))


def patch(row: int, column: int) -> Tensor:
    """(1, SIDE, SIDE): a target that fills the patch in that row and column."""
    made = torch.zeros(1, SIDE, SIDE)
    made[0, row, column] = 1
    return made


def pointing_at(*places: int) -> Tensor:
    pointed = torch.zeros(len(places), SIDE * SIDE)
    pointed[range(len(places)), list(places)] = 50.0
    return pointed


def points(hints: Hints, pointed: Tensor, *patches: Tensor) -> float:
    seen = at_patches(hints.clip(torch.zeros(1, SIDE * SIDE, SHAPE.clip.width)))
    return float(hints.losses(seen, truth(), pointed, torch.cat(patches))["points"])


def test_who_points_at_the_target_has_nothing_to_learn(hints: Hints) -> None:
    at, elsewhere = pointing_at(3 * SIDE + 5), pointing_at(3 * SIDE + 6)
    assert points(hints, at, patch(3, 5)) == pytest.approx(0, abs=1e-3)
    assert points(hints, elsewhere, patch(3, 5)) > 10
    both = (patch(3, 5) + patch(3, 6)).clamp(max=1)
    assert points(hints, at, both) > points(hints, torch.maximum(at, elsewhere), both)


def test_of_several_targets_each_has_its_own(hints: Hints) -> None:
    patches = (patch(0, 0), patch(1, 1), patch(2, 2))
    assert points(hints, pointing_at(0, SIDE + 1, 2 * SIDE + 2), *patches) == pytest.approx(0, abs=1e-3)
    assert points(hints, pointing_at(0, SIDE + 1, 0), *patches) > 1


def test_a_target_beside_the_square_is_no_fault(hints: Hints) -> None:
    beside = torch.zeros(1, SIDE, SIDE)
    assert points(hints, pointing_at(0), beside) == 0
    alone = points(hints, pointing_at(3 * SIDE), patch(3, 5))
    assert points(hints, pointing_at(0, 3 * SIDE), beside, patch(3, 5)) == pytest.approx(alone)
    assert points(hints, pointing_at(), torch.zeros(0, SIDE, SIDE)) == 0


def test_both_hints_reach_what_learns(hints: Hints) -> None:
    visual = torch.randn(1, SIDE * SIDE, SHAPE.clip.width, requires_grad=True)
    states = torch.randn(1, SHAPE.language.width, requires_grad=True)
    tokens = torch.randn(1, SIDE * SIDE, SHAPE.language.width, requires_grad=True)
    told = hints.losses(at_patches(hints.clip(visual)), truth(), hints.pointing(states, tokens), patch(4, 4))
    told["loss"].backward()
    assert all(reached.grad is not None and reached.grad.abs().sum() > 0 for reached in (visual, states, tokens))
    assert all(weight.grad is not None for weight in hints.parameters())
    assert float(told["loss"].detach()) == pytest.approx(0.1 * float((told["sees"] + told["points"]).detach()))


def test_sam_is_asked_where_it_learns(hints: Hints) -> None:
    assert hints.sam is None
    whole = Hints(SHAPE, SENSES, whole=True)
    assert whole.sam
    embedding = torch.randn(1, SHAPE.sam.embedding, SIDE // 2, SIDE // 2, requires_grad=True)
    told = whole.sam_losses(whole.sam(embedding), truth())
    told["loss"].backward()
    assert embedding.grad is not None
    assert embedding.grad.abs().sum() > 0
    assert float(told["loss"].detach()) == pytest.approx(0.1 * float(told["sam_sees"].detach()))
    assert 0 <= float(told["sam_knows"]) <= 1
