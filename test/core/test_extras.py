"""What needs an extra says how README installs it."""

import importlib
import sys
from pathlib import Path

import pytest

from lisa_core import LisaError

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("missing", "module", "extra"),
    [
        ("peft", "training.adapters", "train"),
        ("matplotlib", "training.curves", "train"),
        ("matplotlib", "benchmark.chart", "charts"),
    ],
)
def test_a_package_that_is_missing_is_told_with_its_extra(monkeypatch, missing, module, extra):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(LisaError, match=rf"pip install '\.\[{extra}\]' in the clone"):
        importlib.import_module(f"lisa_core.{module}").check_available()


def test_without_mujoco_rendering_is_told_with_its_extra(monkeypatch):
    from lisa_core.tabletop import offscreen

    def missing(*_):
        raise ModuleNotFoundError("No module named 'mujoco'", name="mujoco")

    monkeypatch.setattr(offscreen, "_open", missing)
    with pytest.raises(LisaError, match=r"pip install '\.\[tabletop\]' in the clone"):
        offscreen.context(1, 1)


def test_no_module_words_it_otherwise():
    assert not [file for file in (ROOT / "lisa_core").rglob("*.py") if "'lisa-core[" in file.read_text()]
