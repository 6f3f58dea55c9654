"""The language model against an independent one in float64, written as the equations have it."""

import itertools
import math
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from goldens import distance
from torch.nn import functional

from lisa_core.model.language import KVCache, Language, LanguageShape

PLAIN = LanguageShape(
    vocabulary=50, width=48, hidden=80, layers=3, heads=6, kv_heads=6, context=64, norm_eps=1e-6, rope_theta=10000.0
)
SHAPES = {
    "plain": PLAIN,
    "grouped": replace(PLAIN, kv_heads=2),
    "one-key-head": replace(PLAIN, kv_heads=1, norm_eps=1e-2),
    "scaled-positions": replace(PLAIN, rope_theta=500.0, rope_scale=4.0),
}
LENGTH = 23


def naive(weights, shape, embeddings):
    """(T, width) final states of the whole sequence, token by token, head by head."""
    states = embeddings.astype(np.float64)
    for index in range(shape.layers):
        layer = {name.split(".", 2)[2]: w for name, w in weights.items() if name.startswith(f"layers.{index}.")}
        normed = rms_norm(states, layer["input_layernorm.weight"], shape.norm_eps)
        states = states + attention(normed, layer, shape) @ layer["self_attn.o_proj.weight"].T
        normed = rms_norm(states, layer["post_attention_layernorm.weight"], shape.norm_eps)
        gate = normed @ layer["mlp.gate_proj.weight"].T
        gate = gate / (1 + np.exp(-gate))
        states = states + (gate * (normed @ layer["mlp.up_proj.weight"].T)) @ layer["mlp.down_proj.weight"].T
    return rms_norm(states, weights["norm.weight"], shape.norm_eps)


def rms_norm(states, weight, eps):
    return weight * states / np.sqrt((states**2).mean(-1, keepdims=True) + eps)


def attention(states, layer, shape):
    queries, keys, values = (
        (states @ layer[f"self_attn.{name}_proj.weight"].T).reshape(len(states), -1, shape.head_width) for name in "qkv"
    )
    mixed = np.zeros((len(states), shape.heads, shape.head_width))
    for here in range(len(states)):
        for head in range(shape.heads):
            group = head // (shape.heads // shape.kv_heads)
            query = turned(queries[here, head], here, shape)
            scores = [query @ turned(keys[there, group], there, shape) for there in range(here + 1)]
            weights = np.exp(np.array(scores) / math.sqrt(shape.head_width))
            mixed[here, head] = weights @ values[: here + 1, group] / weights.sum()
    return mixed.reshape(len(states), -1)


def turned(vector, position, shape):
    """Rotary positions as complex numbers: pair (i, i + half) turns by position * theta^(-i / half)."""
    half = shape.head_width // 2
    angles = position / shape.rope_scale * shape.rope_theta ** (-np.arange(half) / half)
    pairs = (vector[:half] + 1j * vector[half:]) * np.exp(1j * angles)
    return np.concatenate([pairs.real, pairs.imag])


@pytest.fixture(params=SHAPES, scope="module")
def model(request):
    shape = SHAPES[request.param]
    torch.manual_seed(4)
    language = Language(shape).eval().requires_grad_(False)
    for name, parameter in language.named_parameters():
        torch.nn.init.normal_(parameter, mean=float("norm" in name), std=0.2)
    embeddings = torch.randn(LENGTH, shape.width)
    weights = {name: tensor.double().numpy() for name, tensor in language.state_dict().items()}
    return language, embeddings, naive(weights, shape, embeddings.numpy())


def empty_cache(language, capacity=LENGTH):
    return KVCache(language.shape, capacity, language.norm.weight.dtype, torch.device("cpu"))


def test_all_at_once(model):
    language, embeddings, expected = model
    assert distance(language(embeddings, empty_cache(language), 0), expected) < 1e-5


@pytest.mark.parametrize("cuts", [[1], [9], [9, 10, 11], list(range(1, LENGTH))], ids=str)
def test_in_parts_over_the_cache(model, cuts):
    language, embeddings, expected = model
    cache = empty_cache(language, capacity=2 * LENGTH)
    edges = [0, *cuts, LENGTH]
    states = [language(embeddings[a:b], cache, a) for a, b in itertools.pairwise(edges)]
    assert distance(torch.cat(states), expected) < 1e-5


def test_token_by_token_in_bf16(model):
    """A single token takes a way of its own there."""
    language, embeddings, expected = model
    language, embeddings = deepcopy(language).bfloat16(), embeddings.bfloat16()
    cache = empty_cache(language)
    states = [language(embeddings[here : here + 1], cache, here) for here in range(LENGTH)]
    assert distance(torch.cat(states).float(), expected) < 0.05


def test_what_the_cache_held_behind_is_not_seen(model):
    """A prompt that takes another turn half-way overwrites what came after."""
    language, embeddings, expected = model
    cache = empty_cache(language)
    torch.manual_seed(5)
    language(torch.randn(LENGTH, language.shape.width), cache, 0)
    language(embeddings[:12], cache, 0)
    assert distance(language(embeddings[12:], cache, 12), expected[12:]) < 1e-5


def test_by_a_torch_whose_attention_does_not_repeat_keys(model, monkeypatch):
    """NVIDIA's 2.5.0a0 for JetPack 6."""
    attend = functional.scaled_dot_product_attention

    def older(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None):
        return attend(query, key, value, attn_mask, dropout_p, is_causal, scale=scale)

    monkeypatch.setattr(functional, "scaled_dot_product_attention", older)
    language, embeddings, expected = model
    assert distance(language(embeddings, empty_cache(language), 0), expected) < 1e-5
    stepped = language.step(embeddings, empty_cache(language, 2 * LENGTH), torch.tensor([0]))
    assert distance(stepped, expected) < 1e-5
    visible = torch.ones(1, 1, LENGTH, LENGTH, dtype=torch.bool).tril()
    (uncached,) = language.uncached(embeddings[None], torch.arange(LENGTH)[None], visible)
    assert distance(uncached, expected) < 1e-5


def test_later_tokens_do_not_change_earlier_states(model):
    language, embeddings, expected = model
    changed = embeddings.clone()
    changed[15:] = 7.0
    assert distance(language(changed, empty_cache(language), 0)[:15], expected[:15]) < 1e-5
