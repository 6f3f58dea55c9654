"""Dense prediction losses that teach the two encoders to see, before the language model is trained.

A released LISA has CLIP and SAM pretrained on millions of pictures; a LISA from scratch trains them on rendered scenes.
For each cell of a grid, small heads on the encoders predict the kind of thing there, its colour, its part, and the
offset to its middle. Only the encoders are kept.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from lisa_core.model.clip import VisionTower
from lisa_core.model.lisa import Lisa
from lisa_core.model.sam import ImageEncoder
from lisa_core.training.conversation import NOT_LEARNT

MOST_PARTS = 2


@dataclass(frozen=True)
class Senses:
    """Number of classes that are told apart in a cell."""

    kinds: int
    colours: int

    @property
    def channels(self) -> int:
        """Outputs per cell: kind (0: nothing), colour, part (0: the rest), and offset to the middle in x and y."""
        return self.kinds + 1 + self.colours + 1 + MOST_PARTS + 2


@dataclass(frozen=True)
class Truth:
    """The truth on a grid of cells.

    Attributes:
        kind: (B, h, w) integers, 0 where nothing is.
        colour: (B, h, w) integers, `NOT_LEARNT` where nothing is.
        part: (B, h, w) integers, `NOT_LEARNT` where nothing is.
        middle: (B, 2, h, w), x and y offset from the cell to the middle of its thing, in shares of the grid's side.
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
    """The heads on both encoders in the first stage."""

    def __init__(self, model: Lisa, senses: Senses) -> None:
        super().__init__()
        self.senses = senses
        self.sam = sam_head(model.shape.sam.embedding, senses)
        self.clip = clip_head(model.shape.clip.width, senses)

    def of_sam(self, encoder: ImageEncoder, pixels: Tensor) -> Tensor:
        """(B, channels, 4 * grid, 4 * grid) predictions, four cells to a patch's side."""
        return self.sam(encoder(pixels))

    def of_clip(self, tower: VisionTower, pixels: Tensor) -> Tensor:
        """(B, channels, 2 * side, 2 * side) predictions for `side` patches to a side, two cells to a patch's side."""
        return at_patches(self.clip(tower(pixels)))


def sam_head(width: int, senses: Senses) -> nn.Sequential:
    """A head from SAM's embedding (B, width, grid, grid) to (B, channels, 4 * grid, 4 * grid)."""
    return nn.Sequential(
        nn.ConvTranspose2d(width, 64, 2, stride=2),
        nn.GELU(),
        nn.ConvTranspose2d(64, 48, 2, stride=2),
        nn.GELU(),
        nn.Conv2d(48, senses.channels, 1),
    )


def clip_head(width: int, senses: Senses) -> nn.Sequential:
    """A head from CLIP's features (B, N, width) to (B, N, 4 * channels), which `at_patches` lays out."""
    return nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 4 * senses.channels))


def at_patches(answers: Tensor) -> Tensor:
    """Lays out (B, N, 4 * channels) of N = side * side patches as (B, channels, 2 * side, 2 * side)."""
    side = round(answers.shape[1] ** 0.5)
    return functional.pixel_shuffle(answers.transpose(1, 2).unflatten(2, (side, side)), 2)


def loss(answers: Tensor, truth: Truth, senses: Senses) -> Tensor:
    """Cross entropies of kind, colour and part, and the distance to the true middle.

    For the kind, the cells without a thing (nine of ten) weigh as much in all as those with one.
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
    """Mean cross entropy over the cells that have a truth; 0 without any."""
    total = functional.cross_entropy(answers, truth, ignore_index=NOT_LEARNT, reduction="sum")
    return total / (truth != NOT_LEARNT).sum().clamp(min=1)


def known(answers: Tensor, truth: Truth, senses: Senses) -> Tensor:
    """Share of the cells with a thing whose kind is predicted right."""
    thing = truth.kind > 0
    right = answers[:, : senses.kinds + 1].argmax(1) == truth.kind
    return (right & thing).sum() / thing.sum().clamp(min=1)
