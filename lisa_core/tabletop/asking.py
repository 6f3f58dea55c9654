"""Builds questions about a view, worded as in their split, and answers of regular forms."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lisa_core.tabletop import english, knowledge, patterns
from lisa_core.tabletop.patterns import Split, Wordings
from lisa_core.tabletop.scene import Target
from lisa_core.tabletop.sight import Seen, Sight

_MOST = 4
"""Most masks in an answer."""


@dataclass(frozen=True)
class Turn:
    """A question and its true answer.

    Attributes:
        masks: for each `[SEG]` of the answer, in order, the targets whose union it is.
        says: words that a right answer must have: a colour, a number, the name of the explained thing.
    """

    question: str
    answer: str
    masks: tuple[tuple[Target, ...], ...] = ()
    says: tuple[str, ...] = ()


@dataclass(frozen=True)
class Asker:
    """Makes questions in the wordings of one split.

    Attributes:
        sight: what is visible.
        rng: for all random choices.
        split: decides the wordings, and the (colour, kind) pairs that may be named together.
    """

    sight: Sight
    rng: np.random.Generator
    split: Split

    def one(self, things: Sequence[Seen]) -> Seen | None:
        """A random one of them; None if there are none."""
        return things[int(self.rng.integers(len(things)))] if things else None

    def pick(self, options: Sequence[str]) -> str:
        """A random option."""
        return options[int(self.rng.integers(len(options)))]

    def name(self, kind: str) -> str:
        """A name for the kind: mostly its own, or a synonym."""
        return kind if self.rng.random() < 0.6 else self.pick(english.names(kind))

    def words(self, wordings: Wordings, **slots: str) -> str:
        """A phrase of the split, its slots filled; `is`, `does` and `its` agree with `it` unless they are given."""
        it = slots.get("it", "")
        noun = it.split(" ")[-1]
        agreeing = {
            "is": english.be(noun),
            "does": "do" if english.is_plural(noun) else "does",
            "its": english.possessive(it),
        }
        return patterns.phrase(wordings.of(self.split), self.rng, **(agreeing | slots))

    def phrase(self, text: str) -> str:
        """A pattern without a split, its alternatives chosen."""
        return patterns.phrase((text,), self.rng)

    def typed(self, text: str) -> str:
        """The text as people type it."""
        return patterns.typed(text, self.rng)

    def ask(self, wordings: Wordings, **slots: str) -> str:
        """A whole question."""
        return self.typed(self.words(wordings, **slots))

    def may_name(self, colour: str, kind: str) -> bool:
        """Whether the colour may be named with the kind: the kind has several colours, and the pair is not held out."""
        return english.has_colours(kind) and self.may_learn(colour, kind)

    def may_learn(self, colour: str, kind: str) -> bool:
        """Whether this split may imply that the kind comes in the colour: the pair is not held out."""
        return self.split != "train" or (colour, kind) not in knowledge.HELD_OUT_PAIRS

    def tells_colour(self, thing: Seen) -> bool:
        """Whether the thing's colour is visible, and may be named with its kind."""
        return thing.coloured and self.may_name(thing.colour, thing.kind)

    def described(self, thing: Seen) -> str:
        """The name of the thing in answers: `red mug`."""
        return f"{thing.colour} {thing.kind}" if self.tells_colour(thing) else thing.kind


def shown(asker: Asker, question: str, things: Sequence[Seen]) -> Turn | None:
    """The question, answered with the things from left to right; None if one is not clear, or for none or too many."""
    if not 0 < len(things) <= _MOST or not all(thing.clear for thing in things):
        return None
    order = sorted(things, key=lambda thing: thing.x)
    clauses = [f"the {asker.described(thing)} {english.be(thing.kind)} [SEG]" for thing in order]
    answer = listed(clauses)
    return Turn(question, f"{answer[0].upper()}{answer[1:]}.", tuple((Target(thing.index),) for thing in order))


def listed(items: Sequence[str]) -> str:
    """`a, b and c`."""
    return " and ".join([", ".join(items[:-1]), items[-1]]) if len(items) > 1 else items[0]


def missing(question: str, what: str) -> Turn:
    """The question, answered by saying that there is no such thing."""
    return Turn(question, f"There {english.be(what.rsplit(' ', maxsplit=1)[-1])} no {what}.")


NO_SUCH_THING = "There is no such thing."
