"""What is recorded as a CUDA graph asks the host for nothing and takes nothing from it.

Tensors of the meta device stand in for those of a GPU: they have no values that a host could wait for.
"""

import pytest
import torch
from goldens import TOWER, V1, case
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lisa_core import LisaEngine
from lisa_core.checkpoint import Checkpoint
from lisa_core.inference import cuda_graphs
from lisa_core.model.lisa import Lisa

GPU = torch.device("meta")
ASKED = case("v1-explain")


class WithoutHost(TorchDispatchMode):
    """Fails on an operation that reads or makes a tensor of the host."""

    def __torch_dispatch__(self, operation, _types, args=(), kwargs=None):
        made = operation(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves((args, kwargs, made)) if isinstance(leaf, torch.Tensor)]
        assert all(tensor.device == GPU for tensor in tensors), f"{operation} touches the host"
        return made


class Recorder:
    """Does the work as it would be recorded; there is nothing to replay, for which memory is said to be short."""

    def __init__(self):
        self.recorded = []

    def __call__(self, work):
        with WithoutHost():
            work()
        self.recorded.append([tuple(tensor.shape) for tensor in work.__self__._given])
        raise torch.OutOfMemoryError("nothing was kept")


@pytest.fixture
def recorder(monkeypatch):
    recorder = Recorder()
    monkeypatch.setattr(cuda_graphs, "capture_for", lambda *_, **__: recorder)
    return recorder


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_no_part_of_an_answer_waits_for_the_host_while_it_is_recorded(recorder, monkeypatch, precision, dtype):
    opened = Checkpoint.open(V1, TOWER)
    monkeypatch.setattr("lisa_core.devices.compute_dtype", lambda *_: dtype)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)
    with GPU:
        model = Lisa(opened.shape).to(dtype).requires_grad_(False)
    engine = LisaEngine("nowhere", model, opened.tokenizer, "v1", "llava_v1", precision, GPU)
    frame = engine.encode(ASKED.rgb)
    with pytest.raises(NotImplementedError, match="meta"):  # the mask has no pixels that could be copied to the host
        engine.ask(frame, ASKED.instruction, mask_only=True)
    language, read = opened.shape.language, engine._prefixes.ids
    with torch.inference_mode():
        engine._generator._read(torch.empty(1, language.width, dtype=dtype, device=GPU))
    prompt = engine._generator._stepper.end(0, len(read))
    clip, sam = opened.shape.clip, opened.shape.sam
    assert recorder.recorded == [
        [(1, 3, clip.image, clip.image)],
        [(prompt, language.width), (2,)],
        [(1, 3, sam.image, sam.image)],
        [(sam.embedding, sam.grid, sam.grid), (1, sam.embedding)],
        [(1, language.width), (2,)],
    ]
