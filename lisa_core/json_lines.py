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


def whole_lines(path: Path) -> list[bytes]:
    """The lines of a file, none if there is no file.

    A last line without an end was being written when a kill came; it is cut off.
    """
    if not path.exists():
        return []
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    os.truncate(path, len(whole))
    return whole.splitlines()


class JsonLines:
    """A file that lines are appended to; call `whole_lines` first, which cuts off a torn last line."""

    def __init__(self, path: Path) -> None:
        """Creates it, or opens it to append; raises OSError if it cannot be written."""
        self._file = path.open("ab")

    @property
    def empty(self) -> bool:
        """Whether there is nothing in it yet."""
        return not self._file.tell()

    def add(self, content: Mapping[str, Any]) -> None:
        """Writes a line, on the disk when this returns; raises OSError if the disk is full."""
        self._file.write(encoded(content) + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Closes the file; it can be opened again to append."""
        self._file.close()
