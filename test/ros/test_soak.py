"""A short soak: the same code as `benchmarks/soak.py`, with fewer questions and cycles."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from soak import soak_cycles, soak_questions


def test_questions(tmp_path: Path) -> None:
    assert "questions" in soak_questions(200, tmp_path)


def test_cycles(tmp_path: Path) -> None:
    assert "20 cycles" in soak_cycles(20, tmp_path)
