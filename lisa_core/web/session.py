"""The visitors' conversations, and the one thread that answers them all."""

import io
import itertools
import queue
import threading
import time
import zipfile
from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lisa_core import answer_files, overlay
from lisa_core.answer import Answer
from lisa_core.errors import Cancelled, ImageError, raise_if_cancelled
from lisa_core.options import MAX_NEW_TOKENS, MAX_SEGMENTS

if TYPE_CHECKING:
    from lisa_core.engine import Frame, LisaEngine

MOST_VISITORS = 32
"""Most visitors whose sessions are kept; beyond that, the one least recently seen is dropped."""
LONGEST_AWAY = 3600.0
"""s; a visitor who has left and was not seen for so long is forgotten."""


class Inference:
    """The thread that owns the engine."""

    def __init__(
        self, engine: "LisaEngine", max_new_tokens: int = MAX_NEW_TOKENS, max_segments: int = MAX_SEGMENTS
    ) -> None:
        self._engine = engine
        self._max_new_tokens = max_new_tokens
        self._max_segments = max_segments
        self._thread = ThreadPoolExecutor(1, "inference")
        self._cancels: set[threading.Event] = set()

    def encode(self, rgb: NDArray[np.uint8]) -> "Frame":
        """Encodes a picture, (H, W, 3) uint8 RGB."""
        return self._thread.submit(self._engine.encode, rgb).result()

    def ask(
        self, frame: "Frame", question: str, history: list[tuple[str, str]], cancel: threading.Event
    ) -> Iterator[str | Answer]:
        """Yields the text so far whenever it grows, and finally the answer."""
        words: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._cancels.add(cancel)
        future: Future[Answer] = self._thread.submit(
            self._engine.ask,
            frame,
            question,
            history,
            max_new_tokens=self._max_new_tokens,
            max_segments=self._max_segments,
            on_token=words.put,
            cancel=cancel,
        )
        future.add_done_callback(lambda _: words.put(None))
        text = ""
        try:
            while (new := words.get()) is not None:
                text += new
                yield text
            yield future.result()
        finally:
            cancel.set()  # also when the consumer stops iterating
            self._cancels.discard(cancel)
            del future  # what failed is in it with its traceback, and so with this and all that the engine had made

    def close(self) -> None:
        """Gives up all questions, and waits until the thread has finished with the engine."""
        for cancel in tuple(self._cancels):
            cancel.set()
        self._thread.shutdown(cancel_futures=True)


@dataclass(frozen=True, eq=False)
class Turn:
    """One question and its answer.

    Attributes:
        image: (H, W, 3) uint8 RGB, of the question.
        timings: s by stage; the first question's include encoding the picture.
    """

    image: NDArray[np.uint8]
    question: str
    answer: Answer
    timings: dict[str, float]

    def in_words(self) -> "Turn":
        """The turn without its masks."""
        return replace(self, answer=replace(self.answer, segments=()))

    def picture(self, shown: Collection[int]) -> NDArray[np.uint8]:
        """The picture with the segments of these indices, in their own colours and with their own numbers."""
        segments = [
            segment if index in shown else replace(segment, box=(0, 0, 0, 0))
            for index, segment in enumerate(self.answer.segments)
        ]
        return overlay.draw(self.image, segments)

    def archive(self) -> bytes:
        """A zip file of what `lisa segment` writes: a PNG for each mask, the overlay, and the answer as JSON."""
        names = answer_files.Names(Path(), "answer")
        contents = answer_files.contents(names, self.image, self.question, self.answer, self.timings)
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            for path, content in contents.items():
                archive.writestr(path.name, content)
        return file.getvalue()


class Session:
    """A visitor's conversation about one picture.

    Attributes:
        image: (H, W, 3) uint8 RGB; None before a picture is chosen.
        turns: of the conversation.
        seen: when the visitor was last heard of, s of `time.monotonic`.
        left: whether the visitor has ever left; who comes back is not seen to leave again.
    """

    def __init__(self, inference: Inference) -> None:
        self._inference = inference
        self._frame: Frame | None = None
        self._waiting: dict[int, tuple[str, threading.Event]] = {}
        self._numbers = itertools.count(1)
        self._cancel = threading.Event()
        self._archive = ExitStack()
        self._archiving = threading.Lock()
        self._closed = False
        self.image: NDArray[np.uint8] | None = None
        self.turns: list[Turn] = []
        self.seen = 0.0
        self.left = False

    def open(self, image: NDArray[np.uint8] | None) -> None:
        """Starts a new conversation about another picture, or none; cancels running and queued questions."""
        self.reset()
        self.image, self._frame = image, None

    def reset(self) -> None:
        """Clears the conversation; cancels running and queued questions."""
        self.stop()
        self._waiting.clear()
        self.turns = []

    def stop(self) -> None:
        """Cancels running and queued questions."""
        for _, cancel in (*self._waiting.values(), ("", self._cancel)):
            cancel.set()

    def leave(self) -> None:
        """Cancels running and queued questions, and frees the encoded picture: the next question encodes it anew."""
        self.left = True
        self.stop()
        self._frame = None

    def close(self) -> None:
        """Cancels running and queued questions, and deletes the archive."""
        self.stop()
        with self._archiving:
            self._closed = True
            self._archive.close()

    def offer(self, archive: ExitStack) -> None:
        """Keeps an archive for the visitor to download until another takes its place, or the session closes.

        Args:
            archive: deletes it; at once if the session has closed meanwhile.
        """
        with self._archiving:
            self._archive.close()
            self._archive = archive
            if self._closed:
                archive.close()

    def hear(self, question: str) -> int:
        """Queues a question, and returns its number for `answer`."""
        number = next(self._numbers)
        self._waiting[number] = question, threading.Event()
        return number

    def answer(self, number: int) -> tuple[str, Iterator[str]]:
        """The question of that number, and an iterator over the text of its answer as it grows.

        When the iterator ends, the turn is in `turns`. It raises LisaError if there is no picture, or from the engine.

        Raises:
            Cancelled: the question is no longer queued.
        """
        heard = self._waiting.pop(number, None)
        if heard is None:
            raise Cancelled("The question was withdrawn.")
        question, self._cancel = heard
        return question, self._words(question, self._cancel)

    def _words(self, question: str, cancel: threading.Event) -> Iterator[str]:
        image = self.image
        if image is None:
            raise ImageError("There is no picture to talk about yet; choose one first.")
        raise_if_cancelled(cancel)
        turns, frame = self.turns, self._frame
        encoding: Mapping[str, float] = {}
        if frame is None:
            frame = self._inference.encode(image)
            encoding = frame.timings
            left = self.left and cancel.is_set()
            if self.image is image and not left:  # else the visitor has chosen another one meanwhile, or left
                self._frame = frame
        history = [(turn.question, turn.answer.text) for turn in turns]
        for part in self._inference.ask(frame, question, history, cancel):
            if isinstance(part, Answer):
                turns[-1:] = [turn.in_words() for turn in turns[-1:]]  # only the last turn's masks are shown
                turns.append(Turn(image, question, part, {**encoding, **part.timings}))
            else:
                yield part


class Sessions:
    """The visitors' sessions, by the id of their browser."""

    def __init__(self, inference: Inference) -> None:
        self._inference = inference
        self._sessions: OrderedDict[str, Session] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, visitor: str) -> Session:
        """The visitor's session; made if there is none."""
        with self._lock:
            dropped = self._take_out_long_away()
            session = self._sessions.setdefault(visitor, Session(self._inference))
            session.seen = time.monotonic()
            self._sessions.move_to_end(visitor)
            while len(self._sessions) > MOST_VISITORS:
                dropped.append(self._sessions.popitem(last=False)[1])
        _close(dropped)
        return session

    def leave(self, visitor: str) -> None:
        """Gives up a visitor's questions; the session is kept for `LONGEST_AWAY`.

        For a page that is closed looks like one that stays open while its laptop sleeps or its network fails.
        """
        with self._lock:
            dropped = self._take_out_long_away()
            session = self._sessions.get(visitor)
            if session is not None:
                session.seen = time.monotonic()
                session.leave()
        _close(dropped)

    def close(self) -> None:
        """Drops all sessions."""
        with self._lock:
            dropped = list(self._sessions.values())
            self._sessions.clear()
        _close(dropped)

    def _take_out_long_away(self) -> list[Session]:
        oldest = time.monotonic() - LONGEST_AWAY
        away = [visitor for visitor, session in self._sessions.items() if session.left and session.seen < oldest]
        return [self._sessions.pop(visitor) for visitor in away]


def _close(sessions: list[Session]) -> None:
    """Closes sessions; not under the lock that others wait for, since files take their time."""
    for session in sessions:
        session.close()
