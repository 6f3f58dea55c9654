"""SAM beside the language model: with a double for the second stream of a GPU, which keeps the order of things."""

import numpy as np
import pytest
import torch
from goldens import TOWER, case

from lisa_core import LisaEngine, engine, preprocess
from lisa_core.inference.beside import SideStream, beside_on
from lisa_core.inference.generation import Generator
from lisa_core.model.sam import Sam

SHORT = case("v1-short")
LONG = case("v1-explain")
NO_MASK = case("v1-no_mask")


class Aside:
    """Does the work when it is started; tells when it was, and when its result was waited for."""

    def __init__(self):
        self.order = []

    def start(self, work):
        self.order.append("start")
        return work(), lambda: self.order.append("wait")


@pytest.fixture
def aside():
    return Aside()


@pytest.fixture
def lisa(small_checkpoint, monkeypatch, aside):
    monkeypatch.setattr(engine, "beside_on", lambda _: aside)
    decode = Sam.decode
    monkeypatch.setattr(Sam, "decode", lambda *args: aside.order.append("decode") or decode(*args))
    return LisaEngine.from_pretrained(small_checkpoint, "fp32", "cpu", TOWER)


def test_it_begins_with_the_answer_and_is_waited_for_before_the_masks(lisa, small, aside, monkeypatch):
    read = Generator.read
    monkeypatch.setattr(Generator, "read", lambda *given: (read(*given), aside.order.append("read"))[0])
    frame = lisa.encode(SHORT.rgb)
    assert aside.order == []
    answers = [lisa.ask(frame, SHORT.instruction) for _ in range(2)]
    assert aside.order == ["read", "start", "wait", "decode", "read", "wait", "decode"]
    (wanted,) = small.ask(small.encode(SHORT.rgb), SHORT.instruction).segments
    for answer in answers:
        assert np.array_equal(answer.segments[0].mask, wanted.mask)


def test_all_that_sam_needs_is_made_beside_too(lisa, aside, monkeypatch):
    """On a GPU the resized picture would else be read by one stream before another has written it."""
    for_sam = preprocess.for_sam
    monkeypatch.setattr(preprocess, "for_sam", lambda *given: aside.order.append("resize") or for_sam(*given))
    lisa.ask(lisa.encode(SHORT.rgb), SHORT.instruction)
    assert aside.order == ["start", "resize", "wait", "decode"]


def test_an_answer_without_a_mask_does_not_wait(lisa, aside):
    assert lisa.ask(lisa.encode(NO_MASK.rgb), NO_MASK.instruction).segments == ()
    assert aside.order == ["start"]


def test_the_first_of_several_frames_does_not_wait_for_the_others(lisa, monkeypatch):
    order, names = [], iter("ab")

    def start(work):
        name = next(names)
        return work(), lambda: order.append(name)

    monkeypatch.setattr(lisa._masker._beside, "start", start)
    frames = [lisa.encode(asked.rgb) for asked in (SHORT, LONG)]
    questions = [SHORT.instruction, LONG.instruction]
    lisa.ask_many(frames, questions, on_answer=lambda index, _: order.append(index))
    assert order == ["a", 0, "b", 1]


@pytest.mark.parametrize("many", [False, True])
def test_a_frame_that_was_emptied_is_begun_again(lisa, aside, many):
    frame = lisa.encode(SHORT.rgb)
    lisa.ask(frame, SHORT.instruction, max_segments=0)
    lisa._memory._encoded[frame].empty()
    if many:
        lisa.ask_many(frame, [SHORT.instruction] * 2)
    else:
        lisa.ask(frame, SHORT.instruction)
    assert aside.order == ["start", "start", "wait", "decode"]


def test_where_memory_has_no_room_to_keep_it_it_is_encoded_for_the_masks_alone(lisa, aside, monkeypatch):
    monkeypatch.setattr(lisa._memory, "_room", 0)
    monkeypatch.setattr(lisa._memory, "make_room", lambda _: None)
    answer = lisa.ask(lisa.encode(SHORT.rgb), SHORT.instruction, on_stage=aside.order.append)
    assert len(answer.segments) == 1
    assert aside.order == ["answering", "masking", "start", "wait", "decode"]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError('NVML_SUCCESS == r INTERNAL ASSERT FAILED at "CUDACachingAllocator.cpp":995'),
    ],
    ids=["told", "as a Jetson tells it"],
)
def test_where_it_runs_out_of_memory_questions_without_a_mask_are_answered(lisa, aside, monkeypatch, error):
    start = aside.start

    def full_at_first(work):
        aside.order.append("full")
        if aside.order.count("full") < 3:
            raise error
        return start(work)

    monkeypatch.setattr(aside, "start", full_at_first)
    assert lisa.ask(lisa.encode(NO_MASK.rgb), NO_MASK.instruction).segments == ()
    assert len(lisa.ask(lisa.encode(SHORT.rgb), SHORT.instruction).segments) == 1
    assert aside.order == ["full", "full", "full", "start", "wait", "decode"]


def test_the_cpu_has_nothing_to_do_it_beside():
    assert beside_on(torch.device("cpu")) is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_second_stream_of_a_gpu(small_checkpoint, small):
    device = torch.device("cuda", 0)
    assert isinstance(beside_on(device), SideStream)
    on_gpu = LisaEngine.from_pretrained(small_checkpoint, "fp32", "cuda", TOWER)
    (found,) = on_gpu.ask(on_gpu.encode(SHORT.rgb), SHORT.instruction).segments
    (wanted,) = small.ask(small.encode(SHORT.rgb), SHORT.instruction).segments
    assert (found.mask != wanted.mask).mean() < 0.01
