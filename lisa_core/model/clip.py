"""CLIP's vision tower: what the language model sees of the frame.

Modules carry the names of the released tensors (`vision_model.*`), so that a checkpoint loads without renaming.
Source: Radford et al. 2021; LLaVA takes the patch features before the last layer.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from lisa_core.model.linear import Linear


@dataclass(frozen=True)
class ClipShape:
    """Sizes of the tower, cut after the layer whose output is selected."""

    image: int
    patch: int
    width: int
    heads: int
    hidden: int
    layers: int
    norm_eps: float
    activation: str

    @property
    def tokens(self) -> int:
        """Visual tokens of one frame: the patches, without the class token."""
        return (self.image // self.patch) ** 2


class VisionTower(nn.Module):
    """(B, 3, image, image) normalised pixels -> (B, tokens, width) patch features of the selected layer."""

    def __init__(self, shape: ClipShape) -> None:
        super().__init__()
        self.embeddings = _Embeddings(shape)
        self.pre_layrnorm = nn.LayerNorm(shape.width, eps=shape.norm_eps)  # spelled so in the released tensors
        self.encoder = _Encoder(shape)

    def forward(self, pixels: Tensor) -> Tensor:
        states = self.pre_layrnorm(self.embeddings(pixels))
        return self.encoder(states)[:, 1:]


class _Embeddings(nn.Module):
    def __init__(self, shape: ClipShape) -> None:
        super().__init__()
        self.class_embedding = nn.Parameter(torch.empty(shape.width))
        self.patch_embedding = nn.Conv2d(3, shape.width, shape.patch, stride=shape.patch, bias=False)
        self.position_embedding = nn.Embedding(shape.tokens + 1, shape.width)

    def forward(self, pixels: Tensor) -> Tensor:
        patches = self.patch_embedding(pixels).flatten(2).transpose(1, 2)
        first = self.class_embedding.expand(pixels.shape[0], 1, -1)
        return torch.cat([first, patches], dim=1) + self.position_embedding.weight


class _Encoder(nn.Module):
    def __init__(self, shape: ClipShape) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_Layer(shape) for _ in range(shape.layers))

    def forward(self, states: Tensor) -> Tensor:
        for layer in self.layers:
            states = layer(states)
        return states


class _Layer(nn.Module):
    def __init__(self, shape: ClipShape) -> None:
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(shape.width, eps=shape.norm_eps)
        self.self_attn = _Attention(shape)
        self.layer_norm2 = nn.LayerNorm(shape.width, eps=shape.norm_eps)
        self.mlp = _Mlp(shape)

    def forward(self, states: Tensor) -> Tensor:
        states = states + self.self_attn(self.layer_norm1(states))
        return states + self.mlp(self.layer_norm2(states))


class _Attention(nn.Module):
    def __init__(self, shape: ClipShape) -> None:
        super().__init__()
        self.heads = shape.heads
        self.q_proj = Linear(shape.width, shape.width)
        self.k_proj = Linear(shape.width, shape.width)
        self.v_proj = Linear(shape.width, shape.width)
        self.out_proj = Linear(shape.width, shape.width)

    def forward(self, states: Tensor) -> Tensor:
        query, key, value = (
            projection(states).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        mixed = functional.scaled_dot_product_attention(query, key, value)
        return self.out_proj(mixed.transpose(1, 2).flatten(2))


class _Mlp(nn.Module):
    def __init__(self, shape: ClipShape) -> None:
        super().__init__()
        self.quick = shape.activation == "quick_gelu"
        self.fc1 = Linear(shape.width, shape.hidden)
        self.fc2 = Linear(shape.hidden, shape.width)

    def forward(self, states: Tensor) -> Tensor:
        states = self.fc1(states)
        states = states * torch.sigmoid(1.702 * states) if self.quick else functional.gelu(states)
        return self.fc2(states)
