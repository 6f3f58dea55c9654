"""Which layers become 4 or 8 bit, and how each weight is quantised while a checkpoint streams in.

As in the reference: NF4 with double quantisation (Dettmers et al. 2023, QLoRA) or LLM.int8 (Dettmers et al.
2022), both by bitsandbytes, for every linear layer but SAM's and CLIP's; in v0 two more stay as they are.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from copy import copy
from functools import cache
from types import ModuleType
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from lisa_core.errors import CheckpointError, brief, is_out_of_memory
from lisa_core.model import nf4
from lisa_core.model.linear import put
from lisa_core.model.nf4 import Nf4
from lisa_core.options import Layout

Quantised = Literal["nf4", "int8"]

STATISTICS = ("absmax", "quant_map", "nested_absmax", "nested_quant_map", "quant_state.bitsandbytes__nf4")
"""What stands beside the 4-bit values of a stored weight, as `weight.absmax` and so on."""

_OUTER_BLOCK = 256
"""Scales that share one of their own, where they are quantised again."""
_KEPT: dict[Layout, tuple[str, ...]] = {
    "v1": ("sam.", "clip."),
    "v0": ("sam.", "clip.", "language.lm_head", "text_hidden_fcs."),
}
_INT8_OUTLIERS = 6.0
"""Activations beyond this are multiplied in 16 bit (LLM.int8)."""
_WORKS = 0.2
"""How far a product by normal weights may be off, as a share of its length: in 4 bit it is by half of that."""

# bitsandbytes advises to install a package that fetches code from a hub when it is imported; nobody shall.
logging.getLogger("bitsandbytes.backends.cpu.ops").addFilter(lambda record: "kernels" not in record.msg)
# LLM.int8 is specified on fp16 inputs; saying so at every product of an fp32 model tells nobody anything.
logging.getLogger("bitsandbytes.autograd._functions").addFilter(lambda record: "will be cast" not in record.msg)


def quantised_layers(model: nn.Module, layout: Layout) -> list[str]:
    """Names of the linear layers that 4 and 8 bit replace in a model that was released so."""
    kept = _KEPT[layout]
    return [
        name for name, module in model.named_modules() if isinstance(module, nn.Linear) and not name.startswith(kept)
    ]


def quantised_parameters(model: nn.Module, layout: Layout) -> list[str]:
    """Names of those layers' weights; biases stay as they are."""
    return [f"{layer}.weight" for layer in quantised_layers(model, layout)]


def packed_size(weight: torch.Size) -> tuple[int, int]:
    """Shape of a weight's stored 4-bit values, two to a byte."""
    return (math.ceil(weight.numel() / 2), 1)


def make_quantised(model: nn.Module, layout: Layout, precision: Quantised, compute: torch.dtype) -> None:
    """Replaces those layers by empty ones of bitsandbytes; `quantised_weight` makes their weights."""
    bnb = import_bitsandbytes()
    for name in quantised_layers(model, layout):
        linear = model.get_submodule(name)
        assert isinstance(linear, nn.Linear)
        size: dict[str, Any] = {
            "input_features": linear.in_features,
            "output_features": linear.out_features,
            "bias": linear.bias is not None,
            "device": "meta",
        }
        if precision == "nf4":
            layer: Any = _nf4_linear()(**size, compute_dtype=compute, quant_type="nf4", compress_statistics=True)
            # On a CPU with AVX512-BF16 it would repack the weights in place at the first product: in bf16, so that
            # answers differed from machine to machine, and not at all for layers of less than a block of 64.
            layer.support_avx512bf16_for_cpu = False
        else:
            layer = bnb.nn.Linear8bitLt(**size, has_fp16_weights=False, threshold=_INT8_OUTLIERS)
        put(model, name, layer)


def widen(model: nn.Module) -> None:
    """Lets 4-bit layers that compute in fp16 compute in bf16, for training: fp16 rounds small gradients to zero."""
    layers: list[Any] = [
        module for module in model.modules() if isinstance(module, import_bitsandbytes().nn.Linear4bit)
    ]
    for layer in layers:
        if layer.compute_dtype == torch.float16:
            layer.compute_dtype = torch.bfloat16


def quantised_weight(weight: Tensor, precision: Quantised, device: torch.device) -> nn.Parameter:
    """A weight (out, in) on the host as a quantised parameter on the device; the original can be dropped."""
    bnb = import_bitsandbytes()
    half = weight.half()  # what the reference quantises; its checkpoints are stored so
    if precision == "nf4":
        parameter = bnb.nn.Params4bit(half, requires_grad=False, quant_type="nf4", compress_statistics=True)
    else:
        parameter = bnb.nn.Int8Params(half.cpu(), requires_grad=False, has_fp16_weights=False)
    return parameter.to(device)


def rounded(weight: Tensor) -> Tensor:
    """A weight (out, in) after a round trip through NF4, on its device and in its dtype."""
    values, state = import_bitsandbytes().functional.quantize_4bit(
        weight.half(), quant_type="nf4", compress_statistics=True
    )
    return _written_out(values, state, weight.dtype)


def statistics_of(weight: nn.Parameter) -> dict[str, Tensor]:
    """The tensors that an NF4 weight is restored from besides its 4-bit values, on the host, by bitsandbytes' names."""
    state: Any = vars(weight)["quant_state"]
    return {name: tensor.cpu() for name, tensor in state.as_dict(packed=True).items()}


def restored_weight(
    name: str, shape: torch.Size, values: Tensor, statistics: Mapping[str, Tensor], device: torch.device
) -> nn.Parameter:
    """The inverse of `statistics_of`: an NF4 weight on the device from its stored 4-bit values.

    Raises:
        CheckpointError: the statistics are not those of a weight (out, in) of this shape, by which a product would read
            beyond them.
    """
    bnb = import_bitsandbytes()
    try:
        weight = bnb.nn.Params4bit.from_prequantized(values, dict(statistics), requires_grad=False, device=device)
        fits = _belongs(weight.quant_state, shape)
    except Exception as error:  # bitsandbytes lets through whatever the bytes of a damaged file lead to
        if is_out_of_memory(error):
            raise
        raise CheckpointError(
            f"The 4-bit statistics of {name} are damaged ({brief(error)}); fetch its file again."
        ) from error
    if not fits:
        raise CheckpointError(f"The 4-bit statistics of {name} are not those of its weight; fetch its file again.")
    return weight


def _belongs(state: Any, shape: torch.Size) -> bool:
    """Whether a state is one of double quantisation, and has a scale for each block of a weight of this shape."""
    scales, outer = math.ceil(shape.numel() / nf4.BLOCK), state.state2
    return (
        (state.shape, state.quant_type, state.blocksize, outer.blocksize) == (shape, "nf4", nf4.BLOCK, _OUTER_BLOCK)
        and isinstance(state.dtype, torch.dtype)
        and _is(state.absmax, torch.uint8, scales)
        and _is(state.code, torch.float32, 16)
        and _is(outer.absmax, torch.float32, math.ceil(scales / _OUTER_BLOCK))
        and _is(outer.code, torch.float32, 256)
        and _is(state.offset, torch.float32, 1)
    )


def _is(tensor: Tensor, dtype: torch.dtype, count: int) -> bool:
    return tensor.dtype == dtype and tensor.numel() == count


def expand_statistics(weight: nn.Parameter) -> None:
    """Undoes an NF4 weight's double quantisation: the same scales, bit for bit, as fp32 numbers.

    Without this every product would compute them first, by two more kernels for each layer and token. They take 3
    bytes more for each 64 weights.
    """
    bnb = import_bitsandbytes()
    state: Any = vars(weight)["quant_state"]
    if state.nested:
        state.absmax = bnb.functional.dequantize_blockwise(state.absmax, state.state2) + state.offset
        state.nested, state.state2, state.offset = False, None, None


def check_works(precision: Quantised, device: torch.device, compute: torch.dtype) -> None:
    """Runs one real product on the device: a bitsandbytes built for another machine imports, then fails here.

    One without kernels for the GPU at hand says so on standard error and ends the process itself.
    """
    width = 128
    weight = torch.randn(width, width, generator=torch.Generator().manual_seed(0))
    layer = nn.Sequential(nn.Linear(width, width, bias=False, device="meta"))
    make_quantised(layer, "v1", precision, compute)
    try:
        layer[0].weight = quantised_weight(weight, precision, device)
        product = layer(torch.ones(1, width, dtype=compute, device=device)).float().cpu()[0]
    except Exception as error:  # whatever else a foreign kernel raises means the same
        if is_out_of_memory(error):
            raise
        raise CheckpointError(
            f"bitsandbytes does not run {precision} on {device} here ({error}). Install a bitsandbytes that was built"
            " for this machine, or choose another precision."
        ) from error
    exact = weight.sum(1)
    if not (product - exact).norm() <= _WORKS * exact.norm():
        raise CheckpointError(
            f"bitsandbytes computes {precision} wrongly on {device}: install one that was built for this machine,"
            " or choose another precision."
        )


def stored_bytes(parameter: nn.Parameter) -> int:
    """Bytes of a parameter with its quantisation's statistics."""
    size = parameter.nbytes
    state = getattr(parameter, "quant_state", None)
    if state is not None:
        size += state.absmax.nbytes + (state.state2.absmax.nbytes if state.nested else 0)
    scales = getattr(parameter, "SCB", None)
    return size + (scales.nbytes if scales is not None else 0)


@cache
def _nf4_linear() -> type[nn.Module]:
    """Bitsandbytes' layer with our own products on a GPU, which for one row may be those of several layers at once."""
    bnb = import_bitsandbytes()

    class Nf4Linear(bnb.nn.Linear4bit):  # type: ignore[misc, name-defined]
        def forward(self, states: Tensor) -> Tensor:
            (product,) = self.together(states, [self])
            return product

        @classmethod
        def together(cls, states: Tensor, layers: Sequence["Nf4Linear"]) -> list[Tensor]:
            products = _products(states, layers)
            return products or [layer.alone(states) for layer in layers]

        def alone(self, states: Tensor) -> Tensor:
            if states.device.type == "cpu" and self.in_features % nf4.BLOCK:
                weight = _written_out(self.weight.data, self.weight.quant_state, states.dtype)
                return functional.linear(states, weight, self.bias)
            return super().forward(states)

    return Nf4Linear


def _products(states: Tensor, layers: Sequence[Any]) -> list[Tensor] | None:
    """The outputs of several layers for (..., in_features) by our own kernels; None where bitsandbytes is needed."""
    if states.device.type != "cuda" or not torch.is_inference_mode_enabled():
        return None
    kept = [layer.weight.quant_state for layer in layers]
    if any(state.nested or state.blocksize != nf4.BLOCK for state in kept):
        return None
    weights = [Nf4(layer.weight.data, state.absmax, state.code) for layer, state in zip(layers, kept, strict=True)]
    rows = states.reshape(-1, states.shape[-1]).contiguous()
    products = nf4.products(rows, weights, [layer.bias for layer in layers])
    return products and [product.view(*states.shape[:-1], -1) for product in products]


def _written_out(values: Tensor, state: Any, dtype: torch.dtype) -> Tensor:
    """An NF4 weight (out, in), as one of a single row: on a CPU bitsandbytes 0.50 begins a block anew in every row."""
    row = copy(state)
    row.shape, row.dtype = (1, state.shape.numel()), dtype
    return import_bitsandbytes().functional.dequantize_4bit(values, row).view(state.shape)


def import_bitsandbytes() -> ModuleType:
    """The package; raises CheckpointError with the remedy if it does not import."""
    try:
        import bitsandbytes
    except ImportError as error:
        raise CheckpointError(
            f"4 and 8 bit need bitsandbytes, which does not import here ({error});"
            " install it with pip, or choose another precision."
        ) from error
    return bitsandbytes
