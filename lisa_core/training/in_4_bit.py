"""A model that will be used in 4 bit learns to be: what it says is by weights that NF4 has rounded.

The step that this leads to is one of the weights themselves, as if rounding were the identity (the straight-through
estimator of Bengio et al. 2013).
"""

from collections.abc import Iterator
from contextlib import contextmanager

from lisa_core import quantization
from lisa_core.model.lisa import Lisa


@contextmanager
def in_4_bit(model: Lisa) -> Iterator[None]:
    """While it lasts, the layers that NF4 quantises have the weights that it makes of theirs; forward and backward."""
    names = quantization.quantised_layers(model, "v1")
    weights = [model.get_parameter(f"{name}.weight").data for name in names]
    exact = [weight.clone() for weight in weights]
    for weight in weights:
        weight.copy_(quantization.rounded(weight))
    try:
        yield
    finally:
        for weight, before in zip(weights, exact, strict=True):
            weight.copy_(before)
