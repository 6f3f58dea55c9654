"""Answers several questions at once: one pass over the weights decodes one token of each.

A question whose answer is complete gets its masks and ends while the others go on, and so does a cancelled one; its KV
cache is freed at once.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

from torch import Tensor

from lisa_core.answer import Segment
from lisa_core.inference.frame import Encoded, Visual
from lisa_core.inference.generation import Generator
from lisa_core.inference.masking import Masker
from lisa_core.inference.memory import Text
from lisa_core.inference.prefix_cache import PrefixCache
from lisa_core.inference.question import Limits, Question
from lisa_core.inference.reply import Reply
from lisa_core.inference.stopwatch import Stopwatch


@dataclass(frozen=True, eq=False)
class Asked:
    """One of several questions.

    Attributes:
        index: its place among the questions.
        frame: its frame, encoded.
        visual: the frame for the language model.
        reply: the answer so far.
    """

    index: int
    question: Question
    frame: Encoded
    visual: Visual
    reply: Reply


class Together:
    """Answers questions together and ends each as soon as it can.

    Args:
        limits: of each answer.
        watch: measures the stages of all together.
        end: called once for each question, with its segments, or with None for one that was cancelled.
    """

    def __init__(
        self,
        generator: Generator,
        prefixes: PrefixCache,
        masker: Masker,
        limits: Limits,
        watch: Stopwatch,
        end: Callable[[Asked, tuple[Segment, ...] | None], None],
    ) -> None:
        self._generator = generator
        self._prefixes = prefixes
        self._masker = masker
        self._limits = limits
        self._watch = watch
        self._end = end

    def answer(self, questions: Sequence[Asked]) -> None:
        """Answers them all."""
        asked = self._still_asked(questions)
        if not asked:
            return
        for one in asked:
            one.question.on_stage("answering")
        going = self._read(asked)
        if self._limits.mask_only:
            for one in asked:
                one.reply.assume_mask(going[one].hidden)
                one.reply.end()
                self._prefixes.replace(one.visual, going.pop(one))
            self._finish(asked)
        else:
            self._decode(going)

    def _read(self, asked: Sequence[Asked]) -> dict[Asked, Text]:
        texts = self._generator.read_together([(one.visual, one.question.prompt) for one in asked])
        self._watch.lap("prefill")
        for frame in dict.fromkeys(one.frame for one in asked):
            self._masker.begin(frame, self._watch)
        return dict(zip(asked, texts, strict=True))

    def _decode(self, going: dict[Asked, Text]) -> None:
        """Decodes until all have ended. One that has is removed from `going`, the only place that holds its cache."""
        self._leave(going)
        while going:
            said = dict(zip(going, self._generator.next_tokens(list(going.values())), strict=True))
            for one, token in said.items():
                one.reply.add(token, going[one].hidden)
            self._watch.lap("decode")
            over = [one for one, token in said.items() if self._is_over(one, token)]
            for one in over:
                one.reply.end()
                self._prefixes.replace(one.visual, going.pop(one))
            self._finish(over)
            if going:
                self._generator.append(list(going.values()), [said[one] for one in going])
            self._leave(going)

    def _leave(self, going: dict[Asked, Text]) -> None:
        """Removes cancelled questions."""
        still = self._still_asked(going)
        for one in [one for one in going if one not in still]:
            self._prefixes.replace(one.visual, going.pop(one))

    def _is_over(self, one: Asked, token: int) -> bool:
        said = len(one.reply.ids)
        room = self._generator.context - len(one.question.prompt)
        return self._generator.is_last(token) or said >= min(self._limits.new_tokens, room)

    def _still_asked(self, questions: Iterable[Asked]) -> list[Asked]:
        """The questions that were not cancelled; ends the others."""
        kept = []
        for one in questions:
            if one.question.cancel.is_set():
                self._end(one, None)
            else:
                kept.append(one)
        return kept

    def _finish(self, over: Sequence[Asked]) -> None:
        """Decodes the masks of each question, those of one frame as one batch, and ends it."""
        of_frame: dict[Encoded, list[Asked]] = {}
        for one in over:
            of_frame.setdefault(one.frame, []).append(one)
        for frame, questions in of_frame.items():
            for one in questions:
                if self._states(one):
                    one.question.on_stage("masking")
            kept = self._still_asked(questions)
            states = [state for one in kept for state in self._states(one)]
            segments = iter(self._masker.segments(frame, states, self._watch) if states else ())
            for one in kept:
                self._end(one, tuple(islice(segments, len(self._states(one)))))

    def _states(self, one: Asked) -> list[Tensor]:
        return one.reply.states[: max(self._limits.segments, 0)]
