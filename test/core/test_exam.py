"""The measurements of `lisa train`: one line for each step, however often a kill makes it repeat some."""

import json
import shutil
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from lisa_core import files
from lisa_core.evaluation.metrics import Overlap
from lisa_core.evaluation.tabletop import Result, Verdict
from lisa_core.tabletop.dataset import StoredScene
from lisa_core.training import exam
from lisa_core.training.scratch import Machine

STORED = Path(__file__).parents[1] / "data" / "tabletop_scenes"
MACHINE = Machine(torch.device("cpu"), mixed=False)


@pytest.fixture
def take(tmp_path, monkeypatch):
    """`take(step, found)`: measures after that step a model that finds so many of a hundred pixels."""
    scenes, folder = tmp_path / "scenes", tmp_path / "speak"
    scenes.mkdir()
    folder.mkdir()
    for file in STORED.glob("000000.*"):
        shutil.copy(file, scenes)
    found = 0

    engine = Mock()

    def evaluate(_engine, scene: StoredScene, *counts: int) -> Result:
        shown = files.png(np.zeros(scene.read().owner.shape, np.uint8))
        return Result(scene.name, (Verdict("one", 0, "?", "!", "!", 1, 1, Overlap(found, 100), None, shown),))

    monkeypatch.setattr(exam, "evaluate", evaluate)
    monkeypatch.setattr(exam, "LisaEngine", lambda *_: engine)

    def taken(step: int, pixels: int) -> list[tuple[int, float]]:
        nonlocal found
        found = pixels
        exam.Exam(scenes, folder, 10).take(step, None, None, MACHINE)
        engine.close.assert_called()
        engine.reset_mock()
        lines = map(json.loads, (folder / "exams.jsonl").read_text().splitlines())
        assert (folder / f"worst_{step:06d}.png").is_file()
        return [(line["step"], round(line["giou"], 2)) for line in lines]

    return taken


def test_steps_that_are_done_again_after_a_kill_are_measured_anew(take):
    take(10, 20)
    take(20, 40)
    assert take(30, 60) == [(10, 0.2), (20, 0.4), (30, 0.6)]
    assert take(20, 50) == [(10, 0.2), (20, 0.5)]  # after a kill, resumed from an earlier step
    assert take(30, 70) == [(10, 0.2), (20, 0.5), (30, 0.7)]


def test_a_full_disk_leaves_the_log_as_it_was(take, tmp_path, monkeypatch):
    take(10, 20)
    before = (tmp_path / "speak" / "exams.jsonl").read_bytes()
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space left"):
        take(20, 40)
    assert (tmp_path / "speak" / "exams.jsonl").read_bytes() == before
