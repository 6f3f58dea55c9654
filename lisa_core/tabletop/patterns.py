"""Patterns of phrases: `[a|b|]` is one of its alternatives, `{it}` a slot."""

import re
from dataclasses import dataclass
from typing import Literal

import numpy as np

Split = Literal["train", "held_out"]

_CHOICE = re.compile(r"\[([^\[\]]*)\]")
_LOWER, _BARE = 0.15, 0.12
"""Shares of questions that begin in lower case, and that end without a mark."""


@dataclass(frozen=True)
class Wordings:
    """Patterns of the questions of one kind."""

    train: tuple[str, ...]
    held_out: tuple[str, ...]

    def of(self, split: Split) -> tuple[str, ...]:
        """The patterns of that split."""
        return self.train if split == "train" else self.held_out


def pick(options: tuple[str, ...], rng: np.random.Generator) -> str:
    """One of the options."""
    return options[int(rng.integers(len(options)))]


def phrase(patterns: tuple[str, ...], rng: np.random.Generator, **slots: str) -> str:
    """One of the patterns with its alternatives chosen and its slots filled."""
    text = pick(patterns, rng)
    while choice := _CHOICE.search(text):
        option = pick(tuple(choice[1].split("|")), rng)
        text = text[: choice.start()] + option + text[choice.end() :]
    return " ".join(text.format(**slots).split())


def typed(text: str, rng: np.random.Generator) -> str:
    """A question as people type it: mostly with a capital and a mark at the end, not always."""
    if rng.random() < _BARE:
        text = text.rstrip(".?!")
    return text if rng.random() < _LOWER else text[0].upper() + text[1:]
