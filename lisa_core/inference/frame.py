"""A frame, and what an engine makes of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lisa_core.inference.beside import Wait
from lisa_core.preprocess import SamSize


@dataclass(frozen=True, eq=False)
class Frame:
    """An image that questions are asked about; hand it back with every one.

    Attributes:
        image: (H, W, 3) uint8 RGB, as it was given.
        timings: seconds that encoding took, by stage.
    """

    image: NDArray[np.uint8]
    timings: Mapping[str, float]

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in px."""
        return (self.image.shape[0], self.image.shape[1])


@dataclass(frozen=True, eq=False)
class Visual:
    """A frame as the language model reads it.

    Attributes:
        tokens: (N, width) input embeddings of its N visual tokens.
    """

    tokens: Tensor


class SamEncoding(NamedTuple):
    """A frame as the mask decoder reads it.

    Attributes:
        embedding: (channels, side, side), to be read after `wait`.
        size: of the image in SAM's input.
    """

    embedding: Tensor
    size: SamSize
    wait: Wait


@dataclass(eq=False)
class Encoded:
    """A frame as one engine has encoded it, on its device; what is None is encoded when it is needed.

    Attributes:
        visual: for the language model.
        sam: for the mask decoder.
    """

    image: NDArray[np.uint8]
    visual: Visual | None = None
    sam: SamEncoding | None = None

    @property
    def held(self) -> int:
        """Bytes of device memory, without the KV cache."""
        tokens = self.visual.tokens.nbytes if self.visual is not None else 0
        return tokens + (self.sam.embedding.nbytes if self.sam is not None else 0)

    def empty(self) -> None:
        """Frees the device memory, the copy of the frame's keys and values included."""
        self.visual = self.sam = None
