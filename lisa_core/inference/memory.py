"""Keeps the memory of encoded frames and KV caches within a limit."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary, WeakSet

import torch
from torch import Tensor

from lisa_core.errors import OutOfMemoryError, done_without_if_memory_runs_out
from lisa_core.inference.frame import Encoded, Frame, Visual
from lisa_core.model.language import KVCache

_MOST_COPIES = 8
"""Frames with a copy of what was read of them: of 7B, 320 tokens take 160 MiB."""


@dataclass(eq=False)
class Text:
    """A prompt and its answer so far, with a cache of their own.

    Attributes:
        ids: the tokens that the cache holds.
        hidden: (1, width) state of the last of them.
    """

    cache: KVCache
    ids: list[int]
    hidden: Tensor = field(default_factory=lambda: torch.empty(0))


class FrameMemory:
    """The encodings of all frames that the caller still holds; the least recently used are dropped first.

    Before any of them go the copies of what was read of frames: each takes the memory of many encodings, and only
    spares reading the frame again.

    Args:
        room: bytes that encodings and KV caches may take together; inf: no limit.
    """

    def __init__(self, room: float) -> None:
        self._room = room
        self._encoded: WeakKeyDictionary[Frame, Encoded] = WeakKeyDictionary()
        self._in_use: WeakSet[Frame] = WeakSet()
        self._copies: WeakKeyDictionary[Visual, Text] = WeakKeyDictionary()  # the least recently used first
        self._caches: WeakSet[KVCache] = WeakSet()

    def use(self, frames: Sequence[Frame]) -> list[Encoded]:
        """The encodings of these frames, complete or not; they are not dropped until the next call."""
        self._in_use = WeakSet(frames)
        for frame in dict.fromkeys(frames):
            self._encoded[frame] = self._encoded.pop(frame, Encoded(frame.image))
        return [self._encoded[frame] for frame in frames]

    def track(self, cache: KVCache) -> None:
        """Counts a cache's bytes as long as somebody holds it."""
        self._caches.add(cache)

    def keep_copy(self, visual: Visual, size: int, copy: Callable[[], Text]) -> None:
        """Copies what was read of a frame, if so many bytes fit without older copies; else it will be read again."""
        if not self.fits(size - self._copied()):
            return
        self._drop_copies_for(size)
        with done_without_if_memory_runs_out():
            self._copies[visual] = copy()
        while len(self._copies) > _MOST_COPIES:
            del self._copies[next(iter(self._copies))]

    def take_copy(self, visual: Visual) -> Text | None:
        """The copy of what was read of a frame, which is no longer kept; None if there is none."""
        return self._copies.pop(visual, None)

    def forget_copies(self) -> None:
        """Drops all copies."""
        self._copies.clear()

    def frames(self) -> int:
        """Bytes of all encodings."""
        return sum(encoded.held for encoded in self._encoded.values())

    def kv_caches(self) -> int:
        """Bytes of all keys and values."""
        return sum(cache.nbytes for cache in self._caches)

    def fits(self, size: int) -> bool:
        """Whether so many bytes more fit, with nothing dropped for them."""
        return self.frames() + self.kv_caches() + size <= self._room

    def has_room(self, size: int) -> bool:
        """Whether so many bytes more fit, after dropping as much as needed; drops nothing if all would not do."""
        idle = [encoded for frame, encoded in self._encoded.items() if frame not in self._in_use]
        if not self.fits(size - self._copied() - sum(encoded.held for encoded in idle)):
            return False
        self._drop_copies_for(size)
        for encoded in idle:
            if not self.fits(size):
                encoded.empty()
        return True

    def make_room(self, size: int) -> None:
        """As `has_room`, but raises OutOfMemoryError if there is none."""
        if not self.has_room(size):
            raise OutOfMemoryError(
                f"The memory limit leaves no room for {size / 2**20:.1f} MiB more;"
                " ask fewer questions at once, or raise the limit."
            )

    def _copied(self) -> int:
        """Bytes of all copies."""
        return sum(text.cache.nbytes for text in self._copies.values())

    def _drop_copies_for(self, size: int) -> None:
        """Drops copies until so many bytes more fit, or no copy is left."""
        for visual in list(self._copies):
            if not self.fits(size):
                del self._copies[visual]
