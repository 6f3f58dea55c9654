"""Products on a CPU: the same by whichever library, and oneDNN's only where it may and gains."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from lisa_core.model import linear, sam


class Product:
    """Stands in for oneDNN's, and remembers the rows of what it was asked for."""

    def __init__(self) -> None:
        self.rows: list[int] = []

    def __call__(self, states: Tensor, weight: Tensor, bias: Tensor | None, *_: Any) -> Tensor:
        self.rows.append(states.numel() // states.shape[-1])
        return functional.linear(states, weight, bias)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Product:
    product = Product()
    monkeypatch.setattr(linear, "_onednn", lambda: product)
    return product


@pytest.fixture
def undecided() -> Iterator[None]:
    """Whether oneDNN is used is decided anew, and forgotten afterwards."""
    linear._onednn.cache_clear()
    linear._packs.cache_clear()
    yield
    linear._onednn.cache_clear()
    linear._packs.cache_clear()


def random(*size: int) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(sum(size)))


@pytest.mark.parametrize("size", [(48,), (1, 48), (16, 48), (3, 40, 48), (2, 5, 7, 48)])
@pytest.mark.parametrize("bias", [True, False])
def test_a_linear_layer_gives_what_torchs_gives(size: tuple[int, ...], bias: bool) -> None:
    layer, states = linear.Linear(48, 33, bias=bias), random(*size)
    with torch.inference_mode():
        found = layer(states)
        turned = layer(states.transpose(0, -2).contiguous().transpose(0, -2) if len(size) > 1 else states)
    expected = functional.linear(states, layer.weight, layer.bias)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(turned, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("count", [1, 3])
def test_products_of_matrices_are_torchs(count: int) -> None:
    left, right = random(count, 40, 24), random(count, 24, 50)
    with torch.inference_mode():
        found = linear.multiply(left, right)
    torch.testing.assert_close(found, torch.bmm(left, right), atol=1e-5, rtol=1e-5)


def test_onednn_multiplies_what_answers_and_has_many_rows_or_weights(asked: Product) -> None:
    layer = linear.Linear(8, 8)
    with torch.inference_mode():
        layer(random(2, 20, 8))
        layer(random(15, 8))
        linear.Linear(1024, 1024)(random(1, 1024))
        layer.double()(random(40, 8).double())
        linear.multiply(random(1, 30, 8), random(1, 8, 4))
        linear.multiply(random(2, 30, 8), random(2, 8, 4))
    assert asked.rows == [40, 1, 30]


def test_what_learns_has_torchs_products(asked: Product) -> None:
    layer = linear.Linear(8, 8)
    layer(random(40, 8)).sum().backward()
    assert layer.weight.grad is not None
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert layer(random(40, 8)).dtype == torch.bfloat16
    assert not asked.rows


def test_a_cpu_without_avx512_keeps_torchs(monkeypatch: pytest.MonkeyPatch, undecided: None) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    assert linear._onednn() is None


@pytest.mark.parametrize("kind", ["missing", "failing", "wrong"])
def test_a_onednn_that_does_not_work_is_not_used(monkeypatch: pytest.MonkeyPatch, undecided: None, kind: str) -> None:
    def broken(states: Tensor, weight: Tensor, *_: Any) -> Tensor:
        if kind == "failing":
            raise RuntimeError("could not create a primitive")
        return states @ weight.T + 1

    operators = SimpleNamespace() if kind == "missing" else SimpleNamespace(_linear_pointwise=broken)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setattr(torch.ops, "mkldnn", operators)
    assert linear._onednn() is None
    layer, states = linear.Linear(8, 8), random(40, 8)
    with torch.inference_mode():
        torch.testing.assert_close(layer(states), functional.linear(states, layer.weight, layer.bias))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("size", [(96,), (1, 96), (12, 96), (2, 5, 7, 96), (300, 96)])
def test_packed_weights_multiply_as_before(size: tuple[int, ...], bias: bool) -> None:
    layer, states = linear.Linear(96, 70, bias=bias).bfloat16(), random(*size).bfloat16()
    stored, expected = layer.weight.nbytes, functional.linear(states, layer.weight, layer.bias)
    linear.pack(layer)
    assert layer.weight.is_mkldnn is linear._packs()
    assert layer.weight.nbytes == stored
    with torch.inference_mode():
        found = layer(states)
    torch.testing.assert_close(found, expected, atol=0.02, rtol=0.01)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_only_bf16_is_packed(dtype: torch.dtype) -> None:
    layer = linear.Linear(8, 8).to(dtype)
    weight = layer.weight
    linear.pack(layer)
    assert layer.weight is weight


@pytest.mark.parametrize("kind", ["no bf16", "missing", "failing", "wrong"])
def test_what_does_not_pack_stays_as_it_is(monkeypatch: pytest.MonkeyPatch, undecided: None, kind: str) -> None:
    def failing(*_: Any) -> Tensor:
        raise RuntimeError("could not create a primitive")

    operators = SimpleNamespace(
        _is_mkldnn_bf16_supported=lambda: kind != "no bf16",
        _reorder_linear_weight=failing if kind == "failing" else lambda weight, _: weight,
        _linear_pointwise=lambda states, weight, *_: states @ weight.T + (1 if kind == "wrong" else 0),
    )
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setattr(torch.ops, "mkldnn", SimpleNamespace() if kind == "missing" else operators)
    layer = linear.Linear(8, 8).bfloat16()
    weight = layer.weight
    linear.pack(layer)
    assert layer.weight is weight


@pytest.mark.parametrize("size", [(1, 1100, 16), (3, 20, 20, 16), (1, 5, 16)])
def test_sams_hidden_layers_are_the_same_in_parts(size: tuple[int, ...]) -> None:
    mlp, states = sam._Mlp(16, 40, torch.nn.GELU()), random(*size)
    with torch.inference_mode():
        found = mlp(states)
        whole = mlp.lin2(mlp.act(mlp.lin1(states)))
    assert found.shape == states.shape
    torch.testing.assert_close(found, whole, atol=1e-5, rtol=1e-5)


def test_sams_attention_in_blocks_is_the_same_by_onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    side = 6
    heads = [random(1, 2, side * side, 8) for _ in range(3)]
    rows, columns = (random(1, 2, side * side, side) for _ in range(2))
    at_once = sam._attend_at_once(*heads, rows, columns)
    monkeypatch.setattr(sam, "_BLOCK", 4 * 36 * 20)  # one head at a time, 20 of its queries
    with torch.inference_mode():
        torch.testing.assert_close(sam._attend_in_blocks(*heads, rows, columns), at_once, atol=1e-5, rtol=1e-5)
