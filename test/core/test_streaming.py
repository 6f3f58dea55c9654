"""Weights stream in and are quantised one by one: the 16-bit model never stands in memory."""

import json
import os
import subprocess
import sys

import pytest
import torch
from checkpoints import tensors_of, with_small_sam, write
from goldens import TOWER, V1

from lisa_core.checkpoint import Checkpoint

LAYERS, HIDDEN = 12, 48_000

MEASURED = """
import json, math, sys
from lisa_core import LisaEngine
from lisa_core.checkpoint import Checkpoint
from pathlib import Path

folder, small, tower = sys.argv[1:]

def own_memory():
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))

LisaEngine.from_pretrained(small, "nf4", "cpu", tower)  # everything that is imported and set up once
before, most = own_memory(), 0

def look(share, parameter):
    global most
    most = max(most, own_memory() - before)

engine = LisaEngine.from_pretrained(folder, "nf4", "cpu", tower, on_progress=look)
stored = sum(t.dtype.itemsize * math.prod(t.shape) for t in Checkpoint.open(folder, tower).stored.values())
print(json.dumps({"peak": most, "stored": stored, "quantised": sum(engine.memory().values())}))
"""


@pytest.mark.parametrize("files", ["sharded-bin", "sharded-safetensors"])
def test_the_16_bit_model_never_stands_in_memory(files, tmp_path):
    tensors = with_small_sam(tensors_of(V1))
    small = write(tmp_path / "small", tensors)
    large = write(tmp_path / "large", _with_many_weights(tensors), files=files, **_sizes())
    command = [sys.executable, "-c", MEASURED, str(large), str(small), str(TOWER)]
    # as with the weights of a real model, which are larger, what is freed goes back to the system at once
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "1000000"}
    finished = subprocess.run(command, capture_output=True, check=True, text=True, env=environment)
    seen = json.loads(finished.stdout.splitlines()[-1])
    assert seen["stored"] > 200e6
    assert seen["quantised"] < 0.35 * seen["stored"]
    assert seen["peak"] < seen["quantised"] + 0.25 * seen["stored"]


def test_the_largest_weights_come_first(tmp_path):
    checkpoint = Checkpoint.open(write(tmp_path / "sharded", tensors_of(V1), files="sharded-bin"), TOWER)
    sizes = {}
    for parameter, tensor, _ in checkpoint.tensors():
        sizes.setdefault(checkpoint.stored[parameter].file, []).append(tensor.numel())
    assert len(sizes) == 4
    assert all(in_file == sorted(in_file, reverse=True) for in_file in sizes.values())
    largest = [in_file[0] for in_file in sizes.values()]
    assert largest == sorted(largest, reverse=True)


def _sizes():
    return {"num_hidden_layers": LAYERS, "intermediate_size": HIDDEN}


def _with_many_weights(tensors):
    """The golden with a language model of more and wider layers, 220 MB in fp16."""
    layer = {name: tensor for name, tensor in tensors.items() if name.startswith("model.layers.0.")}
    changed = {name: tensor for name, tensor in tensors.items() if not name.startswith("model.layers.")}
    for index in range(LAYERS):
        for name, tensor in layer.items():
            shape = [HIDDEN if side == 160 else side for side in tensor.shape]
            changed[name.replace(".0.", f".{index}.", 1)] = torch.full(shape, 0.01 * (index + 1), dtype=torch.float16)
    return changed
