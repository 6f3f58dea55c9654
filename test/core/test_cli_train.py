"""`lisa train`: from rendered scenes to a checkpoint, in small."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import cli
import numpy as np
import pytest
from disk import no_file_larger
from safetensors.numpy import load_file

from lisa_core import LisaEngine, files
from lisa_core.tabletop import dataset

STORED = Path(__file__).parents[1] / "data" / "tabletop_scenes"
FEW = ("--see-pictures", 2, "--speak-steps", 3, "--speak-pictures", 2, "--dialogues", 3)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two of the stored scenes, as if they were for training."""
    folder = tmp_path_factory.mktemp("scenes")
    for index in range(2):
        scene = replace(dataset.load_scene(STORED, index), seed=index)
        dataset.save(dataset.load_view(STORED, index), scene, folder, index)
    return folder


@pytest.fixture(scope="module")
def trained(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, cli.Result]:
    """A checkpoint that has hardly learnt, and what the command said."""
    folder = tmp_path_factory.mktemp("trained")
    held_out = folder / "held_out"
    held_out.mkdir()
    for file in STORED.glob("000002.*"):
        shutil.copy(file, held_out)
    out = folder / "lisa"
    said = cli.run("train", scenes, "--out", out, "--see-steps", 20, *FEW, "--validation", held_out)
    return out, said


def _log(trained: Path, stage: str, name: str = "log.jsonl") -> list[dict[str, float]]:
    lines = (trained.with_name(f"{trained.name}.run") / stage / name).read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.slow
def test_it_gives_a_checkpoint_that_answers(trained: tuple[Path, cli.Result]) -> None:
    out, said = trained
    assert said.code == 0, said.errors
    engine = LisaEngine.from_pretrained(out, "fp32", "cpu")
    view = dataset.load_view(STORED, 0)
    answer = engine.ask(engine.encode(view.rgb), "Where is the mug?", mask_only=True)
    assert [segment.mask.shape for segment in answer.segments] == [view.owner.shape]
    assert sum(file.stat().st_size for file in out.rglob("*")) < 24_100_000


@pytest.mark.slow
def test_the_loss_falls_and_the_exam_is_written_down(trained: tuple[Path, cli.Result]) -> None:
    out, said = trained
    seeing = [line["loss"] for line in _log(out, "see")]
    assert len(seeing) == 20
    assert np.mean(seeing[-3:]) < 0.9 * np.mean(seeing[:3])
    assert [line["step"] for line in _log(out, "speak")] == [1, 2, 3]
    (exam,) = _log(out, "speak", "exams.jsonl")
    assert exam["step"] == 3
    assert exam["questions"] >= 6
    assert "step 3: questions" in said.errors
    run = out.with_name(f"{out.name}.run")
    assert list((run / "speak").glob("worst_*.png"))
    assert all(np.ptp(files.read_rgb(run / stage / "losses.png")) > 100 for stage in ("see", "speak"))


@pytest.mark.slow
def test_a_full_disk_is_told_and_the_same_command_goes_on(scenes: Path, tmp_path: Path) -> None:
    out = tmp_path / "lisa"
    with no_file_larger(1 << 20):
        stopped = cli.run("train", scenes, "--out", out, "--see-steps", 1, *FEW)
    assert stopped.code == 1
    assert "The same command goes on once that is remedied" in stopped.errors
    assert not out.exists()
    assert not (tmp_path / "lisa.run" / "see" / "state.pt").exists()
    assert cli.run("train", scenes, "--out", out, "--see-steps", 1, *FEW).code == 0
    assert (out / "model.safetensors.index.json").is_file()


@pytest.mark.slow
def test_it_goes_on_with_a_model_that_sees(trained: tuple[Path, cli.Result], scenes: Path, tmp_path: Path) -> None:
    out = tmp_path / "lisa"
    said = cli.run("train", scenes, "--checkpoint", trained[0], "--out", out, *FEW)
    assert said.code == 0, said.errors
    before, after = (load_file(next(folder.glob("*.safetensors"))) for folder in (trained[0], out))
    learnt = {name for name in before if not np.array_equal(before[name], after[name])}
    assert any(name.startswith("lm_head") for name in learnt)
    assert any("mask_decoder" in name for name in learnt)
    assert not any("image_encoder" in name for name in learnt)
    assert (out / "tokenizer.model").read_bytes() == (trained[0] / "tokenizer.model").read_bytes()


@pytest.mark.slow
def test_it_does_not_write_over_a_checkpoint(trained: tuple[Path, cli.Result], scenes: Path) -> None:
    again = cli.run("train", scenes, "--out", trained[0])
    assert again.code == 1
    assert "is there already" in again.errors


def test_a_training_on_something_else_is_not_gone_on_with(scenes: Path, tmp_path: Path) -> None:
    out = tmp_path / "lisa"
    (tmp_path / "lisa.run").mkdir()
    before = {
        "scenes": str(scenes.resolve()),
        "speak_scenes": None,
        "checkpoint": "",
        "seed": 0,
        "mixed": False,
        "see_pictures": 2,
        "speak_pictures": 2,
    }
    (tmp_path / "lisa.run" / "settings.json").write_text(json.dumps(before | {"dialogues": 3}))
    said = cli.run("train", scenes, "--out", out, *FEW, "--see-pictures", 4, "--seed", 1)
    assert said.code == 1
    assert "differs in seed, see_pictures;" in said.errors
    assert not out.exists()


def test_scenes_to_measure_with_are_not_learnt_from(tmp_path: Path) -> None:
    said = cli.run("train", STORED, "--out", tmp_path / "lisa")
    assert said.code == 1
    assert "train on others" in said.errors
    assert list(tmp_path.iterdir()) == []


def test_a_folder_without_scenes_is_told(tmp_path: Path) -> None:
    said = cli.run("train", tmp_path, "--out", tmp_path / "lisa")
    assert said.code == 1
    assert "lisa tabletop render" in said.errors
