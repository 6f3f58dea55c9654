"""Batches from folders in ReasonSeg's format: a picture, its query worded as a question, and its mask.

The wordings of questions and answers are those of LISA's published training code.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from lisa_core import files, preprocess
from lisa_core.checkpoint import Checkpoint
from lisa_core.datasets.reasonseg import (
    TARGET,
    Annotation,
    Entry,
    Polygon,
    Split,
    digest_of,
    rasterize,
    read_annotation,
)
from lisa_core.errors import DatasetError
from lisa_core.model.lisa import Lisa
from lisa_core.template import BY_NAME, Template
from lisa_core.tokenizer import Tokenizer
from lisa_core.training.batch import Packed, pack
from lisa_core.training.conversation import lesson
from lisa_core.training.forward import Pictures

SHORT_QUESTIONS = (
    "Can you segment the {} in this image?",
    "Please segment the {} in this image.",
    "What is {} in this image? Please respond with segmentation mask.",
    "What is {} in this image? Please output segmentation mask.",
)
LONG_QUESTIONS = ("{} Please respond with segmentation mask.", "{} Please output segmentation mask.")
EXPLAIN = (
    "Please output segmentation mask and explain why.",
    "Please output segmentation mask and explain the reason.",
    "Please output segmentation mask and give some explanation.",
)
ANSWERS = (
    "It is [SEG].",
    "Sure, [SEG].",
    "Sure, it is [SEG].",
    "Sure, the segmentation result is [SEG].",
    "[SEG].",
)

_KINDS, _SHARES = ((True, False), (True, True), (False, True)), (0.45, 0.45, 0.1)
"""Kinds of answer for a picture with an explanation, as (with masks, with words), and their published shares."""

_RECIPE = 64
"""Most tokens that the recipe's wording adds to a query."""
_WORDINGS = 3
"""Most wordings of a picture's query in one step."""
_KEPT = 1000
"""Pictures whose features are cached on the host (2.5 MB each for LISA-7B); the encoders are frozen."""


def check_length(split: Split, entry: Entry, checkpoint: Checkpoint) -> None:
    """Raises DatasetError if a query of the picture, with its explanation, exceeds the model's context."""
    template, context = BY_NAME[checkpoint.template], checkpoint.shape.language.context
    annotation = read_annotation(entry.annotation)
    for text, answer in itertools.zip_longest(annotation.texts, annotation.answers):
        turn = text, answer or split.explanation(entry.name, text)
        words = len(lesson([turn], template, checkpoint.tokenizer).ids) + _RECIPE
        if words + checkpoint.shape.clip.tokens > context:
            raise DatasetError(
                f"{entry.annotation}: a query takes {words} tokens, which is more than this model reads beside the"
                f" picture ({context - checkpoint.shape.clip.tokens}); use fewer words."
            )


@dataclass(frozen=True)
class Batch:
    """Pictures with conversations about them."""

    pictures: Pictures
    words: Packed


@dataclass(frozen=True)
class _Seen:
    visual: Tensor
    embedding: Tensor
    size: preprocess.SamSize


class Annotated:
    """Makes the batch of a step; the same number gives the same batch.

    Args:
        splits: drawn from with equal probability, whatever their sizes.
        model: its encoders encode the pictures.
        size: pictures in a batch.
        seed: of the random draws.
    """

    def __init__(
        self, splits: Sequence[Split], model: Lisa, tokenizer: Tokenizer, template: Template, size: int, seed: int
    ) -> None:
        self._splits = splits
        self._model = model
        self._tokenizer = tokenizer
        self._template = template
        self._size = size
        self._seed = seed
        self._seen: dict[str, _Seen] = {}

    def batch(self, step: int) -> Batch:
        """The batch of a step; raises DatasetError or ImageError if a file cannot be read."""
        random = np.random.default_rng((self._seed, step))
        seen, lessons, masks = [], [], []
        for _ in range(self._size):
            split = self._splits[int(random.integers(len(self._splits)))]
            entry = split.entries[int(random.integers(len(split.entries)))]
            annotation = read_annotation(entry.annotation)
            one = self._look(entry)
            turns = _turns(annotation, partial(split.explanation, entry.name), random)
            lessons.append([lesson([turn], self._template, self._tokenizer) for turn in turns])
            shown = [polygons for _, answer in turns for polygons in annotation.targets_of(answer)]
            masks.append(_drawn(shown, one.size.source).to(self._device))
            seen.append(one)
        pictures = Pictures(
            torch.stack([one.visual for one in seen]).to(self._device),
            torch.stack([one.embedding for one in seen]).to(self._device),
            [one.size for one in seen],
            masks,
        )
        return Batch(pictures, pack(lessons, self._model.shape.clip.tokens).to(self._device))

    @property
    def _device(self) -> torch.device:
        return self._model.language.norm.weight.device

    @torch.no_grad()
    def _look(self, entry: Entry) -> _Seen:
        """The picture's features, computed once for all copies of the same file."""
        content = digest_of((entry.picture,))
        if content not in self._seen:
            rgb = files.read_rgb(entry.picture)
            dtype = self._model.language.norm.weight.dtype
            pixels, size = preprocess.for_sam(rgb, self._model.shape.sam.image)
            centre = preprocess.for_clip(rgb, self._model.shape.clip.image)
            for_clip = preprocess.clip_input(centre[None].to(self._device)).to(dtype)
            for_sam = preprocess.sam_input(pixels[None].to(self._device), self._model.shape.sam.image).to(dtype)
            visual, embedding = self._model.clip(for_clip)[0], self._model.sam.encode(for_sam)[0]
            if len(self._seen) >= _KEPT:
                self._seen.pop(next(iter(self._seen)))
            self._seen[content] = _Seen(visual.cpu(), embedding.cpu(), size)
        return self._seen[content]


def _drawn(shown: Sequence[Sequence[Polygon]], size: tuple[int, int]) -> Tensor:
    """(n, H, W) bool: the masks of the answers."""
    drawn = {polygons: rasterize(polygons, size) == TARGET for polygons in dict.fromkeys(map(tuple, shown))}
    truths = [drawn[tuple(polygons)] for polygons in shown]
    return torch.from_numpy(np.array(truths)) if truths else torch.zeros(0, *size, dtype=torch.bool)


def _turns(annotation: Annotation, explain: Callable[[str], str], random: np.random.Generator) -> list[tuple[str, str]]:
    """Random questions and answers about a picture; `explain` returns the explanation for a query, or "".

    One draw per picture decides between masks, masks with words, and words alone.
    """
    count = min(_WORDINGS, len(annotation.texts))
    masks, words = _KINDS[int(random.choice(len(_KINDS), p=_SHARES))]
    turns = []
    for index in random.choice(len(annotation.texts), count, replace=False):
        text = annotation.texts[index]
        if annotation.answers:
            turns.append((text, annotation.answers[index]))
            continue
        explanation = explain(text) if words else ""
        if explanation and not masks:
            turns.append((text, explanation))
            continue
        if annotation.is_sentence:
            question = str(random.choice(LONG_QUESTIONS)).format(text)
        else:
            question = str(random.choice(SHORT_QUESTIONS)).format(text.lower())
        answer = str(random.choice(ANSWERS))
        if explanation:
            question, answer = f"{text} {random.choice(EXPLAIN)}", f"{answer} {explanation}"
        turns.append((question, answer))
    return turns
