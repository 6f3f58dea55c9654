"""The official recipe's losses: words by cross entropy, masks by binary cross entropy and Dice.

Source: Lai et al. 2023, "LISA: Reasoning Segmentation via Large Language Model", and its published training code.
"""

import torch
from torch import Tensor
from torch.nn import functional

from lisa_core.training.recipe import Weights

_DICE_SCALE, _DICE_EPS = 1000.0, 1e-6


def of_words(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross entropy over the learnt tokens: logits (N, vocabulary), labels (N,)."""
    return functional.cross_entropy(logits.float(), labels)


def of_masks(logits: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Binary cross entropy and Dice, summed over the masks.

    Args:
        logits: (N, H, W).
        masks: (N, H, W), 1 on the target.
    """
    logits, masks = logits.float().flatten(1), masks.float().flatten(1)
    bce = functional.binary_cross_entropy_with_logits(logits, masks, reduction="none").mean(1).sum()
    shares = logits.sigmoid()
    both = (shares / _DICE_SCALE * masks).sum(1)
    either = (shares / _DICE_SCALE).sum(1) + (masks / _DICE_SCALE).sum(1)
    dice = (1 - (2 * both + _DICE_EPS) / (either + _DICE_EPS)).sum()
    return bce, dice


def total(words: Tensor, bce: Tensor, dice: Tensor, masks: int, weights: Weights) -> dict[str, Tensor]:
    """The weighted losses by name; `bce` and `dice`, sums over the batch, are divided by the number of masks."""
    count = masks + 1e-8
    named = {"ce": weights.ce * words, "bce": weights.bce * bce / count, "dice": weights.dice * dice / count}
    return {"loss": torch.stack(list(named.values())).sum(), **named}
