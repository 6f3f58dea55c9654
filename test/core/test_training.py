"""Training: resumed after a kill, exported and loaded, from scratch."""

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from disk import no_file_larger
from goldens import GOLDENS, V1, picture
from torch import Tensor, nn

from lisa_core import CheckpointError, LisaEngine, LisaError, loading, quantization
from lisa_core.checkpoint import Checkpoint
from lisa_core.preprocess import SamSize
from lisa_core.template import BY_NAME
from lisa_core.training import fresh
from lisa_core.training.batch import pack
from lisa_core.training.conversation import lesson
from lisa_core.training.export import export
from lisa_core.training.forward import Pictures, of_batch
from lisa_core.training.in_4_bit import in_4_bit
from lisa_core.training.log import lines_up_to
from lisa_core.training.recipe import Plan, Weights
from lisa_core.training.trainer import LOG, STATE, Trainer

PLAN = Plan(steps=12, learning_rate=0.05, warmup=3, save_every=0.0)


class Line:
    """Fits a line to points that are random at each step, with dropout, so that every kind of randomness matters."""

    def __init__(self, folder: Path, plan: Plan = PLAN) -> None:
        torch.manual_seed(0)
        self.model = nn.Linear(4, 1)
        self.trainer: Trainer[Tensor] = Trainer(
            dict(self.model.named_parameters()), self.batch, self.loss, folder, plan
        )

    def batch(self, step: int) -> Tensor:
        return torch.randn(8, 4, generator=torch.Generator().manual_seed(step))

    def loss(self, points: Tensor) -> Mapping[str, Tensor]:
        seen = nn.functional.dropout(points, 0.2)
        return {"loss": (self.model(seen) - points.sum(1, keepdim=True)).square().mean()}

    def weights(self) -> list[float]:
        return self.model.weight.flatten().tolist()


@pytest.mark.parametrize(
    "plan", [PLAN, replace(PLAN, muon=True), replace(PLAN, batches=3)], ids=["adam", "muon", "batches"]
)
def test_killed_and_taken_up_again_is_as_if_never_killed(tmp_path: Path, plan: Plan) -> None:
    whole = Line(tmp_path / "whole", plan)
    told = list(whole.trainer.run())
    killed = Line(tmp_path / "killed", plan).trainer.run()
    for _ in range(5):
        next(killed)
    killed.close()
    again = Line(tmp_path / "killed", plan)
    assert 0 < again.trainer.step < len(told)
    rest = list(again.trainer.run())
    assert rest == told[-len(rest) :]
    assert again.weights() == whole.weights()
    logs = [(tmp_path / name / LOG).read_text() for name in ("whole", "killed")]
    assert logs[0] == logs[1]
    assert [json.loads(line)["step"] for line in logs[0].splitlines()] == list(range(1, PLAN.steps + 1))


@pytest.mark.parametrize("muon", [False, True])
def test_training_learns(tmp_path: Path, muon: bool) -> None:
    told = list(Line(tmp_path, replace(PLAN, steps=200, muon=muon)).trainer.run())
    assert told[-1]["loss"] < 0.5 * told[0]["loss"]


def taught(batches: int, folder: Path) -> tuple[list[float], list[float]]:
    """The losses of all steps and the final weights, with the six points of each step in so many batches."""
    weight = nn.Parameter(torch.zeros(4))
    points = torch.randn(PLAN.steps * batches, 6 // batches, 4, generator=torch.Generator().manual_seed(0))

    def loss_of(some: Tensor) -> Mapping[str, Tensor]:
        return {"loss": (some @ weight - some.sum(-1)).square().mean()}

    plan = replace(PLAN, batches=batches)
    told = list(Trainer({"weight": weight}, points.__getitem__, loss_of, folder, plan).run())
    return [each["loss"] for each in told], weight.tolist()


@pytest.mark.parametrize("batches", [2, 6])
def test_batches_one_after_the_other_teach_what_one_of_all_does(tmp_path: Path, batches: int) -> None:
    losses_of_one, weights_of_one = taught(1, tmp_path / "one")
    losses_of_several, weights_of_several = taught(batches, tmp_path / "several")
    assert losses_of_one[-1] < losses_of_one[0]
    assert losses_of_several == pytest.approx(losses_of_one, rel=1e-4)
    assert weights_of_several == pytest.approx(weights_of_one, rel=1e-4)


@pytest.mark.parametrize("gradient", [math.inf, math.nan])
def test_what_goes_beyond_numbers_ends_it_and_keeps_what_was_learnt(tmp_path: Path, gradient: float) -> None:
    line = Line(tmp_path)
    steps = line.trainer.run()
    for _ in range(5):
        next(steps)
    before = torch.load(tmp_path / STATE, weights_only=True)
    line.model.weight.register_hook(lambda _: torch.full((1, 4), gradient))
    with pytest.raises(LisaError, match=r"Step 6 made the weights no numbers .* smaller learning rate than 0\.05"):
        list(steps)
    after = torch.load(tmp_path / STATE, weights_only=True)
    assert (before["step"], after["step"]) == (4, 5)
    assert all(weight.isfinite().all() for weight in after["weights"].values())


def test_another_plan_does_not_take_up_what_is_there(tmp_path: Path) -> None:
    list(Line(tmp_path).trainer.run())
    with pytest.raises(CheckpointError, match="other settings"):
        Line(tmp_path, replace(PLAN, seed=1))


def test_a_state_that_would_run_code_is_refused(tmp_path: Path) -> None:
    torch.save({"plan": print}, tmp_path / STATE)
    with pytest.raises(CheckpointError, match=r"state\.pt"):
        Line(tmp_path)


@pytest.mark.parametrize("what", [{"plan": {}}, [1, 2]], ids=["half of it", "a list"])
def test_a_file_of_something_else_is_no_state(tmp_path: Path, what: object) -> None:
    torch.save(what, tmp_path / STATE)
    with pytest.raises(CheckpointError, match=r"state\.pt is damaged, or no state of a training; delete it"):
        Line(tmp_path)


def test_the_rate_rises_and_falls_to_nothing() -> None:
    plan = Plan(steps=1000, warmup=100)
    assert [plan.rate(step) for step in (0, 49, 99)] == pytest.approx([0.01, 0.5, 1.0])
    assert plan.rate(550) == pytest.approx(0.5)
    assert plan.rate(1000) == 0


def test_an_exported_model_answers_as_before(tmp_path: Path) -> None:
    opened = Checkpoint.open(V1, GOLDENS / "clip-vit-tiny-patch14")
    model = loading.load(opened, "fp32", torch.device("cpu"))
    config = json.loads((V1 / "config.json").read_text())
    tower = json.loads((opened.vision_tower / "config.json").read_text())
    write(model, config, tower, V1, tmp_path / "out")
    before = LisaEngine.from_pretrained(V1, "fp32", "cpu", opened.vision_tower)
    after = LisaEngine.from_pretrained(tmp_path / "out", "fp32", "cpu")
    rgb = picture("table_640x480.png")
    question = "Can you segment the bowl in this image?"
    answers = [engine.ask(engine.encode(rgb), question) for engine in (before, after)]
    assert answers[0].token_ids == answers[1].token_ids
    for one, other in zip(*(answer.segments for answer in answers), strict=True):
        np.testing.assert_array_equal(one.low_res_logits, other.low_res_logits)
    with pytest.raises(LisaError, match="there already"):
        write(model, config, tower, V1, tmp_path / "out")


def test_an_export_that_fails_leaves_nothing(tmp_path: Path) -> None:
    model = fresh.new_model(_tiny(300), seed=0)
    with pytest.raises(OSError, match=r"tokenizer\.model"):
        write(model, {}, {}, tmp_path / "nowhere", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def write(model: nn.Module, config: Any, tower: Any, tokenizer: Path, out: Path) -> None:
    state = model.state_dict()
    export(state.items(), config, tower, tokenizer, out, len(state))


def _tiny(vocabulary: int) -> Any:
    shape = fresh.small_shape(vocabulary)
    return replace(
        shape,
        clip=replace(shape.clip, image=48, patch=16, width=32, heads=2, hidden=64, layers=2),
        language=replace(shape.language, width=32, hidden=64, layers=2, heads=2, kv_heads=2),
        sam=replace(
            shape.sam, image=64, width=32, heads=2, hidden=64, windows=(2, 0), embedding=32, attention_inner=16
        ),
    )


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    """A checkpoint from scratch, with a tokenizer made from a few sentences."""
    words = tmp_path / "words"
    words.mkdir()
    vocabulary = fresh.write_tokenizer(["Where is the red cup?", "The cup is here."] * 20, 320, words)
    shape = _tiny(vocabulary)
    model = fresh.new_model(shape, seed=0)
    write(model, fresh.config_of(shape), fresh.tower_config_of(shape.clip), words, tmp_path / "scratch")
    return tmp_path / "scratch"


def test_a_model_in_4_bit_says_what_it_will_say_then_and_learns_from_it() -> None:
    checkpoint, cpu = Checkpoint.open("bundled"), torch.device("cpu")
    model, quantised = (loading.load(checkpoint, precision, cpu) for precision in ("fp32", "nf4"))
    layer, for_good = (each.language.layers[0].mlp.down_proj for each in (model, quantised))
    states = torch.randn(3, layer.in_features, generator=torch.Generator().manual_seed(0), requires_grad=True)
    exact, first = layer.weight.detach().clone(), layer(states).detach()
    with in_4_bit(model):
        said = layer(states)
        (of_states,) = torch.autograd.grad(said.sum(), states)
    assert not torch.allclose(said, first, rtol=0.01)
    torch.testing.assert_close(said, for_good(states))
    torch.testing.assert_close(of_states[0], quantization.rounded(exact).sum(0))
    assert torch.equal(layer.weight, exact)


def test_weights_are_whole_again_after_a_failure_in_4_bit() -> None:
    model = loading.load(Checkpoint.open("bundled"), "fp32", torch.device("cpu"))
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    with pytest.raises(RuntimeError, match="out of memory"), in_4_bit(model):
        raise RuntimeError("out of memory")
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


def test_a_step_goes_forward_and_back_in_its_context(tmp_path: Path) -> None:
    weight, went = nn.Parameter(torch.ones(1)), []

    @contextmanager
    def around(step: int) -> Iterator[None]:
        kept = weight.data.clone()
        weight.data.fill_(10.0 * step)
        yield
        went.append(weight.grad.item())
        weight.data.copy_(kept)

    def loss_of(_: None) -> Mapping[str, Tensor]:
        return {"loss": weight.square().sum()}

    plan = Plan(steps=3, learning_rate=1e-3, warmup=0)
    told = list(Trainer({"weight": weight}, lambda _: None, loss_of, tmp_path, plan, around=around).run())
    assert [each["loss"] for each in told] == [0.0, 100.0, 400.0]
    assert went == [0.0, 20.0, 40.0]
    assert 0.99 < weight.item() < 1.0


def test_a_model_from_scratch_loads_as_any_other(scratch: Path) -> None:
    engine = LisaEngine.from_pretrained(scratch, "fp32", "cpu")
    answer = engine.ask(engine.encode(picture("square_300.png")), "Where is the cup? \u2615", mask_only=True)
    assert [segment.mask.shape for segment in answer.segments] == [(300, 300)]


def test_the_same_seed_gives_the_same_first_weights() -> None:
    one, same, other = (fresh.new_model(_tiny(300), seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["language.lm_head.weight"], other["language.lm_head.weight"])
    assert all(torch.isfinite(weight).all() for weight in one.values())


def test_the_bundled_sizes_stay_under_24_megabytes() -> None:
    model = fresh.new_model(fresh.small_shape(1100), seed=0)
    assert 2 * sum(weight.numel() for weight in model.parameters()) < 24e6


def test_a_model_from_scratch_learns_words_and_masks(scratch: Path, tmp_path: Path) -> None:
    opened = Checkpoint.open(scratch)
    model = loading.load(opened, "fp32", torch.device("cpu")).requires_grad_(True)
    lessons = [lesson([("Where is the cup?", "The cup is [SEG].")], BY_NAME["llava_v1"], opened.tokenizer)]
    words = pack([lessons], opened.shape.clip.tokens)
    mask = torch.zeros(1, 64, 64)
    mask[:, 16:48, 16:48] = 1
    size = SamSize((64, 64), (64, 64))

    def loss_of(_: None) -> Mapping[str, Tensor]:
        visual = model.clip(torch.zeros(1, 3, opened.shape.clip.image, opened.shape.clip.image))
        embedding = model.sam.encode(torch.zeros(1, 3, 64, 64))
        return of_batch(model, Pictures(visual, embedding, [size], [mask]), words, Weights())

    plan = Plan(steps=150, learning_rate=3e-3, warmup=5)
    trainer: Trainer[None] = Trainer(dict(model.named_parameters()), lambda _: None, loss_of, tmp_path / "run", plan)
    told = list(trainer.run())
    assert told[-1]["ce"] < 0.1 * told[0]["ce"]
    assert told[-1]["bce"] < 0.5 * told[0]["bce"]


def test_a_full_disk_while_it_is_taken_up_again_leaves_it_whole(tmp_path: Path) -> None:
    whole = list(Line(tmp_path / "whole").trainer.run())
    steps = Line(tmp_path / "line").trainer.run()
    for _ in range(8):
        next(steps)
    steps.close()
    before = (tmp_path / "line" / LOG).read_text()
    with no_file_larger(100), pytest.raises(OSError, match=LOG):
        Line(tmp_path / "line")
    assert (tmp_path / "line" / LOG).read_text() == before
    again = Line(tmp_path / "line")
    rest = list(again.trainer.run())
    assert rest == whole[-len(rest) :]
    logs = [(tmp_path / name / LOG).read_text() for name in ("whole", "line")]
    assert logs[0] == logs[1]


def test_a_line_of_the_log_that_was_cut_off_is_dropped(tmp_path: Path) -> None:
    log = tmp_path / LOG
    log.write_text('{"step": 1, "loss": 1}\n{"step": 2, "lo\n{"step": 3, "loss": 1}\n{"step": 9, "loss": 1}\n{"st')
    assert lines_up_to(log, 3) == ['{"step": 1, "loss": 1}', '{"step": 3, "loss": 1}']
    assert lines_up_to(tmp_path / "none", 3) == []
