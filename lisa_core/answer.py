"""What the engine answers: words, and for each `[SEG]` in them a mask."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Box = tuple[int, int, int, int]
"""(x, y, width, height) in px; (0, 0, 0, 0) for an empty mask."""


@dataclass(frozen=True, eq=False)
class Segment:
    """One mask of an answer.

    Attributes:
        mask: (H, W) bool, the size of the source image.
        score: the mask decoder's raw estimate of IoU; neither clipped nor calibrated, LISA never trains that head.
        box: tight box (x, y, width, height) in px.
        embedding: (256,) float32, (128,) of the bundled model: the projected hidden state that prompted the decoder.
        low_res_logits: (256, 256) float32 for SAM at 1024, (96, 96) of the bundled model; once upsampled, the mask is
            where they are above 0.
    """

    mask: NDArray[np.bool_]
    score: float
    box: Box
    embedding: NDArray[np.float32]
    low_res_logits: NDArray[np.float32]

    @property
    def area(self) -> int:
        """Number of pixels in the mask."""
        return int(np.count_nonzero(self.mask))


@dataclass(frozen=True, eq=False)
class Answer:
    """The answer to one question about one frame.

    Attributes:
        text: the words, `[SEG]` where a mask belongs, without the end-of-sequence token.
        segments: one per `[SEG]`, in the order of the words, at most `max_segments`.
        prompt_ids: the prompt's token ids, -200 where the image stands (v0: its patch tokens).
        token_ids: the new tokens, end of sequence included.
        timings: seconds by stage, e.g. `prefill`, `decode`, `sam`, `masks`; on a GPU, work counts to the stage that
            waits for it.
    """

    text: str
    segments: tuple[Segment, ...] = ()
    prompt_ids: list[int] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    timings: Mapping[str, float] = field(default_factory=dict)


def union(segments: Iterable[Segment], size: tuple[int, ...]) -> NDArray[np.bool_]:
    """(H, W) bool of that size, true where any segment is."""
    covered = np.zeros(size, bool)
    for segment in segments:
        covered |= segment.mask
    return covered


def tight_box(mask: NDArray[np.bool_]) -> Box:
    """The smallest box (x, y, width, height) around the true pixels of a (H, W) mask; zeros if there are none."""
    rows = np.flatnonzero(mask.any(axis=1))
    if rows.size == 0:
        return (0, 0, 0, 0)
    columns = np.flatnonzero(mask[rows[0] : rows[-1] + 1].any(axis=0))
    x, y = int(columns[0]), int(rows[0])
    return (x, y, int(columns[-1]) - x + 1, int(rows[-1]) - y + 1)
