"""Several questions at once are answered as each is alone."""

import gc
import threading
import weakref

import pytest
from checkpoints import change_json, copy_of
from goldens import CASES, TOWER, V1, case, distance
from test_stepping import Captures

from lisa_core import Answer, LisaEngine, LisaError
from lisa_core.errors import Cancelled, OutOfMemoryError, PromptError
from lisa_core.inference import cuda_graphs
from lisa_core.model.language import Language
from lisa_core.model.sam import Sam

SHORT, LONG = case("v1-short"), case("v1-explain")
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


@pytest.fixture
def passes(monkeypatch):
    """How many texts each pass over the weights has read; grows."""
    counts = []
    read = Language.read_together

    def counted(self, texts, *others):
        counts.append(len(texts))
        return read(self, texts, *others)

    monkeypatch.setattr(Language, "read_together", counted)
    return counts


@pytest.fixture
def recording(small_checkpoint):
    """It records its steps, as on a GPU."""
    with pytest.MonkeyPatch.context() as patch:
        captures = Captures()
        patch.setattr(cuda_graphs, "capture_for", lambda *_, **__: captures)
        return LisaEngine.from_pretrained(small_checkpoint, "fp32", "cpu", TOWER)


@pytest.mark.parametrize("mask_only", [False, True])
def test_the_goldens_over_their_frames(v1, mask_only):
    frames = [v1.encode(asked.rgb) for asked in ASKED]
    words, histories = [asked.instruction for asked in ASKED], [asked.history for asked in ASKED]
    told = [""] * len(words)

    def on_token(index, text):
        told[index] += text

    answers = v1.ask_many(frames, words, histories, mask_only=mask_only, on_token=on_token)
    assert told == [answer.text for answer in answers]
    for answer, asked in zip(answers, ASKED, strict=True):
        same(answer, alone(v1, asked, mask_only=mask_only))


def test_one_frame_for_all_and_the_same_question_twice(v1):
    asked = case("v1-two_masks")
    frame = v1.encode(asked.rgb)
    words = [asked.instruction, "Is there a cup?", asked.instruction]
    answers = v1.ask_many(frame, words, max_new_tokens=12, max_segments=1)
    for answer, question in zip(answers, words, strict=True):
        same(answer, v1.ask(v1.encode(asked.rgb), question, max_new_tokens=12, max_segments=1))


def test_a_token_of_all_is_one_pass(v1, passes):
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
    monkeypatch.setattr("lisa_core.inference.prefix_cache._GROWTH", 1)
    asked = ASKED[0]
    answers = v1.ask_many(v1.encode(asked.rgb), [asked.instruction] * 2, [asked.history] * 2)
    for answer in answers:
        same(answer, alone(v1, asked))


def test_the_seconds_of_an_answer_are_those_until_it_ended(small):
    asked, told = [LONG, SHORT, case("v1-two_masks")], {}
    frames = [small.encode(one.rgb) for one in asked]
    answers = small.ask_many(
        frames,
        [one.instruction for one in asked],
        on_answer=lambda index, answer: told.update({index: dict(answer.timings)}),
    )
    assert [answer.timings for answer in answers] == [told[index] for index in range(3)]
    assert list(told) == sorted(told, key=lambda index: told[index]["decode"])
    assert len(set(told)) == len({timings["decode"] for timings in told.values()}) == 3


def test_nothing_asked(v1):
    assert v1.ask_many(v1.encode(ASKED[0].rgb), []) == []


def test_a_question_is_no_list_of_letters(v1):
    with pytest.raises(PromptError, match="give a list of texts"):
        v1.ask_many(v1.encode(ASKED[0].rgb), "cup")


def test_one_question_is_answered_as_by_ask(small, passes):
    told, ended = [], []
    answers = small.ask_many(
        small.encode(SHORT.rgb),
        [SHORT.instruction],
        on_token=lambda *token: told.append(token),
        on_answer=lambda *end: ended.append(end),
    )
    assert not passes
    same(answers[0], alone(small, SHORT))
    assert ("".join(text for _, text in told), ended) == (answers[0].text, [(0, answers[0])])
    cancel = threading.Event()
    cancel.set()
    assert [type(end) for end in small.ask_many(small.encode(SHORT.rgb), ["Where?"], cancels=[cancel])] == [Cancelled]


class TestCancel:
    WORDS = (LONG.instruction, LONG.instruction, LONG.instruction)

    def ask(self, engine, cancels, **options):
        return engine.ask_many(engine.encode(LONG.rgb), self.WORDS, cancels=cancels, **options)

    def test_before_it_is_read_it_costs_nothing(self, small, passes):
        cancels = [threading.Event() for _ in self.WORDS]
        cancels[1].set()
        answers = self.ask(small, cancels, max_new_tokens=2)
        assert [type(answer) for answer in answers] == [Answer, Cancelled, Answer]
        assert set(passes) == {2}

    def test_once_it_is_read_nothing_is_decoded_of_it(self, small, passes):
        cancels = [threading.Event() for _ in self.WORDS]
        told = []
        answers = self.ask(
            small,
            cancels,
            max_new_tokens=2,
            on_stage=lambda index, _: cancels[index].set() if index == 1 else None,
            on_token=lambda index, _: told.append(index),
        )
        assert [type(answer) for answer in answers] == [Answer, Cancelled, Answer]
        assert set(told) == {0, 2}
        assert passes == [3, 2]

    def test_all_of_them(self, small, passes):
        cancels = [threading.Event() for _ in self.WORDS]
        for cancel in cancels:
            cancel.set()
        assert [type(end) for end in self.ask(small, cancels)] == [Cancelled] * 3
        assert not passes

    def test_one_leaves_within_a_token_and_the_others_go_on(self, small, passes):
        cancels = [threading.Event() for _ in self.WORDS]
        ends, told = {}, {0: [], 1: [], 2: []}

        def on_token(index, text):
            told[index].append(text)
            if len(told[1]) == 3:
                cancels[1].set()
                passes.clear()

        def on_answer(index, answer):
            ends[index] = (answer, len(passes))

        answers = self.ask(small, cancels, on_token=on_token, on_answer=on_answer)
        assert [ends[index][0] for index in range(3)] == answers
        cancelled, after = ends[1]
        assert isinstance(cancelled, Cancelled)
        assert after <= 1
        assert len(told[1]) == 3
        assert passes[-1] == 2
        for index in (0, 2):
            same(answers[index], alone(small, LONG))
            assert "".join(told[index]) == answers[index].text

    def test_ahead_of_its_masks(self, small, monkeypatch):
        cancels = [threading.Event() for _ in self.WORDS]
        decoded = []
        decode = Sam.decode
        monkeypatch.setattr(
            Sam, "decode", lambda self, image, prompts: decoded.append(len(prompts)) or decode(self, image, prompts)
        )

        def on_stage(index, stage):
            if (index, stage) == (2, "masking"):
                cancels[2].set()

        answers = self.ask(small, cancels, on_stage=on_stage, mask_only=True)
        assert [type(answer) for answer in answers] == [Answer, Answer, Cancelled]
        assert decoded == [2]


def test_they_end_where_the_context_is_full(small, small_checkpoint, tmp_path):
    folder = copy_of(small_checkpoint, tmp_path / "lisa")
    wanted = alone(small, LONG)
    room = 13
    change_json(folder / "config.json", max_position_embeddings=len(wanted.prompt_ids) - 1 + 256 + room)
    engine = LisaEngine.from_pretrained(folder, "fp32", "cpu", TOWER)
    answers = engine.ask_many(engine.encode(LONG.rgb), [LONG.instruction, SHORT.instruction])
    assert answers[0].token_ids == wanted.token_ids[:room]
    same(answers[1], engine.ask(engine.encode(LONG.rgb), SHORT.instruction))


class TestAsItComes:
    def test_the_short_answer_does_not_wait_for_the_long_one(self, small):
        happened = []
        small.ask_many(
            [small.encode(LONG.rgb), small.encode(SHORT.rgb)],
            [LONG.instruction, SHORT.instruction],
            on_token=lambda index, _: happened.append(("token", index)),
            on_stage=lambda index, stage: happened.append((stage, index)),
            on_answer=lambda index, _: happened.append(("answer", index)),
        )
        assert happened[:2] == [("answering", 0), ("answering", 1)]
        assert happened.index(("masking", 1)) < happened.index(("answer", 1))
        assert ("token", 0) in happened[happened.index(("answer", 1)) :]
        assert happened[-1] == ("answer", 0)

    def test_masks_are_not_told_of_where_there_are_none(self, small):
        stages = []
        asked = [SHORT, case("v1-no_mask")]
        answers = small.ask_many(
            [small.encode(one.rgb) for one in asked],
            [one.instruction for one in asked],
            on_stage=lambda *stage: stages.append(stage),
        )
        assert [len(answer.segments) for answer in answers] == [1, 0]
        assert stages == [(0, "answering"), (1, "answering"), (0, "masking")]

    def test_words_are_told_as_they_are_alone(self, small):
        asked = [SHORT, LONG, case("v1-two_masks")]
        together, single = [[] for _ in asked], [[] for _ in asked]
        small.ask_many(
            [small.encode(one.rgb) for one in asked],
            [one.instruction for one in asked],
            on_token=lambda index, text: together[index].append(text),
        )
        for one, told in zip(asked, single, strict=True):
            alone(small, one, on_token=told.append)
        assert together == single


def test_what_questions_about_a_frame_begin_with_is_read_once(small, monkeypatch):
    read, forward, together = [], Language.forward, Language.read_together
    monkeypatch.setattr(
        Language, "forward", lambda self, new, *others: read.append(len(new)) or forward(self, new, *others)
    )
    monkeypatch.setattr(
        Language,
        "read_together",
        lambda self, texts, *others: read.extend(map(len, texts)) or together(self, texts, *others),
    )
    frame, visual = small.encode(SHORT.rgb), small._model.shape.clip.tokens
    shared, *own = read_by(small, read, frame, ["Where is the cup?", "Why is it hot?", "Is there a bowl?"])
    assert visual < shared < visual + 60
    assert max(own) < 20
    assert max(read_by(small, read, frame, ["Where is it?", "Why there?"])) < 20
    assert min(read_by(small, read, [small.encode(one.rgb) for one in (SHORT, LONG)], ["Where?", "Why?"])) > visual


def read_by(engine, read, frames, questions):
    """How many tokens each pass reads of each text before the answers."""
    read.clear()
    engine.ask_many(frames, questions, max_new_tokens=1, max_segments=0)
    return read[:]


class TestWhatIsKept:
    def test_a_turn_answered_together_is_not_read_again(self, small, monkeypatch):
        frames = [small.encode(one.rgb) for one in (SHORT, LONG)]
        words = [SHORT.instruction, LONG.instruction]
        answers = small.ask_many(frames, words)
        read, forward = [], Language.forward
        monkeypatch.setattr(
            Language, "forward", lambda self, new, *others: read.append(len(new)) or forward(self, new, *others)
        )
        for frame, question, answer in zip(frames, words, answers, strict=True):
            read.clear()
            small.ask(frame, "Why?", [(question, answer.text)], max_new_tokens=1, max_segments=0)
            assert read[0] < 15

    @pytest.mark.parametrize("how", ["for their masks only", "until they were cancelled"])
    def test_a_prompt_read_together_is_not_read_again(self, small, monkeypatch, how):
        frames = [small.encode(one.rgb) for one in (SHORT, LONG)]
        cancels = [threading.Event(), threading.Event()]
        words = ["Where is the cup?", "Where is the bowl?"]
        if how == "for their masks only":
            small.ask_many(frames, words, mask_only=True)
        else:
            small.ask_many(frames, words, cancels=cancels, on_token=lambda index, _: cancels[index].set())
        read, forward = [], Language.forward
        monkeypatch.setattr(
            Language, "forward", lambda self, new, *others: read.append(len(new)) or forward(self, new, *others)
        )
        for frame, one in zip(frames, (SHORT, LONG), strict=True):
            read.clear()
            answer = small.ask(frame, "Why?", max_new_tokens=4)
            assert read[0] < 15
            same(answer, small.ask(small.encode(one.rgb), "Why?", max_new_tokens=4))

    def test_the_next_turn_is_the_same(self, small):
        frames = [small.encode(one.rgb) for one in (SHORT, LONG)]
        answers = small.ask_many(frames, [SHORT.instruction, LONG.instruction])
        for frame, one, answer in zip(frames, (SHORT, LONG), answers, strict=True):
            history = [(one.instruction, answer.text)]
            same(small.ask(frame, "Where?", history), small.ask(small.encode(one.rgb), "Where?", history))

    def test_out_of_memory_disturbs_nobody_after_it(self, small, monkeypatch):
        frames = [small.encode(one.rgb) for one in (SHORT, LONG)]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Language, "read_together", raising(MemoryError()))
            with pytest.raises(OutOfMemoryError):
                small.ask_many(frames, [SHORT.instruction, LONG.instruction])
        same(small.ask(frames[1], LONG.instruction), alone(small, LONG))


@pytest.mark.parametrize("way", ["small", "recording"])
def test_what_a_cancelled_one_held_is_gone_at_once(way, request):
    """A GPU's memory is needed now, not when Python looks for cycles."""
    engine = request.getfixturevalue(way)
    frame, cancels = engine.encode(LONG.rgb), [threading.Event(), threading.Event()]
    held = weakref.ref(frame)
    gc.disable()
    try:
        ends = engine.ask_many(frame, [LONG.instruction] * 2, on_token=lambda i, _: cancels[i].set(), cancels=cancels)
        del frame
        assert held() is None
    finally:
        gc.enable()
    assert all(isinstance(end, Cancelled) for end in ends)


class TestInTurn:
    """Where steps are recorded, as on a GPU: the step of one question is, that of several is not."""

    def test_closed_on_the_first_answer_it_says_so(self, recording):
        frame, told = recording.encode(SHORT.rgb), []

        def on_answer(index, _):
            told.append(index)
            recording.close()

        with pytest.raises(LisaError, match="was closed"):
            recording.ask_many(frame, ["Where?", "Why?"], max_new_tokens=2, on_answer=on_answer)
        assert told == [0]

    def test_as_each_alone_by_recorded_steps(self, recording, small, passes):
        asked = [LONG, SHORT, case("v1-two_masks")]
        told, happened = dict.fromkeys(range(3), ""), []

        def on_token(index, text):
            told[index] += text

        answers = recording.ask_many(
            [recording.encode(one.rgb) for one in asked],
            [one.instruction for one in asked],
            max_segments=1,
            on_token=on_token,
            on_stage=lambda index, stage: happened.append((index, stage)),
            on_answer=lambda index, answer: happened.append((index, answer.text)),
        )
        for index, (answer, one) in enumerate(zip(answers, asked, strict=True)):
            same(answer, alone(small, one, max_segments=1))
            assert told[index] == answer.text
            mine = [what for which, what in happened if which == index]
            assert mine == ["answering", "masking", answer.text]
        assert not passes

    def test_masks_alone(self, recording, small, passes):
        answers = recording.ask_many(recording.encode(LONG.rgb), ["the cup", "the bowl"], mask_only=True)
        for answer, words in zip(answers, ["the cup", "the bowl"], strict=True):
            same(answer, small.ask(small.encode(LONG.rgb), words, mask_only=True))
        assert not passes

    def test_one_that_is_cancelled_leaves_and_the_others_go_on(self, recording, small):
        cancels = [threading.Event() for _ in range(3)]
        cancels[2].set()
        said = []

        def on_token(index, _):
            said.append(index)
            if said.count(1) == 2:
                cancels[1].set()

        frame, ends = recording.encode(LONG.rgb), []
        answers = recording.ask_many(
            frame,
            [LONG.instruction] * 3,
            on_token=on_token,
            on_answer=lambda index, answer: ends.append((index, type(answer))),
            cancels=cancels,
        )
        same(answers[0], alone(small, LONG))
        assert ends == [(0, Answer), (1, Cancelled), (2, Cancelled)]
        assert (said.count(1), said.count(2)) == (2, 0)

    def test_one_that_cannot_be_read_is_refused_before_another_is(self, recording):
        heard = []
        with pytest.raises(PromptError, match="ask with fewer words"):
            recording.ask_many(
                recording.encode(LONG.rgb), ["Where?", "cup " * 10_000], on_stage=lambda *told: heard.append(told)
            )
        assert heard == []

    def test_what_could_not_be_recorded_is_asked_at_once(self, small_checkpoint, passes, monkeypatch):
        def refuse(_):
            raise RuntimeError("operation not permitted when stream is capturing")

        monkeypatch.setattr(cuda_graphs, "capture_for", lambda *_, **__: refuse)
        engine = LisaEngine.from_pretrained(small_checkpoint, "fp32", "cpu", TOWER)
        alone(engine, SHORT)
        for answer in engine.ask_many(engine.encode(SHORT.rgb), [SHORT.instruction] * 2):
            assert answer.text == "Sure, [SEG]."
        assert passes[0] == 2


def raising(error):
    def fail(*_):
        raise error

    return fail


@pytest.mark.parametrize("most", [0, 1])
def test_at_most_so_many_masks_each(small, most):
    asked = case("v1-two_masks")
    for answer in small.ask_many(small.encode(asked.rgb), [asked.instruction] * 2, max_segments=most):
        assert len(answer.segments) == most
        assert answer.text == "Sure, it is [SEG] and [SEG]."


@pytest.mark.parametrize("words", ["", "cup " * 10_000])
def test_a_question_that_cannot_be_is_refused_before_any_is_read(small, passes, words):
    with pytest.raises(PromptError):
        small.ask_many(small.encode(SHORT.rgb), ["Where?", words])
    assert not passes


def test_unequal_numbers_are_refused(v1):
    frame = v1.encode(ASKED[0].rgb)
    with pytest.raises(PromptError, match="as many frames"):
        v1.ask_many([frame], ["Where?", "What?"])
    with pytest.raises(PromptError, match="as many frames"):
        v1.ask_many(frame, ["Where?", "What?"], [()])
    with pytest.raises(PromptError, match="as many frames"):
        v1.ask_many(frame, ["Where?", "What?"], cancels=[threading.Event()])
