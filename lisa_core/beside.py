"""Work beside other work on a GPU: SAM encodes a frame while the language model answers.

A prompt keeps a GPU busy, as SAM does, and goes first; an answer, token by token, leaves most of it idle.
"""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor


class Beside(Protocol):
    """Where work may go on meanwhile."""

    def start(self, work: Callable[[], Tensor]) -> Tensor:
        """Begins work after what was begun before; nobody may read its result before `join`."""

    def join(self) -> None:
        """What is done from here on may read every result."""


class SideStream:
    """A second stream of a GPU."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)

    def start(self, work: Callable[[], Tensor]) -> Tensor:
        """See `Beside`."""
        before = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(before)
        with torch.cuda.stream(self._stream):
            result = work()
        result.record_stream(before)  # which may still read it when it is dropped
        return result

    def join(self) -> None:
        """See `Beside`."""
        torch.cuda.current_stream(self._device).wait_stream(self._stream)


def beside_on(device: torch.device) -> Beside | None:
    """Where work may go on beside other work on a device; None on the CPU, whose cores are all busy as it is."""
    return SideStream(device) if device.type == "cuda" else None
