"""Reads tokens into a KV cache, by recorded steps where the device can record (`cuda_graphs`).

Steps are recorded for one token, and for texts of a few lengths. A shorter text is padded to the next of these lengths.
The padding's keys and values land in the cache behind the text, where the attention mask hides them until later tokens
overwrite them.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from lisa_core.errors import is_out_of_memory
from lisa_core.inference.cuda_graphs import Capture, Recorded, can_record, warn
from lisa_core.model.language import KVCache, Language

_SHORT, _LENGTH = 32, 64
"""Recorded lengths are 1, `_SHORT` and the multiples of `_LENGTH`: a question on a known frame fits into `_SHORT`, and
products of up to 32 rows read 4-bit weights directly."""


class Step(NamedTuple):
    """The end of a text that was read.

    Attributes:
        hidden: (1, width) state of its last token, after the last norm.
        token: (1,) the most likely next token, on the device; None if it has not been computed yet.
    """

    hidden: Tensor
    token: Tensor | None


class Stepper:
    """Reads tokens into a KV cache.

    Args:
        language: the model.
        new_capture: called for each new cache, returns what records the steps on it, or None where nothing is recorded.
    """

    def __init__(self, language: Language, new_capture: Callable[[], Capture | None]) -> None:
        self._language = language
        self._new_capture = new_capture
        self._capture = new_capture()
        self._cache: KVCache | None = None
        self._recorded: dict[int, Recorded] = {}
        self._too_long: set[int] = set()  # lengths that memory did not suffice to record for this cache

    @property
    def records(self) -> bool:
        """Whether steps are recorded: the device can record, and no recording has failed so far."""
        return self._capture is not None and can_record()

    def end(self, start: int, count: int) -> int:
        """The cache positions that are written, padding included, when `count` tokens are read after `start` others."""
        return start + (count if self._capture is None else _length(count))

    def read(self, embeddings: Tensor, cache: KVCache, start: int) -> Step:
        """Reads T tokens, (T, width) embeddings, into the cache, after the `start` tokens that it holds."""
        count = len(embeddings)
        if self._capture is not None and self._cache is not cache:
            self.forget()
            self._cache = cache
        if self._capture is None or not can_record() or self.end(start, count) > cache.capacity:
            return Step(self._language(embeddings, cache, start)[-1:], None)
        recorded = self._recorded.get(_length(count))
        if recorded is None:
            hidden = self._language(embeddings, cache, start)[-1:]
            if _length(count) not in self._too_long:
                self._record(self._capture, embeddings, cache, start, hidden)
            return Step(hidden, None)
        return Step(*recorded(embeddings, _place(start, count)))

    def forget(self) -> None:
        """Drops what is recorded, and its memory; it is recorded again when it is needed."""
        self._cache, self._recorded, self._too_long = None, {}, set()
        if self._capture is not None:
            self._capture = self._new_capture()

    def _record(self, capture: Capture, embeddings: Tensor, cache: KVCache, start: int, hidden: Tensor) -> None:
        """Records the step that was just done without a graph.

        If it fails, nothing is recorded any more, except when only memory was short: then only texts of this length
        are not recorded for this cache.
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
            language(embeddings, cache, start)  # a broken replay may have written anything to the cache


def _length(count: int) -> int:
    """The recorded length that a text of so many tokens is padded to."""
    if count == 1:
        return 1
    return _SHORT if count <= _SHORT else -(-count // _LENGTH) * _LENGTH


def _place(start: int, count: int) -> Tensor:
    """(2,) int64: position of a text's first token, and the index of its last token in the text."""
    return torch.tensor([start, count - 1])
