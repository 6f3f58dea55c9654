"""Operations and bytes that an answer costs, from the model's sizes, and the least time that a GPU needs for them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from lisa_core.model.clip import ClipShape
from lisa_core.model.language import LanguageShape
from lisa_core.model.lisa import LisaShape
from lisa_core.model.sam import SamShape


@dataclass(frozen=True)
class Work:
    """The least work of a computation.

    Attributes:
        flops: floating-point operations; a multiply-add counts as two.
        bytes: read from the device's memory.
    """

    flops: float
    bytes: float


@dataclass(frozen=True)
class Gpu:
    """Peaks stated by its maker: dense 16-bit operations, and bytes of memory bandwidth, per second."""

    flops: float
    bandwidth: float

    def seconds(self, work: Work) -> float:
        """The least time that the work can take."""
        return max(work.flops / self.flops, work.bytes / self.bandwidth)


_GPUS: Mapping[tuple[str, int], Gpu] = {  # name in torch, multiprocessors -> peaks
    ("NVIDIA H200", 132): Gpu(989e12, 4.8e12),
    ("NVIDIA H100 PCIe", 114): Gpu(756e12, 2.0e12),
    ("NVIDIA H100 NVL", 132): Gpu(835e12, 3.9e12),
    ("NVIDIA H100 80GB HBM3", 132): Gpu(989e12, 3.35e12),
    ("NVIDIA A100-PCIE-40GB", 108): Gpu(312e12, 1.555e12),
    ("NVIDIA A100-SXM4-40GB", 108): Gpu(312e12, 1.555e12),
    ("NVIDIA A100 80GB PCIe", 108): Gpu(312e12, 1.935e12),
    ("NVIDIA A100-SXM4-80GB", 108): Gpu(312e12, 2.039e12),
    ("NVIDIA GeForce RTX 4090", 128): Gpu(165e12, 1.008e12),
    ("Orin", 16): Gpu(42.5e12, 0.2048e12),  # AGX Orin of 64 GB at its highest clocks; smaller ones have the same name
}


def known_gpu(name: str | None, multiprocessors: int | None) -> Gpu | None:
    """The peaks of a GPU; None if unknown, such as a GH200, a part of an H100 (MIG), or none at all."""
    return None if name is None or multiprocessors is None else _GPUS.get((name, multiprocessors))


@dataclass(frozen=True)
class Costs:
    """The work of each stage.

    Attributes:
        weights: bytes of the stored weights by part.
        element: bytes of an activation.
    """

    shape: LisaShape
    weights: Mapping[str, int]
    element: int

    def clip(self) -> Work:
        """Encoding one frame for the language model."""
        return Work(
            _clip_flops(self.shape.clip, self.shape.language.width, self.shape.projector_layers),
            self.weights["clip"] + self.weights["mm_projector"],
        )

    def sam(self) -> Work:
        """Encoding one frame for masks."""
        return Work(_sam_flops(self.shape.sam), self.weights["sam"])

    def read(self, tokens: int, before: int) -> Work:
        """Reading `tokens` tokens in one pass with `before` in the KV cache, and the logits of the last."""
        shape = self.shape.language
        seen = tokens * before + tokens * (tokens + 1) / 2
        flops = (
            2 * _layer_weights(shape) * tokens
            + 4 * shape.layers * shape.width * seen
            + 2 * shape.width * shape.vocabulary
        )
        cached = 2 * shape.layers * shape.kv_heads * shape.head_width * self.element * (before + tokens)
        return Work(flops, self.weights["language"] - self._embeddings() + cached)

    def _embeddings(self) -> int:
        """Bytes of the input embeddings, of which a token reads one row."""
        return self.shape.language.vocabulary * self.shape.language.width * self.element


def _layer_weights(shape: LanguageShape) -> int:
    """Number of weights that each token is multiplied with, without lm_head."""
    kv_width = shape.kv_heads * shape.head_width
    return shape.layers * (2 * shape.width * (shape.width + kv_width) + 3 * shape.width * shape.hidden)


def _clip_flops(shape: ClipShape, language_width: int, projector_layers: int) -> float:
    tokens = shape.tokens + 1
    patches = 2 * shape.tokens * 3 * shape.patch**2 * shape.width
    layer = 2 * tokens * (4 * shape.width**2 + 2 * shape.width * shape.hidden) + 4 * tokens**2 * shape.width
    projector = shape.width * language_width + (projector_layers - 1) * language_width**2
    return patches + shape.layers * layer + 2 * shape.tokens * projector


def _sam_flops(shape: SamShape) -> float:
    patches = shape.grid**2
    flops = 2.0 * patches * 3 * shape.patch**2 * shape.width
    for window in shape.windows:
        side = window or shape.grid
        queries = (math.ceil(shape.grid / side) * side) ** 2
        flops += 2 * patches * (4 * shape.width**2 + 2 * shape.width * shape.hidden)
        flops += queries * shape.width * (4 * side**2 + 4 * side)  # attention, and relative positions
    return flops + 2 * patches * (shape.width * shape.embedding + 9 * shape.embedding**2)
