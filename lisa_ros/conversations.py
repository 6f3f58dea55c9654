"""Earlier questions and answers, and the picture they are about; bounded in number and in time."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator
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

    None of both is done to conversations `in_use`: a question of theirs waits or is answered. Thread-safe.
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

    def get(self, conversation_id: str) -> Conversation | None:
        """The conversation with that id; None if there is none."""
        with self._lock:
            _, conversation = self._kept.get(conversation_id, (0.0, None))
            return conversation

    def put(self, conversation_id: str, conversation: Conversation, limit: int, in_use: Collection[str] = ()) -> None:
        """Keep the conversation as the most recently used; at most `limit` are kept, and those in use."""
        with self._lock:
            self._kept[conversation_id] = (self._clock(), conversation)
            self._kept.move_to_end(conversation_id)
            surplus = max(0, len(self._kept) - limit)
            for forgotten in [name for name in self._kept if name not in in_use][:surplus]:
                del self._kept[forgotten]

    def expire(self, time_to_live: float, in_use: Collection[str] = ()) -> None:
        """Forget conversations that were last used over `time_to_live` seconds ago, and their pictures."""
        with self._lock:
            oldest = self._clock() - time_to_live
            for name in [name for name, (used, _) in self._kept.items() if used < oldest and name not in in_use]:
                del self._kept[name]
