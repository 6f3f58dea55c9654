"""SAM's image encoder with the attention of the reference implementation, on the same modules.

Each block pads to whole windows before it projects to queries, keys and values, and materialises the attention scores
of all pairs of patches, to which it adds the relative positions before the softmax.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from lisa_core.model.sam import ImageEncoder


def encode(encoder: ImageEncoder, pixels: Tensor) -> Tensor:
    """(B, 3, image, image) normalised pixels -> (B, embedding, grid, grid), equal to the encoder's own."""
    states = encoder.patch_embed["proj"](pixels).permute(0, 2, 3, 1) + encoder.pos_embed
    for block in encoder.blocks:
        attention = block.get_submodule("attn")
        states = states + _windowed(attention, block.get_submodule("norm1")(states))
        states = states + block.get_submodule("mlp")(block.get_submodule("norm2")(states))
    return encoder.neck(states.permute(0, 3, 1, 2))


def _windowed(attention: nn.Module, states: Tensor) -> Tensor:
    side = int(attention.window)  # type: ignore[arg-type]
    if not side:
        return _attend(attention, states)
    batch, height, width, channels = states.shape
    padded = functional.pad(states, (0, 0, 0, -width % side, 0, -height % side))
    rows, columns = padded.shape[1] // side, padded.shape[2] // side
    windows = padded.view(batch, rows, side, columns, side, channels).transpose(2, 3)
    mixed = _attend(attention, windows.reshape(-1, side, side, channels))
    whole = mixed.view(batch, rows, columns, side, side, channels).transpose(2, 3).reshape(padded.shape)
    return whole[:, :height, :width]


def _attend(attention: nn.Module, states: Tensor) -> Tensor:
    batch, side = states.shape[:2]
    heads = int(attention.heads)  # type: ignore[arg-type]
    qkv = attention.get_submodule("qkv")(states).reshape(batch, side * side, 3, heads, -1).permute(2, 0, 3, 1, 4)
    query, key, value = qkv.reshape(3, batch * heads, side * side, -1).unbind(0)
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
    steps = torch.arange(side, device=states.device)
    distance = steps[:, None] - steps[None, :] + side - 1
    squares = query.reshape(batch * heads, side, side, -1)
    down = torch.einsum("bhwc,hkc->bhwk", squares, attention.get_parameter("rel_pos_h")[distance])
    across = torch.einsum("bhwc,wkc->bhwk", squares, attention.get_parameter("rel_pos_w")[distance])
    scores = scores.view(batch * heads, side, side, side, side) + down[..., :, None] + across[..., None, :]
    mixed = scores.view(batch * heads, side * side, side * side).softmax(dim=-1) @ value
    mixed = mixed.view(batch, heads, side, side, -1).permute(0, 2, 3, 1, 4).reshape(batch, side, side, -1)
    projected: Tensor = attention.get_submodule("proj")(mixed)
    return projected
