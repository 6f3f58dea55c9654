"""The forward pass of a batch: logits for every learnt token, a mask for every `[SEG]`, and their losses."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lisa_core.model.lisa import Lisa
from lisa_core.model.sam import upsample
from lisa_core.preprocess import SamSize
from lisa_core.tokenizer import IMAGE_ID
from lisa_core.training import losses
from lisa_core.training.batch import Packed
from lisa_core.training.recipe import Weights


@dataclass(frozen=True)
class Pictures:
    """Features of B pictures, and their true masks.

    Attributes:
        visual: (B, N, width) features of CLIP.
        embedding: (B, C, grid, grid) of SAM.
        sizes: of each picture, with the size of its masks as the source size.
        masks: per picture (n, H, W), 1 on the target; one for each `[SEG]`, in order.
    """

    visual: Tensor
    embedding: Tensor
    sizes: Sequence[SamSize]
    masks: Sequence[Tensor]


def of_batch(model: Lisa, pictures: Pictures, words: Packed, weights: Weights) -> dict[str, Tensor]:
    """The official recipe's losses of a batch, by name."""
    return of_states(model, read(model, pictures.visual, words), pictures, words, weights)


def of_states(model: Lisa, hidden: Tensor, pictures: Pictures, words: Packed, weights: Weights) -> dict[str, Tensor]:
    """The same, from the hidden states that `read` returned."""
    states = hidden.flatten(0, 1).index_select(0, words.learnt)
    ce = losses.of_words(model.language.lm_head(states), words.labels.flatten()[words.learnt + 1])
    bce = dice = hidden.new_zeros((), dtype=torch.float32)
    counts = [len(columns) for columns in words.before_seg]
    if any(counts):
        rows, states = before_seg(hidden, words)
        low_res, _ = model.sam.decode(pictures.embedding.index_select(0, rows), model.text_hidden_fcs(states))
        for size, logits, masks in _of_a_size(low_res.split(counts), pictures):
            full = upsample(logits, model.shape.sam.image, size.resized, size.source)
            some_bce, some_dice = losses.of_masks(full, masks)
            bce, dice = bce + some_bce, dice + some_dice
    return losses.total(ce, bce, dice, sum(counts), weights)


def _of_a_size(logits: Sequence[Tensor], pictures: Pictures) -> Iterator[tuple[SamSize, Tensor, Tensor]]:
    """Groups logits (n, h, w) and masks (n, H, W) of pictures of the same size."""
    alike: dict[SamSize, list[tuple[Tensor, Tensor]]] = {}
    for size, some, masks in zip(pictures.sizes, logits, pictures.masks, strict=True):
        if len(some):
            alike.setdefault(size, []).append((some, masks))
    for size, parts in alike.items():
        yield size, torch.cat([some for some, _ in parts]), torch.cat([masks for _, masks in parts])


def before_seg(hidden: Tensor, words: Packed) -> tuple[Tensor, Tensor]:
    """For each of N `[SEG]`: (N,) the index of its picture, and (N, width) the state that emitted it."""
    rows, columns = words.segs
    return rows, hidden[rows, columns]


def read(model: Lisa, visual: Tensor, words: Packed) -> Tensor:
    """(B, T, width) hidden states after the last norm; `visual` is (B, N, width), CLIP's features."""
    language = model.language
    embeddings = language.embed_tokens(words.ids.masked_fill(words.ids == IMAGE_ID, 0))
    tokens = model.mm_projector(visual).to(embeddings.dtype)
    after = words.image + tokens.shape[1]
    states = torch.cat([embeddings[:, : words.image], tokens, embeddings[:, after:]], dim=1)
    return language.uncached(states, words.positions, words.visible())
