"""The goldens: tiny checkpoints in the layouts of the released ones, and what the reference answers with them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

GOLDENS = Path(__file__).resolve().parent.parent / "data" / "goldens"
V1 = GOLDENS / "lisa-tiny-v1-vicuna"
V0 = GOLDENS / "lisa-tiny-v0"
TOWER = GOLDENS / "clip-vit-tiny-patch14"


def picture(name):
    """(H, W, 3) uint8 RGB."""
    return np.array(Image.open(GOLDENS / "images" / name).convert("RGB"))


@dataclass(frozen=True)
class Case:
    """One question of `expected/<checkpoint>/cases.json`."""

    checkpoint: Path
    recorded: Mapping

    def __str__(self):
        return f"{'v0' if self.checkpoint == V0 else 'v1'}-{self.recorded['id']}"

    @property
    def rgb(self):
        return picture(self.recorded["image"])

    @property
    def instruction(self):
        return self.recorded["instruction"]

    @property
    def history(self):
        return [(question, answer) for question, answer in self.recorded["history"]]

    @property
    def masks(self):
        return self.recorded["n_masks"]

    @cached_property
    def arrays(self):
        """What was recorded stage by stage."""
        with np.load(GOLDENS / "expected" / self.checkpoint.name / f"{self.recorded['id']}.npz") as stored:
            return dict(stored)

    @property
    def expected_masks(self):
        """(n, H, W) bool."""
        shape = (self.masks, *self.recorded["image_size"])
        return np.unpackbits(self.arrays["mask"], count=np.prod(shape)).reshape(shape).astype(bool)


def _cases(checkpoint):
    path = GOLDENS / "expected" / checkpoint.name / "cases.json"
    return [Case(checkpoint, case) for case in json.loads(path.read_text(encoding="utf-8"))["cases"]]


CASES = [*_cases(V1), *_cases(V0)]
WITH_MASKS = [case for case in CASES if case.masks]


def case(name):
    """The case of that name, e.g. `case("v1-short")`."""
    return next(case for case in CASES if str(case) == name)


def distance(actual, expected):
    """The largest difference, relative to the largest expected value."""
    expected = np.asarray(expected, np.float64)
    return np.abs(np.asarray(actual, np.float64) - expected).max() / np.abs(expected).max()


def embeddings(answer):
    return np.stack([segment.embedding for segment in answer.segments])


def low_res_logits(answer):
    return np.stack([segment.low_res_logits for segment in answer.segments])


def masks(answer):
    return np.stack([segment.mask for segment in answer.segments])


def scores(answer):
    return np.array([segment.score for segment in answer.segments])


def same_answer(left, right):
    """Whether two answers say and show the same: words and tokens equal, masks but for a pixel on an edge.

    A prompt read in two parts is summed in another order than one read in one.
    """
    return (
        left.text == right.text
        and left.prompt_ids == right.prompt_ids
        and left.token_ids == right.token_ids
        and len(left.segments) == len(right.segments)
        and all(_same_mask(a.mask, b.mask) for a, b in zip(left.segments, right.segments, strict=True))
    )


def _same_mask(left, right):
    return left.shape == right.shape and (left != right).mean() < 1e-4
