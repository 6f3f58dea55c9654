"""Earlier questions and answers, and the picture they are about; bounded in number and in time."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from lisa_ros.pictures import Picture

Turn = tuple[str, str]
"""A question and its answer."""


@dataclass(frozen=True, eq=False)
class Conversation:
    """A picture and the questions and answers about it, oldest first."""

    picture: Picture
    turns: tuple[Turn, ...] = ()


class Conversations:
    """Conversations by id; forgets the least recently used if there are too many, and those unused for too long.

    Thread-safe: the inference thread adds conversations, and the deadlines' thread looks them up.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, tuple[float, Conversation]] = OrderedDict()  # least recently used first

    def __len__(self) -> int:
        return len(self._kept)

    def __iter__(self) -> Iterator[Conversation]:
        with self._lock:
            return iter([conversation for _, conversation in self._kept.values()])

    def get(self, conversation_id: str, time_to_live: float) -> Conversation | None:
        """The conversation with that id; None if there is none, or it was last used over `time_to_live` seconds ago."""
        with self._lock:
            self._expire(time_to_live)
            _, conversation = self._kept.get(conversation_id, (0.0, None))
            return conversation

    def put(self, conversation_id: str, conversation: Conversation, limit: int, time_to_live: float) -> None:
        """Keep the conversation as the most recently used; at most `limit` are kept."""
        with self._lock:
            self._kept[conversation_id] = (self._clock(), conversation)
            self._kept.move_to_end(conversation_id)
            self._expire(time_to_live)
            while len(self._kept) > limit:
                self._kept.popitem(last=False)

    def expire(self, time_to_live: float) -> None:
        """Forget conversations that were last used over `time_to_live` seconds ago, and their pictures."""
        with self._lock:
            self._expire(time_to_live)

    def _expire(self, time_to_live: float) -> None:
        oldest = self._clock() - time_to_live
        while self._kept and next(iter(self._kept.values()))[0] < oldest:
            self._kept.popitem(last=False)
