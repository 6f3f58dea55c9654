"""An encoded image, which questions are asked about."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lisa_core.beside import Wait
from lisa_core.generation import Visual
from lisa_core.preprocess import SamSize


class SamEncoding(NamedTuple):
    """A frame to the mask decoder.

    Attributes:
        embedding: (channels, side, side), to be read after `wait`.
        size: of the image in SAM's input.
    """

    embedding: Tensor
    size: SamSize
    wait: Wait


@dataclass(eq=False)
class Frame:
    """An encoded image; hand it back with every question about it.

    Attributes:
        image: (H, W, 3) uint8 RGB, as it was given.
        timings: seconds that encoding took, by stage.
    """

    image: NDArray[np.uint8]
    timings: Mapping[str, float]
    _visual: Visual | None = field(default=None, repr=False)
    _sam: SamEncoding | None = field(default=None, repr=False)
    _keeper: object = field(default=None, repr=False)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in px."""
        return (self.image.shape[0], self.image.shape[1])

    @property
    def held(self) -> int:
        """Bytes of device memory that it holds, without the KV cache; 0 until somebody asks, once it was emptied."""
        tokens = self._visual.tokens.nbytes if self._visual is not None else 0
        return tokens + (self._sam.embedding.nbytes if self._sam is not None else 0)

    def empty(self) -> None:
        """Gives the device memory back, and what was read about the frame; the image is encoded again when needed."""
        self._visual = self._sam = None
