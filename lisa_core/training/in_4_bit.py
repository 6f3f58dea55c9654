"""Quantisation-aware training: forward and backward pass use weights rounded to NF4, as a model in 4 bit has them.

The gradients are applied to the exact weights, as if rounding were the identity (the straight-through estimator of
Bengio et al. 2013).
"""

from collections.abc import Iterator
from contextlib import contextmanager

from lisa_core import quantization
from lisa_core.model.lisa import Lisa


@contextmanager
def in_4_bit(model: Lisa) -> Iterator[None]:
    """Within it, the layers that NF4 quantises have rounded weights; the exact ones come back afterwards."""
    weights = [model.get_parameter(name).data for name in quantization.quantised_parameters(model, "v1")]
    exact = [weight.clone() for weight in weights]
    for weight in weights:
        weight.copy_(quantization.rounded(weight))
    try:
        yield
    finally:
        for weight, before in zip(weights, exact, strict=True):
            weight.copy_(before)
