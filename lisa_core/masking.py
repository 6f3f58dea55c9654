"""From the hidden states behind the `[SEG]`s to masks of the source image."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lisa_core import preprocess
from lisa_core.answer import Segment, tight_box
from lisa_core.frame import Frame
from lisa_core.model.lisa import Lisa
from lisa_core.model.sam import upsample
from lisa_core.stopwatch import Stopwatch


class Masker:
    """SAM, which encodes a frame when its first mask is wanted."""

    def __init__(self, model: Lisa, dtype: torch.dtype, device: torch.device) -> None:
        self._model = model
        self._dtype = dtype
        self._device = device

    def segments(self, frame: Frame, states: Sequence[Tensor], watch: Stopwatch) -> tuple[Segment, ...]:
        """One segment for each (1, width) hidden state, decoded as one batch."""
        model, side = self._model, self._model.shape.sam.image
        if frame._sam is None:
            pixels, size = preprocess.for_sam(frame.image, side)
            frame._sam = model.sam.encode(pixels.to(self._device, self._dtype)[None])[0], size
            watch.lap("sam")
        embedding, size = frame._sam
        prompts = model.text_hidden_fcs(torch.cat(list(states)))
        logits, scores = model.sam.decode(embedding, prompts)
        segments = []
        for prompt, low_res, score in zip(prompts, logits, scores, strict=True):
            full = upsample(low_res[None], side, size.resized, size.source)[0]
            mask = (full > 0).cpu().numpy()
            segments.append(
                Segment(
                    mask=mask,
                    score=float(score),
                    box=tight_box(mask),
                    embedding=prompt.float().cpu().numpy(),
                    low_res_logits=low_res.float().cpu().numpy(),
                )
            )
        watch.lap("masks")
        return tuple(segments)
