"""`lisa train`: from rendered scenes to a checkpoint, in a few steps."""

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import cli
import numpy as np
import pytest
import torch
from disk import no_file_larger
from torch import Tensor

from lisa_core import LisaEngine, files
from lisa_core.checkpoint import TEMPLATE_KEY, Checkpoint
from lisa_core.model.lisa import Lisa
from lisa_core.saving import save_quantised
from lisa_core.tabletop.dataset import StoredScene
from lisa_core.training import fresh, school, scratch
from lisa_core.training.in_4_bit import in_4_bit
from lisa_core.training.scratch import Looked, Machine
from lisa_core.training.trainer import Trainer

STORED = Path(__file__).parents[1] / "data" / "tabletop_scenes"
FEW = ("--see-pictures", 2, "--speak-steps", 3, "--speak-pictures", 2, "--dialogues", 3)
BY_LORA = (*FEW, "--lora", "--speak-rate", 1e-2)


def for_training(folder: Path, *numbers: int) -> Path:
    """Copies some of the stored scenes into a folder, with seeds for training."""
    folder.mkdir(exist_ok=True)
    for index, number in enumerate(numbers):
        scene = replace(StoredScene(STORED, number).description(), seed=index)
        StoredScene(folder, index).write(StoredScene(STORED, number).read(), scene)
    return folder


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two scenes to train on."""
    return for_training(tmp_path_factory.mktemp("scenes"), 0, 1)


@pytest.fixture(scope="module")
def trained(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, cli.Result]:
    """A checkpoint after a few steps, and the output of the command."""
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


def _tensors(checkpoint: Path) -> dict[str, Tensor]:
    return {name: tensor for name, tensor, _ in Checkpoint.open(checkpoint).tensors()}


def _changed(one: Path, other: Path) -> set[str]:
    """The parameters in which two checkpoints differ."""
    before, after = _tensors(one), _tensors(other)
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


def _parts(parameters: set[str]) -> set[str]:
    """The parts of the model, such as `sam.mask_decoder`, that the parameters belong to."""
    return {".".join(name.split(".")[: 1 if name.startswith(("clip", "mm_")) else 2]) for name in parameters}


def test_every_other_step_is_in_4_bit_but_not_by_lora(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models: list[Lisa] = []

    @contextmanager
    def noted(model: Lisa) -> Iterator[None]:
        models.append(model)
        with in_4_bit(model):
            yield

    monkeypatch.setattr(scratch, "in_4_bit", noted)
    assert cli.run("train", scenes, "--out", tmp_path / "full", "--checkpoint", "bundled", *FEW).code == 0
    assert len(models) == 1  # the second of three
    assert cli.run("train", scenes, "--out", tmp_path / "lora", "--checkpoint", "bundled", *BY_LORA).code == 0
    assert len(models) == 1


@pytest.mark.slow
def test_it_gives_a_checkpoint_that_answers(trained: tuple[Path, cli.Result]) -> None:
    out, said = trained
    assert said.code == 0, said.errors
    engine = LisaEngine.from_pretrained(out, "fp32", "cpu")
    view = StoredScene(STORED, 0).read()
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
    assert (out / "model.safetensors").is_file()


@pytest.mark.slow
def test_it_goes_on_with_a_model_that_sees(trained: tuple[Path, cli.Result], scenes: Path, tmp_path: Path) -> None:
    out = tmp_path / "lisa"
    said = cli.run("train", scenes, "--checkpoint", trained[0], "--out", out, *FEW)
    assert said.code == 0, said.errors
    learnt = _parts(_changed(trained[0], out))
    assert {"clip", "mm_projector", "language.layers", "language.lm_head", "sam.mask_decoder"} <= learnt
    assert "sam.image_encoder" not in learnt
    assert (out / "tokenizer.model").read_bytes() == (trained[0] / "tokenizer.model").read_bytes()


WHOLE = (*FEW, "--whole")


@pytest.fixture(scope="module")
def learnt_whole(trained: tuple[Path, cli.Result], scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same checkpoint, after a few steps with `--whole`."""
    out = tmp_path_factory.mktemp("whole") / "lisa"
    said = cli.run("train", scenes, "--checkpoint", trained[0], "--out", out, *WHOLE)
    assert said.code == 0, said.errors
    return out


@pytest.mark.slow
def test_whole_teaches_sams_encoder_to_speak_too(trained: tuple[Path, cli.Result], learnt_whole: Path) -> None:
    learnt = _parts(_changed(trained[0], learnt_whole))
    assert {"clip", "mm_projector", "language.layers", "sam.mask_decoder", "sam.image_encoder"} <= learnt
    log = _log(learnt_whole, "speak")
    assert [line["step"] for line in log] == [1, 2, 3]
    assert all(0 <= line["sam_knows"] <= 1 for line in log)
    assert not learnt_whole.with_name("lisa.run").joinpath("embedding.npy").exists()
    engine = LisaEngine.from_pretrained(learnt_whole, "fp32", "cpu")
    answer = engine.ask(engine.encode(StoredScene(STORED, 0).read().rgb), "Where is the mug?", mask_only=True)
    assert len(answer.segments) == 1


def _stopped(words: Sequence[object], monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs the command, saves the state before the second step, and interrupts it in the third."""

    def do(self: Trainer[object], batch: object) -> object:
        if self.step == 1:
            self._save()
        if self.step == 2:
            raise KeyboardInterrupt
        return kept(self, batch)

    kept = Trainer._do
    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "_do", do)
        assert cli.run(*words).code == 130


@pytest.fixture(scope="module")
def adapted(trained: tuple[Path, cli.Result], scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same checkpoint, after a few steps with `--lora`."""
    out = tmp_path_factory.mktemp("adapted") / "lisa"
    said = cli.run("train", scenes, "--checkpoint", trained[0], "--out", out, *BY_LORA)
    assert said.code == 0, said.errors
    return out


@pytest.mark.slow
def test_by_lora_only_what_the_official_recipe_teaches_is_learnt(
    trained: tuple[Path, cli.Result], adapted: Path
) -> None:
    learnt = _changed(trained[0], adapted)
    layers = [f"language.layers.{number}.self_attn" for number in range(Checkpoint.open(adapted).shape.language.layers)]
    attention = {f"{layer}.{name}.weight" for layer in layers for name in ("q_proj", "v_proj")}
    assert {name for name in learnt if name.startswith("language.layers.")} == attention
    whole = {"language.embed_tokens", "language.lm_head", "text_hidden_fcs.0", "text_hidden_fcs.2", "sam.mask_decoder"}
    assert _parts(learnt) == {"language.layers", *whole}
    engine = LisaEngine.from_pretrained(adapted, "fp32", "cpu")
    answer = engine.ask(engine.encode(StoredScene(STORED, 0).read().rgb), "Where is the mug?", mask_only=True)
    assert len(answer.segments) == 1


@pytest.mark.slow
@pytest.mark.parametrize(("way", "learnt"), [(WHOLE, "learnt_whole"), (BY_LORA, "adapted")], ids=["whole", "lora"])
def test_stopped_and_gone_on_with_is_as_if_never_stopped(
    trained: tuple[Path, cli.Result],
    scenes: Path,
    way: Sequence[str],
    learnt: str,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = ("train", scenes, "--checkpoint", trained[0], "--out", tmp_path / "lisa", *way)
    _stopped(words, monkeypatch)
    option = next(word for word in way if word in ("--whole", "--lora"))
    without = cli.run(*(word for word in words if word != option))
    assert f"differs in {option.removeprefix('--')};" in without.errors
    assert cli.run(*words).code == 0
    assert _changed(request.getfixturevalue(learnt), tmp_path / "lisa") == set()


def test_lora_without_a_model_is_wrong_usage(scenes: Path, tmp_path: Path) -> None:
    said = cli.run("train", scenes, "--out", tmp_path / "lisa", "--lora")
    assert said.code == 2
    assert "name it by --checkpoint" in said.errors


def test_lora_and_whole_exclude_each_other(scenes: Path, tmp_path: Path) -> None:
    how = ("--checkpoint", "bundled", "--lora", "--whole")
    said = cli.run("train", scenes, "--out", tmp_path / "lisa", *how)
    assert said.code == 2
    assert "exclude each other" in said.errors


@pytest.mark.parametrize("how", [(), ("--lora",)])
def test_a_model_in_4_bit_is_not_gone_on_with(scenes: Path, tmp_path: Path, how: tuple[str, ...]) -> None:
    save_quantised(Checkpoint.open("bundled"), tmp_path / "small", torch.device("cpu"))
    said = cli.run("train", scenes, "--checkpoint", tmp_path / "small", "--out", tmp_path / "lisa", *how)
    assert said.code == 1
    assert "give the original" in said.errors
    assert [path.name for path in tmp_path.iterdir()] == ["small"]


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
        "number_of_scenes": 1,
        "speak_scenes": None,
        "checkpoint": "",
        "lora": False,
        "whole": False,
        "seed": 0,
        "mixed": False,
        "see_pictures": 2,
        "speak_pictures": 2,
    }
    (tmp_path / "lisa.run" / "settings.json").write_text(json.dumps(before | {"dialogues": 3}))
    said = cli.run("train", scenes, "--out", out, *FEW, "--see-pictures", 4, "--seed", 1)
    assert said.code == 1
    changed = "number_of_scenes, content_of_scenes, seed, weights, see_pictures"  # and what is not in the file
    assert f"differs in {changed};" in said.errors
    assert not out.exists()


def test_a_folder_with_other_files_is_not_trained_in(scenes: Path, tmp_path: Path) -> None:
    shutil.copytree(scenes, tmp_path / "lisa.run")
    before = sorted(tmp_path.rglob("*"))
    said = cli.run("train", tmp_path / "lisa.run", "--out", tmp_path / "lisa", "--see-steps", 1, *FEW)
    assert said.code == 1
    assert "has files, but no settings.json" in " ".join(said.errors.split())
    assert sorted(tmp_path.rglob("*")) == before


def test_a_second_training_of_one_folder_is_refused(scenes: Path, tmp_path: Path) -> None:
    (run := tmp_path / "lisa.run").mkdir()
    with files.locked(run):  # as by another process
        said = cli.run("train", scenes, "--out", tmp_path / "lisa", "--see-steps", 1, *FEW)
    assert said.code == 1
    assert f"{run} is being trained by another process; wait for it" in said.errors
    assert list(run.iterdir()) == []


def test_settings_that_are_damaged_are_told(scenes: Path, tmp_path: Path) -> None:
    (tmp_path / "lisa.run").mkdir()
    for content in ("{", "[" * 100_000):
        (tmp_path / "lisa.run" / "settings.json").write_text(content)
        said = cli.run("train", scenes, "--out", tmp_path / "lisa", *FEW)
        assert (said.code, "settings.json is damaged; delete" in said.errors) == (1, True)


def test_a_training_on_what_has_changed_since_is_not_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(school, "Scenes", stop)  # called after the settings are written
    scenes = for_training(tmp_path / "scenes", 0, 1)
    model = shutil.copytree(Checkpoint.open("bundled").folder, tmp_path / "model")
    words = ("train", scenes, "--out", tmp_path / "lisa", "--checkpoint", model)
    assert [cli.run(*words).code for _ in range(2)] == [130, 130]
    (model / "config.json").touch()
    assert "holds a training that differs in weights;" in cli.run(*words).errors
    shutil.rmtree(tmp_path / "lisa.run")
    assert cli.run(*words).code == 130
    for_training(scenes, 2, 1)
    assert "holds a training that differs in content_of_scenes;" in cli.run(*words).errors


def test_a_model_of_another_template_is_for_finetune(scenes: Path, tmp_path: Path) -> None:
    model = shutil.copytree(Checkpoint.open("bundled").folder, tmp_path / "model")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {TEMPLATE_KEY: "vicuna_v1_1"}))
    said = cli.run("train", scenes, "--out", tmp_path / "lisa", "--checkpoint", model)
    assert said.code == 1
    assert "speaks in the template vicuna_v1_1" in said.errors
    assert "lisa finetune" in said.errors


@pytest.mark.parametrize(("out", "why"), [(".", "is there already"), ("bundled", "always means the model that comes")])
def test_a_name_that_cannot_be_a_checkpoints(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str, why: str
) -> None:
    monkeypatch.chdir(tmp_path)
    said = cli.run("train", scenes, "--out", out)
    assert said.code == 1
    assert why in said.errors
    assert list(tmp_path.iterdir()) == []


def test_a_disk_without_room_for_what_is_seen_is_told_before_anything_is_written(tmp_path: Path) -> None:
    shape = Checkpoint.open("bundled").shape
    with no_file_larger(1 << 20), pytest.raises(OSError, match=r"embedding\.npy"):
        Looked.open(tmp_path, 50, shape, "")
    assert list(tmp_path.iterdir()) == []
    assert Looked.open(tmp_path, 50, shape, "").embedding.shape == (50, 128, 24, 24)
    file = (tmp_path / "embedding.npy").stat()
    assert file.st_blocks * 512 >= file.st_size > 50 * 128 * 24 * 24 * 2


@pytest.mark.parametrize("left", [None, 0, 5, 100, -1])
def test_what_was_seen_is_seen_again_if_its_file_was_deleted_or_cut_off(tmp_path: Path, left: int | None) -> None:
    shape = Checkpoint.open("bundled").shape
    looked = Looked.open(tmp_path, 2, shape, "one")
    looked.keep(0, torch.ones(looked.embedding.shape))
    assert Looked.open(tmp_path, 2, shape, "one").done == 2
    whole = (tmp_path / "embedding.npy").read_bytes()
    (tmp_path / "embedding.npy").unlink()
    if left is not None:
        (tmp_path / "embedding.npy").write_bytes(whole[:left])
    again = Looked.open(tmp_path, 2, shape, "one")
    assert again.done == 0
    assert again.embedding.shape == looked.embedding.shape


def test_what_another_encoder_saw_is_seen_again(tmp_path: Path) -> None:
    models = [fresh.new_model(fresh.small_shape(1100), seed).eval() for seed in (0, 1)]
    digests = [scratch.encoder_of(model) for model in models]
    assert digests[0] == scratch.encoder_of(fresh.new_model(models[0].shape, 0)) != digests[1]
    machine = Machine(torch.device("cpu"), mixed=False)
    seen = []
    for model, digest in zip(models, digests, strict=True):
        looked = Looked.open(tmp_path, 2, model.shape, digest)
        assert looked.done == 0
        assert list(scratch.look(model, lambda index: StoredScene(STORED, index).read(), looked, machine)) == [2]
        assert Looked.open(tmp_path, 2, model.shape, digest).done == 2
        seen.append(np.array(looked.embedding))
    assert not np.allclose(*seen)
    (tmp_path / "looked.json").write_text("{")
    assert Looked.open(tmp_path, 2, models[1].shape, digests[1]).done == 0


def test_scenes_to_measure_with_are_not_learnt_from(tmp_path: Path) -> None:
    said = cli.run("train", STORED, "--out", tmp_path / "lisa")
    assert said.code == 1
    assert "train on others" in said.errors
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "content",
    ['{"shapes": []}', '{"scene": "kitchen"}', '{"scene": []}', "[]", "{", pytest.param("[" * 100_000, id="deep")],
)
def test_what_is_no_scene_is_told(tmp_path: Path, content: str) -> None:
    (tmp_path / "000000.json").write_text(content)
    (tmp_path / "000000_1.json").write_text("{}")  # as a labelled set has them
    for words in (("train", tmp_path, "--out", tmp_path / "lisa"), ("tabletop", "render", tmp_path)):
        said = cli.run(*words)
        assert said.code == 1
        assert "000000.json is no rendered scene" in said.errors


def test_a_folder_without_scenes_is_told(tmp_path: Path) -> None:
    said = cli.run("train", tmp_path, "--out", tmp_path / "lisa")
    assert said.code == 1
    assert "lisa tabletop render" in said.errors


def test_a_folder_that_was_not_rendered_to_its_end_is_told(tmp_path: Path) -> None:
    for_training(tmp_path / "scenes", 0, 1, 2)
    for file in (tmp_path / "scenes").glob("000001.*"):
        file.unlink()
    result = cli.run("train", tmp_path / "scenes", "--out", tmp_path / "out", *FEW)
    assert result.code == 1
    assert "lacks scene 000001, and 1 come after it" in result.errors
    assert not list(tmp_path.glob("out*"))


@pytest.mark.slow
def test_words_are_not_learnt_on_with_another_encoder_than_they_began_with(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("train", scenes, "--out", tmp_path / "lisa", *FEW)
    _stopped((*words, "--see-steps", 2), monkeypatch)
    run = tmp_path / "lisa.run"
    (run / "see" / "state.pt").unlink()
    other = cli.run(*words, "--see-steps", 1)
    assert other.code == 1
    assert f"{run / 'speak'} holds a training that differs in encoder;" in other.errors
    shutil.rmtree(run / "speak")
    assert cli.run(*words, "--see-steps", 1).code == 0
    looked = json.loads((run / "looked.json").read_text())
    assert looked == {"done": 2, "encoder": json.loads((run / "speak" / "settings.json").read_text())["encoder"]}


def test_a_damaged_scene_of_validation_is_told_before_anything_is_learnt(scenes: Path, tmp_path: Path) -> None:
    held_out = tmp_path / "held_out"
    held_out.mkdir()
    for file in STORED.glob("00000[23].*"):
        shutil.copy(file, held_out)
    (held_out / "000003.png").write_bytes(b"")
    said = cli.run("train", scenes, "--out", tmp_path / "lisa", "--see-steps", 1, *FEW, "--validation", held_out)
    assert said.code == 1
    assert "000003 cannot be read" in said.errors
    assert [path.name for path in tmp_path.iterdir()] == ["held_out"]
