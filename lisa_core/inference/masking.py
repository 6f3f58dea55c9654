"""From the hidden states of `[SEG]` tokens to masks of the source image."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from lisa_core import preprocess
from lisa_core.answer import Segment, tight_box
from lisa_core.errors import done_without_if_memory_runs_out
from lisa_core.inference import cuda_graphs
from lisa_core.inference.beside import Beside
from lisa_core.inference.cuda_graphs import Replayed
from lisa_core.inference.frame import Encoded, SamEncoding
from lisa_core.inference.memory import FrameMemory
from lisa_core.inference.stopwatch import Stopwatch
from lisa_core.model.lisa import Lisa
from lisa_core.model.sam import upsample
from lisa_core.options import ResolvedPrecision


class Masker:
    """SAM: encodes a frame once, and again only if there was no memory to keep the embedding.

    On the CPU it encodes when the first mask is needed. On a GPU (`beside`) it starts with the answer, and with a lower
    priority.
    """

    def __init__(
        self,
        model: Lisa,
        memory: FrameMemory,
        dtype: torch.dtype,
        device: torch.device,
        precision: ResolvedPrecision,
        beside: Beside | None = None,
    ) -> None:
        self._model = model
        self._beside = beside
        self._memory = memory
        self._dtype = dtype
        self._device = device
        capture_for = partial(cuda_graphs.capture_for, device, precision)
        self._encoder = Replayed(lambda seen: (model.sam.encode(seen)[0],), partial(capture_for, urgent=False))
        self._decoder = Replayed(lambda seen, prompts: (*model.sam.decode(seen, prompts),), capture_for)

    def begin(self, frame: Encoded, watch: Stopwatch) -> None:
        """Starts to encode a frame beside the decoding of its answer, where the device can do both."""
        if self._beside is None or frame.sam is not None or not self._memory.has_room(self._embedding_bytes()):
            return
        with done_without_if_memory_runs_out():  # the answer may need no mask
            frame.sam = self._start(frame)
        watch.lap("sam")

    def segments(self, frame: Encoded, states: Sequence[Tensor], watch: Stopwatch) -> tuple[Segment, ...]:
        """One segment for each (1, width) hidden state, decoded as one batch."""
        model, side = self._model, self._model.shape.sam.image
        embedding, size, wait = frame.sam or self._encoded(frame, watch)
        wait()
        prompts = model.text_hidden_fcs(torch.cat(list(states)))
        logits, scores = self._decoder(embedding, prompts)
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

    def forget(self) -> None:
        """Drops what is recorded, and its memory; it is recorded again when it is needed."""
        self._encoder.forget()
        self._decoder.forget()

    def _encoded(self, frame: Encoded, watch: Stopwatch) -> SamEncoding:
        encoded = self._start(frame)
        if self._memory.has_room(self._embedding_bytes()):
            frame.sam = encoded
        watch.lap("sam")
        return encoded

    def _start(self, frame: Encoded) -> SamEncoding:
        """Encodes; on a GPU always on the side stream, for the recorded graph must not run twice at the same time."""
        size = preprocess.sam_size(frame.image.shape[:2], self._model.shape.sam.image)
        if self._beside is None:
            return SamEncoding(self._encode(frame), size, _nothing_to_wait_for)
        embedding, wait = self._beside.start(lambda: self._encode(frame))
        return SamEncoding(embedding, size, wait)

    def _encode(self, frame: Encoded) -> Tensor:
        side = self._model.shape.sam.image
        pixels, _ = preprocess.for_sam(frame.image, side, self._device)
        (embedding,) = self._encoder(preprocess.sam_input(pixels, side).to(self._dtype)[None])
        return embedding

    def _embedding_bytes(self) -> int:
        shape = self._model.shape.sam
        return shape.embedding * shape.grid**2 * self._dtype.itemsize


def _nothing_to_wait_for() -> None:
    """On the CPU a result is there as soon as the function returns."""
