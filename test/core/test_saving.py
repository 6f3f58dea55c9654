"""`lisa quantize`: the stored 4-bit twin of a checkpoint."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import goldens
import numpy as np
import pytest
import torch
from disk import no_file_larger
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from lisa_core import CheckpointError, LisaEngine, LisaError, quantization
from lisa_core.checkpoint import Checkpoint
from lisa_core.checkpoint_files import is_whole
from lisa_core.cli import main
from lisa_core.saving import save_quantised

CPU = torch.device("cpu")
SHARD = 3 << 19  # bytes; more than the largest tensor of the goldens
LAYOUTS = ("lisa-tiny-v1-vicuna", "lisa-tiny-v0")


def stored(name, out):
    save_quantised(Checkpoint.open(goldens.GOLDENS / name, goldens.TOWER), out, CPU, shard_bytes=SHARD)
    return out


def answer(engine):
    image = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    return engine.ask(engine.encode(image), "segment the handle")


@pytest.mark.parametrize("name", LAYOUTS)
def test_it_answers_bit_for_bit_as_the_original_in_nf4(name, tmp_path):
    original = LisaEngine.from_pretrained(goldens.GOLDENS / name, "nf4", "cpu", goldens.TOWER)
    twin = LisaEngine.from_pretrained(stored(name, tmp_path / "twin"), device="cpu")
    assert (twin.precision, twin.layout, twin.template) == ("nf4", original.layout, original.template)
    expected, got = answer(original), answer(twin)
    assert expected.segments
    assert got.token_ids == expected.token_ids
    assert got.prompt_ids == expected.prompt_ids
    np.testing.assert_array_equal(got.segments[0].low_res_logits, expected.segments[0].low_res_logits)
    assert twin.memory() == original.memory()


def test_its_4_bit_values_are_used_where_they_lie(tmp_path, monkeypatch):
    out = stored(LAYOUTS[0], tmp_path / "twin")
    (tmp_path / "meminfo").write_text("MemAvailable: 0 kB\nSwapFree: 0 kB\n")  # of which they need none
    monkeypatch.setattr("lisa_core.footprint._MEMINFO", tmp_path / "meminfo")
    model = LisaEngine.from_pretrained(out, device="cpu")._ready()
    for weight in (model.language.lm_head.weight, model.language.layers[0].self_attn.q_proj.weight):
        assert out in file_behind(weight).parents


def file_behind(tensor):
    """The file that is mapped to where a tensor stands."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, *_, path = line.split(maxsplit=5)
        start, end = (int(address, 16) for address in span.split("-"))
        if start <= tensor.data_ptr() < end:
            return Path(path)
    raise AssertionError("it stands nowhere")


def test_a_model_in_use_outlives_its_files(tmp_path):
    out = stored(LAYOUTS[0], tmp_path / "twin")
    twin = LisaEngine.from_pretrained(out, device="cpu")
    before = answer(twin)
    for file in out.rglob("*.safetensors"):
        (tmp_path / "other").write_bytes(bytes(file.stat().st_size))
        (tmp_path / "other").replace(file)
    after = answer(twin)
    assert after.token_ids == before.token_ids
    np.testing.assert_array_equal(after.segments[0].low_res_logits, before.segments[0].low_res_logits)


def test_the_linear_layers_lie_there_in_4_bit_and_no_file_is_larger_than_asked(tmp_path):
    out = stored(LAYOUTS[0], tmp_path / "twin")
    files = sorted(out.glob("model-*.safetensors"))
    assert len(files) > 1
    assert all(file.stat().st_size < 1.1 * SHARD for file in files)
    dtypes = {}
    for file in files:
        with safe_open(file, "pt") as opened:
            dtypes |= {name: opened.get_slice(name).get_dtype() for name in opened.keys()}  # noqa: SIM118
    assert dtypes["model.layers.0.self_attn.q_proj.weight"] == dtypes["lm_head.weight"] == "U8"
    assert dtypes["model.visual_model.mask_decoder.transformer.layers.0.mlp.lin1.weight"] == "F16"


def test_other_precisions_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="stored in 4 bit"):
        LisaEngine.from_pretrained(stored(LAYOUTS[0], tmp_path / "twin"), "fp32", "cpu")


def test_it_is_not_quantised_twice_and_nothing_is_overwritten(tmp_path):
    out = stored(LAYOUTS[0], tmp_path / "twin")
    with pytest.raises(CheckpointError, match="already; use it as it is"):
        save_quantised(Checkpoint.open(out), tmp_path / "again", CPU)
    with pytest.raises(LisaError, match="is there already"):
        stored(LAYOUTS[0], out)


def test_interrupted_it_leaves_nothing(tmp_path):
    def stop(share, _parameter):
        if share > 0.7:
            raise KeyboardInterrupt

    checkpoint = Checkpoint.open(goldens.GOLDENS / LAYOUTS[0], goldens.TOWER)
    with pytest.raises(KeyboardInterrupt):
        save_quantised(checkpoint, tmp_path / "twin", CPU, stop, shard_bytes=SHARD)
    assert list(tmp_path.iterdir()) == []


SLOW = """
import signal, sys, time
from lisa_core import saving
from lisa_core.cli import main

def write(*_):
    print("writing", flush=True)
    time.sleep(600)

saving.write_weights = write
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # as on a terminal, and not as under nohup
signal.signal(signal.SIGINT, signal.default_int_handler)
main(["quantize", *sys.argv[1:]])
"""


@pytest.mark.parametrize(("told", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)])
def test_told_to_end_the_command_leaves_nothing(tmp_path, told, code):
    words = [str(goldens.GOLDENS / LAYOUTS[0]), str(tmp_path / "twin"), "--vision-tower", str(goldens.TOWER)]
    with subprocess.Popen(
        [sys.executable, "-c", SLOW, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "writing\n"
        assert list(tmp_path.iterdir()) != []
        process.send_signal(told)
        try:
            assert process.wait(60) == code
        finally:
            process.kill()
        assert "Traceback" not in process.stderr.read()
    assert list(tmp_path.iterdir()) == []


def test_a_v0_of_which_more_is_in_4_bit_is_told(tmp_path, monkeypatch):
    """As it was written before its authors' choice of layers was followed."""
    with monkeypatch.context() as patch:
        patch.setitem(quantization._KEPT, "v0", quantization._KEPT["v1"])
        out = stored("lisa-tiny-v0", tmp_path / "twin")
    with pytest.raises(CheckpointError, match=r"is in 4 bit, as an older lisa quantize left it; quantise the original"):
        Checkpoint.open(out)


def test_what_other_programs_read_beside_it_comes_along(tmp_path):
    out = stored(LAYOUTS[0], tmp_path / "twin")
    for name in ("tokenizer.model", "added_tokens.json", "tokenizer_config.json", "special_tokens_map.json"):
        assert (out / name).read_bytes() == (goldens.V1 / name).read_bytes()


def test_one_file_needs_no_index(tmp_path):
    """And has the name that all look for."""
    checkpoint = Checkpoint.open(goldens.GOLDENS / LAYOUTS[0], goldens.TOWER)
    save_quantised(checkpoint, tmp_path / "twin", CPU)
    for folder in (tmp_path / "twin", tmp_path / "twin" / "vision_tower"):
        assert [path.name for path in folder.glob("model*")] == ["model.safetensors"]
        assert is_whole(folder)
    several = stored(LAYOUTS[0], tmp_path / "several")
    one = Checkpoint.open(tmp_path / "twin")
    assert one.stored.keys() == Checkpoint.open(several).stored.keys()


def test_statistics_that_are_gone_are_noticed(tmp_path):
    out = stored(LAYOUTS[0], tmp_path / "twin")
    index = json.loads((out / "model.safetensors.index.json").read_text())
    file = out / index["weight_map"]["lm_head.weight"]
    tensors = load_file(file)
    del tensors["lm_head.weight.absmax"]
    save_file(tensors, file)
    with pytest.raises(CheckpointError, match=r"lm_head\.weight"):
        Checkpoint.open(out)


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("absmax", lambda scales: scales[:-1]),
        ("absmax", lambda scales: scales.float()),
        ("quant_map", lambda codes: codes[:15]),
        ("nested_absmax", lambda scales: scales[:-1]),
        ("nested_quant_map", lambda codes: codes[:200]),
        ("quant_state.bitsandbytes__nf4", lambda state: state[:-9]),
        ("quant_state.bitsandbytes__nf4", lambda state: torch.full_like(state, 255)),
        ("quant_state.bitsandbytes__nf4", lambda state: told(state, shape=[64, 703])),
        ("quant_state.bitsandbytes__nf4", lambda state: told(state, blocksize=4096)),
        ("quant_state.bitsandbytes__nf4", lambda state: told(state, quant_type="fp4")),
        ("quant_state.bitsandbytes__nf4", lambda state: told(state, nested_blocksize=64)),
        ("quant_state.bitsandbytes__nf4", lambda state: told(state, dtype="load")),
        ("quant_state.bitsandbytes__nf4", lambda state: told(state, shape=None)),
    ],
)
def test_statistics_of_another_weight_are_refused(tmp_path, part, change):
    """A product by it would read beyond them."""
    out = stored(LAYOUTS[0], tmp_path / "twin")
    index = json.loads((out / "model.safetensors.index.json").read_text())
    file = out / index["weight_map"]["lm_head.weight"]
    tensors = load_file(file)
    name = f"lm_head.weight.{part}"
    tensors[name] = change(tensors[name]).contiguous()
    save_file(tensors, tmp_path / "other")
    (tmp_path / "other").replace(file)
    with pytest.raises(CheckpointError, match=r"4-bit statistics of language\.lm_head\.weight"):
        LisaEngine.from_pretrained(out, device="cpu")


def told(state, **changes):
    """A 4-bit weight's JSON, changed."""
    content = json.loads(bytes(state.tolist())) | changes
    return torch.tensor(list(json.dumps(content).encode()), dtype=torch.uint8)


def test_the_command_writes_a_checkpoint_that_loads(tmp_path, capsys):
    out = tmp_path / "twin"
    options = ["--device", "cpu", "--vision-tower", str(goldens.TOWER)]
    with pytest.raises(SystemExit) as exit_:
        main(["quantize", str(goldens.GOLDENS / LAYOUTS[0]), str(out), *options])
    assert exit_.value.code == 0
    assert "in 4 bit" in capsys.readouterr().out
    assert Checkpoint.open(out).quantised


def test_a_full_disk_and_too_little_memory_are_told(tmp_path, capsys, monkeypatch):
    words = ["quantize", str(goldens.GOLDENS / LAYOUTS[0]), str(tmp_path / "twin")]
    options = ["--device", "cpu", "--vision-tower", str(goldens.TOWER)]
    with pytest.raises(SystemExit), no_file_larger(1 << 20):
        main([*words, *options])
    assert "could not be written: File too large; nothing is left of it." in said(capsys)

    def exhausted(*_):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr("lisa_core.quantization.quantised_weight", exhausted)
    with pytest.raises(SystemExit):
        main([*words, *options])
    assert "cpu has too little memory" in said(capsys)
    assert list(tmp_path.iterdir()) == []


def said(capsys):
    return " ".join(capsys.readouterr().err.split())


def test_the_command_fails_with_a_sentence(tmp_path, capsys):
    folder = tmp_path / "broken"
    shutil.copytree(goldens.GOLDENS / LAYOUTS[0], folder)
    (folder / "tokenizer.model").unlink()
    with pytest.raises(SystemExit) as exit_:
        main(["quantize", str(folder), str(tmp_path / "twin"), "--vision-tower", str(goldens.TOWER)])
    assert exit_.value.code == 1
    assert "tokenizer.model" in capsys.readouterr().err
    assert not (tmp_path / "twin").exists()
