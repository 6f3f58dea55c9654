"""What frames and the texts read about them hold beside the weights, kept within a limit."""

import weakref
from collections.abc import Callable, Sequence

from lisa_core.errors import OutOfMemoryError
from lisa_core.frame import Frame


class FrameMemory:
    """The frames that somebody holds, least recently used first, which is the order in which they are emptied.

    An emptied frame is encoded again when it is asked about. Frames in use are left alone. What a frame holds was made
    by one engine's weights, so one that another engine's memory kept comes in empty.

    Args:
        room: bytes that frames and KV caches may take together; inf: any.
        kv_caches: a method that tells how many bytes the KV caches take; its object is not kept alive.
    """

    def __init__(self, room: float, kv_caches: Callable[[], int]) -> None:
        self._room = room
        self._kv_caches = weakref.WeakMethod(kv_caches)
        self._frames: list[weakref.ref[Frame]] = []
        self._idle = 0  # the first so many

    def use(self, frames: Sequence[Frame]) -> None:
        """These are in use, from now until the next call."""
        for used in frames:
            if used._keeper is not self:
                used.empty()
                used._keeper = self
        idle = [ref for ref in self._frames if (frame := ref()) is not None and frame not in frames]
        self._frames = [*idle, *map(weakref.ref, dict.fromkeys(frames))]
        self._idle = len(idle)

    def empty(self) -> None:
        """Empties all that no other memory keeps by now."""
        for ref in self._frames:
            if (frame := ref()) is not None and frame._keeper is self:
                frame.empty()

    def held(self) -> int:
        """Bytes that the frames hold."""
        return sum(frame.held for ref in self._frames if (frame := ref()) is not None)

    def has_room(self, size: int) -> bool:
        """Whether so many bytes more fit, now that idle frames were emptied as far as that takes."""
        for ref in self._frames[: self._idle]:
            if self._fits(size):
                break
            if (frame := ref()) is not None:
                frame.empty()
        return self._fits(size)

    def take(self, size: int) -> None:
        """Makes room for so many bytes; raises OutOfMemoryError if there is none."""
        if not self.has_room(size):
            raise OutOfMemoryError(
                f"The memory limit leaves no room for {size / 2**20:.1f} MiB more;"
                " ask fewer questions at once, or raise the limit."
            )

    def _fits(self, size: int) -> bool:
        kv_caches = self._kv_caches()
        return self.held() + (kv_caches() if kv_caches is not None else 0) + size <= self._room
