"""The KV cache, and which tokens of which frame it holds.

A new prompt shares its beginning with the last one about the same frame: the frame itself, or a conversation's earlier
turns. Only what comes after that is prefilled. Another frame gets the same cache, at the same addresses, for which
decoding steps may be recorded; what the cache held until then is copied aside.
"""

import weakref
from collections.abc import Sequence

import torch

from lisa_core.inference.frame import Visual
from lisa_core.inference.memory import FrameMemory, Text
from lisa_core.model.language import KVCache, LanguageShape

_GROWTH = 256
"""Positions that a cache grows by: a frame and a question take some 300, and each capacity is recorded anew."""


class PrefixCache:
    """The KV cache of the frame that was last asked about, and copies of those of a few others.

    Attributes:
        cache: of the current frame; replaced when it grows.
        ids: the tokens that it holds, `IMAGE_ID` once for each visual token.
    """

    def __init__(self, shape: LanguageShape, dtype: torch.dtype, device: torch.device, memory: FrameMemory) -> None:
        self._context = shape.context
        self._memory = memory
        self._visual: weakref.ref[Visual] | None = None
        self.cache = KVCache(shape, min(2 * _GROWTH, shape.context), dtype, device)
        self.ids: list[int] = []
        memory.track(self.cache)

    def switch_to(self, visual: Visual) -> None:
        """Makes a frame the current one, with what was read about it before."""
        current = self._visual() if self._visual else None
        if current is visual:
            return
        aside = self._memory.take_copy(visual)  # first, for copies give way to the one that is made now
        if current is not None:
            self._memory.keep_copy(current, self._bytes(len(self.ids)), self._copy_all)
        self._visual = weakref.ref(visual)
        self.ids = []
        if aside is not None:
            self.cache.copy_from(aside.cache, len(aside.ids))
            self.ids = aside.ids

    def keep_common(self, ids: Sequence[int]) -> int:
        """Drops what the cache holds beyond the prefix it shares with a prompt; returns that prefix's length.

        The prompt's last token always has to be read, for the hidden state that the answer begins with.
        """
        known = self.shared(ids)
        del self.ids[known:]
        return known

    def shared(self, ids: Sequence[int]) -> int:
        """How many tokens of a prompt, without its last, the cache holds."""
        return common_length(self.ids, ids[:-1])

    def reserve(self, length: int) -> None:
        """Makes room in the cache for so many tokens."""
        self.cache = self._grown(self.cache, len(self.ids), length)

    def begin(self, ids: Sequence[int]) -> Text:
        """A prompt with a cache of its own, which holds a copy of the prefix that is known."""
        known, capacity = self.shared(ids), self._capacity(len(ids))
        self._memory.make_room(self._bytes(capacity))
        return Text(self._copy(self.cache, capacity, known), list(ids[:known]))

    def grow(self, text: Text) -> None:
        """Makes room for one token more in a text's own cache."""
        text.cache = self._grown(text.cache, len(text.ids), len(text.ids) + 1)

    def replace(self, visual: Visual, text: Text) -> None:
        """Makes a frame the current one, and a text what is known of it."""
        self._memory.take_copy(visual)
        self.switch_to(visual)
        if text.cache.capacity > self.cache.capacity:
            self.cache = text.cache
        else:  # a step may be recorded for the addresses of the current cache
            self.cache.copy_from(text.cache, len(text.ids))
        self.ids = text.ids

    def forget(self) -> None:
        """Drops everything that was read; it will be read again when it is needed."""
        self._memory.forget_copies()
        self._visual = None
        self.ids = []

    def _copy_all(self) -> Text:
        """A copy of what the cache holds."""
        length = len(self.ids)
        return Text(self._copy(self.cache, length, length), self.ids)

    def _capacity(self, length: int) -> int:
        """Of a cache for so many tokens."""
        return min(self._context, -(-length // _GROWTH) * _GROWTH)

    def _bytes(self, length: int) -> int:
        """That the keys and values of so many tokens take."""
        return self.cache.nbytes // self.cache.capacity * length

    def _grown(self, cache: KVCache, held: int, length: int) -> KVCache:
        """The cache if it has room for `length` tokens, else a larger one with the `held` tokens of this one."""
        if length <= cache.capacity:
            return cache
        capacity = self._capacity(length)
        self._memory.make_room(self._bytes(capacity - cache.capacity))
        return self._copy(cache, capacity, held)

    def _copy(self, cache: KVCache, capacity: int, length: int) -> KVCache:
        copied = cache.copy(capacity, length)
        self._memory.track(copied)
        return copied


def common_length(left: Sequence[int], right: Sequence[int]) -> int:
    """How many tokens two prompts share at their beginning."""
    most = min(len(left), len(right))
    return next((index for index in range(most) if left[index] != right[index]), most)
