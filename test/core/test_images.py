"""Images of any size and memory layout are answered; what is no image is refused with a sentence."""

import numpy as np
import pytest
from goldens import case, same_answer

from lisa_core import ImageError

SHORT = case("v1-short")


def ask(engine, rgb, **options):
    return engine.ask(engine.encode(rgb), "segment the handle", mask_only=True, **options)


@pytest.mark.parametrize("size", [(1, 1), (1, 4000), (4000, 1), (2, 3), (1, 17), (6000, 8000)], ids=str)
def test_sizes(small, size):
    rgb = np.random.default_rng(0).integers(0, 256, (size[0], size[1], 3), np.uint8)
    frame = small.encode(rgb)
    answer = small.ask(frame, "segment the handle", mask_only=True)
    assert frame.size == answer.segments[0].mask.shape == size


@pytest.mark.parametrize(
    ("image", "sentence"),
    [
        (np.zeros((0, 5, 3), np.uint8), "The image is empty"),
        (np.zeros((5, 0, 3), np.uint8), "The image is empty"),
        (np.zeros((5, 5, 3), np.float32), r"float32 of shape \(5, 5, 3\); give .* scale to 0..255"),
        (np.zeros((5, 5), np.uint8), r"shape \(5, 5\); give .*grey: repeat the channel"),
        (np.zeros((5, 5, 1), np.uint8), r"shape \(5, 5, 1\)"),
        (np.zeros((5, 5, 4), np.uint8), r"shape \(5, 5, 4\); give .*alpha: drop it"),
        (np.zeros((2, 5, 5, 3), np.uint8), r"shape \(2, 5, 5, 3\)"),
        (np.zeros((5, 5, 3), np.uint16), "uint16"),
        (np.broadcast_to(np.uint8(0), (20_000, 20_000, 3)), "20000x20000 px, more than"),
        ([[[0, 0, 0]]], "is a list; give a numpy array"),
        (None, "is a NoneType"),
    ],
)
def test_no_images(small, image, sentence):
    with pytest.raises(ImageError, match=sentence):
        small.encode(image)
    assert small.encode(SHORT.rgb).size == (480, 640)


def read_only(rgb):
    rgb.flags.writeable = False
    return rgb


@pytest.mark.parametrize(
    "view",
    [
        np.asfortranarray,
        lambda rgb: np.ascontiguousarray(rgb[:, :, ::-1])[:, :, ::-1],
        lambda rgb: np.ascontiguousarray(rgb[::-1])[::-1],
        lambda rgb: np.repeat(rgb, 2, axis=1)[:, ::2],
        lambda rgb: np.pad(rgb, ((3, 4), (5, 6), (0, 1)))[3:-4, 5:-6, :3],
        read_only,
    ],
    ids=["columns-first", "bgr-reversed", "upside-down", "strided", "cut-out", "read-only"],
)
def test_memory_layouts(small, view):
    rgb = SHORT.rgb
    seen = view(rgb.copy())
    assert np.array_equal(seen, rgb)
    assert same_answer(ask(small, seen), ask(small, rgb))
