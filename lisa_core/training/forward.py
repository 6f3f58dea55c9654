"""A batch through the model: words for every conversation, a mask for every `[SEG]`."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lisa_core.model.lisa import Lisa
from lisa_core.model.sam import upsample
from lisa_core.preprocess import SamSize
from lisa_core.tokenizer import IMAGE_ID
from lisa_core.training import losses
from lisa_core.training.batch import Packed
from lisa_core.training.conversation import NOT_LEARNT


@dataclass(frozen=True)
class Pictures:
    """What the model sees of B pictures, and the truth about them.

    Attributes:
        visual: (B, N, width) CLIP's features.
        embedding: (B, C, grid, grid) SAM's.
        sizes: of each picture, at the size of its masks.
        masks: per picture (n, H, W), 1 on the target; one for each of its `[SEG]`, in their order.
    """

    visual: Tensor
    embedding: Tensor
    sizes: Sequence[SamSize]
    masks: Sequence[Tensor]


def of_batch(model: Lisa, pictures: Pictures, words: Packed, weights: losses.Weights) -> dict[str, Tensor]:
    """The official recipe's losses of a batch, by name."""
    return of_states(model, read(model, pictures.visual, words), pictures, words, weights)


def of_states(
    model: Lisa, hidden: Tensor, pictures: Pictures, words: Packed, weights: losses.Weights
) -> dict[str, Tensor]:
    """The same of what `read` has made of the words."""
    learnt = words.labels[:, 1:] != NOT_LEARNT
    ce = losses.of_words(model.language.lm_head(hidden[:, :-1][learnt]), words.labels[:, 1:][learnt])
    bce = dice = hidden.new_zeros((), dtype=torch.float32)
    counts = [len(columns) for columns in words.before_seg]
    if any(counts):
        rows, states = before_seg(hidden, words)
        low_res, _ = model.sam.decode(pictures.embedding[rows], model.text_hidden_fcs(states))
        for some, size, masks in zip(low_res.split(counts), pictures.sizes, pictures.masks, strict=True):
            if len(some):
                logits = upsample(some, model.shape.sam.image, size.resized, size.source)
                one_bce, one_dice = losses.of_masks(logits, masks)
                bce, dice = bce + one_bce, dice + one_dice
    return losses.total(ce, bce, dice, sum(counts), weights)


def before_seg(hidden: Tensor, words: Packed) -> tuple[list[int], Tensor]:
    """Of each `[SEG]`, picture by picture: which picture it is about, and the state (width) that emitted it."""
    rows = [row for row, columns in enumerate(words.before_seg) for _ in columns]
    return rows, hidden[rows, list(itertools.chain(*words.before_seg))]


def read(model: Lisa, visual: Tensor, words: Packed) -> Tensor:
    """(B, T, width) hidden states after the last norm; `visual` is (B, N, width) of CLIP."""
    language = model.language
    is_image = words.ids == IMAGE_ID
    embeddings = language.embed_tokens(words.ids.masked_fill(is_image, 0))
    tokens = model.mm_projector(visual).to(embeddings.dtype)
    states = embeddings.masked_scatter(is_image[..., None], tokens)
    return language.uncached(states, words.positions, words.visible())
