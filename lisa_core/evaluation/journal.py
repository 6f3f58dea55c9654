"""What a run has finished so far, in a file that a kill at any time leaves usable."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Protocol, TypeVar

from lisa_core.json_lines import JsonLines, whole_lines

R = TypeVar("R")


class Entry(Protocol):
    """What is evaluated at a time."""

    @property
    def name(self) -> str:
        """The only one of that name in its set."""

    @property
    def picture(self) -> Path:
        """Its picture's file."""

    @property
    def annotation(self) -> Path:
        """The file that has the truth about it."""

    def digest(self) -> str:
        """Tells its files from any others; raises DatasetError if they cannot be read."""


class Journal(Generic[R]):
    """Results by what they depend on, one JSON line each.

    Lines of other settings or of files that have changed since are not found, and do no harm. A last line without an
    end was being written when a kill came; it is dropped.
    """

    def __init__(
        self,
        path: Path,
        settings: Mapping[str, Any],
        pack: Callable[[R], Mapping[str, Any]],
        unpack: Callable[[Mapping[str, Any]], R],
    ) -> None:
        """Opens the file, anew or to go on; raises OSError if it cannot be written.

        Args:
            path: of the file.
            settings: what all results depend on, as JSON can write it.
            pack: a result as JSON can write it.
            unpack: the same back; raises ValueError, LookupError or TypeError of what is none.
        """
        self._pack = pack
        self._path = path
        self._settings = json.dumps(settings, sort_keys=True)
        self._results = _results_of(whole_lines(path), unpack)
        self._lines = JsonLines(path)

    def __enter__(self) -> "Journal[R]":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes the file, which stays to be gone on with, unless there is nothing in it."""
        empty = self._lines.empty
        self._lines.close()
        if empty:
            self._path.unlink(missing_ok=True)

    def find(self, entry: Entry) -> R | None:
        """The result of that entry, if it is finished; raises DatasetError if the entry's files cannot be read."""
        return self._results.get(self._key(entry))

    def add(self, entry: Entry, result: R) -> None:
        """Keeps a result, on the disk when this returns; raises OSError if the disk is full."""
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
            fields = json.loads(line)
            results[str(fields["key"])] = unpack(fields)
        except (ValueError, LookupError, TypeError):
            continue  # the disk was full, or somebody's file; the image is evaluated again
    return results
