"""`lisa finetune`, stopped at any moment or by a full disk: prints a sentence, leaves no partial file, resumes."""

import contextlib
import json
import shutil

import cli
import pytest
import torch
from checkpoints import tensors_of
from disk import no_file_larger
from goldens import V0, V1
from test_finetune import data, words  # noqa: F401 # a fixture

from lisa_core import LisaEngine, OutOfMemoryError, files
from lisa_core.checkpoint import Checkpoint
from lisa_core.training import adapters, export, finetune, trainer, trouble

CPU = torch.device("cpu")
STEPS = 4
MB = 1 << 20


@pytest.fixture
def learn(data, small_checkpoint, tmp_path):  # noqa: F811
    """The command, a few steps long."""

    def run(folder=data, checkpoint=small_checkpoint, **changes):
        arguments = list(words(folder, checkpoint, tmp_path / "lisa", steps=STEPS))
        for option, value in {"--validate-every": 2, **changes}.items():
            arguments[arguments.index(option) + 1] = value
        return cli.run(*arguments)

    return run


@pytest.fixture
def out(tmp_path):
    return tmp_path / "lisa"


def raising(error, after=0):
    """A wrapper that makes a function raise after so many calls."""
    calls = []

    def wrap(called):
        def wrapped(*arguments, **options):
            calls.append(None)
            if len(calls) > after:
                raise error
            return called(*arguments, **options)

        return wrapped

    return wrap


MOMENTS = {
    "loading": (finetune.adapters, "load_learner", 0, False),
    "the first validation": (finetune.masks, "evaluate", 1, True),
    "a step": (finetune.forward, "of_batch", 2, True),
    "a validation": (finetune.masks, "evaluate", 3, True),
    "drawing": (finetune.curves, "draw", 1, True),
    "writing": (export, "released_name", 40, True),
}


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
def test_ctrl_c_and_on(learn, out, monkeypatch, moment):
    module, name, after, begun = MOMENTS[moment]
    with monkeypatch.context() as patched:
        patched.setattr(module, name, raising(KeyboardInterrupt(), after)(getattr(module, name)))
        stopped = learn()
    assert stopped.code == 130
    expected = "goes on from here, by" if begun else "stopped before anything was learnt"
    assert expected in stopped.errors
    assert sorted(path.name for path in out.parent.iterdir()) == (["lisa.training"] if begun else [])
    whole = learn()
    assert whole.code == 0, whole.errors
    assert Checkpoint.open(out).layout == "v1"
    assert sorted(path.name for path in out.parent.iterdir()) == ["lisa"]


@pytest.mark.slow
def test_ctrl_c_when_all_is_written(learn, out, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(finetune, "_delete", raising(KeyboardInterrupt())(finetune._delete))
        stopped = learn()
    assert stopped.code == 130
    assert f"{out} was whole" in stopped.errors
    assert Checkpoint.open(out).layout == "v1"
    assert (out / "losses.png").read_bytes() == (out.with_name("lisa.training") / "losses.png").read_bytes()
    again = learn()
    assert (again.code, "whole already" in again.out) == (0, True)
    assert [path.name for path in out.parent.iterdir()] == ["lisa"]
    assert "is there already" in learn().errors


@pytest.mark.slow
def test_a_training_elsewhere_behind_a_link_with_files_of_others_ends_well(learn, out):
    elsewhere = out.with_name("elsewhere")
    elsewhere.mkdir()
    (work := out.with_name("lisa.training")).symlink_to(elsewhere)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(adapters, "write_merged", raising(KeyboardInterrupt())(adapters.write_merged))
        assert learn().code == 130
    (elsewhere / "notes.txt").write_text("mine")
    assert learn().code == 0
    assert [path.name for path in work.iterdir()] == ["notes.txt"]
    assert (out / "losses.png").is_file()
    assert Checkpoint.open(out).layout == "v1"


@pytest.mark.slow
def test_the_same_data_by_another_path_go_on(learn, data, out, monkeypatch):  # noqa: F811
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(trainer.Trainer, "run", raising(KeyboardInterrupt())(None))
        assert learn().code == 130
    monkeypatch.chdir(data.parent)
    result = learn(data.name)
    assert result.code == 0, result.errors


def test_a_gpu_that_fails_in_a_step_is_told(learn, out, monkeypatch):
    monkeypatch.setattr(trouble.devices, "is_lost", lambda _: True)
    lost = RuntimeError("CUDA error: unspecified launch failure")
    monkeypatch.setattr(finetune.forward, "of_batch", raising(lost)(finetune.forward.of_batch))
    told = learn()
    assert told.code == 1
    assert "cpu failed (CUDA error: unspecified launch failure); run the same command again" in " ".join(
        told.errors.split()
    )
    assert not out.exists()


@pytest.mark.slow
@pytest.mark.parametrize(("size", "written"), [(1 * MB, "best.pt"), (12 * MB, "state.pt")])
def test_a_full_disk_while_it_learns(learn, out, size, written):
    with no_file_larger(size):
        stopped = learn()
    assert stopped.code == 1
    assert "The same command goes on once that is remedied" in stopped.errors
    assert not out.exists()
    assert not (out.with_name("lisa.training") / written).exists()
    assert learn().code == 0
    assert Checkpoint.open(out).layout == "v1"


@pytest.mark.slow
def test_a_full_disk_while_the_result_is_written(learn, out, monkeypatch):
    def write(*arguments):
        with no_file_larger(MB):
            adapters_write(*arguments)

    adapters_write = adapters.write_merged
    with monkeypatch.context() as patched:
        patched.setattr(adapters, "write_merged", write)
        stopped = learn()
    assert stopped.code == 1
    assert "File too large" in stopped.errors
    assert "The same command goes on once that is remedied" in stopped.errors
    assert sorted(path.name for path in out.parent.iterdir()) == ["lisa.training"]
    again = learn()
    assert "going on after step 4 of 4" in again.errors
    assert (again.code, out.is_dir()) == (0, True)


@pytest.mark.slow
def test_what_is_under_way_and_damaged_is_told(learn, out, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(adapters, "write_merged", raising(KeyboardInterrupt())(adapters.write_merged))
        assert learn().code == 130
    best = out.with_name("lisa.training") / "best.pt"
    whole = best.read_bytes()
    scores = best.with_name("validation.json")
    for path, content, sentence in (
        (best, whole[:-1000], "best.pt is missing or damaged; delete"),
        (best, b"abc", "best.pt is missing or damaged; delete"),
        *(
            (scores, content, "validation.json is damaged; delete")
            for content in (b"[1]", b'{"x": 0.1}', b'{"0": null}', b'{"0": 1%s}' % (b"0" * 400))
        ),
    ):
        path.write_bytes(content)
        told = learn()
        assert told.code == 1
        assert sentence in told.errors
        best.write_bytes(whole)


@pytest.mark.parametrize(("full", "code"), [(True, 1), (False, 130)])
def test_an_import_that_is_stopped_leaves_nothing(out, monkeypatch, full, code):
    tensors = {f"base_model.model.{name}": tensor for name, tensor in tensors_of(V1).items()}
    for layer in [name.removesuffix(".weight") for name in tensors if name.endswith("self_attn.q_proj.weight")]:
        if ".vision_tower." not in layer:
            width = tensors[f"{layer}.weight"].shape[0]
            tensors |= {f"{layer}.lora_A.default.weight": torch.zeros(8, width)}
            tensors |= {f"{layer}.lora_B.default.weight": torch.zeros(width, 8)}
    torch.save(tensors, weights := out.with_name("weights.bin"))
    words_ = ("import-lora", weights, "--out", out, *cli.model(V1))
    if not full:
        monkeypatch.setattr(export, "released_name", raising(KeyboardInterrupt(), 40)(export.released_name))
    with no_file_larger(MB) if full else contextlib.nullcontext():
        stopped = cli.run(*words_)
    assert stopped.code == code
    assert (f"File too large: {out.parent}." if full else f"stopped; {out} is not made.") in stopped.errors
    monkeypatch.undo()
    assert [path.name for path in out.parent.iterdir()] == ["weights.bin"]
    assert cli.run(*words_).code == 0


def test_what_torch_hides_is_told(tmp_path, monkeypatch):
    with pytest.raises(OutOfMemoryError, match="fewer pictures a step"), trouble.translated(tmp_path, CPU):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    with pytest.raises(RuntimeError, match="shapes"), trouble.translated(tmp_path, CPU):
        raise RuntimeError("shapes cannot be multiplied")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(9, 9, 0))
    with pytest.raises(OSError, match="No space left") as told, trouble.translated(tmp_path, CPU):
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534")
    assert told.value.filename == str(tmp_path)


@pytest.mark.slow
def test_bf16_on_the_cpu_learns_and_its_template_is_remembered(data, small_checkpoint, out):  # noqa: F811
    arguments = list(words(data, small_checkpoint, out, "--template", "llava_llama_2", steps=STEPS))
    result = cli.run(*("bf16" if word == "fp32" else word for word in arguments))
    assert result.code == 0, result.errors
    assert Checkpoint.open(small_checkpoint, cli.TOWER).template == "llava_v1"
    assert Checkpoint.open(out).template == "llava_llama_2"
    assert Checkpoint.open(out, template="llava_v1").template == "llava_v1"


def test_another_tower_or_explanation_is_another_training(data, small_checkpoint, out, tmp_path):  # noqa: F811
    mine = shutil.copytree(data, tmp_path / "mine")
    explanations = mine / "explanatory" / "train.json"
    explanations.parent.mkdir()
    said = {"image": "0.png", "query": "lamp", "outputs": "It shines."}
    explanations.write_text(json.dumps([said]))
    arguments = list(map(str, words(mine, small_checkpoint, out, steps=STEPS)))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(trainer.Trainer, "run", raising(KeyboardInterrupt())(None))
        assert cli.run(*arguments).code == 130
    other = shutil.copytree(cli.TOWER, tmp_path / "tower")
    elsewhere = cli.run(*(str(other) if word == str(cli.TOWER) else word for word in arguments))
    assert "differs in vision_tower;" in elsewhere.errors
    explanations.write_text(json.dumps([said | {"outputs": "It hangs."}]))
    assert "differs in data;" in cli.run(*arguments).errors


@pytest.mark.slow
def test_a_v0_checkpoint_learns_and_becomes_one_in_the_v1_layout(learn, data, out):  # noqa: F811
    result = learn(checkpoint=V0)
    assert result.code == 0, result.errors
    assert {path.name for path in out.iterdir()} >= {"config.json", "tokenizer.model", "model.safetensors"}
    before, after = Checkpoint.open(V0, cli.TOWER), Checkpoint.open(out)
    assert (after.template, after.stored.keys()) == (before.template, before.stored.keys())
    engine = LisaEngine.from_pretrained(out, "fp32", "cpu")
    rgb = files.read_rgb(data / "val" / "0.png")
    answer = engine.ask(engine.encode(rgb), "What is lamp in this image?", mask_only=True)
    assert [segment.mask.shape for segment in answer.segments] == [(96, 128)]
    assert len(answer.prompt_ids) > 258  # the image stands there as its patches, as v0 has it


def test_a_checkpoint_for_other_tokens_is_told(learn, small_checkpoint, tmp_path, out):
    for tokens, sentence in (
        ({"<im_start>": 701, "<im_end>": 702}, "has no [SEG]"),
        ({"[SEG]": 5000, "<im_start>": 701, "<im_end>": 702}, "the files are of different checkpoints"),
    ):
        other = shutil.copytree(small_checkpoint, tmp_path / "other", dirs_exist_ok=True)
        (other / "added_tokens.json").write_text(json.dumps(tokens))
        told = learn(checkpoint=other)
        assert told.code == 1
        assert sentence in told.errors
        assert not out.exists()


@pytest.mark.slow
def test_a_query_that_is_too_long_is_told_and_the_rest_is_learnt(learn, data, tmp_path):  # noqa: F811
    changed = shutil.copytree(data, tmp_path / "data")
    for split in ("train", "val"):
        path = changed / split / "0.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"text": ["word " * 3000]}))
    result = learn(changed)
    assert result.code == 0, result.errors
    assert result.errors.count("0.json: a query takes") == 2


@pytest.mark.slow
def test_words_that_are_no_text_are_told_with_their_file(learn, data, tmp_path):  # noqa: F811
    changed = shutil.copytree(data, tmp_path / "data")
    path = changed / "train" / "0.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"text": ["m\ud800ug"]}))
    result = learn(changed)
    assert result.code == 0, result.errors
    assert "0.json: The words are not valid Unicode text." in " ".join(result.errors.split())


def test_a_state_of_a_lost_life_may_be_the_best(learn, out, monkeypatch):
    """Repeated steps may differ in the last digits; the state that was kept before the kill is still valid."""
    giou = iter([0.1, 0.5, 0.3, 0.2, 0.3])
    monkeypatch.setattr(finetune.metrics, "score", lambda _: finetune.metrics.Score(2, next(giou), None))
    monkeypatch.setattr(trainer.Trainer, "_do", raising(KeyboardInterrupt(), 3)(trainer.Trainer._do))
    assert learn().code == 130
    monkeypatch.undo()
    monkeypatch.setattr(finetune.metrics, "score", lambda _: finetune.metrics.Score(2, next(giou), None))
    result = learn()
    assert "the state after step 2, gIoU 0.5000" in result.out
