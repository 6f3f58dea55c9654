"""Frames and conversations within a memory limit: the least recently used give way, and no answer changes."""

import threading

import numpy as np
import pytest
import torch
from goldens import TOWER, case, picture, same_answer

from lisa_core import CheckpointError, Frame, LisaEngine, OutOfMemoryError
from lisa_core.inference.frame import Visual
from lisa_core.inference.memory import FrameMemory
from lisa_core.model.clip import VisionTower
from lisa_core.model.language import Language
from lisa_core.model.sam import Sam

SHORT = case("v1-short")
WORDS = "segment the handle"
TOKEN = 4 * 2 * 3 * 64
"""Bytes of a token's key and value."""
ENCODED = 4 * 256 * 64 + 4 * 256 * 16 * 16
"""Bytes of a frame's visual tokens and SAM's embedding."""
FRAME = 300 * TOKEN + ENCODED
"""Bytes of a frame, about, with what was read of it."""


@pytest.fixture(scope="module")
def bare(small_checkpoint):
    """Bytes of the engine without a frame, with the cache that it begins with."""
    return sum(LisaEngine.from_pretrained(small_checkpoint, "fp32", "cpu", TOWER).memory().values())


@pytest.fixture
def limited(small_checkpoint, monkeypatch):
    """`limited(bytes)`: an engine with that limit, whatever a full cache would take."""
    monkeypatch.setattr("lisa_core.footprint.check_limit", lambda *_: None)

    def load(limit):
        return LisaEngine.from_pretrained(small_checkpoint, "fp32", "cpu", TOWER, memory_limit=limit / 2**30)

    return load


@pytest.fixture
def encoded(monkeypatch):
    """What was encoded, by whom: "clip" or "sam" for each time."""
    calls = []
    for name, owner, method in (("clip", VisionTower, "forward"), ("sam", Sam, "encode")):
        original = getattr(owner, method)
        monkeypatch.setattr(
            owner, method, lambda *args, name=name, original=original: calls.append(name) or original(*args)
        )
    return calls


def pictures(count):
    return [np.roll(picture("square_300.png"), 31 * index, axis=1) for index in range(count)]


def test_frames_are_counted_while_somebody_holds_them(small):
    before = small.memory()["frames"]
    frame = small.encode(SHORT.rgb)
    tokens = small.memory()["frames"] - before
    assert tokens == 256 * 64 * 4
    small.ask(frame, WORDS, mask_only=True)
    assert small.memory()["frames"] - before == ENCODED
    del frame
    assert small.memory()["frames"] == before


def test_a_frame_that_is_asked_about_does_not_give_way():
    memory = FrameMemory(room=3000)
    frames = [Frame(np.zeros((1, 1, 3), np.uint8), {}) for _ in range(2)]
    idle, asked = (memory.use([frame])[0] for frame in frames)
    for encoded in (idle, asked):
        encoded.visual = Visual(torch.zeros(256))
    assert memory.has_room(1500)
    assert (idle.held, asked.held) == (0, 1024)
    assert not memory.has_room(2500)
    assert asked.held == 1024


def test_nothing_gives_way_in_vain():
    memory = FrameMemory(room=3000)
    idle = Frame(np.zeros((1, 1, 3), np.uint8), {})
    (encoded,) = memory.use([idle])
    encoded.visual = Visual(torch.zeros(256))
    memory.use([])
    assert not memory.has_room(3001)
    assert encoded.held == 1024
    assert memory.has_room(3000)
    assert encoded.held == 0


@pytest.mark.parametrize("copies", [0.5, 1.5])
def test_no_frame_is_encoded_again_for_a_copy_of_what_was_read(limited, bare, encoded, copies):
    engine = limited(limit := bare + 4 * ENCODED + copies * 300 * TOKEN)
    frames = [engine.encode(rgb) for rgb in pictures(4)]
    for frame in frames:
        engine.ask(frame, WORDS, mask_only=True)
    encoded.clear()
    for frame in frames * 2:
        engine.ask(frame, WORDS, mask_only=True)
        assert sum(engine.memory().values()) <= limit
    assert not encoded


def test_older_copies_of_what_was_read_give_way_to_newer_ones(limited, bare, monkeypatch):
    engine = limited(bare + 8 * ENCODED + 3.5 * 310 * TOKEN)
    frames = [engine.encode(rgb) for rgb in pictures(8)]
    for frame in frames:
        engine.ask(frame, WORDS, mask_only=True)
    read, forward = [], Language.forward
    monkeypatch.setattr(Language, "forward", lambda self, new, *at: read.append(len(new)) or forward(self, new, *at))
    for frame in frames[-2:] * 3:
        engine.ask(frame, WORDS, mask_only=True)
    assert max(read) < 15


def test_where_memory_runs_out_no_copy_of_what_was_read_is_kept(small_checkpoint):
    engine = LisaEngine.from_pretrained(small_checkpoint, "fp32", "cpu", TOWER)
    begun = engine.memory()["kv_cache"]
    frames = [engine.encode(rgb) for rgb in pictures(3)]
    wanted = [engine.ask(frame, WORDS, mask_only=True) for frame in frames]
    assert engine.memory()["kv_cache"] > begun
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Language, "forward", runs_out)
        with pytest.raises(OutOfMemoryError):
            engine.ask(frames[-1], "Where is the cup?")
    assert engine.memory()["kv_cache"] == begun
    for frame, answer in zip(frames, wanted, strict=True):
        assert same_answer(engine.ask(frame, WORDS, mask_only=True), answer)


def runs_out(*_):
    raise torch.OutOfMemoryError("CUDA out of memory.")


def test_a_limit_has_to_hold_a_full_cache_and_a_frame(small_checkpoint, bare):
    least = bare + (2048 - 512) * TOKEN + ENCODED
    LisaEngine.from_pretrained(small_checkpoint, "fp32", "cpu", TOWER, memory_limit=least / 2**30)
    with pytest.raises(CheckpointError, match="over the memory limit"):
        LisaEngine.from_pretrained(small_checkpoint, "fp32", "cpu", TOWER, memory_limit=(least - 1) / 2**30)


class TestLimit:
    @pytest.fixture
    def limit(self, bare):
        """Room for about three frames."""
        return bare + 3.5 * ENCODED

    @pytest.fixture
    def engine(self, limited, limit):
        return limited(limit)

    def test_is_kept_and_answers_are_the_same(self, engine, limit, small):
        rgbs = pictures(6)
        frames = [engine.encode(rgb) for rgb in rgbs]
        for index in [0, 5, 0, 1, 2, 3, 4, 5, 0]:
            answer = engine.ask(frames[index], WORDS, max_new_tokens=6)
            assert sum(engine.memory().values()) <= limit
            assert same_answer(answer, small.ask(small.encode(rgbs[index]), WORDS, max_new_tokens=6))
        assert 1 <= sum(engine._memory._encoded[frame].held > 0 for frame in frames) < 6

    def test_the_least_recently_used_are_encoded_again_and_no_others(self, engine, encoded):
        frames = [engine.encode(rgb) for rgb in pictures(6)]
        for frame in frames[:2]:
            engine.ask(frame, WORDS, mask_only=True)
        encoded.clear()
        engine.ask(frames[1], WORDS, mask_only=True)
        engine.ask(frames[0], WORDS, mask_only=True)
        assert not encoded
        for frame in frames[2:]:
            engine.ask(frame, WORDS, mask_only=True)
        encoded.clear()
        engine.ask(frames[0], WORDS, mask_only=True)
        assert encoded == ["clip", "sam"]

    def test_without_a_limit_nothing_gives_way(self, small, encoded):
        frames = [small.encode(rgb) for rgb in pictures(6)]
        for frame in frames * 2:
            small.ask(frame, WORDS, mask_only=True)
        assert encoded == ["clip"] * 6 + ["sam"] * 6

    def test_a_conversation_goes_on_after_its_frame_gave_way(self, engine, small):
        frame = engine.encode(SHORT.rgb)
        history = [(SHORT.instruction, engine.ask(frame, SHORT.instruction).text)]
        others = [engine.encode(rgb) for rgb in pictures(5)]
        for other in others:
            engine.ask(other, WORDS, max_new_tokens=1)
        assert engine._memory._encoded[frame].held == 0
        assert same_answer(
            engine.ask(frame, "Why is it hot?", history), small.ask(small.encode(SHORT.rgb), "Why is it hot?", history)
        )

    def test_questions_together_keep_it_too(self, limited, bare, small):
        engine = limited(limit := bare + 6 * FRAME)
        rgbs = pictures(2)
        frames = [engine.encode(rgb) for rgb in (*rgbs, *pictures(6))]
        most = []
        answers = engine.ask_many(
            frames[:2],
            [WORDS] * 2,
            max_new_tokens=6,
            on_token=lambda *_: most.append(sum(engine.memory().values())),
        )
        assert max(most) <= limit
        for answer, rgb in zip(answers, rgbs, strict=True):
            assert same_answer(answer, small.ask(small.encode(rgb), WORDS, max_new_tokens=6))

    def test_a_long_question_keeps_it_too(self, limited, bare, small):
        engine = limited(limit := bare + 512 * TOKEN + 1.5 * ENCODED)
        frames = [engine.encode(rgb) for rgb in (SHORT.rgb, *pictures(1))]
        for frame in frames:
            engine.ask(frame, WORDS, mask_only=True)
        begun = engine.memory()["kv_cache"]
        answer = engine.ask(frames[0], "cup " * 300, max_new_tokens=2)
        assert engine.memory()["kv_cache"] > begun
        assert sum(engine.memory().values()) <= limit
        assert same_answer(answer, small.ask(small.encode(SHORT.rgb), "cup " * 300, max_new_tokens=2))

    def test_too_many_together_are_refused_and_one_by_one_they_go(self, engine, limit, small):
        frame = engine.encode(SHORT.rgb)
        with pytest.raises(OutOfMemoryError, match=r"memory limit leaves no room for \d.* fewer questions at once"):
            engine.ask_many(frame, [SHORT.instruction] * 12)
        answer = engine.ask(frame, SHORT.instruction)
        assert sum(engine.memory().values()) <= limit
        assert same_answer(answer, small.ask(small.encode(SHORT.rgb), SHORT.instruction))


def test_one_question_needs_no_more_than_by_ask(limited, bare, small):
    engine = limited(bare + ENCODED)
    (answer,) = engine.ask_many(engine.encode(SHORT.rgb), [SHORT.instruction])
    assert same_answer(answer, small.ask(small.encode(SHORT.rgb), SHORT.instruction))


def test_texts_together_are_counted_and_given_back(small):
    frame = small.encode(SHORT.rgb)
    before = small.memory()["kv_cache"]
    during = []
    small.ask_many(
        frame, ["Where?", "Why?"], max_new_tokens=2, on_token=lambda *_: during.append(small.memory()["kv_cache"])
    )
    assert max(during) > before + 2 * 256 * TOKEN
    assert small.memory()["kv_cache"] <= before


def test_the_cache_of_who_leaves_is_free_for_the_others(small):
    cancels = [threading.Event(), threading.Event()]
    held = []

    def on_token(index, _):
        held.append((index, small.memory()["kv_cache"]))
        cancels[1].set()

    questions = [SHORT.instruction, SHORT.instruction]
    frame = small.encode(SHORT.rgb)
    small.ask_many(frame, questions, max_new_tokens=4, max_segments=0, on_token=on_token, cancels=cancels)
    together, alone = held[0][1], held[-1][1]
    assert held[-1][0] == 0
    assert together - alone >= 256 * TOKEN


def test_a_frame_of_another_engine_is_encoded_anew(small, small_checkpoint):
    other = LisaEngine.from_pretrained(small_checkpoint, "fp32", "cpu", TOWER)
    with torch.no_grad():
        other._ready().mm_projector.weight.mul_(-1)
        other._ready().sam.image_encoder.pos_embed.mul_(-1)
    expected = [engine.ask(engine.encode(SHORT.rgb), WORDS, mask_only=True) for engine in (small, other, small)]
    assert not same_answer(*expected[:2])
    frame = small.encode(SHORT.rgb)
    for engine, answer in zip((small, other, small), expected, strict=True):
        assert same_answer(engine.ask(frame, WORDS, mask_only=True), answer)
