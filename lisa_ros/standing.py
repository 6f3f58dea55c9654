"""The standing instruction: the node itself asks it about every new frame of one camera."""

import threading
import time
from collections.abc import Callable, Mapping

from lisa_ros.cameras import Camera
from lisa_ros.inference import Ticket
from lisa_ros.parameters import Parameters
from lisa_ros.pictures import Arrival
from lisa_ros.questions import Code, Outcome, Question, Refused

PAUSE_AFTER_FAILURE = 1.0
"""Seconds before the next try, so that a question that fails at once does not fail thirty times a second."""


class StandingInstruction:
    """Asks one question at a time, about the newest frame, at the rate in the parameters."""

    def __init__(
        self,
        parameters: Callable[[], Parameters],
        cameras: Mapping[str, Camera],
        submit: Callable[[Ticket], None],
        cancel: Callable[[Ticket], None],
        on_end: Callable[[Question, Outcome], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._parameters = parameters
        self._cameras = cameras
        self._submit = submit
        self._cancel = cancel
        self._on_end = on_end
        self._clock = clock
        self._lock = threading.Lock()
        self._asking = False
        self._ticket: Ticket | None = None  # the last one
        self._tried: Arrival | None = None  # the newest frame when it was last asked
        self._asked_about: float | None = None  # receipt of the frame it was last asked about, on the steady clock
        self._due = 0.0  # steady clock
        self._rate = 0.0
        self._early = False  # the newest frame came before the next question was due

    def follow_parameters(self) -> None:
        """Called when parameters have changed: cancel a question that is out of date; the new one is due at once."""
        with self._lock:
            parameters, ticket = self._parameters(), self._ticket
            if parameters.standing_rate != self._rate:
                self._rate, self._due = parameters.standing_rate, 0.0
            wanted = (parameters.standing_instruction, parameters.standing_view)
            if ticket is None or wanted == (ticket.question.instruction, ticket.question.camera):
                return
            self._due = 0.0
            ticket.cancel.set()
        if not ticket.done:
            self._cancel(ticket)  # without the lock, for this may end it

    def frame_arrived(self, camera: str) -> None:
        """Ask, if this is the right camera, the last question has ended, and the next one is due."""
        with self._lock:
            parameters = self._parameters()
            if not parameters.standing_instruction.strip() or camera != parameters.standing_view:
                return
            now = self._clock()
            self._early = now < self._due
            if self._asking or self._early:
                return
            self._asking, self._tried = True, self._newest(camera)
            period = 1.0 / parameters.standing_rate if parameters.standing_rate else 0.0
            # A late question does not shift the beat; after a whole period without one the beat starts anew.
            self._due = (self._due if now < self._due + period else now) + period
            ticket = self._ticket = self._new_ticket(parameters)
        try:
            self._submit(ticket)
        except Refused as refused:  # the node is shutting down
            ticket.complete(refused.outcome)

    def beat(self) -> None:
        """Ask about a frame that came too early, if a question is due now and the frame is still young enough."""
        parameters = self._parameters()
        newest = self._newest(parameters.standing_view)
        if not self._early or newest is None or newest is self._tried or newest.received == self._asked_about:
            return
        if self._clock() < newest.received + parameters.max_frame_age:
            self.frame_arrived(parameters.standing_view)

    def _new_ticket(self, parameters: Parameters) -> Ticket:
        question = Question(
            instruction=parameters.standing_instruction,
            camera=parameters.standing_view,
            max_age=parameters.max_frame_age,
            timeout=parameters.question_timeout,
            mask_only=parameters.standing_mask_only,
            standing=True,
        )
        return Ticket(question, self._on_done)

    def _on_done(self, outcome: Outcome) -> None:
        with self._lock:
            ticket = self._ticket
            assert ticket is not None, "one is asked at a time"
            question = ticket.question
            self._asking = False
            if ticket.received is not None:
                self._asked_about = ticket.received
            if ticket.cancel.is_set() and outcome.code is not Code.OK:  # whatever it failed with, it is no longer asked
                outcome = Outcome(Code.CANCELED, "no longer asked")
            if outcome.code not in (Code.OK, Code.CANCELED):
                self._due = max(self._due, self._clock() + PAUSE_AFTER_FAILURE)
            self._on_end(question, outcome)
        newest = self._newest(question.camera)
        if newest is not None and newest.received != self._asked_about:
            self.frame_arrived(question.camera)

    def _newest(self, camera: str) -> Arrival | None:
        found = self._cameras.get(camera)
        return found.newest if found else None
