"""Patterns of phrases: `[a|b|]` is a choice of alternatives, `{it}` a slot."""

import re
from dataclasses import dataclass
from typing import Literal

import numpy as np

Split = Literal["train", "held_out"]

_CHOICE = re.compile(r"\[([^\[\]]*)\]")
_LOWER, _BARE = 0.15, 0.12
"""Shares of questions without an initial capital, and without a final punctuation mark."""


@dataclass(frozen=True)
class Wordings:
    """Patterns for one kind of question, by split."""

    train: tuple[str, ...]
    held_out: tuple[str, ...]

    def of(self, split: Split) -> tuple[str, ...]:
        """The patterns of a split."""
        return self.train if split == "train" else self.held_out


def pick(options: tuple[str, ...], rng: np.random.Generator) -> str:
    """A random option."""
    return options[int(rng.integers(len(options)))]


def phrase(patterns: tuple[str, ...], rng: np.random.Generator, **slots: str) -> str:
    """A random pattern with its alternatives chosen and its slots filled."""
    text = pick(patterns, rng)
    while choice := _CHOICE.search(text):
        option = pick(tuple(choice[1].split("|")), rng)
        text = text[: choice.start()] + option + text[choice.end() :]
    return " ".join(text.format(**slots).split())


def typed(text: str, rng: np.random.Generator) -> str:
    """A question as people type it: mostly, not always, with a capital and a punctuation mark."""
    if rng.random() < _BARE:
        text = text.rstrip(".?!")
    return text if rng.random() < _LOWER else text[0].upper() + text[1:]
