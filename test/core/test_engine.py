"""What an engine does with questions: streams, cancels, survives, and remembers nothing that it should not."""

import gc
import threading
import weakref

import numpy as np
import pytest
import torch
from checkpoints import change_json, copy_of
from goldens import TOWER, case, embeddings, picture, same_answer
from hypothesis import given, settings
from hypothesis import strategies as st

from lisa_core import (
    Cancelled,
    CheckpointError,
    DeviceError,
    DeviceUnusableError,
    ImageError,
    LisaEngine,
    LisaError,
    OutOfMemoryError,
    PromptError,
    devices,
    footprint,
    loading,
)
from lisa_core.inference.generation import Generator
from lisa_core.model.clip import VisionTower
from lisa_core.model.language import KVCache, Language
from lisa_core.model.sam import Sam

SHORT = case("v1-short")
TWO_MASKS = case("v1-two_masks")
NO_MASK = case("v1-no_mask")
LONG = case("v1-explain")
SEG = 700
CONTEXT = 330


def ask(engine, asked, frame=None, **options):
    return engine.ask(frame or engine.encode(asked.rgb), asked.instruction, asked.history, **options)


@pytest.fixture
def frame(small):
    return small.encode(SHORT.rgb)


@pytest.fixture(scope="module")
def any_frame(small):
    return small.encode(SHORT.rgb)


@pytest.fixture(scope="module")
def tight(load, small_checkpoint, tmp_path_factory):
    """It reads but a few tokens more than `LONG` asks with."""
    folder = copy_of(small_checkpoint, tmp_path_factory.mktemp("tight") / "lisa")
    change_json(folder / "config.json", max_position_embeddings=CONTEXT)
    return load(folder)


@pytest.fixture
def count(monkeypatch):
    """`count(Sam, "encode")`: a list that grows by one with every call of the method."""

    def counted(owner, name):
        calls = []
        original = getattr(owner, name)

        def spy(*args, **kwargs):
            calls.append(args)
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, spy)
        return calls

    return counted


def test_a_warm_up_runs_every_part_and_leaves_nothing_behind(small, count):
    before = small.memory()
    parts = [count(VisionTower, "forward"), count(Sam, "encode"), count(Language, "forward"), count(Sam, "decode")]
    small.warm_up()
    assert all(parts)
    assert small.memory() == before
    assert small._prefixes.ids == []


class TestMasks:
    def test_none_without_seg_and_no_work_for_it(self, small, count):
        encoded, decoded = count(Sam, "encode"), count(Sam, "decode")
        answer = ask(small, NO_MASK)
        assert answer.segments == ()
        assert "[SEG]" not in answer.text
        assert not encoded
        assert not decoded
        assert not {"sam", "masks"} & answer.timings.keys()

    def test_the_seconds_of_each_stage_are_told(self, small):
        frame = small.encode(SHORT.rgb)
        stages = {"prefill", "decode", "sam", "masks"}
        assert frame.timings.keys() == {"preprocess", "clip"}
        assert ask(small, SHORT, frame).timings.keys() == stages
        assert ask(small, SHORT, frame).timings.keys() == stages - {"sam"}

    def test_one_for_each_seg_in_the_order_of_the_words(self, small):
        answer = ask(small, TWO_MASKS)
        assert answer.token_ids.count(SEG) == answer.text.count("[SEG]") == len(answer.segments) == 2
        assert not np.array_equal(*embeddings(answer))

    def test_the_image_is_encoded_once_for_all_questions(self, small, count):
        clip, sam = count(VisionTower, "forward"), count(Sam, "encode")
        frame = small.encode(SHORT.rgb)
        for asked in (SHORT, LONG, SHORT):
            ask(small, asked, frame)
        assert len(clip) == len(sam) == 1

    @pytest.mark.parametrize(("most", "found"), [(-1, 0), (0, 0), (1, 1), (2, 2), (3, 2)])
    def test_at_most_so_many_and_the_text_goes_on(self, small, most, found):
        answer = ask(small, TWO_MASKS, max_segments=most)
        assert len(answer.segments) == found
        together = small.ask_many(small.encode(TWO_MASKS.rgb), [TWO_MASKS.instruction] * 2, max_segments=most)
        assert [len(one.segments) for one in together] == [found] * 2
        assert answer.text == "Sure, it is [SEG] and [SEG]."
        for segment, first in zip(answer.segments, ask(small, TWO_MASKS).segments, strict=False):
            assert np.array_equal(segment.mask, first.mask)

    def test_none_asked_for_is_no_work(self, small, count):
        encoded = count(Sam, "encode")
        ask(small, TWO_MASKS, max_segments=0)
        assert not encoded

    def test_of_an_answer_only_not_of_its_history(self, small):
        asked = case("v1-follow_up")
        assert "[SEG]" in asked.history[0][1]
        assert ask(small, asked).segments == ()

    def test_types(self, small):
        segment = ask(small, SHORT).segments[0]
        assert segment.mask.dtype == np.bool_
        assert segment.mask.shape == SHORT.rgb.shape[:2]
        assert segment.embedding.dtype == segment.low_res_logits.dtype == np.float32
        assert segment.low_res_logits.shape == (64, 64)
        assert type(segment.score) is float
        assert all(type(side) is int for side in segment.box)


@pytest.mark.parametrize("given", [None, SHORT.rgb], ids=["nothing", "a picture"])
def test_what_is_no_frame(small, frame, given):
    with pytest.raises(ImageError, match=r"takes a frame, not (NoneType|ndarray): frame = engine\.encode\(rgb\)"):
        small.ask(given, "segment the handle")
    with pytest.raises(ImageError, match="takes a frame"):
        small.ask_many([frame, given], ["the handle", "the cup"])
    with pytest.raises(ImageError, match="takes a frame"):
        small.ask_many(given, ["the handle"])


class TestMaskOnly:
    def test_decodes_nothing(self, small, frame, monkeypatch):
        monkeypatch.setattr(Generator, "decode", None)
        told = []
        answer = small.ask(frame, "segment the handle", mask_only=True, on_token=told.append)
        assert told == ["[SEG]."]
        assert answer.text == "[SEG]."
        assert answer.token_ids == [SEG, 337, 2]
        assert len(answer.segments) == 1

    def test_does_not_disturb_the_next_question(self, small, frame):
        expected = ask(small, SHORT)
        small.ask(frame, SHORT.instruction, mask_only=True)
        assert same_answer(ask(small, SHORT, frame), expected)


class TestLength:
    @pytest.mark.parametrize("most", [1, 2, 5, 30, 31, 32])
    def test_stops_after_so_many_tokens(self, small, most):
        whole = ask(small, LONG)
        answer = ask(small, LONG, max_new_tokens=most)
        assert len(whole.token_ids) == 31
        assert answer.token_ids == whole.token_ids[:most]
        assert len(answer.segments) == answer.token_ids.count(SEG)

    @pytest.mark.parametrize("most", [0, -1])
    def test_none_is_refused(self, small, frame, most):
        with pytest.raises(PromptError, match=f"max_new_tokens is {most}; at least 1"):
            ask(small, SHORT, frame, max_new_tokens=most)

    @pytest.mark.parametrize("name", ["max_new_tokens", "max_segments"])
    @pytest.mark.parametrize("most", [1.5, None, "2"])
    def test_what_is_no_number_is_refused(self, small, frame, name, most):
        with pytest.raises(PromptError, match=f"{name} is {most!r}; give a whole number"):
            ask(small, SHORT, frame, **{name: most})

    def test_ends_where_the_context_is_full(self, tight):
        answer = ask(tight, LONG)
        assert len(answer.prompt_ids) - 1 + 256 + len(answer.token_ids) == CONTEXT
        assert answer.token_ids == LONG.recorded["new_ids"][: len(answer.token_ids)]


class TestStreaming:
    @pytest.mark.parametrize("asked", [SHORT, TWO_MASKS, NO_MASK, LONG], ids=str)
    def test_pieces_are_the_text(self, small, asked):
        pieces = []
        answer = ask(small, asked, on_token=pieces.append)
        assert "".join(pieces) == answer.text
        assert len(pieces) > 2
        assert all(pieces)

    def test_as_it_comes(self, small, frame):
        """The text so far has been told before the next token is thought of."""
        thought, told = [], []

        def on_token(text):
            told.append(text)
            raise RuntimeError("enough")

        with pytest.MonkeyPatch.context() as patch:
            forward = Language.forward
            patch.setattr(Language, "forward", lambda *args: thought.append(1) or forward(*args))
            with pytest.raises(RuntimeError, match="enough"):
                ask(small, SHORT, frame, on_token=on_token)
        assert told == ["Sure"]
        assert len(thought) == 1

    def test_a_listener_that_fails_does_not_disturb_the_next_question(self, small, frame):
        def on_token(text):
            raise ValueError(text)

        with pytest.raises(ValueError, match="Sure"):
            ask(small, SHORT, frame, on_token=on_token)
        assert same_answer(ask(small, SHORT, frame), ask(small, SHORT))

    def test_stages(self, small):
        stages = []
        ask(small, SHORT, on_stage=stages.append)
        ask(small, NO_MASK, on_stage=stages.append)
        assert stages == ["answering", "masking", "answering"]

    @given(st.lists(st.one_of(st.sampled_from([SEG, 0, 337, 653, 701, 259]), st.integers(3, 702)), max_size=12))
    @settings(max_examples=60, deadline=None)
    def test_whatever_it_says(self, small, any_frame, ids):
        """Letters of several bytes, each its own token, are told whole; nothing that was told is taken back."""
        assert self.told(small, any_frame, ids) == small._tokenizer.decode(ids)

    @pytest.mark.parametrize("text", ["🤖", "a 🦾🤖 b", "naïve 咖啡, ½ €"])
    def test_letters_of_several_tokens(self, small, any_frame, text):
        ids = small._tokenizer.encode([text])[1:]
        pieces = []
        assert self.told(small, any_frame, ids, pieces) == text
        assert not any("\ufffd" in piece for piece in pieces)

    def told(self, engine, frame, ids, pieces=None):
        pieces = [] if pieces is None else pieces
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Generator, "decode", lambda self, hidden, *_: ((token, hidden) for token in ids))
            answer = engine.ask(frame, "?", max_segments=0, on_token=pieces.append)
        assert answer.token_ids == ids
        assert "".join(pieces) == answer.text
        return answer.text


class TestOneAtATime:
    """Two calls at once would mix their keys and values, and answer nonsense."""

    CALLS = pytest.mark.parametrize(
        "call",
        [
            lambda engine, frame: engine.close(),
            lambda engine, frame: engine.encode(SHORT.rgb),
            lambda engine, frame: engine.ask(frame, "cup"),
            lambda engine, frame: engine.ask_many(frame, ["cup", "bowl"]),
        ],
        ids=["close", "encode", "ask", "ask_many"],
    )

    @CALLS
    @pytest.mark.parametrize("listener", ["on_token", "on_stage"])
    def test_what_is_called_back_cannot_use_it(self, small_checkpoint, call, listener):
        engine = LisaEngine.from_pretrained(small_checkpoint, "fp32", "cpu", TOWER)
        frame, other = engine.encode(SHORT.rgb), engine.encode(LONG.rgb)
        expected = ask(engine, SHORT)
        with pytest.raises(LisaError, match="is answering; use it when that call has returned"):
            ask(engine, SHORT, frame, **{listener: lambda _: call(engine, other)})
        assert same_answer(ask(engine, SHORT, frame), expected)

    @CALLS
    def test_nor_while_it_answers_several(self, small_checkpoint, call):
        engine = LisaEngine.from_pretrained(small_checkpoint, "fp32", "cpu", TOWER)
        frame, other = engine.encode(SHORT.rgb), engine.encode(LONG.rgb)
        with pytest.raises(LisaError, match="is answering"):
            engine.ask_many(frame, ["cup", "bowl"], max_new_tokens=2, on_answer=lambda *_: call(engine, other))
        assert same_answer(ask(engine, SHORT, frame), ask(engine, SHORT))

    def test_nor_can_another_thread(self, small, frame):
        refused = []

        def use():
            try:
                ask(small, LONG)
            except LisaError as error:
                refused.append(str(error))

        def on_token(_):
            thread = threading.Thread(target=use)
            thread.start()
            thread.join()

        answer = ask(small, SHORT, frame, on_token=on_token)
        assert refused
        assert all("it serves one thread at a time" in error for error in refused)
        assert same_answer(answer, ask(small, SHORT))


class TestCancel:
    def test_before(self, small, frame, count):
        cancel = threading.Event()
        cancel.set()
        read = count(Language, "forward")
        with pytest.raises(Cancelled, match="was cancelled"):
            ask(small, LONG, frame, cancel=cancel)
        assert not read
        assert same_answer(ask(small, LONG, frame), ask(small, LONG))

    @pytest.mark.parametrize("after", [1, 2, 9])
    def test_between_tokens_within_one(self, small, frame, count, after):
        cancel = threading.Event()
        told = []

        def on_token(text):
            told.append(text)
            if len(told) == after:
                cancel.set()
                steps.clear()

        steps = count(Language, "forward")
        with pytest.raises(Cancelled):
            ask(small, LONG, frame, on_token=on_token, cancel=cancel)
        assert len(told) == after
        assert len(steps) <= 1
        assert same_answer(ask(small, LONG, frame), ask(small, LONG))

    def test_from_another_thread(self, small, frame, monkeypatch):
        """While a token is being thought of."""
        cancel = threading.Event()
        busy = threading.Event()
        forward = Language.forward

        def slow(*args):
            busy.set()
            cancel.wait(10)
            return forward(*args)

        monkeypatch.setattr(Language, "forward", slow)
        canceller = threading.Thread(target=lambda: busy.wait(10) and cancel.set())
        canceller.start()
        with pytest.raises(Cancelled):
            ask(small, LONG, frame, cancel=cancel)
        canceller.join()
        monkeypatch.undo()
        assert same_answer(ask(small, LONG, frame), ask(small, LONG))

    def test_ahead_of_the_masks(self, small, frame, count):
        """SAM is the longest stage; a question that was cancelled before it is not worth it."""
        cancel = threading.Event()
        encoded = count(Sam, "encode")
        with pytest.raises(Cancelled):
            ask(small, SHORT, frame, cancel=cancel, on_stage=lambda stage: stage == "masking" and cancel.set())
        assert not encoded
        assert same_answer(ask(small, SHORT, frame), ask(small, SHORT))


class TestOutOfMemory:
    ERRORS = (
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has ..."),
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] . DefaultCPUAllocator: can't allocate memory: you tried ..."),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError('NVML_SUCCESS == r INTERNAL ASSERT FAILED at "CUDACachingAllocator.cpp":995, please report a bug'),
    )
    EACH = pytest.mark.parametrize("error", ERRORS, ids=lambda error: str(error)[:24] or "MemoryError")

    @EACH
    @pytest.mark.parametrize(("owner", "method"), [(Language, "forward"), (Sam, "encode"), (Sam, "decode")])
    def test_of_a_question(self, small, frame, owner, method, error):
        expected = ask(small, SHORT)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(owner, method, self.raising(error))
            with pytest.raises(OutOfMemoryError, match=r"cpu ran out of memory .* smaller precision") as caught:
                ask(small, SHORT, frame)
        assert "\n" not in str(caught.value)
        assert same_answer(ask(small, SHORT, frame), expected)

    def test_of_an_image(self, small):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(VisionTower, "forward", self.raising(self.ERRORS[0]))
            with pytest.raises(OutOfMemoryError):
                small.encode(SHORT.rgb)
        assert ask(small, SHORT).text == "Sure, [SEG]."

    def test_of_the_copy_of_an_image(self, small):
        class Large(np.ndarray):
            copy = self.raising(MemoryError("Unable to allocate 275. MiB"))

        with pytest.raises(OutOfMemoryError, match="Unable to allocate"):
            small.encode(SHORT.rgb.view(Large))

    def test_of_loading(self, small_checkpoint, monkeypatch):
        monkeypatch.setattr("lisa_core.tensor_files.TensorFile.read", self.raising(self.ERRORS[0]))
        with pytest.raises(OutOfMemoryError, match="cpu has too little memory for this checkpoint in fp32; choose"):
            LisaEngine.from_pretrained(small_checkpoint, "fp32", "cpu", TOWER)

    @EACH
    @pytest.mark.parametrize(
        "where", ["lisa_core.quantization.quantised_weight", "lisa_core.inference.prefix_cache.KVCache.__init__"]
    )
    def test_of_what_comes_before_and_after_the_weights(self, small_checkpoint, monkeypatch, where, error):
        monkeypatch.setattr(where, self.raising(error))
        with pytest.raises(OutOfMemoryError, match="cpu has too little memory for this checkpoint in nf4; choose"):
            LisaEngine.from_pretrained(small_checkpoint, "nf4", "cpu", TOWER)

    def test_half_way_through_an_answer(self, small, frame):
        """What was decoded before is dropped with the rest; other frames are read again when they are asked about."""
        other = small.encode(TWO_MASKS.rgb)
        ask(small, TWO_MASKS, other)
        forward, steps = Language.forward, []

        def fails_at_the_fifth(*args):
            steps.append(1)
            if len(steps) == 5:
                raise self.ERRORS[0]
            return forward(*args)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Language, "forward", fails_at_the_fifth)
            with pytest.raises(OutOfMemoryError):
                ask(small, LONG, frame)
        assert same_answer(ask(small, TWO_MASKS, other), ask(small, TWO_MASKS))
        assert same_answer(ask(small, LONG, frame), ask(small, LONG))

    def test_what_the_question_had_made_is_gone_before_memory_is_given_back(self, small, frame, monkeypatch):
        made, there = [], []

        def fails(*_):
            large = torch.zeros(1)
            made.append(weakref.ref(large))
            raise self.ERRORS[0]

        monkeypatch.setattr(Language, "forward", fails)
        monkeypatch.setattr(small, "_release", lambda: there.append(made[0]()))
        with pytest.raises(OutOfMemoryError):
            ask(small, SHORT, frame)
        assert there == [None]

    @EACH
    def test_of_a_copy_that_only_spares_reading_again(self, small, monkeypatch, error):
        """What was read about one frame while another is asked about is kept where it fits, and else read again."""
        copy, refused = KVCache.copy, []

        def copy_small(cache, capacity, length):
            if capacity == length:
                refused.append(length)
                raise error
            return copy(cache, capacity, length)

        frames = [small.encode(asked.rgb) for asked in (SHORT, TWO_MASKS)]
        wanted = [ask(small, asked, frame) for asked, frame in zip((SHORT, TWO_MASKS), frames, strict=True)]
        monkeypatch.setattr(KVCache, "copy", copy_small)
        for _ in range(2):
            for asked, frame, answer in zip((SHORT, TWO_MASKS), frames, wanted, strict=True):
                assert same_answer(ask(small, asked, frame), answer)
        assert len(refused) >= 3

    def test_other_errors_are_bugs_and_stay_what_they_are(self, small, frame, monkeypatch):
        monkeypatch.setattr(Sam, "decode", self.raising(RuntimeError("mat1 and mat2 shapes cannot be multiplied")))
        with pytest.raises(RuntimeError, match="mat1 and mat2"):
            ask(small, SHORT, frame)

    def test_a_gpu_that_answers_nothing_any_more_is_told(self, small, frame, monkeypatch):
        monkeypatch.setattr(Sam, "decode", self.raising(RuntimeError("CUDA error: an illegal memory access\nCUDA ...")))
        monkeypatch.setattr("lisa_core.devices.is_lost", lambda _: True)
        with pytest.raises(DeviceError) as caught:
            ask(small, SHORT, frame)
        assert str(caught.value) == "cpu failed (CUDA error: an illegal memory access); start this program anew."

    @pytest.mark.parametrize(
        ("says", "lost"),
        [(None, False), ("an illegal memory access was encountered", True), ("out of memory", False)],
    )
    def test_a_gpu_is_lost_if_it_fails_at_nothing(self, monkeypatch, says, lost):
        def synchronize(device):
            assert device == torch.device("cuda:1")
            if says:
                raise RuntimeError(f"CUDA error: {says}")

        monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
        assert devices.is_lost(torch.device("cuda:1")) == lost
        assert not devices.is_lost(torch.device("cpu"))

    def test_a_gpu_that_others_have_filled_is_not_called_broken(self, monkeypatch):
        full = self.raising(RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be ..."))
        monkeypatch.setattr(torch, "ones", full)
        monkeypatch.setattr(torch.cuda, "synchronize", full)
        with pytest.raises(OutOfMemoryError, match=r"^cuda:0 has too little memory .* end what else is in its memory"):
            loading.load(None, "nf4", torch.device("cuda:0"))

    @pytest.mark.parametrize("precision", ["nf4", "fp32"])
    def test_a_gpu_that_does_not_work_is_told_at_load(self, small_checkpoint, monkeypatch, precision):
        monkeypatch.setattr(torch, "ones", self.raising(RuntimeError("CUDA error: device is busy\nCUDA kernel ...")))
        with pytest.raises(
            DeviceUnusableError, match=r"^cpu does not work here \(CUDA error: device is busy\): see whether"
        ):
            LisaEngine.from_pretrained(small_checkpoint, precision, "cpu", TOWER)

    @pytest.mark.parametrize("lost", [True, False])
    def test_a_gpu_that_is_lost_is_told_when_the_engine_is_closed(self, small_checkpoint, monkeypatch, lost):
        engine = LisaEngine.from_pretrained(small_checkpoint, "fp32", "cpu", TOWER)
        monkeypatch.setattr("lisa_core.engine.gc.collect", self.raising(RuntimeError("CUDA error: unspecified launch")))
        monkeypatch.setattr("lisa_core.devices.is_lost", lambda _: lost)
        with pytest.raises(DeviceError if lost else RuntimeError, match="CUDA error: unspecified launch"):
            engine.close()
        engine.close()

    def test_a_gpu_that_fails_while_the_weights_come_is_told(self, small_checkpoint, monkeypatch):
        failed = RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED\nCUDA kernel ...")
        monkeypatch.setattr("lisa_core.quantization.quantised_weight", self.raising(failed))
        with pytest.raises(OutOfMemoryError):
            LisaEngine.from_pretrained(small_checkpoint, "nf4", "cpu", TOWER)
        monkeypatch.setattr("lisa_core.devices.is_lost", lambda _: True)
        with pytest.raises(DeviceError, match=r"^cpu failed \(CUDA error: CUBLAS_STATUS_NOT_INITIALIZED\); start this"):
            LisaEngine.from_pretrained(small_checkpoint, "nf4", "cpu", TOWER)

    def raising(self, error):
        def fail(*_, **__):
            raise error

        return fail


class TestFrames:
    IMAGES = ("square_300.png", "odd_333x217.png")

    def test_many_at_once(self, small):
        """More than the generator sets aside, asked in turns."""
        rgbs = [np.roll(picture(name), shift, axis=1) for shift in (0, 40, 90, 130, 170) for name in self.IMAGES]
        questions = ["segment the handle", "What is in this image?"]
        fresh = [[small.ask(small.encode(rgb), words) for words in questions] for rgb in rgbs]
        frames = [small.encode(rgb) for rgb in rgbs]
        assert len(frames) > 8
        for turn, words in enumerate(questions):
            for index in [0, 9, *range(10)]:
                assert same_answer(small.ask(frames[index], words, max_segments=1), fresh[index][turn])

    def test_memory_for_them_is_bounded(self, small):
        def asked():
            frame = small.encode(SHORT.rgb)
            small.ask(frame, SHORT.instruction, max_new_tokens=1)
            return frame

        one = asked()
        least = small.memory()["kv_cache"]
        frames = [one, *(asked() for _ in range(10))]
        held = small.memory()["kv_cache"]
        frames += [asked() for _ in range(10)]
        assert small.memory()["kv_cache"] == held > least

    def test_a_frame_no_longer_held_costs_nothing(self, small):
        def ask_once():
            small.ask(small.encode(SHORT.rgb), SHORT.instruction, max_new_tokens=1)

        ask_once()
        alone = small.memory()["kv_cache"]
        for _ in range(5):
            ask_once()
        assert small.memory()["kv_cache"] == alone

    def test_frames_that_are_gone_displace_none_that_are_held(self, small, count):
        held, other = (small.encode(SHORT.rgb) for _ in range(2))
        ask(small, SHORT, held, max_new_tokens=1)
        passing = [small.encode(SHORT.rgb) for _ in range(10)]
        while passing:
            for frame in (passing.pop(), other):
                ask(small, SHORT, frame, max_new_tokens=1)
        read = count(Language, "forward")
        small.ask(held, "Why is it hot?", max_new_tokens=1)
        assert 0 < sum(embeddings.shape[0] for _, embeddings, *_ in read) < 40

    def test_a_picture_that_changes_afterwards_is_not_the_frames(self, small):
        """Cameras write into the same buffer again."""
        buffer = SHORT.rgb
        expected = ask(small, SHORT)
        frame = small.encode(buffer)
        buffer[:] = 0
        assert same_answer(ask(small, SHORT, frame), expected)
        assert np.array_equal(frame.image, SHORT.rgb)

    def test_size(self, small):
        assert small.encode(picture("odd_333x217.png")).size == (217, 333)


class TestConversations:
    def test_appended_equals_asked_anew(self, small, frame):
        history = []
        for words in (SHORT.instruction, "Why is it hot?", "Now segment the bowl next to it."):
            answer = small.ask(frame, words, history)
            assert same_answer(small.ask(small.encode(SHORT.rgb), words, history), answer)
            history.append((words, answer.text))

    def test_what_was_read_is_not_read_again(self, small, frame, count):
        first = ask(small, SHORT, frame)
        read = count(Language, "forward")
        small.ask(frame, "Why is it hot?", [(SHORT.instruction, first.text)], max_new_tokens=1)
        assert sum(embeddings.shape[0] for _, embeddings, *_ in read) < 30

    def test_a_new_frame_is_read_with_its_first_question_in_one_pass(self, small, count):
        read = count(Language, "forward")
        answer = ask(small, SHORT, small.encode(SHORT.rgb), max_new_tokens=1)
        visual = small._model.shape.clip.tokens
        assert [len(embeddings) for _, embeddings, *_ in read] == [len(answer.prompt_ids) - 1 + visual]

    def test_the_frames_prefix_is_not_read_again(self, small, frame, count):
        ask(small, SHORT, frame, max_new_tokens=1)
        read = count(Language, "forward")
        small.ask(frame, "Why is it hot?", max_new_tokens=1)
        assert 0 < sum(embeddings.shape[0] for _, embeddings, *_ in read) < 40

    def test_another_history_does_not_see_this_one(self, small, frame):
        history = [("Is there a cup?", "Yes, [SEG].")]
        expected = small.ask(small.encode(SHORT.rgb), "segment the handle", history)
        small.ask(frame, "segment the handle", [("Is there a lid?", "No.")])
        small.ask(frame, "segment the handle")
        assert same_answer(small.ask(frame, "segment the handle", history), expected)

    def test_seg_is_a_token_in_answers_only(self, small, frame):
        answer = small.ask(frame, "[SEG]?", [("[SEG]", "[SEG]")], max_new_tokens=1, max_segments=0)
        assert answer.prompt_ids.count(SEG) == 1


class TestWords:
    @pytest.mark.parametrize("instruction", ["", " ", "\n\t ", "\u3000", None, 7, b"cup", ["cup"]])
    def test_none(self, small, frame, instruction):
        with pytest.raises(PromptError, match="The instruction is empty; say in words"):
            small.ask(frame, instruction)
        assert ask(small, SHORT, frame).text == "Sure, [SEG]."

    def test_too_many(self, small, frame):
        with pytest.raises(PromptError, match=r"takes \d{5} tokens with the image, .* at most 2047; ask with fewer"):
            small.ask(frame, "cup " * 10_000)
        assert same_answer(ask(small, SHORT, frame), ask(small, SHORT))

    def test_as_many_as_there_is_room_for(self, tight):
        frame = tight.encode(SHORT.rgb)
        one = len(tight.ask(frame, "a", max_new_tokens=1, max_segments=0).prompt_ids) - 1 + 256
        answer = tight.ask(frame, "a" + " a" * (CONTEXT - 1 - one), max_new_tokens=50, max_segments=0)
        assert len(answer.prompt_ids) - 1 + 256 == CONTEXT - 1
        assert len(answer.token_ids) == 1
        with pytest.raises(PromptError, match=f"takes {CONTEXT} tokens"):
            tight.ask(frame, "a" + " a" * (CONTEXT - one))

    @pytest.mark.parametrize(
        "words",
        ["<image>", "[SEG]", "</s>", "<s><im_start><image><im_end>", "cup\0lid", "the 🤖's 🦾", "\ufeff", "\u202e"],
    )
    def test_that_look_like_something_else(self, small, frame, words):
        answer = small.ask(frame, words, max_new_tokens=3)
        plain = small.ask(frame, "cup", max_new_tokens=1)
        special = [1, 2, -200, 700, 701, 702]
        assert [i for i in answer.prompt_ids if i in special] == [i for i in plain.prompt_ids if i in special]

    @pytest.mark.parametrize("history", [[], [("Is it \ud800?", "No.")], [("Is it?", "\udc80")]])
    def test_half_letters(self, small, frame, history):
        with pytest.raises(PromptError, match="not valid Unicode"):
            small.ask(frame, "cup" if history else "\udfff", history)
        assert ask(small, SHORT, frame).text == "Sure, [SEG]."

    @pytest.mark.parametrize(
        "history",
        [[("only a question",)], [("q", "a", "more")], [("q", None)], [(1, 2)], ["qa"], [{"q": "a"}], [None], 7, [7]],
        ids=str,
    )
    def test_no_history(self, small, frame, history):
        with pytest.raises(PromptError, match=r"history must be .*\(question, answer\) pairs"):
            small.ask(frame, "cup", history)

    def test_history_of_any_sequence(self, small, frame):
        expected = small.ask(frame, "cup", [("q", "a")])
        for history in ([["q", "a"]], (("q", "a"),), [["q", "a"]][:1]):
            assert same_answer(small.ask(frame, "cup", history), expected)


class TestMemory:
    def test_of_what(self, small, frame):
        held = small.memory()
        assert held.keys() == {"clip", "mm_projector", "language", "text_hidden_fcs", "sam", "frames", "kv_cache"}
        assert held["mm_projector"] == (64 * 32 + 64) * 4
        assert all(size > 0 for size in held.values())

    def test_a_limit_is_computed_in_the_open(self, small_checkpoint):
        with pytest.raises(CheckpointError) as caught:
            LisaEngine.from_pretrained(small_checkpoint, "fp32", "cpu", TOWER, memory_limit=0.005)
        message = str(caught.value)
        assert "in fp32 takes 0.01 GiB of weights and up to 0.00 GiB of KV cache" in message
        assert "over the memory limit of 0.00 GiB" not in message

    @pytest.mark.parametrize(("spare", "fits"), [(-1, False), (0, True)])
    def test_what_the_host_cannot_hold_is_refused_before_it_is_read(
        self, small, small_checkpoint, tmp_path, monkeypatch, spare, fits
    ):
        weights = sum(size for part, size in small.memory().items() if part not in ("frames", "kv_cache"))
        swap = -(-weights // 1024) - 1024 + spare
        meminfo = tmp_path / "meminfo"
        meminfo.write_text(f"MemTotal: 9999999 kB\nMemAvailable: 1024 kB\nSwapFree: {swap} kB\nHugePages_Total: 0\n")
        monkeypatch.setattr(footprint, "_MEMINFO", meminfo)
        monkeypatch.setattr(devices, "check_works", self.reached)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        with pytest.raises(StopIteration if fits else OutOfMemoryError) as caught:
            LisaEngine.from_pretrained(small_checkpoint, "fp32", "cpu", TOWER)
        if not fits:
            assert "of weights, but only 0.01 GiB of memory are free here" in str(caught.value)
            assert "or a GPU (torch sees none here: see nvidia-smi" in str(caught.value)

    @pytest.mark.parametrize("content", ["", "MemTotal: 1 kB\n", "none of its lines has a colon\n"])
    def test_a_host_that_does_not_say_what_is_free_is_tried(self, small_checkpoint, tmp_path, monkeypatch, content):
        (tmp_path / "meminfo").write_text(content)
        monkeypatch.setattr(footprint, "_MEMINFO", tmp_path / "meminfo")
        LisaEngine.from_pretrained(small_checkpoint, "fp32", "cpu", TOWER).close()

    def reached(self, *_):
        raise StopIteration

    def test_a_limit_that_is_kept(self, small_checkpoint):
        engine = LisaEngine.from_pretrained(small_checkpoint, "fp32", "cpu", TOWER, memory_limit=0.1)
        assert sum(engine.memory().values()) < 0.1 * (1 << 30)

    def test_closed(self, small_checkpoint):
        engine = LisaEngine.from_pretrained(small_checkpoint, "fp32", "cpu", TOWER)
        frame, other = engine.encode(SHORT.rgb), engine.encode(TWO_MASKS.rgb)
        for each in (frame, other):
            engine.ask(each, "cup", mask_only=True)
        held = [weakref.ref(engine._memory._encoded[frame].visual)]
        held += [
            weakref.ref(engine._memory._copies[held[0]()]),
            weakref.ref(engine._memory._encoded[other].sam.embedding),
        ]
        assert all(each() is not None for each in held)
        engine.close()
        engine.close()
        assert all(each() is None for each in held)
        for call in (lambda: engine.ask(frame, "cup"), lambda: engine.encode(SHORT.rgb), engine.memory):
            with pytest.raises(LisaError, match="was closed; load the checkpoint again"):
                call()

    def test_dropped_without_closing(self, small_checkpoint):
        """Its memory is needed for the next one now, not when Python looks for cycles."""
        engine = LisaEngine.from_pretrained(small_checkpoint, "fp32", "cpu", TOWER)
        ask(engine, SHORT)
        model = weakref.ref(engine._model)
        gc.disable()
        try:
            del engine
            assert model() is None
        finally:
            gc.enable()

    def test_a_download_is_told_before_it_begins(self, small_checkpoint, monkeypatch):
        told = []

        def download(name, on_download):
            on_download(str(name))
            return {"a/lisa": small_checkpoint, "a/tower": TOWER}[name]

        monkeypatch.setattr("lisa_core.hub.folder_of", download)
        LisaEngine.from_pretrained(
            "a/lisa", "fp32", "cpu", "a/tower", on_progress=lambda share, what: told.append((share, what))
        )
        assert told[:2] == [(0.0, "downloading a/lisa"), (0.0, "downloading a/tower")]

    def test_progress(self, small_checkpoint):
        told = []
        LisaEngine.from_pretrained(
            small_checkpoint, "fp32", "cpu", TOWER, on_progress=lambda share, what: told.append((share, what))
        )
        shares = [share for share, _ in told]
        assert shares == sorted(shares)
        assert 0 < shares[0] < 0.1
        assert shares[-1] == 1.0
        assert "language.lm_head.weight" in {what for _, what in told}
