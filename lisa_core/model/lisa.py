"""LISA: the language model reads the frame through CLIP, and SAM turns the hidden states behind `[SEG]` to masks.

Source: Lai et al. 2023, "LISA: Reasoning Segmentation via Large Language Model".
"""

from dataclasses import dataclass

import torch
from torch import nn

from lisa_core.model.clip import ClipShape, VisionTower
from lisa_core.model.language import Language, LanguageShape
from lisa_core.model.linear import Linear
from lisa_core.model.sam import Sam, SamShape


@dataclass(frozen=True)
class LisaShape:
    """Every size of the model, as read from a checkpoint."""

    clip: ClipShape
    language: LanguageShape
    sam: SamShape
    projector_layers: int = 1


class Lisa(nn.Module):
    """The boxes of the architecture, and the two layers that join them.

    Attributes:
        clip: the vision tower.
        mm_projector: a visual token to an input embedding of the language model.
        language: Llama.
        text_hidden_fcs: a hidden state that emitted `[SEG]` to a prompt of SAM's mask decoder.
        sam: SAM, its mask decoder fine-tuned by LISA.
    """

    def __init__(self, shape: LisaShape) -> None:
        super().__init__()
        width = shape.language.width
        self.shape = shape
        self.clip = VisionTower(shape.clip)
        self.mm_projector = _projector(shape.clip.width, width, shape.projector_layers)
        self.language = Language(shape.language)
        self.text_hidden_fcs = nn.Sequential(Linear(width, width), nn.ReLU(), Linear(width, shape.sam.embedding))
        self.sam = Sam(shape.sam)

    @classmethod
    def on_meta(cls, shape: LisaShape) -> "Lisa":
        """A model whose parameters have names and sizes but no values yet: it takes no memory."""
        with torch.device("meta"):
            return cls(shape)


def _projector(visual: int, width: int, layers: int) -> nn.Module:
    """One linear layer, or two with GELU between them as in LLaVA-1.5."""
    if layers == 1:
        return Linear(visual, width)
    return nn.Sequential(Linear(visual, width), nn.GELU(), Linear(width, width))


_PREFIXES = (  # the released name's beginning -> ours; the first that fits
    ("model.visual_model.", "sam."),
    ("model.text_hidden_fcs.0.", "text_hidden_fcs."),
    ("model.mm_projector.", "mm_projector."),
    ("model.vision_tower.vision_tower.vision_model.", "clip."),
    ("vision_model.", "clip."),
    ("model.", "language."),
    ("lm_head.", "language.lm_head."),
)


def released_name(parameter: str) -> str:
    """The v1 name of the tensor that fills a parameter; the inverse of `parameter_name`."""
    released, ours = next(pair for pair in reversed(_PREFIXES) if parameter.startswith(pair[1]))
    return released + parameter.removeprefix(ours)


def parameter_name(tensor: str) -> str | None:
    """The parameter of `Lisa` that a released tensor fills, by its v1 name; None for a name of no known part."""
    for released, ours in _PREFIXES:
        if tensor.startswith(released):
            return ours + tensor.removeprefix(released)
    return None
