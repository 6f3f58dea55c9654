"""Tokens after those that a cache holds, read by recorded steps where the device can (`cuda_graphs`).

A step is recorded for one token, and for texts of a few lengths, which shorter ones fill up: what they are filled up
with stands behind them in the cache, where nothing sees it before the next token takes its place.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from lisa_core.cuda_graphs import Capture, Recorded, can_record, warn
from lisa_core.errors import is_out_of_memory
from lisa_core.model.language import KVCache, Language

_SHORT, _LENGTH = 32, 64
"""Recorded lengths are 1, the first of these, and all multiples of the second."""


class Step(NamedTuple):
    """What a text ends with.

    Attributes:
        hidden: (1, width) state of its last token, after the last norm.
        token: (1,) the next token, greedily, on the device; None if that is still to be computed.
    """

    hidden: Tensor
    token: Tensor | None


class Stepper:
    """Reads tokens after those that a cache holds.

    Args:
        language: the model.
        new_capture: makes what captures the steps of one cache, and shares their memory; None: everything is launched
            kernel by kernel.
    """

    def __init__(self, language: Language, new_capture: Callable[[], Capture | None]) -> None:
        self._language = language
        self._new_capture = new_capture
        self._capture = new_capture()
        self._cache: KVCache | None = None
        self._recorded: dict[int, Recorded] = {}
        self._too_long: set[int] = set()  # lengths that there was no memory to record for this cache

    @property
    def records(self) -> bool:
        """Whether steps are recorded: the device can, and nothing has gone wrong so far."""
        return self._capture is not None and can_record()

    def end(self, start: int, count: int) -> int:
        """How many positions of a cache it takes to read so many tokens after the first `start`."""
        return start + (count if self._capture is None else _length(count))

    def read(self, embeddings: Tensor, cache: KVCache, start: int) -> Step:
        """Reads T tokens (T, width) that stand at `start` and after; their keys and values are cached."""
        count = len(embeddings)
        if self._capture is not None and self._cache is not cache:  # lets go of all that was recorded for the last one
            self._cache, self._recorded, self._too_long, self._capture = cache, {}, set(), self._new_capture()
        if self._capture is None or not can_record() or self.end(start, count) > cache.capacity:
            return Step(self._language(embeddings, cache, start)[-1:], None)
        recorded = self._recorded.get(_length(count))
        if recorded is None:
            hidden = self._language(embeddings, cache, start)[-1:]
            if _length(count) not in self._too_long:
                self._record(self._capture, embeddings, cache, start, hidden)
            return Step(hidden, None)
        return Step(*recorded(embeddings, _place(start, count)))

    def _record(self, capture: Capture, embeddings: Tensor, cache: KVCache, start: int, hidden: Tensor) -> None:
        """Records what was just done; after what cannot be recorded, or goes wrong, nothing is ever tried again.

        Where only memory is short, shorter texts still may be, and all of them for another cache.
        """
        count = len(embeddings)
        filled = embeddings.new_zeros(_length(count), embeddings.shape[1])
        filled[:count] = embeddings
        language = self._language

        def work(text: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
            state = language.step(text, cache, place[:1]).index_select(0, place[1:])
            return state, language.lm_head(state).argmax(-1)

        try:
            given = [filled, _place(start, count).to(filled.device)]
            self._recorded[len(filled)] = Recorded(work, capture, given, [hidden])
        except RuntimeError as error:
            warn(error)
            if is_out_of_memory(error):
                self._too_long.add(len(filled))
                return
            self._capture, self._recorded, self._cache = None, {}, None
            language(embeddings, cache, start)  # a replay that went wrong may have written anything to the cache


def _length(count: int) -> int:
    """The recorded length that so many tokens are filled up to."""
    if count == 1:
        return 1
    return _SHORT if count <= _SHORT else -(-count // _LENGTH) * _LENGTH


def _place(start: int, count: int) -> Tensor:
    """(2,) int64: where a text begins, and which of its tokens is the last."""
    return torch.tensor([start, count - 1])
