"""Keeps the memory of encoded frames and KV caches within a limit."""

from collections.abc import Sequence
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary, WeakSet

from lisa_core.errors import OutOfMemoryError
from lisa_core.frame import Encoded, Frame, Visual
from lisa_core.model.language import KVCache

if TYPE_CHECKING:
    from lisa_core.prefix_cache import Text


class FrameMemory:
    """The encodings of all frames that the caller still holds; the least recently used are dropped first.

    Before any of them go the copies of what was read of frames: each takes the memory of many encodings, and only
    spares reading the frame again.

    Args:
        room: bytes that encodings and KV caches may take together; inf: no limit.

    Attributes:
        copies: what was read of frames that are not the current one, in the order of their use.
    """

    def __init__(self, room: float) -> None:
        self.copies: WeakKeyDictionary[Visual, Text] = WeakKeyDictionary()
        self._room = room
        self._encoded: WeakKeyDictionary[Frame, Encoded] = WeakKeyDictionary()
        self._in_use: WeakSet[Frame] = WeakSet()
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
        copies = [(visual, text.cache.nbytes) for visual, text in self.copies.items()]
        idle = [encoded for frame, encoded in self._encoded.items() if frame not in self._in_use]
        if not self.fits(size - sum(held for _, held in copies) - sum(encoded.held for encoded in idle)):
            return False
        for visual, _ in copies:
            if not self.fits(size):
                del self.copies[visual]
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
