"""The model that is measured: behind its engine for the cases, and directly for the stages and the baseline."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lisa_core import devices, footprint, loading, preprocess
from lisa_core.checkpoint import Checkpoint
from lisa_core.engine import LisaEngine
from lisa_core.model.lisa import Lisa
from lisa_core.options import ResolvedPrecision
from lisa_core.preprocess import SamSize
from lisa_core.template import BY_NAME, History
from lisa_core.tokenizer import spread


@dataclass(frozen=True)
class Subject:
    """A model and its engine, sharing the weights.

    Attributes:
        name: "random small", or the checkpoint as the user named it.
        dtype: of activations.
    """

    name: str
    checkpoint: Checkpoint
    precision: ResolvedPrecision
    device: torch.device
    dtype: torch.dtype
    model: Lisa
    engine: LisaEngine

    @classmethod
    def load(
        cls,
        name: str,
        checkpoint: Checkpoint,
        precision: ResolvedPrecision,
        device: torch.device,
        on_progress: loading.Progress | None = None,
    ) -> "Subject":
        """Loads the weights.

        Raises:
            CheckpointError, OutOfMemoryError
        """
        model = loading.load(checkpoint, precision, device, on_progress)
        with footprint.fitting(precision, device):
            engine = LisaEngine(
                name, model, checkpoint.tokenizer, checkpoint.layout, checkpoint.template, precision, device
            )
        return cls(name, checkpoint, precision, device, devices.compute_dtype(precision, device), model, engine)

    def prompt(self, question: str, history: History = ()) -> list[int]:
        """The token ids of a conversation, with `IMAGE_ID` once for each visual token."""
        ids = self.checkpoint.tokenizer.encode(BY_NAME[self.checkpoint.template].render(question, history))
        return spread(ids, self.checkpoint.shape.clip.tokens)

    def for_clip(self, rgb: NDArray[np.uint8]) -> Tensor:
        """(1, 3, size, size): CLIP's input from (H, W, 3) RGB."""
        pixels = preprocess.for_clip(rgb, self.checkpoint.shape.clip.image, self.device)
        return preprocess.clip_input(pixels).to(self.dtype)[None]

    def for_sam(self, rgb: NDArray[np.uint8]) -> tuple[Tensor, SamSize]:
        """(1, 3, size, size): SAM's input from (H, W, 3) RGB, and the sizes."""
        side = self.checkpoint.shape.sam.image
        pixels, size = preprocess.for_sam(rgb, side, self.device)
        return preprocess.sam_input(pixels, side).to(self.dtype)[None], size

    def synchronise(self) -> None:
        """Waits until the device is idle, before reading a clock."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
