"""The thread that owns the engine, and its queue.

Questions wait in a bounded queue. The thread takes the first question that can be answered now, users' questions before
the node's own, together with those that can be answered in one batch with it. A second thread watches the deadlines,
because the first may hang in the engine: every question gets exactly one outcome, within its time.
"""

import math
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Protocol

from lisa_ros.questions import Code, Outcome, Question, Refused

MOST_TOGETHER = 8
"""Most questions in one batch: each takes device memory of its own while it is answered."""

LONGEST_SLEEP = 60.0
"""Seconds between two looks at the deadlines at most: some timeouts are longer than a lock can wait."""


class Ticket:
    """A question from its request to its outcome; whoever completes it first decides the outcome.

    Attributes:
        asked: when it was asked, on the steady clock.
        cancel: set to stop the engine, when nobody waits for the answer any more.
        stage: waiting, encoding, answering or masking.
        received: when its picture was received, on the steady clock; None until the picture is chosen.
    """

    def __init__(
        self,
        question: Question,
        on_done: Callable[[Outcome], None],
        on_progress: Callable[[str, str], None] | None = None,
    ) -> None:
        self.question = question
        self.asked = time.monotonic()
        self.cancel = threading.Event()
        self.stage = "waiting"
        self.received: float | None = None
        self._text = ""
        self._on_done = on_done
        self._on_progress = on_progress
        self._lock = threading.Lock()
        self._done = False

    @property
    def done(self) -> bool:
        """Whether it has been completed."""
        return self._done

    @property
    def deadline(self) -> float:
        """When it has to be answered at the latest, on the steady clock."""
        return self.asked + self.question.timeout

    def complete(self, outcome: Outcome) -> None:
        """End it with this outcome, unless it has ended already."""
        with self._lock:
            if self._done:
                return
            self._done = True
        self._on_done(outcome)

    def enter(self, stage: str) -> None:
        """Enter a stage and report it; answering starts with no text, also when it starts again."""
        self.stage = stage
        if stage == "answering":
            self._text = ""
        self._tell()

    def add_text(self, text: str) -> None:
        """Add new text of the answer and report it."""
        self._text += text
        self._tell()

    def _tell(self) -> None:
        if self._on_progress is not None and not self._done:
            self._on_progress(self.stage, self._text)


End = Callable[[Ticket, Outcome], None]
"""Ends a question that is being answered, with its outcome."""


class Answering(Protocol):
    """Answers questions for the inference thread."""

    def answer(self, tickets: Sequence[Ticket], end: End) -> None:
        """Answer the questions, and end each as soon as possible; called on the inference thread, may raise."""

    def fail(self, ticket: Ticket, error: BaseException, end: End) -> None:
        """React to an error that `answer` raised, and end the question."""


class Frames(Protocol):
    """Tells whether the frames that questions wait for have come; called on any thread."""

    def is_ready(self, ticket: Ticket) -> bool:
        """Whether it can be answered now; a ready question may become unready again, for frames grow old."""

    def patience(self, ticket: Ticket) -> float:
        """Until when it may wait for a frame, on the steady clock."""

    def no_frame(self, ticket: Ticket) -> Outcome:
        """The outcome when it has waited too long for a frame."""


class InferenceThread:
    """Answers the questions in its queue, in batches where possible, until it is closed."""

    def __init__(self, answering: Answering, frames: Frames) -> None:
        self._answering = answering
        self._frames = frames
        self._changed = threading.Condition()
        self._waiting: list[Ticket] = []  # in order of arrival
        self._current: list[Ticket] = []  # being answered together
        self._refusal: Outcome | None = None  # of all questions, while set
        self._open = True
        self._threads = [
            threading.Thread(target=self._serve, name="lisa_inference", daemon=True),
            threading.Thread(target=self._watch, name="lisa_deadlines", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    @property
    def closed(self) -> bool:
        """Whether it was closed, and takes no more questions."""
        return not self._open

    @property
    def ahead(self) -> int:
        """How many questions are waiting or being answered."""
        return len(self._waiting) + len(self._current)

    @property
    def conversations(self) -> set[str]:
        """The conversations of the questions that are waiting or being answered."""
        with self._changed:
            return {ticket.question.conversation for ticket in (*self._waiting, *self._current)}

    def submit(self, ticket: Ticket, queue_size: int) -> None:
        """Queue a question; raises Refused as BUSY if `queue_size` wait already; the standing one does not count."""
        with self._changed:
            if self._refusal is not None:
                raise Refused(self._refusal.code, self._refusal.message)
            waiting = sum(not other.question.standing for other in self._waiting)
            if waiting >= queue_size and not ticket.question.standing:
                raise Refused(Code.BUSY, f"busy: {self.ahead} questions are ahead; ask later, or raise queue_size")
            self._waiting.append(ticket)
            self._changed.notify_all()

    def look_again(self) -> None:
        """Check the waiting questions again: a camera has a new frame, or the parameters have changed."""
        if self._waiting:
            with self._changed:
                self._changed.notify_all()

    def cancel(self, ticket: Ticket) -> None:
        """Cancel a question: at once if it waits, else as soon as the engine stops."""
        with self._changed:
            ticket.cancel.set()
            waiting = ticket in self._waiting
            if waiting:
                self._take_out([ticket])
        if waiting:
            ticket.complete(Outcome(Code.CANCELED, "canceled while it waited"))

    def refuse_all(self, outcome: Outcome) -> None:
        """End all questions with this outcome, those that come before `accept` is called too, and stop the engine."""
        with self._changed:
            self._refusal = outcome
            tickets = [*self._waiting, *self._current]
            self._take_out(tickets)
        for ticket in tickets:
            ticket.complete(outcome)  # first, or the engine could report it as canceled
            ticket.cancel.set()

    def accept(self) -> None:
        """Take questions again."""
        self._refusal = None

    def close(self, timeout: float) -> bool:
        """End the threads; False if the engine did not return in time and is still in use."""
        with self._changed:
            self._open = False
            self._changed.notify_all()
        self.refuse_all(Outcome(Code.INACTIVE, "the node is shutting its model down"))
        deadline = time.monotonic() + timeout
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _serve(self) -> None:
        for tickets in self._next():
            try:
                self._answering.answer(tickets, self._end)
            except BaseException as error:  # whatever it is, the thread goes on
                for ticket in list(self._current):
                    self._answering.fail(ticket, error, self._end)

    def _end(self, ticket: Ticket, outcome: Outcome) -> None:
        with self._changed:
            self._current.remove(ticket)
            self._changed.notify_all()  # the next turn of its conversation may be ready, and its patience counts now
        ticket.complete(outcome)

    def _next(self) -> Iterator[Sequence[Ticket]]:
        while True:
            with self._changed:
                while self._open and not (tickets := self._ready()):
                    self._changed.wait()
                if not self._open:
                    return
                self._current = list(tickets)
                self._take_out(tickets)
            yield tickets

    def _take_out(self, tickets: Collection[Ticket]) -> None:
        """Remove them from the queue and wake what waits for them; call with the lock held."""
        self._waiting = [ticket for ticket in self._waiting if ticket not in tickets]
        self._changed.notify_all()

    def _ready(self) -> list[Ticket]:
        """The batch to answer next; empty if no question is ready."""
        later = self._later_turns()
        ready = (ticket for ticket in self._waiting if ticket not in later and self._frames.is_ready(ticket))
        return _together(sorted(ready, key=lambda ticket: ticket.question.standing))

    def _later_turns(self) -> set[Ticket]:
        """Questions that wait for an earlier question of the same conversation to end."""
        conversations: set[str] = set()
        later = set()
        for ticket in (*self._current, *self._waiting):
            conversation = ticket.question.conversation
            if conversation in conversations:
                later.add(ticket)
            elif conversation:
                conversations.add(conversation)
        return later

    def _watch(self) -> None:
        while self._open:
            with self._changed:
                overdue, soonest = self._overdue()
                if overdue:
                    self._take_out(overdue)
                elif self._open:
                    self._changed.wait(min(max(0.0, soonest - time.monotonic()), LONGEST_SLEEP))
            for ticket, outcome in overdue.items():
                ticket.complete(outcome)  # first, or the engine could report it as canceled
                ticket.cancel.set()

    def _overdue(self) -> tuple[dict[Ticket, Outcome], float]:
        """The questions whose time is over, with their outcomes, and when the next one's time will be over."""
        now = time.monotonic()
        overdue, limits = {}, []
        later = self._later_turns()
        for ticket in self._waiting:
            patience = math.inf if ticket in later else self._frames.patience(ticket)
            if ticket.deadline <= now:
                overdue[ticket] = _timeout(ticket)
            elif patience <= now:
                overdue[ticket] = self._frames.no_frame(ticket)
            else:
                limits.append(min(patience, ticket.deadline))
        for ticket in self._current:
            if not ticket.done and ticket.deadline <= now:
                overdue[ticket] = _timeout(ticket)
            elif not ticket.done:
                limits.append(ticket.deadline)
        return overdue, min(limits, default=math.inf)


def _together(tickets: Sequence[Ticket]) -> list[Ticket]:
    """The first question, and those that can be answered in one batch with it."""
    return [it for it in tickets if it is tickets[0] or it.question.goes_with(tickets[0].question)][:MOST_TOGETHER]


def _timeout(ticket: Ticket) -> Outcome:
    return Outcome(Code.TIMEOUT, f"no answer within {ticket.question.timeout:g} s: it was still {ticket.stage}")
