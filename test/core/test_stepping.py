"""Decoding by replayed steps: with a double for the CUDA graph, which does on the CPU what a replay does on a GPU."""

import gc
import logging
import weakref

import numpy as np
import pytest
import torch
from checkpoints import change_json, copy_of
from goldens import CASES, TOWER, V1, case, same_answer

from lisa_core import LisaEngine, OutOfMemoryError, preprocess
from lisa_core.inference import cuda_graphs
from lisa_core.inference.generation import Generator
from lisa_core.inference.prefix_cache import PrefixCache
from lisa_core.inference.stepping import Stepper

V1_CASES = [case for case in CASES if case.checkpoint == V1]
LONG = case("v1-explain")


class Captures:
    """Counts what is captured; a replay does the work again at the same addresses."""

    def __init__(self):
        self.works = []
        self.replays = 0

    def __call__(self, work):
        self.works.append(work)
        work()

        def replay():
            self.replays += 1
            work()

        return replay


def ask(engine, asked):
    return engine.ask(engine.encode(asked.rgb), asked.instruction, asked.history)


@pytest.fixture
def with_capture(small_checkpoint, monkeypatch):
    """`with_capture(capture)`: an engine that captures so."""

    def engine(capture):
        monkeypatch.setattr(cuda_graphs, "capture_for", lambda *_, **__: capture)
        return LisaEngine.from_pretrained(small_checkpoint, "fp32", "cpu", TOWER)

    return engine


@pytest.fixture(scope="module")
def replayed(load, small_checkpoint):
    """An engine whose answers come from replays, and what it has captured."""
    captures = Captures()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cuda_graphs, "capture_for", lambda *_, **__: captures)
        return LisaEngine.from_pretrained(small_checkpoint, "fp32", "cpu", TOWER), captures


@pytest.mark.parametrize("asked", V1_CASES, ids=str)
def test_it_says_what_the_reference_says(replayed, asked):
    engine, captures = replayed
    before = captures.replays
    answer = ask(engine, asked)
    assert answer.token_ids == asked.recorded["new_ids"]
    assert captures.replays > before


def test_hidden_states_are_those_of_the_plain_step(small, with_capture):
    wanted = [segment.embedding for segment in ask(small, LONG).segments]
    found = [segment.embedding for segment in ask(with_capture(Captures()), LONG).segments]
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(torch.from_numpy(ours), torch.from_numpy(theirs), atol=1e-4, rtol=1e-4)


def test_captures_serve_all_frames_and_questions(with_capture):
    captures = Captures()
    engine = with_capture(captures)
    frames = [engine.encode(asked.rgb) for asked in V1_CASES[:2]]
    for question in ("What is this?", "And what is that?"):
        engine.ask(frames[0], question)
    captured = len(captures.works)
    for frame, question in zip(frames, ("Is it hot?", "Where is the cup?"), strict=True):
        engine.ask(frame, question)
    assert len(captures.works) == captured


LONG_QUESTIONS = tuple(
    f"which of the many things that lie here should a robot hand to somebody who {wants}? Please explain why."
    for wants in (
        "has to cut a loaf of bread, and who has just lost the knife",
        "wants to eat some soup without a spoon",
    )
)


def test_after_the_warm_up_questions_of_usual_length_need_no_more_captures(with_capture):
    captures = Captures()
    engine = with_capture(captures)
    engine.warm_up()
    captured, replayed = len(captures.works), captures.replays
    for questions in (("Where is the cup?", "Is it hot?"), LONG_QUESTIONS):
        frame = engine.encode(LONG.rgb)
        for question in questions:
            engine.ask(frame, question, max_new_tokens=4, max_segments=1)
    assert len(captures.works) == captured
    assert captures.replays >= replayed + 2 + 4 * 4  # CLIP for two frames, and each question's prompt and tokens


def test_a_cache_that_has_grown_is_captured_anew(small, monkeypatch):
    made = []
    language = small._model.language
    prefixes = [PrefixCache(language.shape, torch.float32, torch.device("cpu"), small._memory) for _ in range(2)]
    generator = Generator(language, -1, prefixes[0], lambda: made.append(Captures()) or made[-1])
    frame = small.encode(LONG.rgb)
    visual = small._memory._encoded[frame].visual
    ids = small._question(frame, LONG.instruction, (), None, None, None).prompt
    plain = Generator(language, -1, prefixes[1])
    with torch.inference_mode():
        more = prefixes[1].cache.capacity - len(ids) + 8
        found, wanted = (
            [token for token, _ in each.decode(each.read(visual, ids), more)] for each in (generator, plain)
        )
    assert len(found) == more
    assert found == wanted
    # none before there is a cache; the prompt's length and a token, and once it has grown a token: what goes together
    assert [len(captures.works) for captures in made] == [0, 2, 1]


def test_a_text_that_ends_with_the_context_is_not_padded_beyond_it(small, small_checkpoint, tmp_path, monkeypatch):
    wanted = ask(small, LONG)
    context = len(wanted.prompt_ids) - 1 + 256 + 2
    assert context < 320  # which its prompt would be padded to
    folder = copy_of(small_checkpoint, tmp_path / "lisa")
    change_json(folder / "config.json", max_position_embeddings=context)
    monkeypatch.setattr(cuda_graphs, "capture_for", lambda *_, **__: Captures())
    engine = LisaEngine.from_pretrained(folder, "fp32", "cpu", TOWER)
    for _ in range(2):
        assert ask(engine, LONG).token_ids == wanted.token_ids[:2]


def test_what_cannot_be_captured_is_launched_step_by_step(small, with_capture, caplog):
    tries = []

    def refuse(work):
        tries.append(work)
        raise RuntimeError("operation not permitted when stream is capturing")

    engine = with_capture(refuse)
    with caplog.at_level(logging.WARNING):
        answers = [ask(engine, LONG) for _ in range(2)]
    assert [answer.token_ids for answer in answers] == [ask(small, LONG).token_ids] * 2
    assert len(tries) == 4  # CLIP, SAM's two halves, and the language model
    assert "without a CUDA graph, and slower: operation not permitted" in caplog.text


@pytest.mark.parametrize("wrong", [0.0, 1.2, float("nan")])
def test_a_graph_that_computes_something_else_is_not_used(small, with_capture, caplog, monkeypatch, wrong):
    right = cuda_graphs.Recorded.__call__
    monkeypatch.setattr(cuda_graphs.Recorded, "__call__", lambda *given: tuple(wrong * made for made in right(*given)))
    captures = Captures()
    engine = with_capture(captures)
    with caplog.at_level(logging.WARNING):
        answer = ask(engine, LONG)
    assert answer.token_ids == ask(small, LONG).token_ids
    assert captures.replays == 4
    assert "its first replay was off by" in caplog.text


class Texts(Captures):
    """Does something to steps of more than one token."""

    def __call__(self, work):
        given = work.__self__._given
        of_text = len(given) == 2 and given[0].dim() == 2 and len(given[0]) > 1
        return self.capture_text(work, given[0]) if of_text else super().__call__(work)


def test_a_length_that_there_is_no_memory_for_does_not_stop_the_others(small, with_capture, caplog):
    class Large(Texts):
        def capture_text(self, work, text):
            self.works.append(work)
            raise torch.OutOfMemoryError("CUDA out of memory.")

    captures = Large()
    engine = with_capture(captures)
    wanted = ask(small, LONG).token_ids
    with caplog.at_level(logging.WARNING):
        answers, tried, replayed = [], [], []
        for _ in range(2):
            answers.append(ask(engine, LONG).token_ids)
            tried.append(len(captures.works))
            replayed.append(captures.replays)
    assert answers == [wanted] * 2
    assert tried[0] == tried[1]  # what did not fit is not tried again for this cache
    assert replayed[1] - replayed[0] >= len(wanted) - 1
    assert caplog.text.count("CUDA out of memory.") == 1
    assert engine._generator.records
    engine._prefixes.reserve(engine._prefixes.cache.capacity + 1)
    assert ask(engine, LONG).token_ids == wanted
    assert caplog.text.count("CUDA out of memory.") == 2  # for another cache it is


def test_what_a_wrong_replay_has_written_to_the_cache_does_not_stay(small, with_capture):
    class Noise(Texts):
        def capture_text(self, work, text):
            work()

            def replay():
                text.normal_()
                work()

            return replay

    engine, question = with_capture(Noise()), "Where is the cup?"
    frames = [each.encode(LONG.rgb) for each in (engine, small)]
    for asked in (LONG.instruction, question):
        ours, theirs = (each.ask(frame, asked) for each, frame in zip((engine, small), frames, strict=True))
        assert ours.token_ids == theirs.token_ids
        for found, wanted in zip(ours.segments, theirs.segments, strict=True):
            np.testing.assert_allclose(found.embedding, wanted.embedding, atol=1e-4)


def test_a_function_is_captured_for_a_few_sizes_and_done_anew_for_others():
    captures = Captures()
    doubled = cuda_graphs.Replayed(lambda tensor: (2 * tensor,), lambda: captures)
    for _ in range(2):
        for size in range(1, 8):
            (found,) = doubled(torch.full((size,), float(size)))
            assert found.tolist() == [2.0 * size] * size
    assert len(captures.works) == cuda_graphs._MOST


def test_a_replay_leaves_alone_what_earlier_calls_were_given_and_returned():
    """Such as SAM's embedding of another frame, which is kept for its next mask."""

    def capture(work):
        work()
        (place,) = work.__self__._made

        def replay():
            work()
            place.copy_(*work.__self__._made)
            work.__self__._made = (place,)

        return replay

    doubled = cuda_graphs.Replayed(lambda tensor: (2 * tensor,), lambda: capture)
    given = [torch.full((2,), float(number)) for number in range(4)]
    made = [doubled(tensor)[0] for tensor in given]
    assert [tensor.tolist() for tensor in given] == [[number] * 2 for number in range(4)]
    assert [tensor.tolist() for tensor in made] == [[2 * number] * 2 for number in range(4)]


def test_where_one_size_cannot_be_captured_none_is_replayed_any_more(caplog):
    """What their captures share is gone: memory that cuBLAS works in, too."""
    captures = Captures()

    def capture(work):
        if len(work.__self__._given[0]) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return captures(work)

    doubled = cuda_graphs.Replayed(lambda tensor: (2 * tensor,), lambda: capture)
    one, two = torch.ones(1), torch.ones(2)
    for given in (one, one, two):
        doubled(given)
    replayed = captures.replays
    assert replayed > 1
    assert [doubled(given)[0].tolist() for given in (one, two)] == [[2.0], [2.0, 2.0]]
    assert captures.replays == replayed


def test_a_step_that_cannot_be_captured_lets_go_of_the_others_and_of_the_cache(small, with_capture):
    class Refusing(Texts):
        def capture_text(self, work, text):
            raise RuntimeError("operation not permitted when stream is capturing")

    engine = with_capture(Refusing())
    cache = weakref.ref(engine._prefixes.cache)
    assert ask(engine, LONG).token_ids == ask(small, LONG).token_ids
    engine._prefixes.reserve(engine._prefixes.cache.capacity + 1)
    assert cache() is None


def test_what_is_recorded_is_dropped_when_memory_runs_out_and_recorded_again(small_checkpoint, small, monkeypatch):
    recorded, there = [], []

    class Graph(Captures):
        """One for all that share memory, as `capture_for` makes them."""

        def __call__(self, work):
            recorded.append((weakref.ref(self), weakref.ref(work.__self__)))
            return super().__call__(work)

    def release():
        gc.collect()
        there.extend(found() for pair in recorded for found in pair)

    monkeypatch.setattr(cuda_graphs, "capture_for", lambda *_, **__: Graph())
    engine = LisaEngine.from_pretrained(small_checkpoint, "fp32", "cpu", TOWER)
    wanted = ask(small, LONG)
    for _ in range(2):
        assert same_answer(ask(engine, LONG), wanted)
    before = len(recorded)
    monkeypatch.setattr(engine, "_release", release)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preprocess, "for_sam", raising(torch.OutOfMemoryError("CUDA out of memory.")))
        with pytest.raises(OutOfMemoryError):
            ask(engine, LONG)
    assert there == [None] * 2 * before
    for _ in range(2):
        assert same_answer(ask(engine, LONG), wanted)
    assert len(recorded) == 2 * before


def raising(error):
    def fail(*_):
        raise error

    return fail


def test_nothing_is_captured_under_autocast(with_capture, monkeypatch):
    captures = Captures()
    engine = with_capture(captures)
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: device == "cuda")
    assert ask(engine, LONG).token_ids == LONG.recorded["new_ids"]
    assert captures.works == []


def test_a_graph_that_does_nothing_is_not_used(small, with_capture, caplog):
    def capture(work):
        work()
        return lambda: None

    with caplog.at_level(logging.WARNING):
        answer = ask(with_capture(capture), LONG)
    assert answer.token_ids == ask(small, LONG).token_ids
    assert "its first replay was off by 100 %" in caplog.text


def test_several_questions_need_no_more_captures(small, with_capture):
    captures = Captures()
    engine = with_capture(captures)
    frame = engine.encode(LONG.rgb)
    wanted = ask(small, LONG).token_ids
    engine.ask(frame, LONG.instruction)
    captured = len(captures.works)
    steps = dict(engine._generator._stepper._recorded)
    for _ in range(2):
        answers = engine.ask_many(frame, [LONG.instruction] * 2)
        assert [answer.token_ids for answer in answers] == [wanted] * 2
        assert engine.ask(frame, LONG.instruction).token_ids == wanted
    assert engine._generator._stepper._recorded == steps
    assert len(captures.works) == captured


def test_where_steps_are_captured():
    gpu = torch.device("cuda", 0)
    assert cuda_graphs.capture_for(gpu, "nf4") is not None
    assert cuda_graphs.capture_for(gpu, "bf16") is not None
    assert cuda_graphs.capture_for(gpu, "int8") is None
    assert cuda_graphs.capture_for(torch.device("cpu"), "nf4") is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["fp32", "bf16", "nf4"])
def test_a_real_graph_on_a_gpu(small_checkpoint, precision, caplog):
    engine = LisaEngine.from_pretrained(small_checkpoint, precision, "cuda", TOWER)
    graphed = ask(engine, LONG)
    assert 1 in engine._generator._stepper._recorded
    if precision == "nf4":
        assert not engine._model.language.lm_head.weight.quant_state.nested
    engine._generator._stepper = Stepper(engine._model.language, lambda: None)
    assert graphed.token_ids == ask(engine, LONG).token_ids
    assert not caplog.records
