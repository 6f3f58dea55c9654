"""The commands of the package end with a sentence where their output is full, as `lisa` does."""

import subprocess
import sys
from pathlib import Path

import pytest

BAG = Path(__file__).parents[1] / "data" / "demo_bag"


@pytest.mark.parametrize("command", ["demo", "replay", "play"])
def test_help_that_cannot_be_written(command: str) -> None:
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        ended = subprocess.run(
            [sys.executable, "-c", f"from lisa_ros.{command} import main; main(['--help'])"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=120,
            check=False,
        )
    assert ended.returncode == 1
    assert "error: Standard output is full or closed" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_replay_whose_table_cannot_be_written_has_its_answers(tmp_path: Path) -> None:
    (tmp_path / "old.json").write_text('{"answers": []}')
    words = ["--ask", "x", "--out", str(tmp_path / "o"), "--expect", str(tmp_path / "old.json"), str(BAG)]
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        ended = subprocess.run(
            [sys.executable, "-c", f"from lisa_ros.replay import main; main({words})"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=280,
            check=False,
        )
    assert ended.returncode == 1
    assert "error: Standard output is full or closed" in ended.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"o", "o.json", "old.json"}
