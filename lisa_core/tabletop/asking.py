"""One who asks about a view: words from their split, answers in one regular form each."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lisa_core.tabletop import english, knowledge, patterns
from lisa_core.tabletop.patterns import Split, Wordings
from lisa_core.tabletop.sight import Seen, Sight

_MOST = 4
"""Masks in one answer."""


@dataclass(frozen=True)
class Target:
    """A thing by its number in the scene, or one of its parts."""

    thing: int
    part: str | None = None


@dataclass(frozen=True)
class Turn:
    """A question and its true answer.

    Attributes:
        masks: an entry for each `[SEG]` of the answer, in order: it is the union of these targets.
        says: words without which an answer is wrong: a colour, a number, the name of the thing that is explained.
    """

    question: str
    answer: str
    masks: tuple[tuple[Target, ...], ...] = ()
    says: tuple[str, ...] = ()


@dataclass(frozen=True)
class Asker:
    """Asks in the words of one split.

    Attributes:
        sight: what is seen.
        rng: chooses.
        split: of wordings, and of (colour, kind) pairs that may be named together.
    """

    sight: Sight
    rng: np.random.Generator
    split: Split

    def one(self, things: Sequence[Seen]) -> Seen | None:
        """One of them, if there is one."""
        return things[int(self.rng.integers(len(things)))] if things else None

    def pick(self, options: Sequence[str]) -> str:
        """One of the options."""
        return options[int(self.rng.integers(len(options)))]

    def name(self, kind: str) -> str:
        """What somebody may call it: mostly its own name."""
        return kind if self.rng.random() < 0.6 else self.pick(english.names(kind))

    def words(self, wordings: Wordings, **slots: str) -> str:
        """A phrase of the split; what slots do not say of `is`, `does` and `its` follows from `it`."""
        it = slots.get("it", "")
        noun = it.split(" ")[-1]
        agreeing = {
            "is": english.be(noun),
            "does": "do" if english.is_plural(noun) else "does",
            "its": english.possessive(it),
        }
        return patterns.phrase(wordings.of(self.split), self.rng, **(agreeing | slots))

    def phrase(self, text: str) -> str:
        """A pattern that has no split, with its alternatives chosen."""
        return patterns.phrase((text,), self.rng)

    def typed(self, text: str) -> str:
        """As people type it."""
        return patterns.typed(text, self.rng)

    def ask(self, wordings: Wordings, **slots: str) -> str:
        """A whole question."""
        return self.typed(self.words(wordings, **slots))

    def may_name(self, colour: str, kind: str) -> bool:
        """Whether the colour may be said with the kind: it says something, and is not held out."""
        return english.has_colours(kind) and self.may_learn(colour, kind)

    def may_learn(self, colour: str, kind: str) -> bool:
        """Whether something may be told that says that things of the kind come in the colour: it is not held out."""
        return self.split != "train" or (colour, kind) not in knowledge.HELD_OUT_PAIRS

    def tells_colour(self, thing: Seen) -> bool:
        """Whether the thing's colour can be seen, and may be said with its kind."""
        return thing.coloured and self.may_name(thing.colour, thing.kind)

    def described(self, thing: Seen) -> str:
        """The thing as answers name it: `red mug`."""
        return f"{thing.colour} {thing.kind}" if self.tells_colour(thing) else thing.kind


def shown(asker: Asker, question: str, things: Sequence[Seen]) -> Turn | None:
    """The question with the answer that shows these things, from left to right; None if there are too many."""
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
    """The question with the answer that there is no such thing."""
    return Turn(question, f"There {english.be(what.rsplit(' ', maxsplit=1)[-1])} no {what}.")


NO_SUCH_THING = "There is no such thing."
