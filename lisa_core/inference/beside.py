"""A second stream on a GPU: SAM encodes a frame while the language model decodes its answer.

Prefill alone keeps a GPU busy, so SAM starts after it; decoding token by token leaves most of the GPU idle.
"""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

Wait = Callable[[], None]
"""Makes the current stream wait for a result; kernels that are launched after this call may read it."""


class Beside(Protocol):
    """What runs work at the same time as the caller's."""

    def start(self, work: Callable[[], Tensor]) -> tuple[Tensor, Wait]:
        """Starts work after everything that was launched before; returns its result and how to wait for it."""


class SideStream:
    """A second stream of a GPU."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)

    def start(self, work: Callable[[], Tensor]) -> tuple[Tensor, Wait]:
        """See `Beside`."""
        before = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(before)
        with torch.cuda.stream(self._stream):
            result = work()
            done = self._stream.record_event()
        result.record_stream(before)  # kernels there may still read it when Python drops it
        return result, lambda: torch.cuda.current_stream(self._device).wait_event(done)


def beside_on(device: torch.device) -> Beside | None:
    """What runs work beside other work on a device; None on the CPU, whose cores are all busy as it is."""
    return SideStream(device) if device.type == "cuda" else None
