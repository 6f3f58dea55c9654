"""CLIP and its preprocessing against what the reference recorded."""

import numpy as np
import pytest
import torch
from goldens import case, distance
from PIL import Image

from lisa_core import preprocess

CASES = pytest.mark.parametrize("name", ["v1-short", "v1-odd"])


@CASES
def test_pixels_as_recorded(name):
    pixels = preprocess.clip_input(preprocess.for_clip(case(name).rgb, 224))
    assert pixels.shape == (3, 224, 224)
    assert distance(pixels, case(name).arrays["clip_pixels"]) < 1e-3  # recorded in fp16


@CASES
@torch.inference_mode()
def test_features_as_recorded(v1, name):
    pixels = preprocess.clip_input(preprocess.for_clip(case(name).rgb, 224))
    features = v1._model.clip(pixels[None])[0]
    assert features.shape == (256, 32)
    assert distance(features, case(name).arrays["clip_features"]) < 1e-4


def test_clip_sees_the_centre_of_the_shortest_side():
    """What lies left and right of the middle square is not seen; what lies in it is."""
    rgb = case("v1-short").rgb
    seen = preprocess.for_clip(rgb, 224)
    outside, inside = rgb.copy(), rgb.copy()
    outside[:, :70] = outside[:, -70:] = 255
    inside[:, 90:100] = 255
    assert torch.equal(preprocess.for_clip(outside, 224), seen)
    assert not torch.equal(preprocess.for_clip(inside, 224), seen)


TURNS = pytest.mark.parametrize("turn", [0, 1], ids=["long", "high"])


@pytest.mark.parametrize("length", [400, 1500, 4000, 40_000])
@TURNS
def test_clip_sees_the_middle_of_a_strip(length, turn):
    rgb = np.zeros((100, length, 3), np.uint8)
    middle = (length - 100) // 2
    rgb[:, middle - 5 : middle + 105] = 255  # and what the filter looks at beside it
    assert (preprocess.for_clip(np.rot90(rgb, turn).copy(), 224) == 255).all()


@pytest.mark.parametrize("size", [(11, 323), (100, 1701), (100, 1703), (1, 19), (1, 300), (1, 301)], ids=str)
@TURNS
def test_clip_sees_a_strip_as_pillow_resizes_it_whole(size, turn):
    rgb = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    width = int(224 * size[1] / size[0])
    left = (width - 224) // 2
    turned = np.rot90(rgb, turn).copy()
    wanted = np.array(Image.fromarray(turned).resize((224, width) if turn else (width, 224), Image.Resampling.BICUBIC))
    wanted = wanted[left : left + 224] if turn else wanted[:, left : left + 224]
    assert np.array_equal(preprocess.for_clip(turned, 224).numpy(), wanted)
