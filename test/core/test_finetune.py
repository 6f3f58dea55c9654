"""`lisa finetune` and `lisa import-lora`: training has an effect, is merged correctly, and survives a kill."""

import json
import os
import shutil
import subprocess
import sys

import cli
import numpy as np
import pytest
import torch
from checkpoints import tensors_of
from goldens import TOWER, V1
from PIL import Image

from lisa_core import LisaEngine
from lisa_core.checkpoint import Checkpoint
from lisa_core.datasets import reasonseg
from lisa_core.errors import CheckpointError, DatasetError, OutOfMemoryError
from lisa_core.evaluation.masks import evaluate
from lisa_core.model.lisa import parameter_name
from lisa_core.template import BY_NAME
from lisa_core.training import adapters, annotated, finetune
from lisa_core.training.recipe import Lora, Plan, Recipe, Weights
from lisa_core.training.trainer import Trainer

STEPS = 24
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Pictures of a bright square at a random place on a dark ground."""
    root = tmp_path_factory.mktemp("data")
    random = np.random.default_rng(0)
    for split, count in (("train", 6), ("val", 2)):
        (root / split).mkdir()
        for index in range(count):
            x, y = map(int, random.integers(5, 60, 2))
            pixels = np.full((96, 128, 3), 20, np.uint8)
            pixels[y : y + 30, x : x + 30] = 240
            Image.fromarray(pixels).save(root / split / f"{index}.png")
            points = [[x, y], [x + 29, y], [x + 29, y + 29], [x, y + 29]]
            content = {"text": ["bright square", "lamp"], "is_sentence": False}
            content["shapes"] = [{"label": "target", "points": points}]
            (root / split / f"{index}.json").write_text(json.dumps(content))
    return root


def words(data, checkpoint, out, *more, steps=STEPS):
    plan = ("--steps", steps, "--validate-every", 8, "--learning-rate", 3e-3)
    return ("finetune", data, "--out", out, "--precision", "fp32", *plan, *cli.model(checkpoint), *more)


@pytest.fixture(scope="module")
def taught(data, small_checkpoint, tmp_path_factory):
    """The output of the command, and the checkpoint that it made."""
    out = tmp_path_factory.mktemp("taught") / "lisa"
    return cli.run(*words(data, small_checkpoint, out)), out


@pytest.mark.slow
def test_it_learns_and_the_best_state_is_kept(taught):
    result, out = taught
    assert result.code == 0, result.errors
    validated = [float(part.split()[0]) for part in result.errors.split("gIoU ")[1:]]
    best = float(result.out.split("gIoU ")[1].split()[0])
    assert best == max(validated)
    assert not out.with_name("lisa.training").exists()
    losses = [float(part.split(",")[0]) for part in result.errors.split("loss ")[1:]]
    assert losses[-1] < losses[0]


@pytest.mark.slow
def test_the_result_is_a_checkpoint_like_any_other(taught, small, data):
    result, out = taught
    engine = LisaEngine.from_pretrained(out, "fp32", "cpu")  # its vision tower lies inside
    entry = reasonseg.open_split(data, "val").entries[0]
    sample = entry.read()
    before = small.ask(small.encode(sample.image), sample.question, mask_only=True).segments[0]
    after = engine.ask(engine.encode(sample.image), sample.question, mask_only=True).segments[0]
    assert not np.array_equal(before.low_res_logits, after.low_res_logits)
    kept = Checkpoint.open(out)
    frozen = {name: tensor for name, tensor, _ in kept.tensors() if name.startswith("sam.image_encoder.")}
    original = {parameter_name(name): tensor for name, tensor in tensors_of(V1).items()}
    name = "sam.image_encoder.blocks.0.mlp.lin1.weight"
    assert torch.equal(frozen[name], original[name].half())
    assert result.code == 0


@pytest.mark.slow
def test_a_kill_changes_nothing(taught, data, small_checkpoint, tmp_path):
    program = """
import os, signal, sys
from lisa_core.cli import main
from lisa_core.training import trainer
kept = trainer.Trainer._save
steps = trainer.Trainer._do
def do(self, batch):
    if self.step == 13:
        kept(self)
    if self.step == 17:
        os.kill(os.getpid(), signal.SIGKILL)
    return steps(self, batch)
trainer.Trainer._do = do
main(sys.argv[1:])
"""
    out = tmp_path / "lisa"
    path = os.pathsep.join(filter(None, sys.path))
    arguments = list(map(str, words(data, small_checkpoint, out)))
    killed = subprocess.run(
        [sys.executable, "-c", program, *arguments], env={**os.environ, "PYTHONPATH": path}, capture_output=True
    )
    assert killed.returncode == -9, killed.stderr
    assert not out.exists()
    other = cli.run(*words(data, small_checkpoint, out, steps=30))
    assert other.code == 1
    assert "differs in recipe" in other.errors
    assert cli.run(*words(data, small_checkpoint, out)).code == 0
    whole, resumed = ({name: t for name, t, _ in Checkpoint.open(folder).tensors()} for folder in (taught[1], out))
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in whole.items())


@pytest.mark.slow
def test_qlora_learns_on_the_same_parts(small_checkpoint, data):
    checkpoint = Checkpoint.open(small_checkpoint, TOWER)
    model = adapters.load_learner(checkpoint, "nf4", torch.device("cpu"), Lora())
    names = set(adapters.learnt(model))
    layer = "language.layers.0.self_attn.q_proj"
    assert {f"{layer}.lora_A.default.weight", "language.lm_head.weight", "language.embed_tokens.weight"} <= names
    assert "text_hidden_fcs.0.weight" in names
    frozen = ("base_layer", "image_encoder", "clip.", "language.layers.0.self_attn.k_proj", "language.layers.0.mlp")
    assert not any(part in name for name in names for part in frozen)
    batch = annotated.Annotated(
        [reasonseg.open_split(data, "train")], model, checkpoint.tokenizer, BY_NAME["llava_v1"], 2, 0
    ).batch(0)
    from lisa_core.training import forward

    forward.of_batch(model, batch.pictures, batch.words, Weights())["loss"].backward()
    idle = {name for name, parameter in adapters.learnt(model).items() if parameter.grad is None}
    assert all(name.startswith("sam.mask_decoder.") for name in idle), idle  # its heads for several masks, and for IoU


@pytest.mark.slow
def test_qlora_from_the_first_step_to_a_checkpoint_for_every_precision(small_checkpoint, data, tmp_path):
    out = tmp_path / "lisa"
    arguments = words(data, small_checkpoint, out)
    result = cli.run(*("nf4" if word == "fp32" else word for word in arguments))
    assert result.code == 0, result.errors
    falling = [float(part.split(",")[0]) for part in result.errors.split("loss ")[1:]]
    assert falling[-1] < falling[0]
    validated = [float(part.split()[0]) for part in result.errors.split("gIoU ")[1:]]
    assert max(validated) > validated[0] + 0.3
    opened = Checkpoint.open(out)
    assert (opened.layout, opened.quantised) == ("v1", False)
    entry = reasonseg.open_split(data, "val").entries[0]
    for precision in ("fp32", "bf16", "fp16", "int8", "nf4"):
        engine = LisaEngine.from_pretrained(out, precision, "cpu")
        verdict = evaluate(engine, entry)
        assert verdict.overlap.iou == pytest.approx(max(validated), abs=0.25), precision
        assert engine.ask(engine.encode(entry.read().image), "What is it?", max_new_tokens=3).token_ids


@pytest.mark.slow
def test_the_losses_are_drawn(taught):
    picture = Image.open(taught[1] / "losses.png")
    assert picture.width >= 1000
    assert len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)) > 20


def test_adapters_are_merged_by_the_formula(tmp_path):
    """The file of an official training: all tensors under peft's names, with LoRA on q_proj and v_proj."""
    tensors = tensors_of(V1)
    random = torch.Generator().manual_seed(0)
    saved, expected = {}, {}
    for name, tensor in tensors.items():
        saved[f"base_model.model.{name}"] = tensor
        if name.endswith(("q_proj.weight", "v_proj.weight")) and name.startswith("model.layers."):
            down, up = (
                torch.randn(8, tensor.shape[1], generator=random),
                torch.randn(tensor.shape[0], 8, generator=random),
            )
            layer = f"base_model.model.{name.removesuffix('.weight')}"
            saved[f"{layer}.lora_A.default.weight"], saved[f"{layer}.lora_B.default.weight"] = down, up
            expected[name] = tensor.float() + 2.0 * up @ down
    saved["base_model.model.lm_head.weight"] = tensors["lm_head.weight"] + 1
    expected["lm_head.weight"] = tensors["lm_head.weight"].float() + 1
    check_refusals(saved, tmp_path)
    torch.save(saved, tmp_path / "pytorch_model.bin")
    out = tmp_path / "merged"
    result = cli.run("import-lora", tmp_path / "pytorch_model.bin", "--out", out, *cli.model(V1))
    assert result.code == 0, result.errors
    merged = {name: tensor for name, tensor, _ in Checkpoint.open(out).tensors()}
    for name, tensor in tensors.items():
        wanted = expected.get(name, tensor).half()
        if (ours := parameter_name(name)) in merged:
            torch.testing.assert_close(merged[ours], wanted, rtol=1e-3, atol=1e-3)


def check_refusals(saved, tmp_path):
    """An incomplete or diverged training is refused."""
    down, up = (
        "model.layers.0.self_attn.q_proj.lora_A.default.weight",
        "model.layers.0.self_attn.q_proj.lora_B.default.weight",
    )
    down, up, head = (f"base_model.model.{name}" for name in (down, up, "lm_head.weight"))
    for name, content, sentence in (
        ("shard", {key: saved[key] for key in saved if "lora" in key}, "The files lack"),
        ("layer", {key: saved[key] for key in saved if key not in (down, up)}, "The files lack"),
        ("no_down", {key: saved[key] for key in saved if key != down}, "The files lack"),
        ("no_up", {key: saved[key] for key in saved if key != up}, "half there"),
        ("no_pair", {**saved, up: saved[up][:, :4]}, "no pair"),
        ("flat", {**saved, up: saved[up][0]}, "no pair"),
        ("diverged", {**saved, head: saved[head] * torch.nan}, "is not finite"),
        ("numbers", {**saved, 3: saved[head]}, "no table of named tensors"),
    ):
        torch.save(content, tmp_path / f"{name}.bin")
        result = cli.run("import-lora", tmp_path / f"{name}.bin", "--out", tmp_path / "out", *cli.model(V1))
        assert result.code == 1, name
        assert sentence in " ".join(result.errors.split()), (name, result.errors)
        assert not (tmp_path / "out").exists()


def test_files_that_are_no_training_are_told(tmp_path):
    torch.save(tensors_of(V1), tmp_path / "whole.bin")
    (tmp_path / "broken.bin").write_bytes(b"nothing")
    (tmp_path / "page.bin").write_bytes(b"error code: 502")
    torch.save(
        {
            "base_model.model.lm_head.weight": torch.zeros(7, 7),
            "base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight": torch.zeros(8, 64),
        },
        tmp_path / "other.bin",
    )
    for name, sentence in (("whole", "no LoRA weights"), ("broken", "damaged"), ("page", "damaged"), ("other", "lack")):
        result = cli.run("import-lora", tmp_path / f"{name}.bin", "--out", tmp_path / "out", *cli.model(V1))
        assert result.code == 1
        assert sentence in result.errors, result.errors
        assert not (tmp_path / "out").exists()


def test_the_same_step_has_the_same_batch_with_the_answers_learnt(small_checkpoint, small, data):
    checkpoint = Checkpoint.open(small_checkpoint, TOWER)
    draw = annotated.Annotated(
        [reasonseg.open_split(data, "train")], small._ready(), checkpoint.tokenizer, BY_NAME["llava_v1"], 3, 0
    )
    first, again, other = draw.batch(5), draw.batch(5), draw.batch(6)
    assert torch.equal(first.words.ids, again.words.ids)
    assert first.words.ids.shape != other.words.ids.shape or not torch.equal(first.words.ids, other.words.ids)
    for columns, masks in zip(first.words.before_seg, first.pictures.masks, strict=True):
        assert len(columns) == len(masks) == 2  # both wordings of the query
        assert masks.sum(dim=(1, 2)).tolist() == [900, 900]


def test_an_explanation_is_learnt_where_there_is_one():
    annotation = reasonseg.Annotation(("what gives light",), True, ())
    random = np.random.default_rng(0)
    turns = [annotated._turns(annotation, lambda _: "The lamp is on.", random)[0] for _ in range(400)]
    explained = [question for question, answer in turns if answer.endswith(" The lamp is on.") and "[SEG]" in answer]
    plain = [question for question, answer in turns if answer in annotated.ANSWERS]
    in_words = [question for question, answer in turns if answer == "The lamp is on."]
    assert len(explained) + len(plain) + len(in_words) == len(turns)
    assert all("expla" in question for question in explained)
    assert all(question.startswith("what gives light Please") for question in plain)
    assert set(in_words) == {"what gives light"}
    assert [len(kind) / len(turns) for kind in (plain, explained, in_words)] == pytest.approx(
        [0.45, 0.45, 0.1], abs=0.06
    )


def test_all_queries_of_a_picture_are_answered_in_the_same_way():
    annotation = reasonseg.Annotation(("a lamp", "a light", "what gives light"), True, ())
    for seed in range(30):
        turns = annotated._turns(annotation, lambda _: "It is on.", np.random.default_rng(seed))
        assert len({("[SEG]" in answer, answer.endswith("It is on.")) for _, answer in turns}) == 1


@pytest.mark.parametrize(
    ("precision", "device", "mixed"),
    [
        ("fp32", "cuda", False),
        ("bf16", "cuda", True),
        ("nf4", "cuda", True),
        ("bf16", "cpu", True),
        ("nf4", "cpu", False),
    ],
)
def test_what_is_asked_for_in_fp32_learns_in_fp32(precision, device, mixed):
    assert finetune._is_mixed(precision, torch.device(device)) is mixed


@pytest.mark.parametrize(("is_sentence", "asked"), [(False, "red tea pot"), (True, "Red Tea pot")])
def test_names_are_asked_in_lower_case_and_sentences_as_they_are(is_sentence, asked):
    annotation = reasonseg.Annotation(("Red Tea pot",), is_sentence, ())
    ((question, _),) = annotated._turns(annotation, lambda _: "", np.random.default_rng(0))
    assert asked in question


@pytest.mark.parametrize("answers", [["[SEG] and [SEG].", "[SEG] and [SEG]."], []])
def test_a_target_outside_of_its_picture_is_told_and_not_learnt(small_checkpoint, data, tmp_path, answers):
    folder = shutil.copytree(data, tmp_path / "data")
    path = folder / "train" / "0.json"
    content = json.loads(path.read_text()) | {"answers": answers}
    outside = {"label": "target", "points": [[500, 500], [520, 500], [520, 520]], "group_id": 1}
    inside = content["shapes"][0] | {"group_id": 0, "label": "target" if answers else "ignore"}
    path.write_text(json.dumps(content | {"shapes": [inside, outside]}))
    opened = Checkpoint.open(small_checkpoint, TOWER)
    usable = finetune._usable(reasonseg.open_split(folder, "train"), opened)
    assert [entry.name for entry in usable.entries] == [f"{number}.png" for number in range(1, 6)]
    (fault,) = usable.faults
    assert fault.startswith(f"{path}: no target lies in the picture, which is 128x96")


def test_an_answer_that_is_longer_than_the_model_reads_is_told(small_checkpoint, data, tmp_path):
    folder = shutil.copytree(data, tmp_path / "data")
    path = folder / "train" / "0.json"
    answers = ["It is [SEG].", "and so on " * 3000]
    path.write_text(json.dumps({**json.loads(path.read_text()), "answers": answers}))
    split = reasonseg.open_split(folder, "train")
    checkpoint = Checkpoint.open(small_checkpoint, TOWER)
    with pytest.raises(DatasetError, match="more than this model reads"):
        annotated.check_length(split, split.entries[0], checkpoint)
    annotated.check_length(split, split.entries[1], checkpoint)


def test_what_validation_has_is_not_learnt(small_checkpoint, data, tmp_path):
    root = shutil.copytree(data, tmp_path / "data")
    for suffix in (".png", ".json"):  # under another name
        shutil.copy(root / "val" / f"0{suffix}", root / "train" / f"again{suffix}")
    opened = Checkpoint.open(small_checkpoint, TOWER)
    recipe = Recipe(Plan(steps=1, warmup=0), batch=1, validate_every=1)
    training = finetune.Finetuning(opened, [root], tmp_path / "out", "fp32", "cpu", recipe)
    assert [fault.split(" ", 1)[1] for fault in training.faults] == [
        "is among the pictures of validation, so it is not learnt."
    ]
    assert "again.png" in training.faults[0]
    shutil.rmtree(root / "train")
    shutil.copytree(root / "val", root / "train")
    with pytest.raises(DatasetError, match="nothing to learn"):
        finetune.Finetuning(opened, [root], tmp_path / "other", "fp32", "cpu", recipe)


def test_answers_of_its_own_are_learnt_as_they_stand_with_a_mask_or_without(small_checkpoint, small, data, tmp_path):
    folder = shutil.copytree(data / "train", tmp_path / "train")
    for path in folder.glob("*.json"):
        answers = ["There is no bright square.", "The lamp is [SEG]."]
        path.write_text(json.dumps({**json.loads(path.read_text()), "answers": answers}))
    tokenizer = Checkpoint.open(small_checkpoint, TOWER).tokenizer
    split = reasonseg.open_split(tmp_path, "train")
    batch = annotated.Annotated([split], small._ready(), tokenizer, BY_NAME["llava_v1"], 2, 0).batch(0)
    for row, (columns, masks) in enumerate(zip(batch.words.before_seg, batch.pictures.masks, strict=True)):
        assert len(columns) == len(masks) == 1
        learnt = batch.words.labels[row][batch.words.labels[row] >= 0].tolist()
        assert "There is no bright square." in tokenizer.decode(learnt)
        assert "segment" not in tokenizer.decode(batch.words.ids[row][batch.words.ids[row] >= 0].tolist())


def test_each_mark_of_an_answer_learns_the_polygons_of_its_group(small_checkpoint, small, data, tmp_path):
    folder = shutil.copytree(data / "train", tmp_path / "train")
    boxes = [(2, 2, 12, 9), (20, 4, 30, 20)]
    for path in folder.glob("*.json"):
        shapes = [
            {"label": "target", "group_id": group, "points": [[left, top], [right, top], [right, low], [left, low]]}
            for group, (left, top, right, low) in enumerate(boxes)
        ]
        answers = ["The lamp is [SEG] and the bowl is [SEG]."]
        path.write_text(json.dumps({"text": ["both"], "is_sentence": True, "shapes": shapes, "answers": answers}))
    split = reasonseg.open_split(tmp_path, "train")
    tokenizer = Checkpoint.open(small_checkpoint, TOWER).tokenizer
    batch = annotated.Annotated([split], small._ready(), tokenizer, BY_NAME["llava_v1"], 2, 0).batch(0)
    for columns, masks in zip(batch.words.before_seg, batch.pictures.masks, strict=True):
        assert len(columns) == len(masks) == 2
        for mask, (left, top, right, low) in zip(masks, boxes, strict=True):
            assert mask.sum() == mask[top : low + 1, left : right + 1].sum() == (low - top + 1) * (right - left + 1)


@pytest.mark.parametrize("precision", ["nf4", "bf16"])
def test_what_learns_in_full_begins_as_it_was_stored(small_checkpoint, precision):
    checkpoint = Checkpoint.open(small_checkpoint, TOWER)
    model = adapters.load_learner(checkpoint, precision, torch.device("cpu"), Lora())
    learnt = adapters.learnt(model)
    stored = {name: tensor.float() for name, tensor, _ in checkpoint.tensors() if name in learnt}
    assert {name.split(".")[0] for name in stored} == {"language", "text_hidden_fcs", "sam"}
    for name, tensor in stored.items():
        assert learnt[name].dtype == torch.float32
        assert torch.equal(learnt[name], tensor), name


def test_gradients_do_not_go_through_fp16(small_checkpoint, monkeypatch):
    """As in 4 bit on a GPU: small gradients would underflow."""
    monkeypatch.setattr(adapters.devices, "compute_dtype", lambda *_: torch.float16)
    model = adapters.load_learner(Checkpoint.open(small_checkpoint, TOWER), "nf4", torch.device("cpu"), Lora())
    layers = [module for module in model.modules() if hasattr(module, "quant_state")]
    assert len(layers) > 10
    assert {module.compute_dtype for module in layers} == {torch.bfloat16}


def test_a_step_may_be_of_several_batches(small_checkpoint, data, tmp_path, monkeypatch):
    asked, pictures = [], []
    batch_of, read = annotated.Annotated.batch, finetune.forward.of_batch
    monkeypatch.setattr(
        annotated.Annotated, "batch", lambda self, number: asked.append(number) or batch_of(self, number)
    )
    monkeypatch.setattr(
        finetune.forward,
        "of_batch",
        lambda model, shown, *more: pictures.append(len(shown.sizes)) or read(model, shown, *more),
    )
    result = cli.run(*words(data, small_checkpoint, tmp_path / "out", "--batch", 1, "--accumulate", 3, steps=2))
    assert result.code == 0, result.errors
    assert asked == list(range(6))
    assert pictures == [1] * 6
    assert "step 2:" in result.errors


def test_a_picture_with_several_labels_is_encoded_once(small_checkpoint, small, data, tmp_path, monkeypatch):
    folder = shutil.copytree(data / "train", tmp_path / "train")
    first, *others = sorted(folder.glob("*.jpg")) or sorted(folder.glob("*.png"))
    assert others
    for path in others:
        shutil.copy(first, path)
    model = small._ready()
    encoded = []
    encode = model.sam.encode
    monkeypatch.setattr(model.sam, "encode", lambda pixels: encoded.append(len(pixels)) or encode(pixels))
    tokenizer = Checkpoint.open(small_checkpoint, TOWER).tokenizer
    split = reasonseg.open_split(tmp_path, "train")
    draw = annotated.Annotated([split], model, tokenizer, BY_NAME["llava_v1"], 3, 0)
    for step in range(4):
        draw.batch(step)
    assert encoded == [1]


def test_bad_data_are_told_and_the_rest_is_learnt(data, small_checkpoint, tmp_path):
    broken = shutil.copytree(data, tmp_path / "data")
    (broken / "train" / "0.json").write_text("{")
    result = cli.run(*words(broken, small_checkpoint, tmp_path / "out", steps=1))
    assert result.code == 0, result.errors
    assert "0.json is damaged" in result.errors
    shutil.rmtree(broken / "val")
    result = cli.run(*words(broken, small_checkpoint, tmp_path / "other", steps=1))
    assert (result.code, "has no split val" in result.errors) == (1, True)
    assert f"or make {broken / 'val'}, of pictures" in " ".join(result.errors.split())
    assert not (tmp_path / "other").exists()


def test_what_cannot_learn_is_told(data, small_checkpoint, tmp_path):
    for precision in ("int8", "fp16"):
        arguments = words(data, small_checkpoint, tmp_path / "out")
        result = cli.run(*[precision if word == "fp32" else word for word in arguments])
        assert result.code == 2
        assert "is not one of 'auto', 'nf4', 'bf16', 'fp32'" in result.errors
        assert not (tmp_path / "out.training").exists()
        with pytest.raises(CheckpointError, match="choose nf4, bf16 or fp32"):
            adapters.load_learner(Checkpoint.open(small_checkpoint, TOWER), precision, CPU, Lora())
    (tmp_path / "there").mkdir()
    assert "is there already" in cli.run(*words(data, small_checkpoint, tmp_path / "there")).errors
    assert cli.run("finetune", data).code == 2


EMPTY = {
    "nothing": {"shapes": []},
    "nothing but an answer": {"shapes": [], "text": ["where?"], "answers": ["It is [SEG]."]},
    "ignored only": {"shapes": [{"label": "ignore", "points": [[1, 1], [9, 9], [9, 1]]}]},
    "covered by what is ignored": {
        "shapes": [
            {"label": "ignore", "points": [[1, 1], [29, 1], [29, 29], [1, 29]]},
            {"label": "target", "points": [[1, 1], [29, 1], [29, 29], [1, 29]]},
        ]
    },
}


@pytest.mark.parametrize("changes", EMPTY.values(), ids=EMPTY)
def test_a_mask_of_nothing_is_told_and_not_learnt(small_checkpoint, data, tmp_path, changes):
    folder = shutil.copytree(data, tmp_path / "data")
    path = folder / "train" / "0.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    opened = Checkpoint.open(small_checkpoint, TOWER)
    usable = finetune._usable(reasonseg.open_split(folder, "train"), opened)
    assert [entry.name for entry in usable.entries] == [f"{number}.png" for number in range(1, 6)]
    (fault,) = usable.faults
    assert fault.startswith(f"{path}: nothing is marked as the target")
    words_alone = {"shapes": [], "text": ["where?"], "answers": ["It is not there."]}
    path.write_text(json.dumps(json.loads(path.read_text()) | words_alone))
    assert finetune._usable(reasonseg.open_split(folder, "train"), opened).faults == ()


def test_an_explanation_with_a_mask_is_told_and_not_learnt(small_checkpoint, data, tmp_path):
    folder = shutil.copytree(data, tmp_path / "data")
    said = [
        {"image": f"{number}.png", "query": "lamp", "outputs": f"It {shines}."}
        for number, shines in enumerate(("is [SEG], which shines", "shines"))
    ]
    (folder / "explanatory").mkdir()
    (folder / "explanatory" / "train.json").write_text(json.dumps(said))
    opened = Checkpoint.open(small_checkpoint, TOWER)
    usable = finetune._usable(reasonseg.open_split(folder, "train"), opened)
    assert [entry.name for entry in usable.entries] == [f"{number}.png" for number in range(1, 6)]
    (fault,) = usable.faults
    assert fault.startswith(
        f"{folder / 'train' / '0.json'}: the explanation of 'bright square' in explanatory/train.json has [SEG]"
    )


def test_a_folder_that_is_no_trainings_is_left_alone(data, small_checkpoint, tmp_path):
    folder = shutil.copytree(data, tmp_path / "cups.training")
    before = sorted(folder.rglob("*"))
    told = cli.run(*words(folder, small_checkpoint, tmp_path / "cups", steps=1))
    assert told.code == 1
    assert f"{folder} has files, but no settings.json" in " ".join(told.errors.split())
    assert "loading" not in told.errors
    assert sorted(folder.rglob("*")) == before
    (tmp_path / "lisa.training").mkdir()  # an empty one will do, and one of a kill while its settings were written
    (tmp_path / "lisa.training" / ".0123456789abcdef.part").touch()
    assert cli.run(*words(data, small_checkpoint, tmp_path / "lisa", steps=1)).code == 0


@pytest.mark.parametrize(
    ("out", "why"), [(".", ". is there already"), ("/", "/ is there already"), ("bundled", "always means the model")]
)
def test_a_name_that_cannot_be_a_checkpoints(data, small_checkpoint, tmp_path, monkeypatch, out, why):
    monkeypatch.chdir(tmp_path)
    told = cli.run(*words(data, small_checkpoint, out))
    assert told.code == 1
    assert why in told.errors
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("out", [".", "/"])
def test_ctrl_c_is_told_whatever_the_name(data, small_checkpoint, monkeypatch, out):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(finetune, "tidied", stop)
    assert cli.run(*words(data, small_checkpoint, out)).code == 130


def test_a_second_training_of_one_folder_is_refused(data, small_checkpoint, tmp_path, monkeypatch):
    command = words(data, small_checkpoint, tmp_path / "lisa", steps=1)
    told = []

    def do(self, batches):
        monkeypatch.undo()
        told.append(cli.run(*command))  # as another process would
        return self._do(batches)

    monkeypatch.setattr(Trainer, "_do", do)
    first = cli.run(*command)
    assert [second.code for second in told] == [1]
    assert f"{tmp_path / 'lisa.training'} is being trained by another process; wait for it" in told[0].errors
    assert "loading" not in told[0].errors
    assert first.code == 0, first.errors
    assert [path.name for path in tmp_path.iterdir()] == ["lisa"]


def test_a_checkpoint_that_the_free_memory_does_not_hold_is_not_loaded_to_learn(
    small_checkpoint, tmp_path, monkeypatch
):
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemAvailable: 100 kB\nSwapFree: 0 kB\n")
    monkeypatch.setattr(adapters.footprint, "_MEMINFO", meminfo)
    with pytest.raises(OutOfMemoryError, match="of memory are free here"):
        adapters.load_learner(Checkpoint.open(small_checkpoint, TOWER), "fp32", CPU, Lora())
