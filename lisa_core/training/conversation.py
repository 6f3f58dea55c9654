"""What of a conversation is learnt: the answers, each with its end of sequence, and nothing else."""

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
        ids: the prompt, questions, answers; `IMAGE_ID` once where the image stands.
        labels: the ids that are learnt, `NOT_LEARNT` elsewhere.
        before_seg: per learnt `[SEG]` the index of the token before it, whose hidden state prompts the mask.
    """

    ids: tuple[int, ...]
    labels: tuple[int, ...]
    before_seg: tuple[int, ...]


def lesson(turns: Sequence[tuple[str, str]], template: Template, tokenizer: Tokenizer) -> Lesson:
    """A conversation of (question, answer) turns; every answer is learnt, `[SEG]` in it is the token.

    Raises:
        PromptError: there is no turn.
    """
    if not turns:
        raise PromptError("A conversation without a turn teaches nothing.")
    end = tokenizer.special_ids[EOS]
    # The next question closes an answer as it does in a prompt; what follows the end of the last one is cut off.
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
