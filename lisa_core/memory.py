"""Keeps the memory of encoded frames and KV caches within a limit."""

from collections.abc import Sequence
from weakref import WeakKeyDictionary, WeakSet

from lisa_core.errors import OutOfMemoryError
from lisa_core.frame import Encoded, Frame
from lisa_core.model.language import KVCache


class FrameMemory:
    """The encodings of all frames that the caller still holds; the least recently used are dropped first.

    Args:
        room: bytes that encodings and KV caches may take together; inf: no limit.
    """

    def __init__(self, room: float) -> None:
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

    def has_room(self, size: int) -> bool:
        """Whether so many bytes more fit, after dropping as many idle frames' encodings as needed."""
        for frame, encoded in self._encoded.items():
            if self._fits(size):
                break
            if frame not in self._in_use:
                encoded.empty()
        return self._fits(size)

    def make_room(self, size: int) -> None:
        """Drops encodings of idle frames until so many bytes fit; raises OutOfMemoryError if they never do."""
        if not self.has_room(size):
            raise OutOfMemoryError(
                f"The memory limit leaves no room for {size / 2**20:.1f} MiB more;"
                " ask fewer questions at once, or raise the limit."
            )

    def _fits(self, size: int) -> bool:
        return self.frames() + self.kv_caches() + size <= self._room
