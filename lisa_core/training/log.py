"""Logs of a training: lines of JSON, each with its step."""

import json
from pathlib import Path


def lines_up_to(log: Path, step: int) -> list[str]:
    """The lines of steps up to this one; a kill makes a training repeat later ones. None without a file.

    What a kill or a full disk cut off in the middle of a line is dropped.
    """
    lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
    return [line for line in lines if _step_of(line) <= step]


def _step_of(line: str) -> float:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, LookupError, TypeError):
        return float("inf")
