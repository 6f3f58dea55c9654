"""Preprocessing for the encoders by PIL, OpenCV and torch: times, and differences from PIL.

    .venv/bin/python benchmarks/preprocess.py [--repeats 100] [--json FILE]

`lisa_core` uses PIL, like the reference implementation. The others resize with the same filter in their fastest
function for 8 bit: OpenCV's without antialiasing, torch's with. All normalise alike. It prints the median CPU time of
one thread, which other load hardly changes, and the shortest wall time of all threads.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional

from lisa_core import preprocess

Picture = NDArray[np.uint8]
Resize = Callable[[Picture, tuple[int, int], str], Tensor]
"""(picture, (height, width), "bilinear" or "bicubic") -> (3, height, width) of 0..255."""

SAM = 1024
SIZES = {"640x480": (480, 640), "1280x720": (720, 1280), "1920x1080": (1080, 1920)}
ENCODERS = {"SAM, 1024": SAM, "CLIP, 224": 224, "CLIP, 336": 336}


def with_opencv(rgb: Picture, size: tuple[int, int], kind: str) -> Tensor:
    filters = {"bilinear": cv2.INTER_LINEAR, "bicubic": cv2.INTER_CUBIC}
    return torch.from_numpy(cv2.resize(rgb, size[::-1], interpolation=filters[kind])).permute(2, 0, 1)


def with_torch(rgb: Picture, size: tuple[int, int], kind: str) -> Tensor:
    pixels = torch.from_numpy(rgb).permute(2, 0, 1)[None]
    return functional.interpolate(pixels, size=size, mode=kind, antialias=True, align_corners=False)[0]


LIBRARIES: dict[str, Resize | None] = {"PIL": None, "OpenCV": with_opencv, "torch": with_torch}


def prepared(rgb: Picture, size: int, resize: Resize | None) -> Tensor:
    """The input of the encoder of that size, by `lisa_core` (None) or another way of resizing."""
    if resize is None:
        if size == SAM:
            return preprocess.sam_input(preprocess.for_sam(rgb, size)[0], size)
        return preprocess.clip_input(preprocess.for_clip(rgb, size))
    sides = rgb.shape[:2]
    if size == SAM:
        height, width = (int(side * size / max(sides) + 0.5) for side in sides)
        pixels = _normalised(resize(rgb, (height, width), "bilinear"), 1.0, preprocess.SAM_MEAN, preprocess.SAM_STD)
        return functional.pad(pixels, (0, size - width, 0, size - height))
    height, width = (size * side // min(sides) for side in sides)
    top, left = (height - size) // 2, (width - size) // 2
    pixels = resize(rgb, (height, width), "bicubic")[:, top : top + size, left : left + size]
    return _normalised(pixels, 1 / 255, preprocess.CLIP_MEAN, preprocess.CLIP_STD)


def _normalised(pixels: Tensor, scale: float, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    channels = (-1, 1, 1)
    return (pixels.float() * scale - torch.tensor(mean).view(channels)) / torch.tensor(std).view(channels)


@cache
def picture(height: int, width: int) -> Picture:
    """A picture with the 1/f spectrum of photographs, and with edges."""
    random = np.random.default_rng(0)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
    frequency[0, 0] = np.inf
    waves = np.fft.rfft2(random.normal(size=(3, height, width))) / frequency
    grain = np.fft.irfft2(waves, s=(height, width))
    pixels = (128 + 48 * grain / grain.std()).transpose(1, 2, 0)
    for x, y in random.integers((0, 0), (width, height), (40, 2)):
        pixels[y : y + height // 8, x : x + width // 12] = random.integers(0, 256, 3)
    return pixels.clip(0, 255).astype(np.uint8)


@dataclass(frozen=True)
class Result:
    """The result for one library, encoder and picture.

    Attributes:
        one_thread: ms of CPU time, median.
        all_threads: ms of wall time, the shortest.
        largest: largest difference of a pixel from PIL's, of 255.
        mean: mean difference of all pixels.
    """

    encoder: str
    picture: str
    library: str
    one_thread: float
    all_threads: float
    largest: float
    mean: float


def measure(encoder: str, name: str, library: str, repeats: int) -> Result:
    rgb, size = picture(*SIZES[name]), ENCODERS[encoder]
    std = preprocess.SAM_STD if size == SAM else tuple(255 * part for part in preprocess.CLIP_STD)

    def call() -> Tensor:
        return prepared(rgb, size, LIBRARIES[library])

    difference = (call() - prepared(rgb, size, None)).abs() * torch.tensor(std).view(-1, 1, 1)
    seen = difference[:, : SIZES[name][0] * size // SIZES[name][1]] if size == SAM else difference  # without padding
    threads = torch.get_num_threads(), cv2.getNumThreads()
    all_threads = min(times(call, time.perf_counter, repeats))
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    one_thread = float(np.median(times(call, time.thread_time, repeats)))
    torch.set_num_threads(threads[0])
    cv2.setNumThreads(threads[1])
    return Result(encoder, name, library, one_thread, all_threads, float(seen.max()), float(seen.mean()))


def times(call: Callable[[], Any], clock: Callable[[], float], repeats: int) -> list[float]:
    """Milliseconds of each call."""
    spent = []
    for _ in range(repeats):
        began = clock()
        call()
        spent.append((clock() - began) * 1e3)
    return spent


def report(results: list[Result]) -> None:
    """Print a row for each encoder and picture."""
    table = Table(title="ms with one thread / with all; difference from PIL, largest / mean of 255")
    for column in (
        "encoder",
        "picture",
        *LIBRARIES,
        *(f"{library} - PIL" for library in LIBRARIES if library != "PIL"),
    ):
        table.add_column(column, justify="right" if column != "encoder" else "left")
    for start in range(0, len(results), len(LIBRARIES)):
        row = results[start : start + len(LIBRARIES)]
        times = (f"{result.one_thread:.1f} / {result.all_threads:.1f}" for result in row)
        differences = (f"{result.largest:.0f} / {result.mean:.2f}" for result in row[1:])
        table.add_row(row[0].encoder, row[0].picture, *times, *differences)
    Console(width=120).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=100)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers")
    options = parser.parse_args()
    results = [
        measure(encoder, name, library, options.repeats)
        for encoder in ENCODERS
        for name in SIZES
        for library in LIBRARIES
    ]
    report(results)
    if options.json:
        options.json.write_text(json.dumps([asdict(result) for result in results], indent=1))


if __name__ == "__main__":
    main()
