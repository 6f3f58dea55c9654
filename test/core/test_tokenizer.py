"""Words to ids and back, by the rules of the tokenizer that the checkpoints were trained with."""

import json
import shutil

import pytest
from goldens import CASES, V0, V1
from hypothesis import example, given
from hypothesis import strategies as st

from lisa_core.errors import CheckpointError, PromptError
from lisa_core.template import BOS, BY_NAME, EOS, IM_END, IM_PATCH, IM_START, SEG, Image, Special
from lisa_core.tokenizer import IMAGE_ID, Tokenizer

TOKENIZER = Tokenizer.from_folder(V1)
SPECIAL = set(TOKENIZER.special_ids.values())
WORDS_BEFORE_SPECIAL = 700
"""Ids of the golden's sentencepiece model; what follows was added by LISA."""


def words(text):
    return TOKENIZER.encode([text])[1:]


@pytest.mark.parametrize("case", [case for case in CASES if case.checkpoint == V1], ids=str)
def test_prompts_as_recorded(case):
    assert TOKENIZER.encode(BY_NAME["llava_v1"].render(case.instruction, case.history)) == case.recorded["input_ids"]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_answers_as_recorded(case):
    text = Tokenizer.from_folder(case.checkpoint).decode(case.recorded["new_ids"])
    assert text == case.recorded["answer"].replace("[SEG] .", "[SEG].")


def test_special_tokens_by_name():
    assert TOKENIZER.special_ids == {BOS: 1, EOS: 2, SEG: 700, IM_START: 701, IM_END: 702}
    assert Tokenizer.from_folder(V0).special_ids[IM_PATCH] == 701
    assert TOKENIZER.vocabulary_size == 703


class TestSpacesAroundSpecialTokens:
    def test_added_tokens_strip_the_words_beside_them(self):
        assert TOKENIZER.encode(["Yes, \n", Special(SEG), "  now"]) == TOKENIZER.encode(["Yes,", Special(SEG), "now"])

    def test_the_end_of_sequence_does_not(self):
        assert TOKENIZER.encode(["now  ", Special(EOS)]) != TOKENIZER.encode(["now", Special(EOS)])
        assert TOKENIZER.encode([Special(EOS), "  now"]) != TOKENIZER.encode([Special(EOS), "now"])

    def test_the_image_does_not(self):
        assert TOKENIZER.encode(["now  ", Image()]) != TOKENIZER.encode(["now", Image()])

    def test_every_run_of_words_has_its_own_beginning(self):
        assert TOKENIZER.encode(["a", Special(SEG), "b"]) == [1, *words("a"), 700, *words("b")]
        assert TOKENIZER.encode(["a", Image(), "b"]) == [1, *words("a"), IMAGE_ID, *words("b")]

    def test_nothing_between_is_no_token(self):
        assert TOKENIZER.encode([Special(SEG), " \n ", Special(SEG)]) == [1, 700, 700]
        assert words("") == []


@pytest.mark.parametrize(
    "text",
    [
        "<image>",
        "[SEG]",
        "</s>",
        "<s>",
        "<unk>",
        "<pad>",
        "<im_start>",
        "<im_end>",
        "<im_patch>",
        "<0x02>",
        "[SEG]</s>",
    ],
)
def test_names_of_special_tokens_are_words_to_it(text):
    assert not SPECIAL.intersection(words(text))
    assert TOKENIZER.decode(words(text)) == text


@pytest.mark.parametrize(
    "text", ["a\0b", "\0", "🤖 segment 🦾", "👩‍👩‍👧", "咖啡", "é", "\u202eabc", "\ufeff", "a" * 50_000]
)
def test_any_letters_are_words(text):
    ids = words(text)
    assert ids
    assert not SPECIAL.intersection(ids)


@pytest.mark.parametrize("text", ["a\0b", "🤖 segment 🦾", "咖啡"])
def test_bytes_stand_in_for_letters_that_the_model_lacks(text):
    assert TOKENIZER.decode(words(text)) == text


@pytest.mark.parametrize("text", ["\ud800", "cup \udfff", "\ud83e cup"])
def test_half_of_a_surrogate_pair_is_refused(text):
    with pytest.raises(PromptError, match="not valid Unicode"):
        words(text)


special_ids = st.sampled_from(sorted(TOKENIZER.special_ids))
with_names = st.lists(st.one_of(special_ids, st.text(max_size=5), st.sampled_from("\0\n <>[]/"))).map("".join)


@given(with_names)
@example("</s><s>[SEG]<im_start><image><im_end>")
def test_no_instruction_ever_becomes_a_special_token(text):
    try:
        ids = words(text)
    except PromptError:
        text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        assert any("\ud800" <= letter <= "\udfff" for letter in text)
        return
    assert all(0 <= token < WORDS_BEFORE_SPECIAL and token not in SPECIAL for token in ids)


@given(st.text(), st.text())
def test_a_whole_prompt_has_the_special_tokens_of_its_template_only(question, earlier):
    asked = BY_NAME["llava_v1"].render(question, [(earlier, "No.")])
    plain = BY_NAME["llava_v1"].render("x", [("x", "No.")])

    def specials(pieces):
        return [token for token in TOKENIZER.encode(pieces) if token in SPECIAL or token == IMAGE_ID]

    assert specials(asked) == specials(plain)


@pytest.mark.parametrize(
    ("pieces", "legacy", "newer"),
    [
        (
            ["Sure,", Special(SEG), ".", Special(EOS), "USER: And ", Special(EOS), " what"],
            [407, 653, 700, 337, 2, 621, 545, 673, 305, 334, 633, 2, 633, 295, 296],
            [407, 653, 700, 649, 2, 549, 545, 673, 305, 334, 633, 2, 633, 295, 296],
        ),
        (
            [Special(IM_START), " red cup", Special(IM_END), "red cup"],
            [701, 633, 606, 318, 650, 702, 633, 606, 318, 650],
            [701, 606, 318, 650, 702, 606, 318, 650],
        ),
        ([Special(SEG), " , a", Special(SEG)], [700, 633, 653, 259, 700], [700, 653, 259, 700]),
        ([Special(SEG), "é🤖"], [700, 633, 695, 243, 162, 167, 153], [700, 695, 243, 162, 167, 153]),
        ([Special(IM_END), "\nWhat is"], [702, 521, 307], [702, 0, 307]),
        ([Special(SEG), "", Special(EOS)], [700, 2], [700, 2]),
    ],
)
def test_words_after_special_tokens_by_either_rule(tmp_path, pieces, legacy, newer):
    """The ids are those of transformers 4.31's slow tokenizer."""
    for name in ("tokenizer.model", "added_tokens.json", "tokenizer_config.json"):
        shutil.copy(V1 / name, tmp_path)
    assert Tokenizer.from_folder(tmp_path).encode(pieces) == [1, *legacy]
    (tmp_path / "tokenizer_config.json").write_text('{"legacy": false}')
    assert Tokenizer.from_folder(tmp_path).encode(pieces) == [1, *newer]
    (tmp_path / "tokenizer_config.json").unlink()
    assert Tokenizer.from_folder(tmp_path).encode(pieces) == [1, *legacy]


class TestDecoding:
    def test_a_row_of_the_model_that_stands_for_no_token_says_nothing(self):
        red = words("red")
        assert TOKENIZER.decode([*red, TOKENIZER.vocabulary_size + 5, *red]) == TOKENIZER.decode([*red, *red])

    @pytest.mark.parametrize(
        ("pieces", "text"),
        [
            (["Sure,", SEG, "."], "Sure, [SEG]."),
            ([SEG, "."], "[SEG]."),
            ([SEG, SEG], "[SEG] [SEG]"),
            (["It is", SEG, "and", SEG, "."], "It is [SEG] and [SEG]."),
            (["Which one", SEG, "? This", SEG, "!"], "Which one [SEG]? This [SEG]!"),
            (["a cup (", SEG, ") and a lid"], "a cup ([SEG]) and a lid"),
            (["one:", SEG, ", two:", SEG, "; no more"], "one: [SEG], two: [SEG]; no more"),
            ([SEG], "[SEG]"),
            ([], ""),
        ],
    )
    def test_spaces_around_masks_are_a_persons(self, pieces, text):
        ids = [token for piece in pieces for token in ([700] if piece == SEG else words(piece))]
        assert TOKENIZER.decode(ids) == text
        assert TOKENIZER.decode([*ids, TOKENIZER.special_ids[EOS]]) == text

    def test_the_end_of_sequence_is_not_text(self):
        assert TOKENIZER.decode([*words("No."), 2]) == "No."

    def test_other_special_tokens_are_shown_by_name(self):
        assert TOKENIZER.decode([*words("a"), 701, *words("b")]) == "a <im_start> b"

    def test_half_a_letter_is_shown_as_such(self):
        assert "\ufffd" in TOKENIZER.decode(words("🤖")[:-1])

    @given(st.lists(st.integers(0, 702), max_size=20))
    def test_any_ids_are_some_text(self, ids):
        assert isinstance(TOKENIZER.decode(ids), str)


class TestBadFiles:
    """Of a tokenizer; whole checkpoints are in `test_checkpoint.py`."""

    def folder(self, tmp_path, added=None, model=None):
        (tmp_path / "tokenizer.model").write_bytes((V1 / "tokenizer.model").read_bytes() if model is None else model)
        (tmp_path / "added_tokens.json").write_text(
            added if isinstance(added, str) else json.dumps({SEG: 700, IM_START: 701, IM_END: 702} | (added or {}))
        )
        return tmp_path

    def refused(self, folder, match):
        with pytest.raises(CheckpointError, match=match):
            Tokenizer.from_folder(folder)

    @pytest.mark.parametrize("name", ["tokenizer.model", "added_tokens.json"])
    def test_missing(self, tmp_path, name):
        (self.folder(tmp_path) / name).unlink()
        self.refused(tmp_path, f"has no {name}")

    @pytest.mark.parametrize("model", [b"", b"version https://git-lfs.github.com/spec/v1\n", b"\xff" * 1000])
    def test_no_model(self, tmp_path, model):
        self.refused(self.folder(tmp_path, model=model), r"tokenizer\.model is not a readable sentencepiece model")

    def test_truncated_model(self, tmp_path):
        half = (V1 / "tokenizer.model").read_bytes()[:5000]
        self.refused(self.folder(tmp_path, model=half), r"tokenizer\.model is not a readable sentencepiece model")

    def test_sentencepieces_own_tokens_may_be_listed(self, tmp_path):
        listed = Tokenizer.from_folder(self.folder(tmp_path, {"<unk>": 0, BOS: 1, EOS: 2}))
        assert listed.special_ids == TOKENIZER.special_ids

    def test_settings_that_are_no_json(self, tmp_path):
        (self.folder(tmp_path) / "tokenizer_config.json").write_text("{")
        self.refused(tmp_path, r"tokenizer_config\.json is not readable JSON")

    @pytest.mark.parametrize("added", ["", "{", '{"[SEG]": 7', "\x00"])
    def test_no_json(self, tmp_path, added):
        self.refused(self.folder(tmp_path, added), r"added_tokens\.json is not readable JSON")

    @pytest.mark.parametrize(
        "added",
        [
            "[]",
            '"[SEG]"',
            '{"[SEG]": "700"}',
            '{"[SEG]": 700.5}',
            '{"[SEG]": true, "<im_start>": 701, "<im_end>": 702}',
        ],
    )
    def test_no_ids(self, tmp_path, added):
        self.refused(self.folder(tmp_path, added), r"added_tokens\.json must map token names to ids")

    @pytest.mark.parametrize("token", [SEG, IM_START, IM_END])
    def test_without_a_token_that_lisa_needs(self, tmp_path, token):
        added = {SEG: 700, IM_START: 701, IM_END: 702}
        del added[token]
        folder = self.folder(tmp_path, json.dumps(added))
        with pytest.raises(CheckpointError) as caught:
            Tokenizer.from_folder(folder)
        assert f"has no {token}: this is no LISA checkpoint" in str(caught.value)

    @pytest.mark.parametrize("token_id", [0, 2, 699, -1])
    def test_id_of_a_word(self, tmp_path, token_id):
        self.refused(self.folder(tmp_path, {SEG: token_id}), r"gives \[SEG\] the id of a word")

    def test_one_id_twice(self, tmp_path):
        self.refused(self.folder(tmp_path, {SEG: 701}), r"gives \[SEG\] and <im_start> the same id 701")
