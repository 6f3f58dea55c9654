"""What a run has finished so far, in a file that a kill at any time leaves usable."""

import base64
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from lisa_core.evaluation.metrics import Overlap
from lisa_core.evaluation.reasonseg import Entry
from lisa_core.evaluation.runner import Result


class Journal:
    """Results by what they depend on, one JSON line each.

    Lines of other settings or of files that have changed since are not found, and do no harm. A last line without an
    end was being written when a kill came; it is dropped.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        """Opens the file, anew or to go on; raises OSError if it cannot be written.

        Args:
            path: of the file.
            settings: what all results depend on, as JSON can write it.
        """
        self._path = path
        self._settings = json.dumps(settings, sort_keys=True)
        self._results = _read(path) if path.exists() else {}
        self._file = path.open("ab")

    def __enter__(self) -> "Journal":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes the file, which stays to be gone on with, unless there is nothing in it."""
        empty = not self._file.tell()
        self._file.close()
        if empty:
            self._path.unlink(missing_ok=True)

    def find(self, entry: Entry) -> Result | None:
        """The result of that entry, if it is finished; raises DatasetError if the entry's files cannot be read."""
        return self._results.get(self._key(entry))

    def add(self, entry: Entry, result: Result) -> None:
        """Keeps a result, on the disk when this returns; raises OSError if the disk is full."""
        line = {
            "key": self._key(entry),
            "image": result.image,
            "query": result.query,
            "length": result.length,
            "answer": result.answer,
            "intersection": result.overlap.intersection,
            "union": result.overlap.union,
            "mask": base64.b64encode(result.mask_png).decode(),
        }
        self._file.write(json.dumps(line).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def delete(self) -> None:
        """Removes the file: the run is finished."""
        self._path.unlink(missing_ok=True)

    def _key(self, entry: Entry) -> str:
        return hashlib.sha256(f"{entry.name}\n{entry.digest()}\n{self._settings}".encode()).hexdigest()


def state_of(model: str) -> list[Any]:
    """What tells a checkpoint from another that stands in its place later: names, sizes and times of its files."""
    folder = Path(model).expanduser()
    if not folder.is_dir():
        return [model]
    states = ((path.name, path.stat()) for path in sorted(folder.iterdir()) if path.is_file())
    return [str(folder.resolve()), *([name, state.st_size, state.st_mtime_ns] for name, state in states)]


def _read(path: Path) -> dict[str, Result]:
    """The results of the lines that are whole; what follows the last of them is cut off."""
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    os.truncate(path, len(whole))
    results = {}
    for line in whole.splitlines():
        try:
            fields = json.loads(line)
            results[str(fields["key"])] = Result(
                image=str(fields["image"]),
                query=str(fields["query"]),
                length=fields["length"],
                answer=str(fields["answer"]),
                overlap=Overlap(int(fields["intersection"]), int(fields["union"])),
                mask_png=base64.b64decode(fields["mask"], validate=True),
            )
        except (ValueError, LookupError, TypeError):
            continue  # the disk was full, or somebody's file; the image is evaluated again
    return results
