"""How a conversation is written down for the language model.

A prompt is a list of pieces: `str` is words, tokenized as such whatever it contains, `Special` is one special
token, `Image` is where the frame's visual tokens stand. What users write is only ever part of a `str`, so it
can never become a special token.

The wordings are those of the authors' conversation templates: `llava_v1` (the default) and `llava_llama_2` for
v1 checkpoints, `vicuna_v1_1` for v0.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from lisa_core.errors import PromptError
from lisa_core.options import TemplateName

SEG = "[SEG]"
IM_START = "<im_start>"
IM_END = "<im_end>"
IM_PATCH = "<im_patch>"
BOS = "<s>"
EOS = "</s>"

History = Sequence[tuple[str, str]]
"""Earlier (question, answer) turns, oldest first."""


@dataclass(frozen=True)
class Special:
    """One special token, by its name in the tokenizer."""

    token: str


@dataclass(frozen=True)
class Image:
    """The place of the frame's visual tokens."""


Piece = str | Special | Image


@dataclass(frozen=True)
class Template:
    """The fixed words around the turns of a conversation; the image opens the first question.

    Attributes:
        opening: before the image.
        after_image: between the image and the first question.
        before_question: before every later question.
        after_question: after every question; the model answers there.
        before_answer: before an earlier answer.
        after_answer: after an earlier answer.
        end_of_turn: special tokens that end an earlier turn.
    """

    opening: str
    after_image: str
    before_question: str
    after_question: str
    before_answer: str
    after_answer: str
    end_of_turn: tuple[Special, ...]

    def prefix(self) -> list[Piece]:
        """What every conversation about a frame begins with, the image last but for its end token."""
        return [self.opening, Special(IM_START), Image(), Special(IM_END)]

    def render(self, question: str, history: History = ()) -> list[Piece]:
        """The pieces of the whole conversation, up to where the model answers `question`.

        `[SEG]` is special in the answers of `history` and nowhere else.
        """
        pieces = self.prefix()
        lead = self.after_image
        for earlier_question, earlier_answer in history:
            words, *masks_and_words = split_answer(earlier_answer + self.after_answer)
            pieces.append(lead + earlier_question + self.after_question + self.before_answer + words)
            pieces += [Special(SEG) if part == SEG else part for part in masks_and_words]
            pieces += self.end_of_turn
            lead = self.before_question
        return [*pieces, lead + question + self.after_question]


def split_answer(answer: str) -> list[str]:
    """Words, `[SEG]`, words, `[SEG]`, ..., words; the words may be empty."""
    return re.split(rf"({re.escape(SEG)})", answer)


_LLAVA_LLAMA_2_SYSTEM = (
    "You are a helpful language and vision assistant. "
    "You are able to understand the visual content that the user provides, "
    "and assist the user with a variety of tasks using natural language."
)


def _vicuna(user: str, after_image: str) -> Template:
    return Template(
        opening=f"A chat between a curious {user} and an artificial intelligence assistant. "
        f"The assistant gives helpful, detailed, and polite answers to the {user}'s questions. USER: ",
        after_image=after_image,
        before_question="USER: ",
        after_question=" ASSISTANT:",
        before_answer=" ",
        after_answer="",
        end_of_turn=(Special(EOS),),
    )


BY_NAME: dict[TemplateName, Template] = {
    "llava_v1": _vicuna("human", after_image="\n"),
    "vicuna_v1_1": _vicuna("user", after_image=" "),
    "llava_llama_2": Template(
        opening=f"[INST] <<SYS>>\n{_LLAVA_LLAMA_2_SYSTEM}\n<</SYS>>\n\n",
        after_image="\n",
        before_question="[INST] ",
        after_question=" [/INST]",
        before_answer=" ",
        after_answer=" ",
        end_of_turn=(Special(EOS), Special(BOS)),
    ),
}


def checked(instruction: str, history: History) -> tuple[str, History]:
    """A question with its earlier turns, as they are; `PromptError` if they are empty or no text."""
    if not isinstance(instruction, str) or not instruction.strip():
        raise PromptError("The instruction is empty; say in words what to find or answer.")
    if not isinstance(history, Sequence) or not all(_is_turn(turn) for turn in history):
        raise PromptError("The history must be a sequence of (question, answer) pairs of texts.")
    return instruction, history


def _is_turn(turn: object) -> bool:
    return isinstance(turn, tuple | list) and len(turn) == 2 and all(isinstance(words, str) for words in turn)
