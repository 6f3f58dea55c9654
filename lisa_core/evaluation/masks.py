"""Asks for one mask of a picture, and compares it with the ground truth."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from typing import Protocol as Interface

import numpy as np
from numpy.typing import NDArray

from lisa_core import files
from lisa_core.answer import Answer, union
from lisa_core.datasets.reasonseg import Length, Sample
from lisa_core.errors import Cancelled
from lisa_core.evaluation import Protocol
from lisa_core.evaluation.journal import Entry
from lisa_core.evaluation.metrics import Overlap, overlap
from lisa_core.options import MAX_NEW_TOKENS

if TYPE_CHECKING:
    from lisa_core.engine import LisaEngine


class SampleEntry(Entry, Interface):
    """A picture with one question, not loaded yet."""

    def read(self) -> Sample:
        """Loads it; raises DatasetError or ImageError if a file is damaged."""


@dataclass(frozen=True)
class Result:
    """The result of one image.

    Attributes:
        image: name of its file.
        query: of the data set.
        answer: of the model.
        mask_png: the model's mask as a PNG: 255 on it, 0 elsewhere.
    """

    image: str
    query: str
    length: Length
    answer: str
    overlap: Overlap
    mask_png: bytes

    @property
    def mask(self) -> NDArray[np.bool_]:
        """(H, W), of the size of the image."""
        return files.mask_from_png(self.mask_png)

    def packed(self) -> dict[str, Any]:
        """Its fields, serialisable as JSON."""
        return {
            "image": self.image,
            "query": self.query,
            "length": self.length,
            "answer": self.answer,
            "intersection": self.overlap.intersection,
            "union": self.overlap.union,
            "mask": base64.b64encode(self.mask_png).decode(),
        }


def unpacked(fields: Mapping[str, Any]) -> Result:
    """The inverse of `packed`; raises ValueError, LookupError or TypeError if it is given anything else."""
    return Result(
        image=str(fields["image"]),
        query=str(fields["query"]),
        length=fields["length"],
        answer=str(fields["answer"]),
        overlap=Overlap(int(fields["intersection"]), int(fields["union"])),
        mask_png=base64.b64decode(fields["mask"], validate=True),
    )


def evaluate(
    engine: "LisaEngine",
    entry: SampleEntry,
    protocol: Protocol = "teacher-forced",
    max_new_tokens: int = MAX_NEW_TOKENS,
) -> Result:
    """Asks the question of an entry, and compares the mask with the ground truth.

    Raises:
        DatasetError, ImageError: the entry's files are damaged.
        PromptError, OutOfMemoryError: the engine cannot answer.
    """
    sample = entry.read()
    answer = engine.ask(
        engine.encode(sample.image),
        sample.question,
        mask_only=_is_led(sample, protocol),
        max_new_tokens=max_new_tokens,
    )
    return _compared(entry, sample, answer)


def evaluate_together(
    engine: "LisaEngine", entries: Sequence[SampleEntry], protocol: Protocol, max_new_tokens: int
) -> list[Result]:
    """Does `evaluate` for entries about the same picture, which is encoded once and asked about in one batch.

    Raises:
        DatasetError, ImageError, PromptError, OutOfMemoryError: as `evaluate`, if any of the entries fails.
    """
    if len(entries) == 1:
        return [evaluate(engine, entries[0], protocol, max_new_tokens)]
    samples = [entry.read() for entry in entries]
    frame = engine.encode(samples[0].image)
    results: dict[int, Result] = {}
    for led in (True, False):
        chosen = [index for index, sample in enumerate(samples) if _is_led(sample, protocol) == led]
        questions = [samples[index].question for index in chosen]
        answers = engine.ask_many(frame, questions, mask_only=led, max_new_tokens=max_new_tokens) if chosen else ()
        for index, answer in zip(chosen, answers, strict=True):
            if not isinstance(answer, Cancelled):  # never: there is nothing to cancel it
                results[index] = _compared(entries[index], samples[index], answer)
    return [results[index] for index in sorted(results)]


def _is_led(sample: Sample, protocol: Protocol) -> bool:
    """Whether "[SEG]." is taken for the answer: not if the annotation has an answer of its own."""
    return protocol == "teacher-forced" and not sample.answered


def _compared(entry: SampleEntry, sample: Sample, answer: Answer) -> Result:
    mask = union(answer.segments, sample.truth.shape)
    return Result(
        image=entry.name,
        query=sample.query,
        length=sample.length,
        answer=answer.text,
        overlap=overlap(mask, sample.truth),
        mask_png=files.mask_png(mask),
    )
