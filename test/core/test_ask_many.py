"""Several questions at once are answered as each is alone."""

import threading

import pytest
from goldens import CASES, V1, case, distance

from lisa_core.errors import Cancelled, PromptError
from lisa_core.model.language import Language

ASKED = [asked for asked in CASES if asked.checkpoint == V1]
CLOSE = 1e-4


def alone(engine, asked, **options):
    return engine.ask(engine.encode(asked.rgb), asked.instruction, asked.history, **options)


def same(actual, expected):
    assert actual.token_ids == expected.token_ids
    assert actual.prompt_ids == expected.prompt_ids
    assert actual.text == expected.text
    assert len(actual.segments) == len(expected.segments)
    for ours, theirs in zip(actual.segments, expected.segments, strict=True):
        assert distance(ours.low_res_logits, theirs.low_res_logits) < CLOSE
        assert (ours.mask != theirs.mask).mean() < CLOSE


@pytest.mark.parametrize("mask_only", [False, True])
def test_the_goldens_over_their_frames(v1, mask_only):
    frames = [v1.encode(asked.rgb) for asked in ASKED]
    words, histories = [asked.instruction for asked in ASKED], [asked.history for asked in ASKED]
    answers = v1.ask_many(frames, words, histories, mask_only=mask_only)
    for answer, asked in zip(answers, ASKED, strict=True):
        same(answer, alone(v1, asked, mask_only=mask_only))


def test_one_frame_for_all_and_the_same_question_twice(v1):
    asked = case("v1-two_masks")
    frame = v1.encode(asked.rgb)
    words = [asked.instruction, "Is there a cup?", asked.instruction]
    answers = v1.ask_many(frame, words, max_new_tokens=12, max_segments=1)
    for answer, question in zip(answers, words, strict=True):
        same(answer, v1.ask(v1.encode(asked.rgb), question, max_new_tokens=12, max_segments=1))


def test_a_token_of_all_is_one_pass(v1, monkeypatch):
    passes = []
    read = Language.read_together

    def counted(self, texts, *others):
        passes.append(len(texts))
        return read(self, texts, *others)

    monkeypatch.setattr(Language, "read_together", counted)
    answers = v1.ask_many(v1.encode(ASKED[0].rgb), ["What is it?", "Where?", "Why?"], max_new_tokens=5)
    longest = max(len(answer.token_ids) for answer in answers)
    assert len(passes) == longest
    assert passes[0] == 3


def test_the_next_question_is_undisturbed(v1):
    asked = ASKED[0]
    frame = v1.encode(asked.rgb)
    v1.ask_many([frame, v1.encode(ASKED[1].rgb)], ["Where?", "What?"], max_new_tokens=3)
    same(v1.ask(frame, asked.instruction, asked.history), alone(v1, asked))


def test_an_answer_outgrows_its_cache(v1, monkeypatch):
    monkeypatch.setattr("lisa_core.generation._GROWTH", 1)
    asked = ASKED[0]
    answer = v1.ask_many(v1.encode(asked.rgb), [asked.instruction], [asked.history])[0]
    same(answer, alone(v1, asked))


def test_nothing_asked(v1):
    assert v1.ask_many(v1.encode(ASKED[0].rgb), []) == []


def test_cancelled(v1):
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(Cancelled):
        v1.ask_many(v1.encode(ASKED[0].rgb), ["Where?"], cancel=cancel)


def test_unequal_numbers_are_refused(v1):
    frame = v1.encode(ASKED[0].rgb)
    with pytest.raises(PromptError, match="as many frames"):
        v1.ask_many([frame], ["Where?", "What?"])
    with pytest.raises(PromptError, match="as many frames"):
        v1.ask_many(frame, ["Where?", "What?"], [()])
