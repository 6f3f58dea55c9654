"""Prepares a camera's image for the two encoders, equal to the reference to the pixel.

CLIP sees the centre: the shortest side resized to its input size (PIL bicubic), then a square cut out of the middle.
SAM sees all: the longest side resized to 1024 (PIL bilinear), padded right and bottom.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional

from lisa_core.errors import ImageError
from lisa_core.files import MAX_PIXELS
from lisa_core.resizing import Filter, resized

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
"""RGB in [0, 1]; OpenAI's CLIP, `preprocessor_config.json`."""

SAM_MEAN = (123.675, 116.28, 103.53)
SAM_STD = (58.395, 57.12, 57.375)
"""RGB in [0, 255]; segment-anything, `build_sam.py`."""

_HOST = torch.device("cpu")

_LONGEST_STRIP = 256
"""Beyond this aspect ratio the ends that the centre cut drops are dropped before resizing, not after, and a pixel may
differ: resized for 336 px, such a strip has 29 million pixels already, a quarter of the largest picture."""


@dataclass(frozen=True)
class SamSize:
    """The image inside SAM's square input.

    Attributes:
        source: (height, width) of the camera's image.
        resized: (height, width) once its longest side is SAM's input size.
    """

    source: tuple[int, int]
    resized: tuple[int, int]


def check_image(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The image itself if it is (H, W, 3) uint8 and of a size that can be segmented; else `ImageError`."""
    if not isinstance(rgb, np.ndarray):
        raise ImageError(f"The image is a {type(rgb).__name__}; give a numpy array (height, width, 3) of uint8 RGB.")
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8:
        raise ImageError(
            f"The image is {rgb.dtype} of shape {rgb.shape}; give (height, width, 3) uint8 in RGB order"
            " (grey: repeat the channel; alpha: drop it; float: scale to 0..255)."
        )
    height, width = rgb.shape[:2]
    if height == 0 or width == 0:
        raise ImageError(f"The image is empty ({width}x{height} px).")
    if height * width > MAX_PIXELS:
        raise ImageError(f"The image has {width}x{height} px, more than {MAX_PIXELS} in all; scale it down.")
    return rgb


def for_clip(rgb: NDArray[np.uint8], size: int, device: torch.device = _HOST) -> Tensor:
    """The centre of a (H, W, 3) RGB image at CLIP's input size: (size, size, 3) uint8 on the device."""
    image = _without_far_ends(rgb)
    source_height, source_width = image.shape[:2]
    if source_width < source_height:
        width, height = size, int(size * source_height / source_width)
    else:
        width, height = int(size * source_width / source_height), size
    left, top = (width - size) // 2, (height - size) // 2
    return _resized(image, (height, width), "bicubic", device)[top : top + size, left : left + size]


def for_sam(rgb: NDArray[np.uint8], size: int, device: torch.device = _HOST) -> tuple[Tensor, SamSize]:
    """A (H, W, 3) RGB image with its longest side at SAM's input size: (h, w, 3) uint8 on the device."""
    fitted = sam_size(rgb.shape[:2], size)
    return _resized(rgb, fitted.resized, "bilinear", device), fitted


def sam_size(source: tuple[int, ...], size: int) -> SamSize:
    """How large an image of that (height, width) is in SAM's square input."""
    scale = size / max(source)
    height, width = (max(1, int(side * scale + 0.5)) for side in source)
    return SamSize((source[0], source[1]), (height, width))


def clip_input(pixels: Tensor) -> Tensor:
    """(..., 3, size, size) float32 of what `for_clip` gave, on its device."""
    return _normalised(pixels, 1 / 255, CLIP_MEAN, CLIP_STD)


def sam_input(pixels: Tensor, size: int) -> Tensor:
    """(..., 3, size, size) float32 of what `for_sam` gave, zero-padded right and bottom."""
    height, width = pixels.shape[-3:-1]
    return functional.pad(_normalised(pixels, 1.0, SAM_MEAN, SAM_STD), (0, size - width, 0, size - height))


def _resized(rgb: NDArray[np.uint8], size: tuple[int, int], kind: Filter, device: torch.device) -> Tensor:
    """(H, W, 3) -> (h, w, 3) uint8: by PIL, or on a GPU by `resizing`, which gives the same bytes."""
    if device.type != "cpu":
        pixels = torch.from_numpy(rgb).pin_memory()  # else the host would wait here until the GPU is idle
        return resized(pixels.to(device, non_blocking=True), size, kind)
    filters = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
    return torch.from_numpy(np.array(Image.fromarray(rgb).resize(size[::-1], filters[kind])))


def _without_far_ends(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Its middle, cut alike at both ends, for half a pixel would be seen."""
    height, width = rgb.shape[:2]
    keep = _LONGEST_STRIP * min(height, width)
    top, left = max(0, (height - keep) // 2), max(0, (width - keep) // 2)
    return rgb[top : height - top, left : width - left]


def _normalised(pixels: Tensor, scale: float, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    means, deviations = (_by_channel(values, pixels.device) for values in (mean, std))
    return (pixels.movedim(-1, -3).float() * scale - means) / deviations


@cache
def _by_channel(values: tuple[float, ...], device: torch.device) -> Tensor:
    """(3, 1, 1) on the device; made once, because the host waits for the copy."""
    with torch.inference_mode(False):
        return torch.tensor(values, device=device).view(-1, 1, 1)
