"""Batches for the encoders: pictures in random light, mirrored and cropped, with the matching truth."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tabletops import view_of
from torch import Tensor

from lisa_core.checkpoint import Checkpoint
from lisa_core.tabletop.kinds import KINDS
from lisa_core.tabletop.scene import View
from lisa_core.training import fresh
from lisa_core.training.conversation import NOT_LEARNT
from lisa_core.training.scenes import SENSES, Scenes, Shown, Talk
from lisa_core.training.vision import Truth, known, loss

SHAPE = fresh.small_shape(300)
STEPS = 24
MUG = [kind.name for kind in KINDS].index("mug") + 1


def view() -> View:
    """A mug at the right and a smaller ball at the left, white in a black picture."""
    made = view_of(("mug", "red", 0.12, 0.02), ("ball", "blue", -0.1, -0.05), sizes=(120, 60))
    return replace(made, rgb=np.repeat(255 * (made.owner[..., None] > 0), 3, 2).astype(np.uint8))


@pytest.fixture(scope="module")
def shown() -> list[tuple[Shown, Shown]]:
    """Inputs of CLIP and SAM in some steps of one picture each."""
    scenes = Scenes(lambda _: view(), 1, 0)
    return [(seen.clip, seen.sam) for seen in (scenes.sights(step, 1, SHAPE) for step in range(STEPS))]


def at_cells(shown: Shown) -> Tensor:
    """(h, w) the picture's values at the centres of the cells."""
    (picture,) = shown.pictures
    side, cells = max(picture.shape[:2]), shown.truth.kind.shape[-1]
    middles = ((np.arange(cells) + 0.5) * side / cells).astype(int)
    rows, columns = (np.minimum(middles, length - 1) for length in picture.shape[:2])
    return picture[rows][:, columns, 0]


def middle_of(shown: Shown, kind: int) -> Tensor:
    """(n, 2) the middle of the thing according to each cell of that kind, in shares of the square."""
    (where,) = (shown.truth.kind == kind).unbind(0)
    cells = where.shape[-1]
    own = (where.nonzero().flip(1).float() + 0.5) / cells
    return own + shown.truth.middle[0].float()[:, where].T


def check(seen: Shown) -> None:
    """Checks that the truth matches the picture."""
    (kind,) = seen.truth.kind.unbind(0)
    rows = round(seen.pictures.shape[1] / max(seen.pictures.shape[1:3]) * kind.shape[0])
    assert ((at_cells(seen)[:rows] > 100) == (kind[:rows] > 0)).float().mean() > 0.98
    assert ((seen.truth.colour[0] != NOT_LEARNT) == (kind > 0)).all()
    for number in set(kind[kind > 0].tolist()):
        middles = middle_of(seen, number)
        assert (middles - middles[0]).abs().max() < 0.01


@pytest.mark.parametrize("encoder", [0, 1], ids=["clip", "sam"])
def test_the_truth_is_about_the_picture_as_it_was_mirrored_and_cut(
    shown: list[tuple[Shown, Shown]], encoder: int
) -> None:
    for each in shown:
        check(each[encoder])


def test_things_are_on_either_side_of_any_size_and_in_any_light(shown: list[tuple[Shown, Shown]]) -> None:
    places = [middle_of(sam, MUG)[0, 0].item() for _, sam in shown]
    assert STEPS / 5 < sum(place < 0.5 for place in places) < STEPS * 4 / 5
    assert len({int((clip.truth.kind == MUG).sum()) for clip, _ in shown}) > STEPS / 4
    assert len({int(clip.pictures.max()) for clip, _ in shown}) > STEPS / 8


@pytest.fixture(scope="module")
def talks() -> list[Talk]:
    """The batches of dialogues of some steps."""
    scenes, words = Scenes(lambda _: view(), 1, 0), Checkpoint.open("bundled").tokenizer
    return [scenes.talk(step, 1, 2, SHAPE, words) for step in range(STEPS)]


def test_who_speaks_sees_the_middle_a_little_shifted(talks: list[Talk]) -> None:
    """It is shifted by less than a patch, and never mirrored."""
    middles = []
    for talk in talks:
        check(talk.clip)
        middles.append(middle_of(talk.clip, MUG)[0])
    places = torch.stack(middles)
    assert (places[:, 0] > 0.5).all()
    assert (places.amax(0) - places.amin(0) < 0.08).all()
    assert len({tuple(place.tolist()) for place in places}) > STEPS / 2


def test_targets_are_at_the_patches_that_show_them(talks: list[Talk]) -> None:
    whole = 0
    for talk in talks:
        assert talk.patches.shape == (len(talk.masks), *[SHAPE.clip.image // SHAPE.clip.patch] * 2)
        for patches in talk.patches / 255:
            there = (talk.clip.truth.kind[0] == MUG).float().mean()
            if abs(patches.mean() - there) < 0.1 * there:
                whole += 1
                assert torch.allclose(centre_of(patches), middle_of(talk.clip, MUG)[0], atol=0.01)
    assert whole > STEPS / 4


def test_a_picture_of_nothing_teaches_that_nothing_is_there() -> None:
    answers = torch.randn(2, SENSES.channels, 8, 8, requires_grad=True)
    nothing = torch.full((2, 8, 8), NOT_LEARNT)
    truth = Truth(torch.zeros(2, 8, 8, dtype=torch.long), nothing, nothing, torch.zeros(2, 2, 8, 8))
    told = loss(answers, truth, SENSES)
    told.backward()
    assert told.isfinite()
    assert answers.grad is not None
    assert answers.grad.isfinite().all()
    assert (answers.grad[:, 0] < 0).all()
    assert known(answers, truth, SENSES) == 0


def centre_of(patches: Tensor) -> Tensor:
    """(2,) x and y of the centroid of the target, in shares of the square."""
    rows, columns = torch.meshgrid(*[(torch.arange(len(patches)) + 0.5) / len(patches)] * 2, indexing="ij")
    return torch.stack([(columns * patches).sum(), (rows * patches).sum()]) / patches.sum()
