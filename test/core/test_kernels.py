"""The language model's kernels for a GPU against torch's operations; without a GPU, Triton interprets them."""

import importlib
import logging
from contextlib import nullcontext

import pytest
import torch
from goldens import TOWER, case
from test_stepping import Captures
from torch.nn import functional

from lisa_core import LisaEngine, devices
from lisa_core.inference import cuda_graphs
from lisa_core.model import gpu, kernels, language
from lisa_core.model.language import RMSNorm, rotate

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
CLOSE = {torch.float32: 1e-5, torch.float16: 4e-3}
DTYPES = pytest.mark.parametrize("dtype", CLOSE, ids=str)


def normal(*size, dtype=torch.float32, seed=0):
    return torch.randn(size, generator=torch.Generator().manual_seed(seed)).to(DEVICE, dtype)


def assert_close(found, wanted):
    torch.testing.assert_close(found, wanted, atol=CLOSE[found.dtype], rtol=CLOSE[found.dtype])


@DTYPES
@pytest.mark.parametrize("size", [(1, 64), (3, 160), (2, 5, 96)])
def test_norm(dtype, size):
    norm = RMSNorm(size[-1], 1e-5)
    norm.weight.data = normal(size[-1], dtype=dtype, seed=1)
    states = 30 * normal(*size, dtype=dtype)
    assert_close(kernels.rms_norm(states, norm.weight, norm.eps), norm(states))


@DTYPES
@pytest.mark.parametrize("size", [(1, 64), (3, 160), (2, 5, 96)])
def test_norm_of_a_sum_that_is_rounded_as_torch_rounds_it(dtype, size):
    norm = RMSNorm(size[-1], 1e-5)
    norm.weight.data = normal(size[-1], dtype=dtype, seed=1)
    states, more = 30 * normal(*size, dtype=dtype), normal(*size, dtype=dtype, seed=2)
    total, normed = kernels.sum_and_norm(states, more, norm.weight, norm.eps)
    assert torch.equal(total, states + more)
    assert torch.equal(normed, kernels.rms_norm(states + more, norm.weight, norm.eps))


@DTYPES
@pytest.mark.parametrize("size", [(1, 7), (5, 700)])
def test_gate(dtype, size):
    gate, up = 4 * normal(*size, dtype=dtype), normal(*size, dtype=dtype, seed=1)
    assert_close(kernels.gated(gate, up), functional.silu(gate) * up)


@DTYPES
@pytest.mark.parametrize(("heads", "kv_heads", "width"), [(4, 4, 16), (6, 2, 24)])
def test_rotation_and_cache(dtype, heads, kv_heads, width):
    tokens, capacity = 3, 20
    query = normal(tokens, heads * width, dtype=dtype)
    key, value = (normal(tokens, kv_heads * width, dtype=dtype, seed=seed) for seed in (1, 2))
    angles = 6 * torch.rand(tokens, width // 2, generator=torch.Generator().manual_seed(3)).repeat(1, 2).to(DEVICE)
    rotation = angles.cos().to(dtype), angles.sin().to(dtype)
    keys, values = (normal(kv_heads, capacity, width, dtype=dtype, seed=seed) for seed in (4, 5))
    wanted_keys, wanted_values = keys.clone(), values.clone()
    places = torch.tensor([9, 10, 11], device=DEVICE)
    turned = kernels.rotate_and_store(query, key, value, rotation, places, keys, values)
    split = [part.unflatten(1, (-1, width)).transpose(0, 1) for part in (query, key, value)]
    wanted_keys[:, 9:12], wanted_values[:, 9:12] = rotate(split[1], rotation), split[2]
    assert_close(turned, rotate(split[0], rotation))
    assert_close(keys, wanted_keys)
    assert_close(values, wanted_values)


@DTYPES
@pytest.mark.parametrize(("heads", "kv_heads", "width"), [(4, 4, 16), (6, 2, 24)])
@pytest.mark.parametrize("position", [0, 63, 64, 530])
def test_attention_of_a_token_to_those_before_it_alone(dtype, heads, kv_heads, width, position):
    query = normal(heads, 1, width, dtype=dtype)
    keys, values = (normal(kv_heads, 540, width, dtype=dtype, seed=seed) for seed in (1, 2))
    seen = slice(position + 1)
    wanted = functional.scaled_dot_product_attention(
        query[None], keys[None, :, seen], values[None, :, seen], enable_gqa=heads != kv_heads
    )
    keys[:, position + 1 :] = values[:, position + 1 :] = float("nan")
    found = kernels.attend(query, keys, values, torch.tensor([position], device=DEVICE))
    assert_close(found, wanted[0].transpose(0, 1).flatten(1))


def test_an_engine_by_kernels_says_what_it_says_without(small_checkpoint, monkeypatch):
    asked = case("v1-short")

    def answer():
        engine = LisaEngine.from_pretrained(small_checkpoint, "fp32", str(DEVICE), TOWER)
        return engine.ask(engine.encode(asked.rgb), asked.instruction, max_new_tokens=6)

    monkeypatch.setattr(language, "kernels_for", lambda *_: None)
    monkeypatch.setattr(cuda_graphs, "capture_for", lambda *_, **__: None)
    wanted = answer()
    monkeypatch.setattr(language, "kernels_for", lambda *_: kernels)
    monkeypatch.setattr(cuda_graphs, "capture_for", lambda *_, **__: Captures())
    found = answer()
    assert found.token_ids == wanted.token_ids
    for ours, theirs in zip(found.segments, wanted.segments, strict=True):
        assert_close(torch.from_numpy(ours.embedding), torch.from_numpy(theirs.embedding))


def test_the_cpu_and_training_go_without(monkeypatch):
    monkeypatch.setattr(gpu, "_kernels", lambda *_: kernels)
    with torch.inference_mode():
        assert gpu.kernels_for(torch.empty(1)) is None
    on_gpu = torch.empty(1, device="meta")
    monkeypatch.setattr(gpu, "_DEVICE", "meta")
    assert gpu.kernels_for(on_gpu) is None
    with torch.inference_mode():
        assert gpu.kernels_for(on_gpu) is kernels


@pytest.fixture
def untried():
    """Nothing was tried yet, and nothing will have been."""
    gpu._kernels.cache_clear()
    yield
    gpu._kernels.cache_clear()


@DTYPES
@pytest.mark.parametrize("module", ["kernels", "sam_kernels"])
def test_they_are_tried_before_they_are_used(untried, module, dtype):
    assert gpu._kernels(module, DEVICE, dtype).__name__ == f"lisa_core.model.{module}"


@pytest.mark.parametrize(("module", "kernel"), [("kernels", "attend"), ("sam_kernels", "fold")])
def test_they_are_tried_in_the_dtype_that_they_are_used_in(untried, monkeypatch, module, kernel):
    """Triton 3.3 compiles products in fp32 for older GPUs, and in 16 bit it does not."""
    tried = importlib.import_module(f"lisa_core.model.{module}")
    right = getattr(tried, kernel)

    def fails_in_16_bit(states, *args, **kwargs):
        if states.dtype != torch.float32:
            raise RuntimeError("PassManager::run failed")
        return right(states, *args, **kwargs)

    monkeypatch.setattr(tried, kernel, fails_in_16_bit)
    monkeypatch.setattr(gpu, "_DEVICE", DEVICE.type)
    with torch.inference_mode():
        for dtype, found in ((torch.float16, None), (torch.float32, tried), (torch.float16, None)):
            assert gpu.kernels_for(torch.empty(1, dtype=dtype, device=DEVICE), module) is found


@pytest.mark.parametrize("module", ["kernels", "sam_kernels"])
def test_where_only_memory_was_short_they_are_tried_again(untried, module):
    tried = importlib.import_module(f"lisa_core.model.{module}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tried, "try_on", raising(RuntimeError("Triton Error [CUDA]: out of memory")))
        with pytest.raises(RuntimeError, match="out of memory"):
            gpu._kernels(module, DEVICE, torch.float32)
    assert gpu._kernels(module, DEVICE, torch.float32) is tried


def raising(error):
    def fail(*_):
        raise error

    return fail


@pytest.mark.parametrize("module", ["kernels", "sam_kernels"])
@pytest.mark.parametrize("missing", ["Triton", "a compiler"])
def test_without_triton_or_a_compiler_for_it_it_is_said_and_goes_on(untried, monkeypatch, caplog, module, missing):
    fail = raising(RuntimeError(f"Failed to find {missing}.\nand a long log"))
    tried = importlib.import_module(f"lisa_core.model.{module}")
    monkeypatch.setattr(*((gpu.importlib, "import_module") if missing == "Triton" else (tried, "try_on")), fail)
    with caplog.at_level(logging.WARNING):
        assert gpu._kernels(module, DEVICE, torch.float32) is None
    (record,) = caplog.records
    assert record.message == f"Without Triton answers on a GPU are slower: Failed to find {missing}."


def test_kernels_start_on_the_gpu_of_the_engine(small, monkeypatch):
    """Which need not be the first: what is launched by hand goes to the one that is current."""
    assert devices.current(torch.device("cuda:1")).idx == 1
    entered = []
    monkeypatch.setattr(devices, "current", lambda device: entered.append(device.type) or nullcontext())
    small.ask(small.encode(case("v1-short").rgb), "segment the handle", max_new_tokens=2)
    assert entered == ["cpu", "cpu"]
