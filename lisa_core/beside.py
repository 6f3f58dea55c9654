"""Work beside other work on a GPU: SAM encodes a frame while the language model answers.

A prompt keeps a GPU busy, as SAM does, and goes first; an answer, token by token, leaves most of it idle.
"""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

Wait = Callable[[], None]
"""What is done after it was called may read a result."""


class Beside(Protocol):
    """Where work may go on meanwhile."""

    def start(self, work: Callable[[], Tensor]) -> tuple[Tensor, Wait]:
        """Begins work after all that was begun before; gives its result, and how to wait for that."""


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
        result.record_stream(before)  # which may still read it when it is dropped
        return result, lambda: torch.cuda.current_stream(self._device).wait_event(done)


def beside_on(device: torch.device) -> Beside | None:
    """Where work may go on beside other work on a device; None on the CPU, whose cores are all busy as it is."""
    return SideStream(device) if device.type == "cuda" else None
