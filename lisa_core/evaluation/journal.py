"""What a run has finished so far, in a file that a kill at any time leaves usable."""

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Protocol, TypeVar

from lisa_core import hub
from lisa_core.options import CHECKPOINT

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
        self._results = _read(path, unpack) if path.exists() else {}
        self._file = path.open("ab")

    def __enter__(self) -> "Journal[R]":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes the file, which stays to be gone on with, unless there is nothing in it."""
        empty = not self._file.tell()
        self._file.close()
        if empty:
            self._path.unlink(missing_ok=True)

    def find(self, entry: Entry) -> R | None:
        """The result of that entry, if it is finished; raises DatasetError if the entry's files cannot be read."""
        return self._results.get(self._key(entry))

    def add(self, entry: Entry, result: R) -> None:
        """Keeps a result, on the disk when this returns; raises OSError if the disk is full."""
        line = {"key": self._key(entry), **self._pack(result)}
        self._file.write(json.dumps(line).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def delete(self) -> None:
        """Removes the file: the run is finished."""
        self._path.unlink(missing_ok=True)

    def _key(self, entry: Entry) -> str:
        return hashlib.sha256(
            f"{entry.name}\n{entry.digest()}\n{self._settings}".encode(errors="backslashreplace")
        ).hexdigest()


def state_of(model: str) -> list[Any]:
    """What tells a checkpoint from another that stands in its place later: names, sizes and times of its files.

    Those of the folders in it count, too: its vision tower may be one. Empty for no name.
    """
    if not model:
        return []
    folder = hub.folder_of(model) if model == CHECKPOINT else Path(os.path.expanduser(model))  # noqa: PTH111
    if not os.path.isdir(folder):  # noqa: PTH112 # neither raises: what cannot be looked at is told on loading
        return [model]
    states = ((str(path.relative_to(folder)), path.stat()) for path in sorted(folder.rglob("*")) if path.is_file())
    return [str(folder.resolve()), *([name, state.st_size, state.st_mtime_ns] for name, state in states)]


def _read(path: Path, unpack: Callable[[Mapping[str, Any]], R]) -> dict[str, R]:
    """The results of the lines that are whole; what follows the last of them is cut off."""
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    os.truncate(path, len(whole))
    results = {}
    for line in whole.splitlines():
        try:
            fields = json.loads(line)
            results[str(fields["key"])] = unpack(fields)
        except (ValueError, LookupError, TypeError):
            continue  # the disk was full, or somebody's file; the image is evaluated again
    return results
