"""Which tokens of a conversation are learnt: the answers, each with its end of sequence."""

from collections.abc import Sequence
from dataclasses import dataclass

from lisa_core.errors import PromptError
from lisa_core.template import EOS, SEG, Template
from lisa_core.tokenizer import Tokenizer

NOT_LEARNT = -100


@dataclass(frozen=True)
class Lesson:
    """A conversation as token ids.

    Attributes:
        ids: of the whole conversation; `IMAGE_ID` once, in the image's place.
        labels: the ids that are learnt, `NOT_LEARNT` elsewhere.
        before_seg: for each learnt `[SEG]`, the index of the token before it, whose hidden state prompts the mask.
    """

    ids: tuple[int, ...]
    labels: tuple[int, ...]
    before_seg: tuple[int, ...]


def lesson(turns: Sequence[tuple[str, str]], template: Template, tokenizer: Tokenizer) -> Lesson:
    """Tokenises (question, answer) turns; every answer is learnt, and `[SEG]` in it becomes the special token.

    Raises:
        PromptError: there are no turns.
    """
    if not turns:
        raise PromptError("A conversation without a turn teaches nothing.")
    end = tokenizer.special_ids[EOS]
    # Rendered with an empty last question, so that every answer ends as in a prompt; the rest is cut off below.
    ids = tokenizer.encode(template.render("", turns))
    labels = [NOT_LEARNT] * len(ids)
    stop = 0
    for index, (question, _) in enumerate(turns):
        start = len(tokenizer.encode(template.render(question, turns[:index])))
        stop = ids.index(end, start) + 1
        labels[start:stop] = ids[start:stop]
    seg = tokenizer.special_ids[SEG]
    before = [index - 1 for index in range(stop) if labels[index] == seg]
    return Lesson(tuple(ids[:stop]), tuple(labels[:stop]), tuple(before))
