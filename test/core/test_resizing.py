"""The GPU's resizing against Pillow's, byte for byte; it is torch alone, so the CPU tells."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lisa_core import preprocess, resizing

FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def picture(height, width, seed=0):
    """Noise with hard edges, which a cubic overshoots."""
    random = np.random.default_rng(seed)
    pixels = random.integers(0, 256, (height, width, 3), np.uint8)
    pixels[: height // 2, : width // 3] = 255 * random.integers(0, 2, (height // 2, width // 3, 1), np.uint8)
    return pixels


def assert_as_pillow(rgb, size, kind):
    wanted = np.array(Image.fromarray(rgb).resize(size[::-1], FILTERS[kind]))
    assert np.array_equal(resizing.resized(torch.from_numpy(rgb), size, kind).numpy(), wanted)


@pytest.mark.parametrize("kind", FILTERS)
@pytest.mark.parametrize(
    ("source", "size"),
    [
        ((480, 640), (768, 1024)),
        ((480, 640), (224, 298)),
        ((1080, 1920), (576, 1024)),
        ((1080, 1920), (336, 597)),
        ((720, 1280), (720, 300)),
        ((333, 77), (77, 77)),
        ((64, 64), (64, 64)),
        ((1, 500), (3, 1024)),
    ],
    ids=str,
)
def test_usual_sizes(source, size, kind):
    assert_as_pillow(picture(*source), size, kind)


@settings(deadline=None, max_examples=60)
@given(
    source=st.tuples(*[st.integers(1, 90)] * 2),
    size=st.tuples(*[st.integers(1, 90)] * 2),
    kind=st.sampled_from(sorted(FILTERS)),
    seed=st.integers(0, 5),
)
def test_any_sizes(source, size, kind, seed):
    assert_as_pillow(picture(*source, seed), size, kind)


@pytest.mark.parametrize("source", [(480, 640), (640, 480), (1000, 31), (31, 1000)])
def test_another_device_sees_what_the_host_does(monkeypatch, source):
    rgb = picture(*source)
    host = preprocess.for_clip(rgb, 224), preprocess.for_sam(rgb, 256)
    monkeypatch.setattr(
        preprocess, "_resized", lambda rgb, size, kind, _: resizing.resized(torch.from_numpy(rgb), size, kind)
    )
    assert torch.equal(preprocess.for_clip(rgb, 224), host[0])
    pixels, size = preprocess.for_sam(rgb, 256)
    assert torch.equal(pixels, host[1][0])
    assert size == host[1][1]
