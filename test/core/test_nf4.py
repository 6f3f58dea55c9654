"""Products with NF4 weights: with doubles for the CUDA kernels, which do on the CPU what those do on a GPU."""

import logging
from contextlib import nullcontext
from importlib import resources
from types import SimpleNamespace

import bitsandbytes.functional as bnb
import pytest
import torch
from torch import nn
from torch.torch_version import TorchVersion
from torch.utils import cpp_extension

from lisa_core import quantization
from lisa_core.model import nf4
from lisa_core.model.linear import side_by_side
from lisa_core.model.nf4 import Nf4

GPU = torch.device("cuda" if torch.cuda.is_available() else "cpu")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def written_out(packed, scales, codes, width):
    values = torch.stack([codes[packed.long().flatten() >> 4], codes[packed.long().flatten() & 15]], -1)
    return (values.view(-1, 64) * scales[:, None]).view(-1, width)


class Doubles:
    """Stand in for the kernels; note how they were launched."""

    def __init__(self):
        self.launches = []

    def row(self, grid, block, args, shared_mem):
        row, *weights, codes, out, width, first, second, third = args
        self.launches.append(("row", grid, block, shared_mem))
        counts = [count for count in (first, second, third) if count]
        wholes = [written_out(weights[2 * i], weights[2 * i + 1], codes, width) for i in range(len(counts))]
        assert [len(whole) for whole in wholes] == counts
        out.copy_(torch.cat([row.float() @ whole.T for whole in wholes], 1))

    def expand(self, grid, block, args, shared_mem):
        packed, scales, codes, out, words = args
        self.launches.append(("expand", grid, block, shared_mem))
        assert words * 8 == out.numel()
        out.copy_(written_out(packed, scales, codes, out.shape[1]))

    def rows(self, grid, block, args, shared_mem):
        arranged, packed, scales, codes, out, count, width, rows = args
        self.launches.append(("rows", grid, block, shared_mem))
        whole = arranged.permute(1, 3, 0, 4, 2, 5).reshape(32, -1)
        assert out.shape == (count, rows)
        assert not whole[count:].any()
        assert not whole[:, width:].any()
        out.copy_(whole[:count, :width].float() @ written_out(packed, scales, codes, width).T)


@pytest.fixture
def doubles(monkeypatch):
    doubles = Doubles()
    monkeypatch.setattr(nf4, "_kernels", lambda _: nf4._Kernels(doubles.row, doubles.expand))
    monkeypatch.setattr(nf4, "_rows_kernel", lambda _: doubles.rows)
    monkeypatch.setattr(nf4, "_multiprocessors", lambda _: 4)
    return doubles


def weight(count, width, seed=0, device="cpu"):
    """A random weight in 4 bit, and what it stands for."""
    whole = torch.randn(count, width, generator=torch.Generator().manual_seed(seed)).half().to(device)
    packed, state = bnb.quantize_4bit(whole, quant_type="nf4", compress_statistics=False)
    return Nf4(packed, state.absmax, state.code), bnb.dequantize_4bit(packed, state)


def states(rows, width, device="cpu"):
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(9)).half().to(device) / width**0.5


def assert_products(found, row, wholes):
    for product, whole in zip(found, wholes, strict=True):
        torch.testing.assert_close(product.float(), row.float() @ whole.float().T, atol=4e-3, rtol=4e-3)


@pytest.mark.parametrize("counts", [(32,), (17,), (32, 16), (23, 32), (48, 16, 33), (33, 15, 48)])
def test_a_row_by_several_weights(doubles, counts):
    weights, wholes = zip(*(weight(count, 128, seed) for seed, count in enumerate(counts)), strict=True)
    row = states(1, 128)
    found = nf4.products(row, weights, [None] * len(weights))
    assert [product.shape for product in found] == [(1, count) for count in counts]
    assert_products(found, row, wholes)
    ((kind, grid, block, shared),) = doubles.launches
    assert (kind, grid, block) == ("row", (4, 1, 1), (768, 1, 1))
    assert shared == 66560 + 4 * -(-sum(counts) // 4)


@pytest.mark.parametrize(
    ("width", "count", "multiprocessors", "wanted"),
    [
        (4096, 32003, 132, (132, 66560 + 4 * 4 * 243)),
        (1088, 17, 4, (4, 66560 + 2 * 4 * 5)),  # a number for a part of 1024
        (24576, 132, 132, (132, 66560 + 24 * 4)),
        (4096, 4 * 1984, 4, (4, 98304)),  # as many as there is room for
        (4096, 4 * 1984 + 1, 4, (8, 66560 + 4 * 4 * 993)),
        (5120, 32003, 8, (24, 66560 + 5 * 4 * 1334)),
    ],
)
def test_blocks_and_their_shared_memory(width, count, multiprocessors, wanted):
    assert nf4._row_layout(width, count, multiprocessors) == wanted


def test_it_launches_as_the_source_says():
    source = resources.files("lisa_core.model").joinpath("nf4.cu").read_text()
    assert f"#define THREADS {nf4._ROW_THREADS}\n" in source


def test_a_row_gets_the_biases(doubles):
    weights, wholes = zip(*(weight(count, 128, seed) for seed, count in enumerate((32, 16))), strict=True)
    row, bias = states(1, 128), torch.randn(16).half()
    first, second = nf4.products(row, weights, [None, bias])
    assert_products([first, second - bias], row, wholes)


def test_rows_by_a_weight_that_is_written_out(doubles):
    some, whole = weight(48, 192)
    bias = torch.randn(48).half()
    (found,) = nf4.products(states(33, 192), [some], [bias])
    torch.testing.assert_close(found, nn.functional.linear(states(33, 192), whole, bias))
    assert doubles.launches == [("expand", (8, 1, 1), (1024, 1, 1), 65536)]


def test_a_few_rows_by_a_weight_that_is_written_out_where_their_kernel_is_refused(doubles, monkeypatch):
    monkeypatch.setattr(nf4, "_rows_kernel", lambda _: None)
    some, whole = weight(48, 192)
    (found,) = nf4.products(states(5, 192), [some], [None])
    torch.testing.assert_close(found, nn.functional.linear(states(5, 192), whole))
    assert doubles.launches == [("expand", (8, 1, 1), (1024, 1, 1), 65536)]


@pytest.mark.parametrize("width", [128, 192])
@pytest.mark.parametrize("count", [2, 5, 32])
def test_a_few_rows_by_weights_in_4_bit(doubles, width, count):
    weights, wholes = zip(*(weight(count, width, seed) for seed, count in enumerate((48, 33))), strict=True)
    rows, bias = states(count, width), torch.randn(33).half()
    first, second = nf4.products(rows, weights, [None, bias])
    assert_products([first, second - bias], rows, wholes)
    assert doubles.launches == [("rows", (blocks, 1, 1), (512, 1, 1), 66560) for blocks in (2, 2)]
    nf4.products(states(33, width), weights[:1], [None])
    assert [kind for kind, *_ in doubles.launches] == ["rows", "rows", "expand"]


def test_the_kernel_of_a_few_rows_is_checked(doubles):
    nf4._check_rows(doubles.rows, torch.device("cpu"))
    with pytest.raises(RuntimeError, match="kernel is off by"):
        nf4._check_rows(lambda **launch: launch["args"][4].zero_(), torch.device("cpu"))


@pytest.mark.parametrize(
    ("row", "counts", "width"),
    [
        (torch.zeros(1, 128), (32,), 128),  # fp32
        (torch.zeros(1, 96).half(), (32,), 96),  # a scale for half a block
        (torch.zeros(1, 128).half(), (32,) * 4, 128),
        (torch.zeros(1, 24640).half(), (32,), 24640),  # more than a block's warps keep
    ],
    ids=["fp32", "width", "many", "long"],
)
def test_what_they_cannot_is_left_to_bitsandbytes(doubles, row, counts, width):
    empty = torch.zeros(0, dtype=torch.uint8)
    weights = [Nf4(empty.new_zeros(count * width // 2), torch.zeros(count * width // 64), empty) for count in counts]
    assert nf4.products(row, weights, [None] * len(weights)) is None
    assert doubles.launches == []


def test_the_cpu_has_none():
    some, _ = weight(32, 128)
    for rows in (1, 3):
        assert nf4.products(states(rows, 128), [some], [None]) is None


def test_kernels_that_compute_what_torch_does_pass_the_check(doubles):
    nf4._check(nf4._Kernels(doubles.row, doubles.expand), torch.device("cpu"))


@pytest.mark.parametrize("wrong", ["row", "expand"])
def test_kernels_that_compute_something_else_do_not(doubles, monkeypatch, wrong):
    right = getattr(doubles, wrong)

    def off(grid, block, args, shared_mem):
        right(grid, block, args, shared_mem)
        next(one for one in reversed(args) if isinstance(one, torch.Tensor)).view(-1)[3] += 1

    kernels = nf4._Kernels(doubles.row, doubles.expand)._replace(**{wrong: off})
    with pytest.raises(RuntimeError, match="kernels are off by"):
        nf4._check(kernels, torch.device("cpu"))


@pytest.fixture
def gpu(monkeypatch):
    """`gpu(compiler)`: a GPU of compute capability 9.0 that nothing was compiled for yet."""
    device = torch.device("cuda", 7)

    def with_compiler(compiler):
        monkeypatch.setattr(torch.cuda, "_compile_kernel", compiler)
        return device

    monkeypatch.setattr(torch.cuda, "device", torch.device)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    for found in (nf4._kernels, nf4._rows_kernel):
        found.cache_clear()
    yield with_compiler
    for found in (nf4._kernels, nf4._rows_kernel):
        found.cache_clear()


def raising(error):
    def fail(*_):
        raise error

    return fail


def test_where_they_do_not_compile_it_is_said_and_bitsandbytes_multiplies(gpu, caplog):
    with caplog.at_level(logging.WARNING):
        assert nf4._kernels(gpu(raising(RuntimeError("Kernel compilation failed:\nand its whole log")))) is None
    (record,) = caplog.records
    assert record.message == "4 bit is multiplied by bitsandbytes, and slower: Kernel compilation failed:"


@pytest.mark.parametrize(
    ("name", "value", "cause"),
    [
        ("torch.cuda.get_device_capability", lambda _: (7, 5), "cuda:7 has compute capability 7.5, and our kernels ne"),
        ("torch.__version__", TorchVersion("2.5.0a0+872d972e41.nv24.8"), "torch 2.5.0a0+872d972e41.nv24.8 does not co"),
        ("torch.__version__", TorchVersion("2.9.1"), "torch 2.9.1 does not compile kernels as 2.10 does."),
    ],
)
def test_where_they_cannot_compile_the_cause_is_a_sentence(gpu, monkeypatch, caplog, name, value, cause):
    monkeypatch.setattr(name, value)
    device = gpu(raising(AssertionError("was compiled")))
    with caplog.at_level(logging.WARNING):
        assert nf4._kernels(device) is None
    assert f"multiplied by bitsandbytes, and slower: {cause}" in caplog.text


@pytest.mark.parametrize("found", [nf4._kernels, nf4._rows_kernel], ids=["all", "rows"])
def test_where_only_memory_was_short_they_are_compiled_again(gpu, monkeypatch, found):
    device = gpu(raising(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB")))
    with pytest.raises(torch.OutOfMemoryError):
        found(device)
    for check in ("_check", "_check_rows"):
        monkeypatch.setattr(nf4, check, lambda *_: None)
    gpu(lambda *_: SimpleNamespace(set_shared_memory_config=lambda _: None))
    assert found(device) is not None


@pytest.mark.parametrize("home", [None, "/usr/local/cuda"])
@pytest.mark.parametrize("error", [None, RuntimeError("Kernel compilation failed:")], ids=["compiles", "fails"])
def test_they_compile_without_a_toolkit(gpu, monkeypatch, home, error):
    """Torch looks for its headers, of which they include none, and raises an error where it finds no folder of them."""
    monkeypatch.setattr(cpp_extension, "CUDA_HOME", home)
    headers = []

    def compiler(source, name):
        assert "#include" not in source
        headers.extend(cpp_extension.include_paths("cuda"))
        if error:
            raise error
        return SimpleNamespace(set_shared_memory_config=lambda _: None)

    gpu(compiler)
    with pytest.raises(RuntimeError) if error else nullcontext():
        nf4._compiled("nf4_row")
    assert headers
    assert ("/usr/local/cuda/include" in headers) == (home is not None)
    assert home == cpp_extension.CUDA_HOME


def test_where_that_of_a_few_rows_is_wrong_it_is_said_and_they_are_written_out(monkeypatch, caplog):
    monkeypatch.setattr(nf4, "_compiled", lambda *_: lambda **launch: launch["args"][4].zero_())
    monkeypatch.setattr(torch.cuda, "device", torch.device)
    cpu = torch.device("cpu")
    nf4._rows_kernel.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert nf4._rows_kernel(cpu) is None
    nf4._rows_kernel.cache_clear()
    assert "multiplied by weights that are written out: on this GPU its kernel is off by" in caplog.text


def test_where_that_of_a_few_rows_does_not_compile_it_is_said(gpu, caplog):
    device = gpu(raising(RuntimeError("ptxas: too many resources requested for launch")))
    with caplog.at_level(logging.WARNING):
        assert nf4._rows_kernel(device) is None
    assert "A few rows are multiplied by weights that are written out: ptxas" in caplog.text


def test_a_few_rows_without_a_kernel_of_theirs(doubles, monkeypatch):
    monkeypatch.setattr(nf4, "_rows_kernel", lambda _: None)
    some, whole = weight(48, 192)
    assert_products(nf4.products(states(5, 192), [some], [None]), states(5, 192), [whole])
    assert [kind for kind, *_ in doubles.launches] == ["expand"]


def layers(device, *counts):
    """Linear layers of 128 inputs in 4 bit, their scales restored as on a GPU."""
    model = nn.ModuleList(nn.Linear(128, count, bias=count % 32 == 0, device="meta") for count in counts)
    quantization.make_quantised(model, "v1", "nf4", torch.float16)
    for index, layer in enumerate(model):
        layer.weight = quantization.quantised_weight(weight(counts[index], 128, index)[1].cpu(), "nf4", device)
        quantization.expand_statistics(layer.weight)
        if layer.bias is not None:
            layer.bias = nn.Parameter(torch.ones(counts[index], device=device).half())
    return list(model)


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("rows", [1, 7])
@pytest.mark.parametrize("counts", [(64,), (64, 48, 32)])
@torch.inference_mode()
def test_layers_on_a_gpu_are_bitsandbytes(rows, counts):
    some = layers(GPU, *counts)
    given = states(rows, 128, GPU)
    assert nf4._kernels(GPU if GPU.index is not None else torch.device("cuda", 0)) is not None
    found = side_by_side(given, *some)
    with torch.inference_mode(False):
        wanted = [layer(given.clone()) for layer in some]
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-2, rtol=1e-2)


@pytest.mark.gpu
@needs_gpu
def test_a_weight_is_written_out_as_bitsandbytes_does_bit_for_bit():
    some, whole = weight(512, 1024, device=GPU)
    assert torch.equal(nf4._written(nf4._kernels(torch.device("cuda", 0)), some, whole), whole)


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize(
    ("counts", "width"),
    [((12288,), 4096), ((4096,), 11008), ((32003,), 4096), ((5120,), 13824), ((37, 1001, 64), 24576)],
)
def test_a_row_at_the_sizes_of_lisa(counts, width):
    weights, wholes = zip(*(weight(count, width, seed, GPU) for seed, count in enumerate(counts)), strict=True)
    row = states(1, width, GPU)
    assert_products(nf4.products(row, weights, [None] * len(weights)), row, wholes)


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize(("count", "width"), [(12288, 4096), (4096, 11008), (32003, 4096), (5120, 13824)])
@pytest.mark.parametrize("rows", [2, 25, 32])
def test_a_few_rows_at_the_sizes_of_lisa(count, width, rows):
    some, whole = weight(count, width, device=GPU)
    given = states(rows, width, GPU)
    assert_products(nf4._rows_products(nf4._rows_kernel(torch.device("cuda", 0)), given, [some]), given, [whole])
