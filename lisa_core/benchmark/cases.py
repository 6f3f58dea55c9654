"""Times questions, and compares their answers with the baseline's.

Questions go through the engine's public interface, with all its caches. With a baseline, the first question of each
case is asked again right after, without caches and under the same load.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from lisa_core.answer import Answer
from lisa_core.benchmark import baseline
from lisa_core.benchmark.machine import PeakMemory
from lisa_core.benchmark.subject import Subject
from lisa_core.engine import Frame
from lisa_core.inference.prefix_cache import common_length

SHORT, LONG = 8, 40
"""Tokens in an answer: a phrase with a mask, and an explanation."""
TURNS = 6
"""Questions in a conversation."""

_THINGS = ("Cup", "Chair", "Door", "Plant", "Lamp", "Book", "Bag", "Bottle")

Progress = Callable[[str], None]
"""Called with the name of what was just done."""


def question(number: int) -> str:
    """A question whose first word differs from recent ones, so that no part of it is in the KV cache."""
    thing = _THINGS[number % len(_THINGS)]
    return f"{thing} or something like it: where in this picture is it? Please answer with its segmentation mask."


@dataclass(frozen=True)
class Asked:
    """One question with its options."""

    question: str
    history: tuple[tuple[str, str], ...] = ()
    max_new_tokens: int = SHORT
    mask_only: bool = False


@dataclass
class Case:
    """The measurements of one case.

    Attributes:
        name: e.g. "new_frame_8".
        about: description for people.
        new_frame: whether the time includes encoding the frame.
        asked, answer: of the first run.
        read: tokens of the prompt that are not in the KV cache.
        seconds: of each run.
        uncached_seconds, uncached: of the baseline.
    """

    name: str
    about: str
    new_frame: bool
    asked: Asked
    answer: Answer
    read: int
    seconds: list[float] = field(default_factory=list)
    uncached_seconds: float | None = None
    uncached: baseline.UncachedAnswer | None = None

    @property
    def tokens_equal(self) -> bool | None:
        """Whether the baseline has the same tokens; None without a baseline."""
        return None if self.uncached is None else self.uncached.token_ids == self.answer.token_ids

    @property
    def mask_distance(self) -> float | None:
        """The largest difference between mask logits, relative to the baseline's largest; None without a baseline.

        Infinite if the numbers of masks differ.
        """
        if self.uncached is None:
            return None
        expected = self.uncached.low_res_logits
        if len(expected) != len(self.answer.segments):
            return float("inf")
        if not len(expected):
            return 0.0
        actual = np.stack([segment.low_res_logits for segment in self.answer.segments])
        return float(np.abs(actual - expected).max() / np.abs(expected).max())


@dataclass
class Measurement:
    """Times every case on one picture.

    Attributes:
        runs: how often each case is timed.
        compare: whether to ask the baseline as well.
        peaks: bytes by activity (`answering`, `baseline`) and place (`host`, `device`).
    """

    subject: Subject
    rgb: NDArray[np.uint8]
    runs: int
    compare: bool
    on_progress: Progress
    peaks: dict[str, dict[str, int]] = field(default_factory=dict)

    def steps(self) -> int:
        """Number of calls of `on_progress`."""
        cases = 4 + TURNS
        return 1 + cases * (self.runs + self.compare)

    def cases(self) -> Iterator[Case]:
        """Yields each case once it is measured and compared."""
        self._peak = PeakMemory(self.subject.device)
        frame = self._warm_up()
        for measured in self._measured(frame):
            self._note_peak("answering")
            for case in measured:
                self._compare(case)
                yield case

    def _measured(self, frame: Frame) -> Iterator[list[Case]]:
        yield [self._new_frame(f"new_frame_{SHORT}", Asked(question(0), max_new_tokens=SHORT))]
        yield [self._new_frame(f"new_frame_{LONG}", Asked(question(0), max_new_tokens=LONG))]
        yield [self._same_frame(frame)]
        yield self._conversation(frame)
        yield [self._new_frame("mask_only", Asked(question(0), mask_only=True))]

    def _warm_up(self) -> Frame:
        """Asks once, to pay the one-time costs: choosing kernels, allocating caches. Returns the frame.

        On a GPU a conversation comes first, for which the cache grows, and then what records all graphs for that cache.
        """
        frame = self.subject.engine.encode(self.rgb)
        if self.subject.device.type == "cuda":
            replace(self, runs=1, on_progress=lambda _: None)._conversation(frame)
            self.subject.engine.warm_up()
        self.subject.engine.ask(frame, question(-1), max_new_tokens=SHORT)
        self.on_progress("warm-up")
        return frame

    def _new_frame(self, name: str, asked: Asked) -> Case:
        about = "new frame, mask only" if asked.mask_only else f"new frame, {asked.max_new_tokens} tokens"
        seconds = []
        first: Answer | None = None
        for _ in range(self.runs):
            begun = self._now()
            answer = self._ask(self.subject.engine.encode(self.rgb), asked)
            seconds.append(self._now() - begun)
            first = first or answer
            self.on_progress(name)
        assert first is not None
        return Case(name, about, True, asked, first, len(self.subject.prompt(asked.question)), seconds)

    def _same_frame(self, frame: Frame) -> Case:
        name = f"same_frame_{SHORT}"
        times, answers = [], []
        for run in range(self.runs):
            asked = Asked(question(run))
            begun = self._now()
            answers.append(self._ask(frame, asked))
            times.append(self._now() - begun)
            self.on_progress(name)
        asked = Asked(question(0))
        return Case(
            name, f"same frame, {SHORT} tokens", False, asked, answers[0], self._unread(question(0), (), ""), times
        )

    def _conversation(self, frame: Frame) -> list[Case]:
        """Six questions, each with the history of those before; every run is a new conversation on the same frame."""
        cases: list[Case] = []
        for run in range(self.runs):
            history: tuple[tuple[str, str], ...] = ()
            before = ""
            for turn in range(TURNS):
                asked = Asked(question(run + turn), history)
                begun = self._now()
                answer = self._ask(frame, asked)
                taken = self._now() - begun
                if run == 0:
                    read = self._unread(asked.question, history, before)
                    cases.append(
                        Case(f"turn_{turn + 1}", f"turn {turn + 1}, {SHORT} tokens", False, asked, answer, read)
                    )
                cases[turn].seconds.append(taken)
                history, before = (*history, (asked.question, answer.text)), asked.question
                self.on_progress(f"turn_{turn + 1}")
        return cases

    def _unread(self, asked: str, history: Sequence[tuple[str, str]], before: str) -> int:
        """Number of a prompt's tokens that are not cached from the previous prompt on the frame and its answer."""
        prompt = self.subject.prompt(asked, history)
        earlier = self.subject.prompt(before, history[:-1]) if history else self.subject.prompt("")
        return len(prompt) - common_length(prompt, earlier) - (SHORT - 1 if history else 0)

    def _ask(self, frame: Frame, asked: Asked) -> Answer:
        return self.subject.engine.ask(
            frame,
            asked.question,
            asked.history,
            max_new_tokens=asked.max_new_tokens,
            mask_only=asked.mask_only,
        )

    def _compare(self, case: Case) -> None:
        if not self.compare:
            return
        begun = self._now()
        case.uncached = baseline.ask(
            self.subject,
            self.rgb,
            case.asked.question,
            case.asked.history,
            max_new_tokens=case.asked.max_new_tokens,
            mask_only=case.asked.mask_only,
        )
        case.uncached_seconds = self._now() - begun
        self._note_peak("baseline")
        self.on_progress(f"{case.name}, baseline")

    def _now(self) -> float:
        self.subject.synchronise()
        return time.perf_counter()

    def _note_peak(self, doing: str) -> None:
        earlier = self.peaks.get(doing, {})
        self.peaks[doing] = {where: max(peak, earlier.get(where, 0)) for where, peak in self._peak.read().items()}
        self._peak.restart()
