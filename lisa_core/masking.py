"""From the hidden states behind the `[SEG]`s to masks of the source image."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lisa_core import preprocess
from lisa_core.answer import Segment, tight_box
from lisa_core.frame import Frame
from lisa_core.memory import FrameMemory
from lisa_core.model.lisa import Lisa
from lisa_core.model.sam import upsample
from lisa_core.stopwatch import Stopwatch


class Masker:
    """SAM, which encodes a frame when its first mask is wanted, and again only where memory could not keep it."""

    def __init__(self, model: Lisa, memory: FrameMemory, dtype: torch.dtype, device: torch.device) -> None:
        self._model = model
        self._memory = memory
        self._dtype = dtype
        self._device = device

    def segments(self, frame: Frame, states: Sequence[Tensor], watch: Stopwatch) -> tuple[Segment, ...]:
        """One segment for each (1, width) hidden state, decoded as one batch."""
        model, side = self._model, self._model.shape.sam.image
        embedding, size = frame._sam or self._encoded(frame, watch)
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

    def _encoded(self, frame: Frame, watch: Stopwatch) -> tuple[Tensor, preprocess.SamSize]:
        pixels, size = preprocess.for_sam(frame.image, self._model.shape.sam.image)
        encoded = self._model.sam.encode(pixels.to(self._device, self._dtype)[None])[0], size
        if self._memory.has_room(encoded[0].nbytes):
            frame._sam = encoded
        watch.lap("sam")
        return encoded
