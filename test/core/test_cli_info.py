"""`lisa info`: describes a checkpoint as the loaded model is, without reading its weights."""

import json
from unittest.mock import Mock

import cli
import pytest
import torch
from checkpoints import copy_of
from goldens import TOWER, V0, V1

from lisa_core.checkpoint import Checkpoint

PARTS = ("clip", "language", "mm_projector", "sam", "text_hidden_fcs")


def facts(checkpoint, *arguments):
    result = cli.run("info", checkpoint, "--vision-tower", TOWER, "--json", *arguments)
    assert result.code == 0, result.errors
    return json.loads(result.out)


def test_what_the_v1_golden_is():
    found = facts(V1)
    assert (found["layout"], found["template"]) == ("v1", "llava_v1")
    assert found["token_ids"] == {"<s>": 1, "</s>": 2, "[SEG]": 700, "<im_start>": 701, "<im_end>": 702}
    assert found["stored_as"] == ["float16"]
    assert sum(found["files"].values()) == sum(
        path.stat().st_size for path in (*V1.glob("*.bin"), *TOWER.glob("*.bin"))
    )
    assert found["sizes"]["clip"]["tokens"] == 256
    assert (found["sizes"]["language"]["width"], found["sizes"]["language"]["layers"]) == (64, 3)
    assert (found["sizes"]["sam"]["image"], found["sizes"]["sam"]["windows"]) == (1024, [14, 0, 14])


def test_what_the_v0_golden_is():
    found = facts(V0)
    assert (found["layout"], found["template"]) == ("v0", "vicuna_v1_1")
    assert "<im_patch>" in found["token_ids"]
    assert facts(V0, "--template", "llava_llama_2")["template"] == "llava_llama_2"


def test_parameters_are_those_of_the_model(v1):
    counted = dict.fromkeys(PARTS, 0)
    for name, parameter in v1._model.named_parameters():
        counted[name.split(".")[0]] += parameter.numel()
    assert facts(V1)["parameters"] == counted


@pytest.mark.parametrize("checkpoint", [V1, V0], ids=["v1", "v0"])
@pytest.mark.parametrize("precision", ["fp32", "nf4"])
def test_memory_is_what_the_engine_takes(load, checkpoint, precision):
    held = load(checkpoint, precision).memory()
    told = facts(checkpoint)["memory"]["cpu"][precision]
    for part in PARTS:
        assert told[part] == pytest.approx(held[part], rel=0.05)


def test_half_precision_takes_half_and_4_bit_less():
    on_gpu = {precision: sum(parts.values()) for precision, parts in facts(V1)["memory"]["cuda"].items()}
    assert on_gpu["fp32"] == 2 * on_gpu["fp16"] == 2 * on_gpu["bf16"]
    assert on_gpu["nf4"] < on_gpu["int8"] < on_gpu["fp16"]


def test_what_is_stored_in_4_bit_has_no_other_precision(tmp_path):
    assert cli.run("quantize", V1, tmp_path / "small", "--vision-tower", TOWER).code == 0
    assert list(facts(tmp_path / "small")["memory"]["cuda"]) == ["nf4"]
    shown = cli.run("info", tmp_path / "small").out
    assert "parameters nf4 clip" in shown


def test_no_weight_is_read(monkeypatch):
    def refuse(_):
        raise AssertionError("the weights were read")

    monkeypatch.setattr(Checkpoint, "tensors", refuse)
    monkeypatch.setattr(torch.nn.Parameter, "to", refuse)
    assert cli.run("info", V1, "--vision-tower", TOWER).code == 0


def test_tables_for_people():
    shown = cli.run("info", V1, "--vision-tower", TOWER).out
    for words in (str(V1), "layout v1", "template llava_v1", "[SEG] 700", "width 64", "2,950,532", "3,249,412", "nf4"):
        assert words in shown


def test_of_a_long_path_nothing_is_cut(tmp_path):
    folder = tmp_path / ("x" * 200) / ("y" * 200)
    folder.parent.mkdir()
    shown = cli.run("info", copy_of(V1, folder), "--vision-tower", TOWER).out
    assert "x" * 200 in shown.replace(" ", "")
    assert "y" * 200 in shown.replace(" ", "")


def test_a_folder_that_is_no_checkpoint(tmp_path):
    result = cli.run("info", tmp_path)
    assert result.code == 1
    assert result.errors.startswith(f"error: {tmp_path} is no checkpoint")


def test_a_checkpoint_that_lacks_a_shard(tmp_path):
    folder = copy_of(V1, tmp_path / "lisa")
    (folder / "pytorch_model-00002-of-00004.bin").unlink()
    result = cli.run("info", folder, "--vision-tower", TOWER)
    assert result.code == 1
    assert "lacks pytorch_model-00002-of-00004.bin" in result.errors


@pytest.mark.parametrize("command", ["info", "bench", "quantize"])
def test_ctrl_c_while_the_model_is_opened(command, tmp_path, monkeypatch):
    monkeypatch.setattr(Checkpoint, "open", Mock(side_effect=KeyboardInterrupt))
    words = {"info": [V1], "bench": ["--checkpoint", V1], "quantize": [V1, tmp_path / "small"]}[command]
    stopped = cli.run(command, *words)
    assert (stopped.code, stopped.out, stopped.errors) == (130, "", "error: stopped.")


def test_wrong_usage():
    assert cli.run("info").code == 2
    assert cli.run("info", V1, "--template", "nonsense").code == 2
