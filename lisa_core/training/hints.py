"""Hints while a model learns to speak about rendered scenes, beside the official losses; their heads are thrown away.

The CLIP of a released LISA has seen millions of pictures. That of a LISA from scratch has not, and words alone tell it
little about what is where. So it goes on being asked that at every patch (`vision`), as SAM's encoder is where that
learns, too; and each `[SEG]` has to point at the visual tokens that show its target, ahead of SAM's mask decoder, which
sees more than they do.
"""

from torch import Tensor, nn
from torch.nn import functional

from lisa_core.model.lisa import LisaShape
from lisa_core.training import vision

_POINTING = 64
"""Numbers that a `[SEG]` and a visual token are compared by."""
_COUNTS = 0.1
"""What each hint counts beside the losses of words and masks."""
_SHOWN = 0.3
"""Visual tokens' worth of a target that CLIP has to see of it, or there is nothing to point at."""


class Hints(nn.Module):
    """Heads on CLIP's features and on the states that emitted `[SEG]`; with `whole` on SAM's embedding, too."""

    def __init__(self, shape: LisaShape, senses: vision.Senses, whole: bool = False) -> None:
        super().__init__()
        self.senses = senses
        self.clip = vision.clip_head(shape.clip.width, senses)
        self.query = nn.Linear(shape.language.width, _POINTING)
        self.key = nn.Linear(shape.language.width, _POINTING)
        self.sam = vision.sam_head(shape.sam.embedding, senses) if whole else None

    def pointing(self, states: Tensor, tokens: Tensor) -> Tensor:
        """(n, N) fp32 where each of n states (n, width) points among its picture's visual tokens (n, N, width)."""
        return (self.key(tokens) @ self.query(states)[:, :, None])[..., 0].float() * _POINTING**-0.5

    def losses(self, seen: Tensor, truth: vision.Truth, pointed: Tensor, patches: Tensor) -> dict[str, Tensor]:
        """By name; `loss` is what is added to that of words and masks.

        Args:
            seen: what `vision.at_patches` makes of the head `clip`'s answers.
            truth: what is where, at the same places.
            pointed: (n, N), of `pointing`.
            patches: (n, side, side), how much of each visual token's patch the target fills; 1: all.
        """
        sees = vision.loss(seen, truth, self.senses)
        points = _divergence(pointed, patches)
        knows = vision.known(seen, truth, self.senses)
        return {"loss": _COUNTS * (sees + points), "sees": sees, "points": points, "clip_knows": knows}

    def sam_losses(self, seen: Tensor, truth: vision.Truth) -> dict[str, Tensor]:
        """The same for what the head `sam` answers, and the truth at the same places."""
        sees = vision.loss(seen, truth, self.senses)
        return {"loss": _COUNTS * sees, "sam_sees": sees, "sam_knows": vision.known(seen, truth, self.senses)}


def _divergence(pointed: Tensor, patches: Tensor) -> Tensor:
    """How far from the targets' shares of CLIP's patches the pointing is (Kullback and Leibler 1951), on average."""
    on_target = patches.flatten(1)
    total = on_target.sum(1, keepdim=True)
    each = functional.kl_div(pointed.log_softmax(-1), on_target / total.clamp(min=_SHOWN), reduction="none").sum(1)
    shown = total[:, 0] > _SHOWN
    return (each * shown).sum() / shown.sum().clamp(min=1)
