"""Seconds by stage."""

import time


class Stopwatch:
    """Seconds by stage, on the host's clock."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        """What was done since the last lap was this stage; it may come more than once."""
        now = time.perf_counter()
        self.laps[stage], self._last = self.laps.get(stage, 0.0) + now - self._last, now
