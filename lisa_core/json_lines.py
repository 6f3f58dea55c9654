"""A file of JSON lines that a kill at any time leaves usable."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def encoded(content: Mapping[str, Any]) -> bytes:
    """JSON in one line, without its end; what is no UTF-8, as names of files may be, is read back as it was."""
    return json.dumps(content, ensure_ascii=False).encode(errors="backslashreplace")


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
    """A file that lines are added to; read `whole_lines` first, which makes room for them."""

    def __init__(self, path: Path) -> None:
        """Opens it, anew or to go on; raises OSError if it cannot be written."""
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
        """Closes the file, which stays to be gone on with."""
        self._file.close()
