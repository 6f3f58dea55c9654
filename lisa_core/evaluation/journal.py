"""The finished results of an evaluation, in a file that a kill at any time leaves usable."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Protocol, TypeVar

from lisa_core.json_lines import JsonLines, decoded

R = TypeVar("R")


class Entry(Protocol):
    """One item of a data set to evaluate."""

    @property
    def name(self) -> str:
        """Unique in its data set."""

    @property
    def picture(self) -> Path:
        """File of the picture."""

    @property
    def annotation(self) -> Path:
        """File of the ground truth."""

    def digest(self) -> str:
        """A digest of its files' contents; raises DatasetError if they cannot be read."""


class Journal(Generic[R]):
    """Results, one JSON line each, keyed by a hash of everything they depend on.

    Lines of other settings, or of files that have changed since, are ignored. A last line that a kill cut off is
    dropped.
    """

    def __init__(
        self,
        path: Path,
        settings: Mapping[str, Any],
        pack: Callable[[R], Mapping[str, Any]],
        unpack: Callable[[Mapping[str, Any]], R],
    ) -> None:
        """Opens the file or makes it; raises OSError if it cannot be written.

        Args:
            path: of the file.
            settings: what all results depend on, serialisable as JSON.
            pack: makes a result serialisable as JSON.
            unpack: the inverse; raises ValueError, LookupError or TypeError if it is given anything else.
        """
        self._pack = pack
        self._path = path
        self._settings = json.dumps(settings, sort_keys=True)
        self._lines = JsonLines(path)
        self._results = _results_of(self._lines.lines(), unpack)

    def __enter__(self) -> "Journal[R]":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes the file, and deletes it if it is empty."""
        empty = self._lines.empty
        self._lines.close()
        if empty:
            self._path.unlink(missing_ok=True)

    def find(self, entry: Entry) -> R | None:
        """The result of an entry, or None; raises DatasetError if the entry's files cannot be read."""
        return self._results.get(self._key(entry))

    def add(self, entry: Entry, result: R) -> None:
        """Adds a result, which is on the disk when this returns; raises OSError if the disk is full."""
        self._lines.add({"key": self._key(entry), **self._pack(result)})

    def delete(self) -> None:
        """Removes the file: the run is finished."""
        self._path.unlink(missing_ok=True)

    def _key(self, entry: Entry) -> str:
        return hashlib.sha256(
            f"{entry.name}\n{entry.digest()}\n{self._settings}".encode(errors="backslashreplace")
        ).hexdigest()


def _results_of(lines: Iterable[bytes], unpack: Callable[[Mapping[str, Any]], R]) -> dict[str, R]:
    results = {}
    for line in lines:
        try:
            fields = decoded(line)
            results[str(fields["key"])] = unpack(fields)
        except (ValueError, LookupError, TypeError):
            continue  # the disk was full, or it is another file; the entry is evaluated again
    return results
