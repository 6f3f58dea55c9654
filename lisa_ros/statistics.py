"""Counts of how questions ended, and how long answers took."""

import threading
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass

from lisa_ros.questions import Code, Outcome, Question

LATENCIES_KEPT = 256
"""Answers over which percentiles are taken."""


@dataclass(frozen=True)
class Summary:
    """The statistics at one moment.

    Attributes:
        ends: how many questions ended with each code.
        latencies: seconds by stage, of the last answers, oldest first.
        fault: why the last question failed with INTERNAL; empty if one was answered since.
        standing_failure: code and reason of the standing instruction's last failure; empty if it works.
    """

    ends: Counter[Code]
    latencies: Mapping[str, list[float]]
    fault: str
    standing_failure: str


class Statistics:
    """Counts questions by how they ended and keeps the latencies of the last answers; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ends: Counter[Code] = Counter()
        self._latencies: dict[str, deque[float]] = {}
        self._fault = ""
        self._standing_failure = ""

    def add_outcome(self, question: Question | None, outcome: Outcome) -> None:
        """Count the end of a question; None for a request from which no question could be made."""
        with self._lock:
            self._ends[outcome.code] += 1
            if outcome.code in (Code.OK, Code.INTERNAL):
                self._fault = outcome.message if outcome.code is Code.INTERNAL else ""
            if question is not None and question.standing:
                failed = outcome.code not in (Code.OK, Code.INACTIVE, Code.CANCELED)
                self._standing_failure = f"{outcome.code.name}: {outcome.message}" if failed else ""

    def add_latencies(self, stages: Mapping[str, float]) -> None:
        """Add the seconds that an answer spent in each stage."""
        with self._lock:
            for stage, seconds in stages.items():
                self._latencies.setdefault(stage, deque(maxlen=LATENCIES_KEPT)).append(seconds)

    def forget_standing_failure(self) -> None:
        """Forget the failure of a standing instruction that has been changed."""
        with self._lock:
            self._standing_failure = ""

    def summary(self) -> Summary:
        """A copy of all there is."""
        with self._lock:
            latencies = {stage: list(seconds) for stage, seconds in self._latencies.items()}
            return Summary(Counter(self._ends), latencies, self._fault, self._standing_failure)
