"""IoU of one mask, gIoU and cIoU of many, as in section 5.1 of the LISA paper (Lai et al. 2023)."""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lisa_core.datasets.reasonseg import IGNORED, TARGET

_EPS_IMAGE = 1e-5
_EPS_SET = 1e-10
"""The authors' guards against empty unions; they affect the last digits of published numbers."""


@dataclass(frozen=True)
class Overlap:
    """Intersection and union of a mask and its ground truth, px, without `IGNORED` pixels."""

    intersection: int
    union: int

    @property
    def iou(self) -> float:
        """0 to 1; 1 if both are empty."""
        return self.intersection / (self.union + _EPS_IMAGE) if self.union else 1.0


@dataclass(frozen=True)
class Score:
    """Of several images.

    Attributes:
        images: how many there are.
        giou: mean of their IoUs; None without images.
        ciou: sum of intersections over sum of unions, which favours large objects; None without images.
    """

    images: int
    giou: float | None
    ciou: float | None


def overlap(mask: NDArray[np.bool_], truth: NDArray[np.uint8]) -> Overlap:
    """Compares an (H, W) mask with an (H, W) ground truth of `TARGET`, `IGNORED` and background pixels."""
    if mask.shape != truth.shape:
        raise ValueError(f"a mask of {mask.shape} cannot be compared with a ground truth of {truth.shape}")
    target, counted = truth == TARGET, truth != IGNORED
    return Overlap(int(np.count_nonzero(mask & target)), int(np.count_nonzero((mask & counted) | target)))


def score(overlaps: Collection[Overlap]) -> Score:
    """GIoU and cIoU of several images."""
    if not overlaps:
        return Score(0, None, None)
    intersection, union = sum(each.intersection for each in overlaps), sum(each.union for each in overlaps)
    giou = sum(each.iou for each in overlaps) / len(overlaps)
    return Score(len(overlaps), giou, intersection / (union + _EPS_SET))
