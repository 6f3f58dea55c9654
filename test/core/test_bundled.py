"""The model in the box: small enough to be there, and as good as its card says, with a margin."""

from pathlib import Path

import cli
import pytest

from lisa_core import LisaEngine, files
from lisa_core.checkpoint_files import is_whole
from lisa_core.evaluation.tabletop import Result, evaluate
from lisa_core.evaluation.tabletop_report import scores
from lisa_core.hub import folder_of
from lisa_core.tabletop.dataset import open_scenes

SCENES = open_scenes(Path(__file__).parents[1] / "data" / "tabletop_scenes")
SOME = SCENES[:12]


@pytest.fixture(scope="module")
def results() -> list[Result]:
    """What it makes of some held-out scenes, in wordings that it has never read, in fp32."""
    engine = LisaEngine.from_pretrained("bundled", "fp32", "cpu")
    return [evaluate(engine, scene) for scene in SOME]


def test_it_is_whole_and_small() -> None:
    folder = folder_of("bundled")
    assert is_whole(folder)
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 24e6
    card = (folder / "README.md").read_text()
    assert "lisa train" in card
    assert "seed" in card


def test_it_is_as_good_as_its_card_says(results: list[Result]) -> None:
    overall = scores(results)["all"]
    assert overall.giou is not None
    assert overall.giou > 0.85
    assert overall.counts is not None
    assert overall.counts > 0.95
    assert overall.refusals is not None
    assert overall.refusals > 0.96
    assert overall.named is not None
    assert overall.named > 0.95


def test_in_4_bit_it_finds_the_same(results: list[Result]) -> None:
    engine = LisaEngine.from_pretrained("bundled", "nf4", "cpu")
    in_4_bit = scores([evaluate(engine, scene) for scene in SOME])["all"]
    whole = scores(results)["all"]
    assert in_4_bit.giou is not None
    assert whole.giou is not None
    assert in_4_bit.giou > whole.giou - 0.02


def test_the_commands_take_it_unless_another_is_named(tmp_path: Path) -> None:
    picture = SCENES[0].picture
    result = cli.run("segment", picture, "-q", "How many things are on the table?", "--out", tmp_path)
    assert result.code == 0
    engine = LisaEngine.from_pretrained("bundled")
    assert engine.ask(engine.encode(files.read_rgb(picture)), "How many things are on the table?").text in result.out


def test_a_file_of_its_own_by_that_name_is_not_taken_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bundled").mkdir()
    monkeypatch.chdir(tmp_path)
    assert folder_of("bundled") != Path("bundled")
    assert (folder_of("bundled") / "config.json").is_file()
