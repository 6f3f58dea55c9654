"""SAM: the image embedding, and the mask decoder that LISA prompts with a hidden state.

Modules carry the names of the `segment-anything` weights. Source: Kirillov et al. 2023. Of the prompt encoder only
what LISA uses is here: the positional encoding of the image and the embedding of "no mask".
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from lisa_core.model.gpu import kernels_for
from lisa_core.model.linear import Linear, multiply

_ENCODER_EPS = 1e-6  # of the encoder's norms and of every LayerNorm2d; the decoder's transformer has torch's 1e-5
DECODER_HEADS = 8
"""They divide `embedding` and `attention_inner`."""
FREQUENCIES = "positional_encoding_gaussian_matrix"
"""The parameter of random frequencies that tell where a patch is, drawn from the unit normal distribution."""


@dataclass(frozen=True)
class SamShape:
    """Sizes of SAM.

    Attributes:
        image: side of the square input, px.
        windows: per encoder block the side of its attention windows in patches; 0: global attention.
        attention_inner: width of the decoder's cross attentions.
    """

    image: int
    patch: int
    width: int
    heads: int
    hidden: int
    windows: tuple[int, ...]
    embedding: int
    decoder_layers: int
    decoder_hidden: int
    attention_inner: int
    mask_tokens: int
    iou_hidden: int
    iou_depth: int

    @property
    def grid(self) -> int:
        """Side of the image embedding, in patches."""
        return self.image // self.patch


class Sam(nn.Module):
    """`encode` once per frame, `decode` once per answer with all its prompts."""

    def __init__(self, shape: SamShape) -> None:
        super().__init__()
        self.shape = shape
        self.image_encoder = ImageEncoder(shape)
        self.prompt_encoder = PromptEncoder(shape)
        self.mask_decoder = MaskDecoder(shape)

    def encode(self, pixels: Tensor) -> Tensor:
        """(B, 3, image, image) normalised pixels -> (B, embedding, grid, grid)."""
        return self.image_encoder(pixels)

    def decode(self, embedding: Tensor, prompts: Tensor) -> tuple[Tensor, Tensor]:
        """Masks for N prompts on one frame, or on one each.

        Args:
            embedding: (embedding, grid, grid) of the frame, or (N, embedding, grid, grid).
            prompts: (N, embedding), each the only sparse prompt of its mask.

        Returns:
            Logits (N, 4 * grid, 4 * grid), and the decoder's estimates of IoU (N,).
        """
        image = embedding + self.prompt_encoder.no_mask_embed.weight.view(-1, 1, 1)
        positions = self.prompt_encoder.positions(self.shape.grid)
        return self.mask_decoder(image, positions, prompts)


def upsample(logits: Tensor, image: int, resized: tuple[int, int], source: tuple[int, int]) -> Tensor:
    """Low-resolution logits (N, h, w) -> fp32 logits (N, H, W) at the size of the source image.

    By way of SAM's input size, as the reference does: bilinear to (image, image), the padding cut off, bilinear to
    `source`.
    """
    full = functional.interpolate(logits[:, None].float(), (image, image), mode="bilinear", align_corners=False)
    cropped = full[..., : resized[0], : resized[1]]
    return functional.interpolate(cropped, source, mode="bilinear", align_corners=False)[:, 0]


class LayerNorm2d(nn.Module):
    """Layer norm over the channels of (B, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels))
        self.bias = nn.Parameter(torch.empty(channels))

    def forward(self, features: Tensor) -> Tensor:
        channels_last = features.permute(0, 2, 3, 1)
        normed = functional.layer_norm(channels_last, self.weight.shape, self.weight, self.bias, _ENCODER_EPS)
        return normed.permute(0, 3, 1, 2)


class ImageEncoder(nn.Module):
    """A ViT with windowed and a few global blocks, and a neck of two convolutions."""

    def __init__(self, shape: SamShape) -> None:
        super().__init__()
        self.pos_embed = nn.Parameter(torch.empty(1, shape.grid, shape.grid, shape.width))
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, shape.width, shape.patch, stride=shape.patch)})
        self.blocks = nn.ModuleList(_Block(shape, window) for window in shape.windows)
        self.neck = nn.Sequential(
            nn.Conv2d(shape.width, shape.embedding, 1, bias=False),
            LayerNorm2d(shape.embedding),
            nn.Conv2d(shape.embedding, shape.embedding, 3, padding=1, bias=False),
            LayerNorm2d(shape.embedding),
        )

    def forward(self, pixels: Tensor) -> Tensor:
        # contiguous once, or every sum and every norm after it is over strided memory
        states, more = self.patch_embed["proj"](pixels).permute(0, 2, 3, 1).contiguous(), self.pos_embed
        for block in self.blocks:
            states, more = block(states, more)
        return self.neck((states + more).permute(0, 3, 1, 2))


class _Block(nn.Module):
    def __init__(self, shape: SamShape, window: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(shape.width, eps=_ENCODER_EPS)
        self.attn = _ImageAttention(shape, window)
        self.norm2 = nn.LayerNorm(shape.width, eps=_ENCODER_EPS)
        self.mlp = _Mlp(shape.width, shape.hidden, nn.GELU())

    def forward(self, states: Tensor, more: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the states and a summand that the next block adds, so that one kernel can add and normalise.

        `more` is the summand that the block before has left.
        """
        states, normed = _sum_and_norm(states, more, self.norm1)
        states, normed = _sum_and_norm(states, self.attn(normed), self.norm2)
        return states, self.mlp(normed)


def _sum_and_norm(states: Tensor, more: Tensor, norm: nn.LayerNorm) -> tuple[Tensor, Tensor]:
    """The sum of both, and its layer norm; `more` may be broadcast over the batch."""
    if kernels := kernels_for(states, "sam_kernels"):
        return kernels.sum_and_norm(states, more.expand_as(states), norm.weight, norm.bias, norm.eps)
    states = states + more
    return states, norm(states)


def _split_windows(qkv: Tensor, side: int, heads: int, padding: Tensor) -> Tensor:
    """(B, H, W, 3 * width) -> (3, B * windows, heads, side * side, width / heads).

    Windows that reach beyond the right and bottom edge are filled up with `padding`, (3 * width,).
    """
    batch, height, width, channels = qkv.shape
    grid = (math.ceil(height / side), math.ceil(width / side))
    windows = qkv.new_empty(3, batch, *grid, heads, side, side, channels // 3 // heads)
    for (rows, ys, tall), (columns, xs, wide) in itertools.product(_stripes(height, side), _stripes(width, side)):
        some = windows[:, :, rows, columns]
        if (tall, wide) != (side, side):
            some.copy_(padding.view(3, 1, 1, 1, heads, 1, 1, -1).expand_as(some))
        patches = qkv[:, ys, xs].unflatten(3, (3, heads, -1)).unflatten(2, (-1, wide)).unflatten(1, (-1, tall))
        some[..., :tall, :wide, :] = patches.permute(5, 0, 1, 3, 6, 2, 4, 7)
    return windows.flatten(5, 6).flatten(1, 3)


def _stripes(length: int, side: int) -> Iterator[tuple[slice, slice, int]]:
    """The windows along an edge: those that patches fill, and the one that they do not; each time its patches, too."""
    whole, rest = divmod(length, side)
    if whole:
        yield slice(whole), slice(whole * side), side
    if rest:
        yield slice(whole, whole + 1), slice(whole * side, length), rest


def _merge_windows(windows: Tensor, side: int, shape: torch.Size) -> Tensor:
    """(B * windows, heads, side * side, width / heads) -> (B, H, W, width); `shape` begins with (B, H, W)."""
    batch, height, width = shape[:3]
    rows, columns = math.ceil(height / side), math.ceil(width / side)
    padded = windows.unflatten(2, (side, side)).unflatten(0, (batch, rows, columns)).permute(0, 1, 4, 2, 5, 3, 6)
    return padded.reshape(batch, rows * side, columns * side, -1)[:, :height, :width]


def _on_cpu(states: Tensor) -> bool:
    """Whether to work in parts that fit a cache, whose memory is used again; a GPU does all at once."""
    return states.device.type == "cpu"


class _ImageAttention(nn.Module):
    """Attention over squares of patches, with decomposed relative positions (Li et al. 2022, MViTv2)."""

    def __init__(self, shape: SamShape, window: int) -> None:
        super().__init__()
        side = window or shape.grid
        self.window = window
        self.heads = shape.heads
        self.qkv = Linear(shape.width, 3 * shape.width)
        self.proj = Linear(shape.width, shape.width)
        self.rel_pos_h = nn.Parameter(torch.empty(2 * side - 1, shape.width // shape.heads))
        self.rel_pos_w = nn.Parameter(torch.empty(2 * side - 1, shape.width // shape.heads))

    def forward(self, states: Tensor) -> Tensor:
        # The padding of the windows is not projected: a padded patch is zero, so its qkv is the bias.
        if not _on_cpu(states):
            return self.proj(self._attend(self.qkv(states), self.heads))
        if self.window:  # a row of windows at a time, which fits the cache
            rows = states.split(self.window, dim=1)
            return torch.cat([self.proj(self._attend(self.qkv(row), self.heads)) for row in rows], dim=1)
        heads = self.qkv(states).unflatten(3, (3, self.heads, -1)).unbind(4)
        return self.proj(torch.cat([self._attend(head.flatten(3), 1) for head in heads], dim=3))

    def _attend(self, qkv: Tensor, heads: int) -> Tensor:
        """(B, H, W, 3 * width) -> (B, H, W, width); every patch attends to all patches of its square."""
        side = self.window or qkv.shape[1]
        if kernels := kernels_for(qkv, "sam_kernels"):
            query, key, value = kernels.fold(qkv, self.qkv.bias, self.rel_pos_h, self.rel_pos_w, heads, side)
            mixed = functional.scaled_dot_product_attention(query, key, value, scale=value.shape[3] ** -0.5)
            return kernels.unfold(mixed, qkv.shape[:3], side)
        query, key, value = _split_windows(qkv, side, heads, self.qkv.bias)
        attend = _attend_in_blocks if _on_cpu(qkv) else _attend_at_once
        return _merge_windows(attend(query, key, value, *self._relative(query, side)), side, qkv.shape)

    def _relative(self, query: Tensor, side: int) -> tuple[Tensor, Tensor]:
        """Score that each query adds for each row and for each column of keys, (B, heads, side * side, side) each.

        One product gives the scores for all distances, from the farthest key behind a query to the farthest before it.
        Which of them a query needs shifts by one from a row or column to the next, so the results are strided views.
        """
        tables = torch.cat([functional.pad(table.flip(0), (0, 0, 0, 1)) for table in (self.rel_pos_h, self.rel_pos_w)])
        products = multiply(query.reshape(1, -1, query.shape[3]), tables.T[None]).view(*query.shape[:3], -1)
        size = (*query.shape[:2], side, side, side)
        outer, patch = products.stride()[:2], 4 * side
        rows = products.as_strided(size, (*outer, side * patch - 1, patch, 1), side - 1)
        columns = products.as_strided(size, (*outer, side * patch, patch - 1, 1), 3 * side - 1)
        return rows.flatten(2, 3), columns.flatten(2, 3)


def _attend_at_once(query: Tensor, key: Tensor, value: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Attention with relative positions by one kernel, with a bias for every pair; all (B, heads, patches, ...)."""
    bias = (rows[..., :, None] + columns[..., None, :]).flatten(3, 4)
    return functional.scaled_dot_product_attention(query, key, value, attn_mask=bias)


_BLOCK = 4 << 20
"""Bytes of scores that fit a CPU's cache while they are summed, normalised and multiplied."""


def _attend_in_blocks(query: Tensor, key: Tensor, value: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """The same on a CPU, in blocks of as many scores as fit its cache."""
    outer, patches, side = query.shape[:2], query.shape[2], rows.shape[3]
    query = query * query.shape[3] ** -0.5
    most = _BLOCK // query.element_size()
    whole = patches**2 <= most
    if whole:  # several small squares at a time, with relative positions as extra columns of queries and keys
        query, key = torch.cat([query, rows, columns], dim=3), _with_places(key, side)
    query, key, value, rows, columns = (
        part.flatten(0, 1).contiguous()  # once, for products in bf16 would copy it for every block
        for part in (query, key.transpose(2, 3), value, rows, columns)
    )
    if whole:
        parts = (part.split(most // patches**2) for part in (query, key, value))
        mixed = [multiply(_shares(multiply(asked, keys)), values) for asked, keys, values in zip(*parts, strict=True)]
        return torch.cat(mixed).unflatten(0, outer)
    mixed = []
    for head in range(len(query)):
        keys, values = key[head, None], value[head, None]
        parts = (part[head, None].split(max(1, most // patches), dim=1) for part in (query, rows, columns))
        for asked, down, across in zip(*parts, strict=True):
            bias = (down[..., :, None] + across[..., None, :]).flatten(2)
            mixed.append(multiply(_shares(multiply(asked, keys, bias)), values))
    return torch.cat(mixed, dim=1).view(*outer, patches, -1)


def _with_places(key: Tensor, side: int) -> Tensor:
    """Keys (..., side * side, width) -> (..., side * side, width + 2 * side): one-hot rows and columns appended."""
    ones = torch.eye(side, dtype=key.dtype, device=key.device)
    places = torch.cat([ones.repeat_interleave(side, dim=0), ones.repeat(side, 1)], dim=1)
    return torch.cat([key, places.expand(*key.shape[:2], -1, -1)], dim=3)


def _shares(scores: Tensor) -> Tensor:
    """Their softmax, in place unless gradients are needed: allocating memory takes as long as the sums."""
    return torch.softmax(scores, -1, out=None if scores.requires_grad else scores)


_MLP_ROWS = 512
"""Patches whose hidden layer a CPU keeps in its cache."""


class _Mlp(nn.Module):
    def __init__(self, width: int, hidden: int, activation: nn.Module) -> None:
        super().__init__()
        self.lin1 = Linear(width, hidden)
        self.lin2 = Linear(hidden, width)
        self.act = activation

    def forward(self, states: Tensor) -> Tensor:
        if not _on_cpu(states):
            return self.lin2(self.act(self.lin1(states)))
        parts = states.flatten(0, -2).split(_MLP_ROWS)
        return torch.cat([self.lin2(self.act(self.lin1(some))) for some in parts]).view(states.shape)


class PromptEncoder(nn.Module):
    """The constants of the prompt that LISA uses: where each patch is, and that no mask was given."""

    def __init__(self, shape: SamShape) -> None:
        super().__init__()
        self.pe_layer = nn.ParameterDict({FREQUENCIES: nn.Parameter(torch.empty(2, shape.embedding // 2))})
        self.no_mask_embed = nn.Embedding(1, shape.embedding)

    def positions(self, grid: int) -> Tensor:
        """(embedding, grid, grid): random Fourier features of the patches' centres.

        In the matrix's dtype from the product on, as in the authors' code, with which the checkpoints learnt: in bf16
        that moves them by up to 0.1, in fp16 by 0.01.
        """
        matrix = self.pe_layer[FREQUENCIES]
        centres = (torch.arange(grid, device=matrix.device, dtype=torch.float32) + 0.5) / grid * 2 - 1
        xy = torch.stack(torch.meshgrid(centres, centres, indexing="xy"), dim=-1)
        angles = 2 * math.pi * (xy.to(matrix.dtype) @ matrix)
        return torch.cat([angles.sin(), angles.cos()], dim=-1).permute(2, 0, 1)


class MaskDecoder(nn.Module):
    """Tokens attend to the image and back; the first mask token's output, dotted with each pixel, gives the mask."""

    def __init__(self, shape: SamShape) -> None:
        super().__init__()
        width = shape.embedding
        self.iou_token = nn.Embedding(1, width)
        self.mask_tokens = nn.Embedding(shape.mask_tokens, width)
        self.transformer = _TwoWayTransformer(shape)
        self.output_upscaling = nn.Sequential(
            nn.ConvTranspose2d(width, width // 4, 2, stride=2),
            LayerNorm2d(width // 4),
            nn.GELU(),
            nn.ConvTranspose2d(width // 4, width // 8, 2, stride=2),
            nn.GELU(),
        )
        self.output_hypernetworks_mlps = nn.ModuleList(
            _Layers(width, width, width // 8, 3) for _ in range(shape.mask_tokens)
        )
        self.iou_prediction_head = _Layers(width, shape.iou_hidden, shape.mask_tokens, shape.iou_depth)

    def forward(self, image: Tensor, positions: Tensor, prompts: Tensor) -> tuple[Tensor, Tensor]:
        """`image` is (C, H, W) or (N, C, H, W), `positions` (C, H, W), `prompts` (N, C).

        Gives logits (N, 4H, 4W) and IoU (N,).

        Of SAM's mask tokens only the first, the single-mask output, is read.
        """
        count, height = prompts.shape[0], image.shape[-2]
        output = torch.cat([self.iou_token.weight, self.mask_tokens.weight])
        tokens = torch.cat([output.expand(count, -1, -1), prompts[:, None]], dim=1)
        patches, places = (grid.flatten(-2).mT.expand(count, -1, -1) for grid in (image, positions))
        tokens, patches = self.transformer(tokens, patches, places)
        upscaled = self.output_upscaling(patches.transpose(1, 2).unflatten(2, (height, -1)))
        reader = self.output_hypernetworks_mlps[0](tokens[:, 1])
        masks = (reader[:, None] @ upscaled.flatten(2)).unflatten(2, upscaled.shape[2:])[:, 0]
        return masks, self.iou_prediction_head(tokens[:, 0])[:, 0]


class _Layers(nn.Module):
    """Linear layers with ReLU between them."""

    def __init__(self, width: int, hidden: int, out: int, depth: int) -> None:
        super().__init__()
        widths = [width, *[hidden] * (depth - 1), out]
        self.layers = nn.ModuleList(Linear(a, b) for a, b in itertools.pairwise(widths))

    def forward(self, states: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            states = functional.relu(layer(states))
        return self.layers[-1](states)


class _TwoWayTransformer(nn.Module):
    def __init__(self, shape: SamShape) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_TwoWayBlock(shape, first=index == 0) for index in range(shape.decoder_layers))
        self.final_attn_token_to_image = _DecoderAttention(shape.embedding, shape.attention_inner)
        self.norm_final_attn = nn.LayerNorm(shape.embedding)

    def forward(self, tokens: Tensor, patches: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        queries = tokens
        for layer in self.layers:
            queries, patches = layer(queries, patches, tokens, places)
        queries = queries + self.final_attn_token_to_image(queries + tokens, patches + places, patches)
        return self.norm_final_attn(queries), patches


class _TwoWayBlock(nn.Module):
    def __init__(self, shape: SamShape, first: bool) -> None:
        super().__init__()
        width = shape.embedding
        self.first = first
        self.self_attn = _DecoderAttention(width, width)
        self.norm1 = nn.LayerNorm(width)
        self.cross_attn_token_to_image = _DecoderAttention(width, shape.attention_inner)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = _Mlp(width, shape.decoder_hidden, nn.ReLU())
        self.norm3 = nn.LayerNorm(width)
        self.cross_attn_image_to_token = _DecoderAttention(width, shape.attention_inner)
        self.norm4 = nn.LayerNorm(width)

    def forward(self, queries: Tensor, patches: Tensor, tokens: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        if self.first:  # here the queries are the tokens themselves, so their position is already in them
            queries = self.self_attn(queries, queries, queries)
        else:
            queries = queries + self.self_attn(queries + tokens, queries + tokens, queries)
        queries = self.norm1(queries)
        queries = self.norm2(queries + self.cross_attn_token_to_image(queries + tokens, patches + places, patches))
        queries = self.norm3(queries + self.mlp(queries))
        patches = self.norm4(patches + self.cross_attn_image_to_token(patches + places, queries + tokens, queries))
        return queries, patches


class _DecoderAttention(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.q_proj = Linear(width, inner)
        self.k_proj = Linear(width, inner)
        self.v_proj = Linear(width, inner)
        self.out_proj = Linear(inner, width)

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        heads = (
            projection(states).unflatten(-1, (DECODER_HEADS, -1)).transpose(1, 2)
            for projection, states in ((self.q_proj, query), (self.k_proj, key), (self.v_proj, value))
        )
        mixed = functional.scaled_dot_product_attention(*heads)
        return self.out_proj(mixed.transpose(1, 2).flatten(2))
