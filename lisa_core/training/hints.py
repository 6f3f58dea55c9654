"""Auxiliary losses of the second stage, beside the official ones; their heads are not exported.

The CLIP of a released LISA was pretrained on millions of pictures; that of a LISA from scratch was not, and the words
of the dialogues alone teach it little about what is where. So CLIP keeps predicting that for each patch (`vision`), and
so does SAM's encoder where it is trained. And each `[SEG]` must point at the visual tokens that show its target, before
SAM's mask decoder, which sees more than they do, makes the mask.
"""

from torch import Tensor, nn
from torch.nn import functional

from lisa_core.model.lisa import LisaShape
from lisa_core.training import vision

_POINTING = 64
"""Dimensions in which a `[SEG]` and a visual token are compared."""
_COUNTS = 0.1
"""Weight of each hint beside the losses of words and masks."""
_SHOWN = 0.3
"""Smallest area of a target in CLIP's view, in patches; a smaller one is not pointed at."""


class Hints(nn.Module):
    """Heads on CLIP's features and on the states that emitted `[SEG]`; with `whole`, on SAM's embedding as well."""

    def __init__(self, shape: LisaShape, senses: vision.Senses, whole: bool = False) -> None:
        super().__init__()
        self.senses = senses
        self.clip = vision.clip_head(shape.clip.width, senses)
        self.query = nn.Linear(shape.language.width, _POINTING)
        self.key = nn.Linear(shape.language.width, _POINTING)
        self.sam = vision.sam_head(shape.sam.embedding, senses) if whole else None

    def pointing(self, states: Tensor, tokens: Tensor) -> Tensor:
        """(n, N) fp32 logits: where each state (n, width) points among its picture's visual tokens (n, N, width)."""
        return (self.key(tokens) @ self.query(states)[:, :, None])[..., 0].float() * _POINTING**-0.5

    def losses(self, seen: Tensor, truth: vision.Truth, pointed: Tensor, patches: Tensor) -> dict[str, Tensor]:
        """Losses and measures by name; `loss` is to be added to that of words and masks.

        Args:
            seen: the output of the head `clip`, after `vision.at_patches`.
            truth: of the same grid.
            pointed: (n, N), from `pointing`.
            patches: (n, side, side), the share of each patch that the target covers, 0 to 1.
        """
        sees = vision.loss(seen, truth, self.senses)
        points = _divergence(pointed, patches)
        knows = vision.known(seen, truth, self.senses)
        return {"loss": _COUNTS * (sees + points), "sees": sees, "points": points, "clip_knows": knows}

    def sam_losses(self, seen: Tensor, truth: vision.Truth) -> dict[str, Tensor]:
        """The same for the output of the head `sam`."""
        sees = vision.loss(seen, truth, self.senses)
        return {"loss": _COUNTS * sees, "sam_sees": sees, "sam_knows": vision.known(seen, truth, self.senses)}


def _divergence(pointed: Tensor, patches: Tensor) -> Tensor:
    """Mean Kullback-Leibler divergence of the pointing from the distribution of the target over CLIP's patches."""
    on_target = patches.flatten(1)
    total = on_target.sum(1, keepdim=True)
    each = functional.kl_div(pointed.log_softmax(-1), on_target / total.clamp(min=_SHOWN), reduction="none").sum(1)
    shown = total[:, 0] > _SHOWN
    return (each * shown).sum() / shown.sum().clamp(min=1)
