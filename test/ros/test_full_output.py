"""The commands of the package end with a sentence where their output is full, as `lisa` does."""

import subprocess
import sys
from pathlib import Path

import pytest

BAG = Path(__file__).parents[1] / "data" / "demo_bag"


def complaint(command: str, *words: str) -> str:
    """What a command says that writes to a full disk; it must end with 1."""
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        ended = subprocess.run(
            [sys.executable, "-c", f"from lisa_ros.{command} import main; main({list(words)})"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=280,
            check=False,
        )
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
    return ended.stderr


@pytest.mark.parametrize("command", ["demo", "replay", "play"])
def test_help_that_cannot_be_written(command: str) -> None:
    assert "error: Standard output is full or closed" in complaint(command, "--help")


def test_a_replay_whose_table_cannot_be_written_has_its_answers(tmp_path: Path) -> None:
    (tmp_path / "old.json").write_text('{"answers": []}')
    words = ("--ask", "x", "--out", str(tmp_path / "o"), "--expect", str(tmp_path / "old.json"), str(BAG))
    assert "error: Standard output is full or closed" in complaint("replay", *words)
    assert {path.name for path in tmp_path.iterdir()} == {"o", "o.json", "old.json"}
