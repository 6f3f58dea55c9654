"""`lisa evaluate`: files are written completely or not at all, and a stopped run can be resumed."""

import csv
import json
import os
import resource
import subprocess
import sys

import cli
import numpy as np
import pytest
from goldens import GOLDENS
from PIL import Image

from lisa_core.answer import Answer, Segment, tight_box
from lisa_core.errors import OutOfMemoryError

REASONSEG = GOLDENS / "reasonseg"


class FakeEngine:
    """Masks the left half of every picture; raises what `troubles` has for the n-th question."""

    precision, device, template = "fp32", "cpu", "llava_v1"

    def __init__(self, troubles=None):
        self.asked = []
        self.closed = False
        self._troubles = troubles or {}

    def load(self, **options):
        return self

    def encode(self, rgb):
        return rgb

    def ask(self, frame, instruction, *, mask_only, max_new_tokens):
        self.asked.append((instruction, mask_only))
        if trouble := self._troubles.get(len(self.asked)):
            raise trouble
        mask = np.zeros(frame.shape[:2], bool)
        mask[:, : mask.shape[1] // 2] = True
        nothing = np.zeros(0, np.float32)
        return Answer("Sure, [SEG].", (Segment(mask, 0.5, tight_box(mask), nothing, nothing),))

    def ask_many(self, frame, instructions, **options):
        return [self.ask(frame, instruction, **options) for instruction in instructions]

    def close(self):
        self.closed = True


@pytest.fixture
def data(tmp_path):
    """A folder with a split `val` of four pictures with targets of increasing width."""
    folder = tmp_path / "data" / "val"
    folder.mkdir(parents=True)
    for index in range(4):
        Image.new("RGB", (64, 48), (60 * index, 90, 40)).save(folder / f"{index}.jpg")
        points = [[0, 0], [8 * index + 8, 0], [8 * index + 8, 47], [0, 47]]
        content = {"text": [f"thing {index}"], "is_sentence": index > 1}
        content["shapes"] = [{"label": "target", "points": points}]
        (folder / f"{index}.json").write_text(json.dumps(content))
    return folder.parent


@pytest.fixture
def evaluate(data, tmp_path):
    """Runs the command on `data` with an engine; the JSON goes to `tmp_path / name`."""

    def run(engine, *arguments, name="out.json"):
        paths = (data, "--json", tmp_path / name)
        return cli.run("evaluate", "reasonseg", *paths, "--checkpoint", "some", *arguments, load=engine.load)

    return run


def read(path):
    return json.loads(path.read_text())


def test_what_it_writes(evaluate, tmp_path):
    engine = FakeEngine()
    targets = ("--csv", tmp_path / "out.csv", "--sheet", tmp_path / "worst.png", "--out", tmp_path / "masks")
    result = evaluate(engine, *targets)
    content = read(tmp_path / "out.json")
    assert result.code == 0
    assert engine.closed
    assert engine.asked[0] == (" What is thing 0 in this image? Please output segmentation mask.", True)
    assert engine.asked[3] == (" thing 3 Please output segmentation mask.", True)
    images = content["images"]
    assert [(image["intersection"], image["union"]) for image in images] == [
        (48 * min(32, right), 48 * max(32, right)) for right in (9, 17, 25, 33)
    ]
    assert content["giou"] == pytest.approx(np.mean([image["iou"] for image in images]))
    assert content["ciou"] == pytest.approx((9 + 17 + 25 + 32) / (32 + 32 + 32 + 33))
    assert [content["by_length"][length]["images"] for length in ("short", "long")] == [2, 2]
    with (tmp_path / "out.csv").open(newline="") as table:
        assert [row["image"] for row in csv.DictReader(table)] == ["0.jpg", "1.jpg", "2.jpg", "3.jpg"]
    mask = np.array(Image.open(tmp_path / "masks" / "2_mask.png"))
    assert mask.shape == (48, 64)
    assert (mask == 255).sum() == 48 * 32
    assert Image.open(tmp_path / "worst.png").width > 1000
    assert not (tmp_path / "out.json.journal").exists()
    assert f"{content['giou']:.4f}" in result.out


def test_generated_lets_the_model_answer(evaluate, tmp_path):
    engine = FakeEngine()
    assert evaluate(engine, "--protocol", "generated").code == 0
    assert not engine.asked[0][1]
    assert read(tmp_path / "out.json")["images"][0]["answer"] == "Sure, [SEG]."


def test_with_a_model(small, small_checkpoint, tmp_path):
    out = tmp_path / "out.json"
    result = cli.run("evaluate", "reasonseg", REASONSEG, *cli.model(small_checkpoint), "--json", out)
    assert result.code == 0
    assert [image["image"] for image in read(out)["images"]] == [
        path.name for path in sorted(REASONSEG.glob("*/*.jpg"))
    ]


# going on


@pytest.mark.parametrize("stopped_at", [1, 3])
def test_ctrl_c_and_on(evaluate, tmp_path, stopped_at):
    evaluate(FakeEngine(), name="whole.json")
    stopped = evaluate(FakeEngine({stopped_at: KeyboardInterrupt()}))
    assert stopped.code == 130
    assert ("nothing is finished yet" if stopped_at == 1 else "the same command goes on from here") in stopped.errors
    assert not (tmp_path / "out.json").exists()
    engine = FakeEngine()
    assert evaluate(engine).code == 0
    assert len(engine.asked) == 4 - (stopped_at - 1)
    assert (tmp_path / "out.json").read_bytes() == (tmp_path / "whole.json").read_bytes()
    assert not (tmp_path / "out.json.journal").exists()


def test_it_goes_on_wherever_it_is_started(evaluate, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where the journal itself grows
    assert evaluate(FakeEngine({3: KeyboardInterrupt()})).code == 130
    (tmp_path / "a_log").write_text("of something else")
    assert "going on after 2 of 4" in evaluate(FakeEngine()).errors


def test_a_model_that_changed_is_asked_again(evaluate, tmp_path):
    tower = tmp_path / "some" / "vision_tower"
    tower.mkdir(parents=True)
    (tower / "model.safetensors").write_bytes(b"before")
    model = ("--checkpoint", tmp_path / "some")
    assert evaluate(FakeEngine({3: KeyboardInterrupt()}), *model).code == 130
    (tower / "model.safetensors").write_bytes(b"another one")
    engine = FakeEngine()
    assert evaluate(engine, *model).code == 0
    assert len(engine.asked) == 4


def test_ctrl_c_while_the_model_loads(data, tmp_path):
    def load(**_):
        raise KeyboardInterrupt

    paths = (data, "--json", tmp_path / "out.json")
    stopped = cli.run("evaluate", "reasonseg", *paths, "--checkpoint", "some", load=load)
    assert (stopped.code, stopped.errors) == (130, "error: stopped; nothing is finished yet.")
    assert not (tmp_path / "out.json").exists()


def test_killed_and_on(evaluate, data, tmp_path):
    evaluate(FakeEngine(), name="whole.json")
    program = """
import os, signal, sys
import test_cli_evaluate as tests
from lisa_core.cli import main

class Dying(tests.FakeEngine):
    def ask(self, *words, **options):
        if len(self.asked) == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().ask(*words, **options)

main(sys.argv[1:], load=Dying().load)
"""
    words = ["evaluate", "reasonseg", data, "--json", tmp_path / "out.json", "--checkpoint", "some"]
    path = os.pathsep.join(filter(None, [os.path.dirname(__file__), *sys.path]))  # noqa: PTH120
    killed = subprocess.run([sys.executable, "-c", program, *map(str, words)], env={**os.environ, "PYTHONPATH": path})
    assert killed.returncode == -9
    assert not (tmp_path / "out.json").exists()
    engine = FakeEngine()
    assert "going on after 2 of 4" in evaluate(engine).errors
    assert len(engine.asked) == 2
    assert (tmp_path / "out.json").read_bytes() == (tmp_path / "whole.json").read_bytes()


def test_half_a_line_and_damage_are_evaluated_again(evaluate, tmp_path):
    journal = tmp_path / "out.json.journal"
    evaluate(FakeEngine({4: KeyboardInterrupt()}))
    first, second, third = journal.read_bytes().splitlines()
    journal.write_bytes(b"\n".join([first, second[:50], third[:-20]]))
    engine = FakeEngine()
    assert evaluate(engine).code == 0
    assert len(engine.asked) == 3
    assert len(read(tmp_path / "out.json")["images"]) == 4


def test_other_settings_and_other_files_are_evaluated_again(evaluate, data):
    evaluate(FakeEngine({4: KeyboardInterrupt()}))
    evaluate(other := FakeEngine({1: KeyboardInterrupt()}), "--protocol", "generated")
    assert len(other.asked) == 1
    Image.new("RGB", (64, 48), (1, 2, 3)).save(data / "val" / "0.jpg")
    assert evaluate(engine := FakeEngine()).code == 0
    assert [words for words, _ in engine.asked] == [
        " What is thing 0 in this image? Please output segmentation mask.",
        " thing 3 Please output segmentation mask.",
    ]


# bad input


def test_what_fails_is_named_and_the_rest_goes_on(evaluate, data, tmp_path):
    (data / "val" / "0.json").write_text("{")
    (data / "val" / "1.jpg").write_bytes(b"no picture")
    (data / "val" / "2.png").write_bytes(b"")
    result = evaluate(FakeEngine())
    content = read(tmp_path / "out.json")
    assert result.code == 1
    for sentence in ("0.json is damaged", "1.jpg is no picture", "2.jpg and 2.png share 2.json"):
        assert sentence in result.errors
    assert [image["image"] for image in content["images"]] == ["3.jpg"]
    assert [failure["image"] for failure in content["failed"]] == ["0.jpg", "1.jpg"]
    assert len(content["faults"]) == 1
    assert content["giou"] == content["images"][0]["iou"]


def test_a_name_that_is_no_text_is_evaluated(evaluate, data, tmp_path):
    name = os.fsdecode(b"b\xffd")
    for suffix in (".jpg", ".json"):
        (data / "val" / f"0{suffix}").rename(data / "val" / f"{name}{suffix}")
    result = evaluate(FakeEngine())
    assert result.code == 0, result.errors
    assert len(read(tmp_path / "out.json")["images"]) == 4


def test_files_that_cannot_even_be_opened_are_named_and_the_rest_goes_on(evaluate, data, tmp_path):
    (data / "val" / "0.jpg").unlink()
    (data / "val" / "0.jpg").symlink_to("nowhere")
    assert evaluate(engine := FakeEngine()).code == 1
    assert len(engine.asked) == 3
    assert [failure["image"] for failure in read(tmp_path / "out.json")["failed"]] == ["0.jpg"]


def test_a_pipe_is_no_picture(evaluate, data, tmp_path):
    (data / "val" / "0.jpg").unlink()
    os.mkfifo(data / "val" / "0.jpg")
    assert evaluate(FakeEngine()).code == 1
    (failed,) = read(tmp_path / "out.json")["failed"]
    assert "0.jpg is no file" in failed["reason"]


def test_a_full_disk_in_the_middle_keeps_what_is_finished(evaluate, tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (900, limits[1]))  # a line of the journal takes 400 bytes
    try:
        result = evaluate(FakeEngine())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert result.code == 1
    assert "out.json.journal. The same command goes on once that is remedied" in result.errors
    assert not (tmp_path / "out.json").exists()
    assert evaluate(engine := FakeEngine()).code == 0
    assert 0 < len(engine.asked) < 4
    assert len(read(tmp_path / "out.json")["images"]) == 4


def test_out_of_memory_fails_one_image_and_the_next_run_makes_up_for_it(evaluate, tmp_path):
    result = evaluate(FakeEngine({2: OutOfMemoryError("No memory.")}))
    assert (result.code, len(read(tmp_path / "out.json")["images"])) == (1, 3)
    assert "1.jpg: No memory." in result.errors
    assert evaluate(engine := FakeEngine()).code == 0
    assert len(engine.asked) == 1
    assert len(read(tmp_path / "out.json")["images"]) == 4


def test_when_all_fail_there_is_no_score(evaluate, data, tmp_path):
    for path in data.glob("*/*.json"):
        path.write_text("[]")
    assert evaluate(FakeEngine(), "--sheet", tmp_path / "worst.png").code == 1
    assert read(tmp_path / "out.json")["giou"] is None
    assert not (tmp_path / "worst.png").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [(("--split", "test"), "has no split test"), (("--split", "empty"), "is empty")],
)
def test_an_empty_or_missing_split(evaluate, data, arguments, sentence):
    (data / "empty").mkdir()
    engine = FakeEngine()
    result = evaluate(engine, *arguments)
    assert (result.code, engine.asked) == (1, [])
    assert sentence in result.errors


def test_a_full_disk_keeps_what_is_finished(evaluate, tmp_path, monkeypatch):
    engine = FakeEngine()
    full = OSError(28, "No space left on device", "out.json")
    with monkeypatch.context() as patched:
        patched.setattr("lisa_core.files.write_whole", lambda contents: (_ for _ in ()).throw(full))
        result = evaluate(engine)
    assert result.code == 1
    assert "No space left on device: out.json. The same command goes on" in result.errors
    assert not (tmp_path / "out.json").exists()
    assert evaluate(again := FakeEngine()).code == 0
    assert again.asked == []


def test_results_do_not_go_between_the_data(evaluate, data):
    before = sorted(data.glob("*/*"))
    result = evaluate(FakeEngine(), "--out", data / "val")
    assert result.code == 2
    assert "choose another folder" in result.errors
    assert sorted(data.glob("*/*")) == before


def test_wrong_usage(data, evaluate, tmp_path):
    twice = evaluate(FakeEngine(), "--csv", tmp_path / "out.json")
    assert (twice.code, "cannot go into one file" in " ".join(twice.errors.split())) == (2, True)
    assert cli.run("evaluate", "reasonseg", data, "--checkpoint", "some").code == 2
    assert cli.run("evaluate", "nonsense").code == 2
