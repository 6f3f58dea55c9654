"""A whole evaluation: entry by entry, picture by picture, going on where an earlier run was stopped."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from lisa_core.errors import LisaError
from lisa_core.evaluation.journal import Entry, Journal

E = TypeVar("E", bound=Entry)
R = TypeVar("R")

_AT_ONCE = 16
"""Questions about one picture that are asked together, at most."""


@dataclass(frozen=True)
class Failure:
    """An image that could not be evaluated, and why."""

    image: str
    reason: str


class Run(Generic[E, R]):
    """Evaluates entries, except those whose result the journal has already.

    Attributes:
        finished: results by the entry's name; at first those of an earlier run.
        failures: entries that could not be evaluated.
    """

    def __init__(
        self, entries: Sequence[E], journal: Journal[R], evaluate: Callable[[Sequence[E]], Sequence[R]]
    ) -> None:
        """`evaluate` returns one result for each of some entries about the same picture, or raises LisaError."""
        self._entries, self._journal, self._evaluate = entries, journal, evaluate
        self.finished = {entry.name: result for entry in entries if (result := _found(entry, journal))}
        self.failures: list[Failure] = []

    @property
    def results(self) -> list[R]:
        """The results in the order of the entries."""
        return [self.finished[entry.name] for entry in self._entries if entry.name in self.finished]

    def go(self, on_start: Callable[[str], None], on_end: Callable[[Failure | None], None]) -> None:
        """Evaluates what is left.

        Consecutive entries about the same picture are evaluated together, and one by one if that fails.

        Args:
            on_start: called with the name of the first entry of a batch.
            on_end: called after each entry, with its failure or None.

        Raises:
            OSError: the journal could not be written.
        """
        waiting = _batches([entry for entry in self._entries if entry.name not in self.finished])
        while waiting:
            batch = waiting.pop(0)
            on_start(batch[0].name)
            try:
                for entry, result in zip(batch, self._evaluate(batch), strict=True):
                    self._journal.add(entry, result)
                    self.finished[entry.name] = result
                    on_end(None)
            except LisaError as error:
                if len(batch) > 1:
                    waiting = [[entry] for entry in batch] + waiting
                    continue
                self.failures.append(Failure(batch[0].name, _sentence(batch[0], error)))
                on_end(self.failures[-1])


def _found(entry: E, journal: Journal[R]) -> R | None:
    """The result of an earlier run; None if there is none, or if the entry's files cannot be read: told at its turn."""
    try:
        return journal.find(entry)
    except LisaError:
        return None


def _batches(entries: Sequence[E]) -> list[list[E]]:
    """Consecutive entries about the same picture, `_AT_ONCE` at most."""
    batches: list[list[E]] = []
    for entry in entries:
        if batches and batches[-1][0].picture == entry.picture and len(batches[-1]) < _AT_ONCE:
            batches[-1].append(entry)
        else:
            batches.append([entry])
    return batches


def _sentence(entry: Entry, error: LisaError) -> str:
    named = str(error).startswith((str(entry.picture), str(entry.annotation)))
    return str(error) if named else f"{entry.picture}: {error}"
