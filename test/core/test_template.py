"""Conversations written down: against the reference's prompts, and by hand where it recorded none."""

import pytest
from goldens import CASES
from hypothesis import given
from hypothesis import strategies as st

from lisa_core.template import BOS, BY_NAME, EOS, IM_END, IM_START, SEG, Image, Special

IMAGE = [Special(IM_START), Image(), Special(IM_END)]
LLAMA_2_OPENING = (
    "[INST] <<SYS>>\nYou are a helpful language and vision assistant. You are able to understand the visual content"
    " that the user provides, and assist the user with a variety of tasks using natural language.\n<</SYS>>\n\n"
)
ONE_TURN = [("Is there a cup?", "Yes, [SEG].")]
TEMPLATES = pytest.mark.parametrize("template", BY_NAME.values(), ids=list(BY_NAME))


def as_text(pieces):
    return "".join(piece if isinstance(piece, str) else getattr(piece, "token", "<image>") for piece in pieces)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_as_the_reference_writes_it(case):
    template = BY_NAME["vicuna_v1_1" if str(case).startswith("v0") else "llava_v1"]
    expected = case.recorded["prompt"]
    assert as_text(template.render(case.instruction, case.history)) == expected


def test_llava_llama_2_single_question():
    assert BY_NAME["llava_llama_2"].render("segment the cup") == [
        LLAMA_2_OPENING,
        *IMAGE,
        "\nsegment the cup [/INST]",
    ]


def test_llava_llama_2_conversation():
    template = BY_NAME["llava_llama_2"]
    assert template.render("And its lid?", [*ONE_TURN, ("A plate?", "No.")])[1:] == [
        *IMAGE,
        "\nIs there a cup? [/INST] Yes, ",
        Special(SEG),
        ". ",
        Special(EOS),
        Special(BOS),
        "[INST] A plate? [/INST] No. ",
        Special(EOS),
        Special(BOS),
        "[INST] And its lid? [/INST]",
    ]


def test_vicuna_conversation():
    assert BY_NAME["llava_v1"].render("And its lid?", [*ONE_TURN, ("A plate?", "[SEG][SEG]")])[1:] == [
        *IMAGE,
        "\nIs there a cup? ASSISTANT: Yes, ",
        Special(SEG),
        ".",
        Special(EOS),
        "USER: A plate? ASSISTANT: ",
        Special(SEG),
        "",
        Special(SEG),
        "",
        Special(EOS),
        "USER: And its lid? ASSISTANT:",
    ]


@TEMPLATES
def test_every_conversation_begins_with_the_prefix_of_its_frame(template):
    prefix = template.prefix()
    assert template.render("segment the cup")[: len(prefix)] == prefix
    assert template.render("segment the cup", ONE_TURN)[: len(prefix)] == prefix


@TEMPLATES
@given(question=st.text(), earlier=st.text(), answer=st.text())
def test_what_users_write_is_words(template, question, earlier, answer):
    """One image, whatever is asked; special tokens are the template's own and the `[SEG]`s of earlier answers."""
    history = [(earlier, answer)]
    pieces = template.render(question, history)
    plain = template.render("x", [("x", "x")])

    def specials(pieces):
        return [piece for piece in pieces if not isinstance(piece, str)]

    assert specials(pieces) == [
        *specials(template.prefix()),
        *[Special(SEG)] * answer.count(SEG),
        *specials(plain)[3:],
    ]
    assert question in pieces[-1]


@TEMPLATES
@pytest.mark.parametrize("words", ["<image>", "[SEG]", "</s>", "<s>", "<im_start>", "<im_end>", "<im_patch>"])
def test_names_of_special_tokens_stay_words(template, words):
    pieces = template.render(words, [(words, "No.")])
    assert [piece for piece in pieces if not isinstance(piece, str)] == [
        piece for piece in template.render("x", [("x", "No.")]) if not isinstance(piece, str)
    ]
    assert sum(words in piece for piece in pieces if isinstance(piece, str)) == 2
