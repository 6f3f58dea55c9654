"""One picture, one question, one verdict."""

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from typing import Protocol as Interface

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lisa_core import files
from lisa_core.answer import Answer
from lisa_core.evaluation import Protocol
from lisa_core.evaluation.journal import Entry
from lisa_core.evaluation.metrics import Overlap, overlap
from lisa_core.evaluation.reasonseg import Length, Sample
from lisa_core.options import MAX_NEW_TOKENS

if TYPE_CHECKING:
    from lisa_core.engine import Frame, LisaEngine


class Question(Entry, Interface):
    """A picture with one question, not read yet."""

    def read(self) -> Sample:
        """All of it; raises DatasetError or ImageError if a file is damaged."""


@dataclass(frozen=True)
class Result:
    """How one image went.

    Attributes:
        image: name of its file.
        query: in the words of the data set.
        answer: in the model's words.
        mask_png: the model's mask as a PNG file, 255 on it and 0 elsewhere.
    """

    image: str
    query: str
    length: Length
    answer: str
    overlap: Overlap
    mask_png: bytes

    @property
    def mask(self) -> NDArray[np.bool_]:
        """(H, W), the size of the image."""
        return np.array(Image.open(io.BytesIO(self.mask_png))) > 0

    def packed(self) -> dict[str, Any]:
        """As JSON can write it."""
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
    """What `packed` gave; raises ValueError, LookupError or TypeError of anything else."""
    return Result(
        image=str(fields["image"]),
        query=str(fields["query"]),
        length=fields["length"],
        answer=str(fields["answer"]),
        overlap=Overlap(int(fields["intersection"]), int(fields["union"])),
        mask_png=base64.b64decode(fields["mask"], validate=True),
    )


class LastFrame:
    """An engine that does not encode a picture again for the next question about it."""

    def __init__(self, engine: "LisaEngine") -> None:
        self._engine = engine
        self._last: tuple[NDArray[np.uint8], Frame] | None = None
        self.ask = engine.ask

    def encode(self, rgb: NDArray[np.uint8]) -> "Frame":
        """As the engine does."""
        if self._last is None or not np.array_equal(self._last[0], rgb):
            self._last = None  # its memory may be needed for the next
            self._last = rgb, self._engine.encode(rgb)
        return self._last[1]


def evaluate(
    engine: "LisaEngine | LastFrame",
    entry: Question,
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
        mask_only=protocol == "teacher-forced",
        max_new_tokens=max_new_tokens,
    )
    mask = _union(answer, sample.truth.shape)
    return Result(
        image=entry.name,
        query=sample.query,
        length=sample.length,
        answer=answer.text,
        overlap=overlap(mask, sample.truth),
        mask_png=files.png(np.multiply(mask, 255, dtype=np.uint8)),
    )


def _union(answer: Answer, size: tuple[int, ...]) -> NDArray[np.bool_]:
    union = np.zeros(size, bool)
    for segment in answer.segments:
        union |= segment.mask
    return union
