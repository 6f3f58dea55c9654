"""The language model: Llama over a static KV cache.

Modules carry the names of the released tensors (`model.layers.*`, `lm_head`). Source: Touvron et al. 2023.
"""

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from lisa_core.model.gpu import kernels_for
from lisa_core.model.linear import Linear, side_by_side


@dataclass(frozen=True)
class LanguageShape:
    """Sizes of the language model."""

    vocabulary: int
    width: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    context: int
    norm_eps: float
    rope_theta: float
    rope_scale: float = 1.0

    @property
    def head_width(self) -> int:
        """Width of one attention head."""
        return self.width // self.heads


class KVCache:
    """Keys and values of the tokens that the model has read, at fixed addresses.

    Attributes:
        keys, values: (layers, kv_heads, capacity, head_width) each, rotary positions applied to the keys.
    """

    def __init__(self, shape: LanguageShape, capacity: int, dtype: torch.dtype, device: torch.device) -> None:
        size = (shape.layers, shape.kv_heads, capacity, shape.head_width)
        self.keys = torch.zeros(size, dtype=dtype, device=device)  # `Language.step` looks at all of it, behind a mask
        self.values = torch.zeros_like(self.keys)

    @property
    def capacity(self) -> int:
        """Positions that fit."""
        return self.keys.shape[2]

    @property
    def nbytes(self) -> int:
        """Of keys and values."""
        return self.keys.nbytes + self.values.nbytes

    def copy(self, capacity: int, length: int) -> "KVCache":
        """A cache of another capacity with the first `length` tokens of this one."""
        copied = copy(self)
        size = (*self.keys.shape[:2], capacity, self.keys.shape[3])
        copied.keys, copied.values = self.keys.new_zeros(size), self.values.new_zeros(size)
        copied.copy_from(self, length)
        return copied

    def copy_from(self, other: "KVCache", length: int) -> None:
        """Copies the first `length` tokens of another cache."""
        self.keys[:, :, :length] = other.keys[:, :, :length]
        self.values[:, :, :length] = other.values[:, :, :length]


class Language(nn.Module):
    """(T, width) input embeddings -> (T, width) hidden states after the last norm, which `lm_head` turns to logits."""

    def __init__(self, shape: LanguageShape) -> None:
        super().__init__()
        self.shape = shape
        self.embed_tokens = nn.Embedding(shape.vocabulary, shape.width)
        self.layers = nn.ModuleList(_Layer(shape) for _ in range(shape.layers))
        self.norm = RMSNorm(shape.width, shape.norm_eps)
        self.lm_head = Linear(shape.width, shape.vocabulary, bias=False)

    def forward(self, embeddings: Tensor, cache: KVCache, start: int) -> Tensor:
        """Reads T tokens that stand at `start` .. `start + T - 1`, after those that `cache` holds.

        Writes their keys and values to the cache. Every token sees those before it and itself.
        """
        end = start + embeddings.shape[0]
        place = self._place(embeddings, start, end)

        def attend(attention: _Attention, index: int, states: Tensor) -> Tensor:
            return attention.cached(states, place, cache.keys[index], cache.values[index])

        return self._through(embeddings, attend)

    def step(self, embeddings: Tensor, cache: KVCache, position: Tensor) -> Tensor:
        """`forward` of T tokens (T, width) whose first position, (1,) int64, only the device knows.

        They attend to the whole cache behind a mask, so that the same kernels serve every position (a CUDA graph).
        """
        places = position + torch.arange(len(embeddings), device=embeddings.device)
        rotation = self.rotation(places, embeddings)
        visible = torch.arange(cache.capacity, device=embeddings.device) <= places[:, None]
        bias = torch.zeros_like(visible, dtype=embeddings.dtype).masked_fill_(~visible, float("-inf"))

        def attend(attention: _Attention, index: int, states: Tensor) -> Tensor:
            return attention.step(states, rotation, places, bias, cache.keys[index], cache.values[index])

        return self._through(embeddings, attend)

    def read_together(self, texts: Sequence[Tensor], caches: Sequence[KVCache], starts: Sequence[int]) -> list[Tensor]:
        """`forward` of several texts in one pass over the weights; each attends to its own cache alone.

        Args:
            texts: (T, width) input embeddings each, of any lengths.
            caches: one for each text.
            starts: how many tokens each cache holds.
        """
        places = [self._place(text, start, start + len(text)) for text, start in zip(texts, starts, strict=True)]

        def attend(attention: _Attention, index: int, states: Tensor) -> Tensor:
            return attention.together(states, places, [(cache.keys[index], cache.values[index]) for cache in caches])

        return list(self._through(torch.cat(list(texts)), attend).split([len(text) for text in texts]))

    def uncached(self, embeddings: Tensor, positions: Tensor, visible: Tensor) -> Tensor:
        """Reads B rows of T tokens at once without a cache, for training.

        Args:
            embeddings: (B, T, width).
            positions: (B, T) of each token in its conversation.
            visible: (B, 1, T, T) bool, true where the row's token may look at the column's.

        Returns:
            (B, T, width) hidden states after the last norm.
        """
        rotation = self.rotation(positions, embeddings)
        return self._through(embeddings, lambda attention, _, states: attention.uncached(states, rotation, visible))

    def _through(self, states: Tensor, attend: Callable[["_Attention", int, Tensor], Tensor]) -> Tensor:
        """The states after all layers and the last norm; `attend` is called with a layer's attention and number."""
        more = None
        for index, layer in enumerate(self.layers):
            assert isinstance(layer, _Layer)
            states, more = layer(states, more, partial(attend, layer.self_attn, index))
        return self.norm(states) if more is None else self.norm.of_sum(states, more)[1]

    def _place(self, text: Tensor, start: int, end: int) -> "_Place":
        rotation = self.rotation(torch.arange(start, end, device=text.device), text)
        return _Place(rotation, _causal_mask(start, end, text.device), start, end)

    def rotation(self, positions: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines of rotary positions, as `rotate` takes them; angles in fp32 as in the reference.

        `positions` is (T,) for heads (heads, T, head_width); (B, T), one row for each of a batch, gets a dimension
        for the heads.
        """
        width = self.shape.head_width
        exponents = torch.arange(0, width, 2, dtype=torch.float32, device=like.device) / width
        angles = positions.float()[..., None] / self.shape.rope_scale * self.shape.rope_theta**-exponents
        angles = torch.cat([angles, angles], dim=-1)
        if positions.dim() == 2:
            angles = angles[:, None]
        return angles.cos().to(like.dtype), angles.sin().to(like.dtype)


def _causal_mask(start: int, end: int, device: torch.device) -> Tensor | None:
    """(T, end) bool, true where a token may look; None for one token, which may look at everything."""
    if end - start == 1:
        return None
    return torch.ones(end - start, end, dtype=torch.bool, device=device).tril(diagonal=start)


class RMSNorm(nn.Module):
    """Root-mean-square norm, in fp32 whatever the model's dtype."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))
        self.eps = eps

    def forward(self, states: Tensor) -> Tensor:
        if kernels := kernels_for(states):
            return kernels.rms_norm(states, self.weight, self.eps)
        exact = states.float()
        exact = exact * torch.rsqrt(exact.square().mean(-1, keepdim=True) + self.eps)
        return self.weight * exact.to(states.dtype)

    def of_sum(self, states: Tensor, more: Tensor) -> tuple[Tensor, Tensor]:
        """The sum of both, and its norm."""
        if kernels := kernels_for(states):
            return kernels.sum_and_norm(states, more, self.weight, self.eps)
        states = states + more
        return states, self(states)


class _Layer(nn.Module):
    def __init__(self, shape: LanguageShape) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(shape.width, shape.norm_eps)
        self.self_attn = _Attention(shape)
        self.post_attention_layernorm = RMSNorm(shape.width, shape.norm_eps)
        self.mlp = _Mlp(shape)

    def forward(self, states: Tensor, more: Tensor | None, attend: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """Returns the states and a summand that the next norm adds, so that one kernel can add and normalise.

        `more` is the summand of the layer before; `attend` calls one of the methods of `self_attn`.
        """
        norm = self.input_layernorm
        states, normed = (states, norm(states)) if more is None else norm.of_sum(states, more)
        states, normed = self.post_attention_layernorm.of_sum(states, attend(normed))
        return states, self.mlp(normed)


@dataclass(frozen=True)
class _Place:
    """Where a text stands among several: its rotation and mask, its tokens' first and last position."""

    rotation: tuple[Tensor, Tensor]
    mask: Tensor | None
    start: int
    end: int


class _Attention(nn.Module):
    def __init__(self, shape: LanguageShape) -> None:
        super().__init__()
        self.head_width = shape.head_width
        kv_width = shape.kv_heads * shape.head_width
        self.q_proj = Linear(shape.width, shape.width, bias=False)
        self.k_proj = Linear(shape.width, kv_width, bias=False)
        self.v_proj = Linear(shape.width, kv_width, bias=False)
        self.o_proj = Linear(shape.width, shape.width, bias=False)

    def cached(self, states: Tensor, place: _Place, keys: Tensor, values: Tensor) -> Tensor:
        """Attends over the cache of this layer, (kv_heads, capacity, head_width), after adding T tokens to it."""
        return self.o_proj(self._attend(*self.project(states), place, keys, values))

    def step(
        self,
        states: Tensor,
        rotation: tuple[Tensor, Tensor],
        places: Tensor,
        bias: Tensor,
        keys: Tensor,
        values: Tensor,
    ) -> Tensor:
        """The same for T tokens at positions `places`, (T,), that only the device knows.

        `bias`, (T, capacity), hides later tokens from each.
        """
        if kernels := kernels_for(states):
            projected = side_by_side(states, self.q_proj, self.k_proj, self.v_proj)
            query = kernels.rotate_and_store(*projected, rotation, places, keys, values)
            if len(states) == 1:
                return self.o_proj(kernels.attend(query, keys, values, places))
        else:
            query, key, value = self.project(states)
            keys.index_copy_(1, places, rotate(key, rotation))
            values.index_copy_(1, places, value)
            query = rotate(query, rotation)
        mixed = _mix(query[None], keys[None], values[None], bias)
        return self.o_proj(mixed[0].transpose(0, 1).flatten(1))

    def together(self, states: Tensor, places: Sequence[_Place], stores: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        """The same for several texts, concatenated in `states`, each over its own (keys, values)."""
        lengths = [place.end - place.start for place in places]
        parts = (heads.split(lengths, dim=1) for heads in self.project(states))
        mixed = [
            self._attend(query, key, value, place, keys, values)
            for query, key, value, place, (keys, values) in zip(*parts, places, stores, strict=True)
        ]
        return self.o_proj(torch.cat(mixed))

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, at: _Place, keys: Tensor, values: Tensor) -> Tensor:
        keys[:, at.start : at.end] = rotate(key, at.rotation)
        values[:, at.start : at.end] = value
        query = rotate(query, at.rotation)
        mixed = _mix(_at_least_two(query)[None], keys[None, :, : at.end], values[None, :, : at.end], at.mask)
        return mixed[0, :, : query.shape[1]].transpose(0, 1).flatten(1)

    def uncached(self, states: Tensor, rotation: tuple[Tensor, Tensor], visible: Tensor) -> Tensor:
        """Attends among the (B, T, width) states alone."""
        query, key, value = self.project(states)
        mixed = _mix(rotate(query, rotation), rotate(key, rotation), value, visible)
        return self.o_proj(mixed.transpose(1, 2).flatten(2))

    def project(self, states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(..., T, width) -> queries, keys and values, (..., heads, T, head_width) each, not rotated yet."""
        query, key, value = (
            projection(states).unflatten(-1, (-1, self.head_width)).transpose(-3, -2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        return query, key, value


def _mix(query: Tensor, keys: Tensor, values: Tensor, visible: Tensor | None) -> Tensor:
    """Attention of (B, heads, T, head_width); each of kv_heads serves as many heads in a row.

    The keys and values are repeated here: of released LISAs none has fewer of them, and not every torch repeats them.
    """
    size = (-1, -1, query.shape[1] // keys.shape[1], -1, -1)
    keys, values = (part[:, :, None].expand(size).flatten(1, 2) for part in (keys, values))
    return functional.scaled_dot_product_attention(query, keys, values, attn_mask=visible)


def _at_least_two(query: Tensor) -> Tensor:
    """A single bf16 query, (heads, 1, head_width), doubled on a CPU: torch's attention is 4 times slower for one."""
    lone = query.shape[1] == 1 and query.dtype == torch.bfloat16 and query.device.type == "cpu"
    return query.expand(-1, 2, -1) if lone else query


def rotate(heads: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Queries or keys (..., heads, T, head_width) rotated by their positions."""
    cosines, sines = rotation
    left, right = heads.chunk(2, dim=-1)
    return heads * cosines + torch.cat([-right, left], dim=-1) * sines


class _Mlp(nn.Module):
    def __init__(self, shape: LanguageShape) -> None:
        super().__init__()
        self.gate_proj = Linear(shape.width, shape.hidden, bias=False)
        self.up_proj = Linear(shape.width, shape.hidden, bias=False)
        self.down_proj = Linear(shape.hidden, shape.width, bias=False)

    def forward(self, states: Tensor) -> Tensor:
        gate, up = side_by_side(states, self.gate_proj, self.up_proj)
        if kernels := kernels_for(states):
            return self.down_proj(kernels.gated(gate, up))
        return self.down_proj(functional.silu(gate) * up)
