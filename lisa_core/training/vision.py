"""The two encoders learn what things look like, before the language model learns to speak about them.

Where a released LISA has CLIP and SAM, pretrained on millions of pictures, a LISA from scratch has to learn to see.
Rendered scenes tell it at every patch: which kind of thing is here, of which colour, which part of it, and which way
its middle is. Small heads on the encoders answer that; they are thrown away, the encoders stay.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from lisa_core.model.clip import VisionTower
from lisa_core.model.lisa import Lisa
from lisa_core.model.sam import ImageEncoder

MOST_PARTS = 2
NOT_LEARNT = -100


@dataclass(frozen=True)
class Senses:
    """How many answers each question at a patch has."""

    kinds: int
    colours: int

    @property
    def channels(self) -> int:
        """Kind (0: nothing), colour, part (0: the rest), and the way to the middle in x and y."""
        return self.kinds + 1 + self.colours + 1 + MOST_PARTS + 2


@dataclass(frozen=True)
class Truth:
    """What is where on a grid.

    Attributes:
        kind: (B, h, w) integers, 0 where nothing is.
        colour: (B, h, w) integers, `NOT_LEARNT` where nothing is.
        part: (B, h, w) integers, `NOT_LEARNT` where nothing is.
        middle: (B, 2, h, w), x and y from here to the middle of the thing, in shares of the grid's side.
    """

    kind: Tensor
    colour: Tensor
    part: Tensor
    middle: Tensor

    def to(self, device: torch.device) -> "Truth":
        """The same on a device, as int64 and float32."""
        kind, colour, part = (of_cells.to(device).long() for of_cells in (self.kind, self.colour, self.part))
        return Truth(kind, colour, part, self.middle.to(device).float())


class Heads(nn.Module):
    """What is asked of both encoders while they learn; (B, channels, 96, 96) and (B, channels, 24, 24) at 384 px."""

    def __init__(self, model: Lisa, senses: Senses) -> None:
        super().__init__()
        self.senses = senses
        self.sam = sam_head(model.shape.sam.embedding, senses)
        self.clip = clip_head(model.shape.clip.width, senses)

    def of_sam(self, encoder: ImageEncoder, pixels: Tensor) -> Tensor:
        """Answers at SAM's low resolution, four to a patch's side."""
        return self.sam(encoder(pixels))

    def of_clip(self, tower: VisionTower, pixels: Tensor) -> Tensor:
        """Answers two to a patch's side."""
        return at_patches(self.clip(tower(pixels)))


def sam_head(width: int, senses: Senses) -> nn.Sequential:
    """A head on SAM's embedding (B, width, grid, grid): (B, channels, 4 * grid, 4 * grid), four to a patch's side."""
    return nn.Sequential(
        nn.ConvTranspose2d(width, 64, 2, stride=2),
        nn.GELU(),
        nn.ConvTranspose2d(64, 48, 2, stride=2),
        nn.GELU(),
        nn.Conv2d(48, senses.channels, 1),
    )


def clip_head(width: int, senses: Senses) -> nn.Sequential:
    """A head on CLIP's features (B, N, width), whose answers `at_patches` lays out."""
    return nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 4 * senses.channels))


def at_patches(answers: Tensor) -> Tensor:
    """(B, N, 4 * channels) of N patches in a square as (B, channels, side, side), two to a patch's side."""
    side = round(answers.shape[1] ** 0.5)
    return functional.pixel_shuffle(answers.transpose(1, 2).unflatten(2, (side, side)), 2)


def loss(answers: Tensor, truth: Truth, senses: Senses) -> Tensor:
    """Cross entropies of kind, colour and part, and the distance to the true middle.

    The cells without a thing, nine of ten, count as much for the kind as those with one.
    """
    answers = answers.float()
    kind, colour, part, middle = answers.split((senses.kinds + 1, senses.colours, 1 + MOST_PARTS, 2), dim=1)
    thing = truth.kind > 0
    off = (middle - truth.middle).abs().sum(1)
    each = functional.cross_entropy(kind, truth.kind, reduction="none")
    things = thing.sum().clamp(min=1)  # a picture may show nothing
    return (
        (each * thing).sum() / things
        + (each * ~thing).sum() / (thing.numel() - things)
        + 0.5 * _of_learnt(colour, truth.colour)
        + 0.5 * _of_learnt(part, truth.part)
        + 2.0 * (off * thing).sum() / things
    )


def _of_learnt(answers: Tensor, truth: Tensor) -> Tensor:
    """Mean cross entropy over the cells that have a truth; 0 if none has."""
    total = functional.cross_entropy(answers, truth, ignore_index=NOT_LEARNT, reduction="sum")
    return total / (truth != NOT_LEARNT).sum().clamp(min=1)


def known(answers: Tensor, truth: Truth, senses: Senses) -> Tensor:
    """Share of the things' cells whose kind is right."""
    thing = truth.kind > 0
    right = answers[:, : senses.kinds + 1].argmax(1) == truth.kind
    return (right & thing).sum() / thing.sum().clamp(min=1)
