"""A file of JSON lines that a kill at any time leaves usable."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def encoded(content: Mapping[str, Any]) -> bytes:
    """JSON in one line, without a line end; file names that are no UTF-8 survive the round trip."""
    return json.dumps(content, ensure_ascii=False).encode(errors="backslashreplace")


def decoded(content: str | bytes) -> Any:
    """The content of JSON; raises ValueError if it is none, or nested more deeply than Python reads."""
    try:
        return json.loads(content)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


class JsonLines:
    """A file that lines are appended to.

    A last line without an end was being written when a kill came: it is cut off when the file is opened.
    """

    def __init__(self, path: Path) -> None:
        """Opens it, or creates it; raises OSError if it cannot be written."""
        self._file = path.open("a+b")
        self._file.truncate(self._content().rfind(b"\n") + 1)

    @property
    def empty(self) -> bool:
        """Whether there is nothing in it yet."""
        return not os.fstat(self._file.fileno()).st_size

    def lines(self) -> list[bytes]:
        """What is in it, without line ends; whoever reads it decides what to do about a line that is no JSON."""
        return self._content().splitlines()

    def add(self, content: Mapping[str, Any]) -> None:
        """Writes a line, on the disk when this returns; raises OSError if the disk is full."""
        self._file.write(encoded(content) + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def clear(self) -> None:
        """Drops all lines."""
        self._file.truncate(0)

    def close(self) -> None:
        """Closes the file; it can be opened again to append."""
        self._file.close()

    def _content(self) -> bytes:
        self._file.seek(0)
        return self._file.read()
