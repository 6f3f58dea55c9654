"""Textures of table tops: wood, cloth, stone and plain, from periodic noise, so that they tile seamlessly."""

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from lisa_core.tabletop.scene import Rgb

Field = NDArray[np.float64]
SIZE = 768
_V, _U = np.mgrid[0:SIZE, 0:SIZE] / SIZE


def _noise(seed: int, across: float, along: float | None = None) -> Field:
    """(SIZE, SIZE) noise of mean 0 and deviation 1, with about that many bumps over the height and along the width."""
    white = np.fft.rfft2(np.random.default_rng(seed).standard_normal((SIZE, SIZE)))
    v = np.fft.fftfreq(SIZE, 1 / SIZE)[:, None] / across
    u = np.fft.rfftfreq(SIZE, 1 / SIZE)[None, :] / (across if along is None else along)
    field = np.fft.irfft2(white * np.exp(-(u**2 + v**2)), (SIZE, SIZE))
    field -= field.mean()
    return field / field.std()


def _blend(share: Field, low: Rgb, high: Rgb) -> Field:
    return np.array(low) + np.clip(share, 0, 1)[..., None] * (np.array(high) - np.array(low))


def _wood(seed: int, dark: Rgb, light: Rgb, planks: int) -> Field:
    plank = np.floor(_V * planks)
    rng = np.random.default_rng(seed)
    offset, tone = rng.uniform(0, 1, planks)[plank.astype(int)], rng.uniform(-0.14, 0.14, planks)[plank.astype(int)]
    grain = np.sin(2 * np.pi * (9 * _V + 5 * offset + 0.55 * _noise(seed, 4, 1.2)))
    fibre = _noise(seed + 1, 160, 5)
    seam = np.exp(-((np.abs(_V * planks % 1 - 0.5) - 0.5) ** 2) / 0.0001)
    return _blend(0.55 + 0.18 * grain + 0.11 * fibre + tone, dark, light) * (1 - 0.5 * seam[..., None])


def _weave(seed: int) -> Field:
    threads = np.sin(2 * np.pi * 96 * _U) * np.sin(2 * np.pi * 96 * _V)
    return 0.05 * threads + 0.025 * _noise(seed, 60)


def _linen(seed: int, colour: Rgb) -> Field:
    return np.array(colour) * (1 + 1.3 * _weave(seed) + 0.03 * _noise(seed + 1, 200, 6))[..., None]


def _gingham(seed: int, colour: Rgb, checks: int) -> Field:
    share = ((_U * checks % 1 < 0.5) * 0.5 + (_V * checks % 1 < 0.5) * 0.5) * 0.9
    return _blend(share, (0.93, 0.92, 0.9), colour) * (1 + _weave(seed))[..., None]


def _stripes(seed: int, ground: Rgb, colour: Rgb, count: int) -> Field:
    place = _V * count % 1
    return (
        _blend(((place < 0.18) | ((place > 0.26) & (place < 0.3))) * 0.85, ground, colour)
        * (1 + _weave(seed))[..., None]
    )


def _marble(seed: int, ground: Rgb, vein: Rgb) -> Field:
    flow = _noise(seed, 2.5) + 0.45 * _noise(seed + 1, 9) + 0.15 * _noise(seed + 2, 40)
    veins = np.exp(-((flow / 0.09) ** 2)) * (0.5 + 0.3 * _noise(seed + 3, 3))
    return _blend(0.75 * veins + 0.05 * flow + 0.06, ground, vein)


def _granite(seed: int, ground: Rgb, speckle: Rgb) -> Field:
    grains = np.clip(_noise(seed, 130) - 0.7, 0, 1.2) + 0.5 * np.clip(_noise(seed + 1, 55) - 1.0, 0, 1)
    return _blend(grains, ground, speckle) * (1 + 0.04 * _noise(seed + 2, 8))[..., None]


def _plain(seed: int) -> Field:
    return np.repeat((0.97 + 0.008 * _noise(seed, 100) + 0.01 * _noise(seed + 1, 4))[..., None], 3, axis=2)


_MAKERS: dict[str, Callable[[], Field]] = {
    "oak": partial(_wood, 11, (0.50, 0.34, 0.19), (0.80, 0.62, 0.41), 4),
    "pine": partial(_wood, 12, (0.70, 0.52, 0.30), (0.93, 0.79, 0.56), 5),
    "walnut": partial(_wood, 13, (0.19, 0.11, 0.07), (0.42, 0.27, 0.17), 4),
    "cherry": partial(_wood, 14, (0.40, 0.18, 0.10), (0.66, 0.36, 0.21), 3),
    "grey wood": partial(_wood, 15, (0.38, 0.36, 0.34), (0.66, 0.63, 0.59), 5),
    "pale wood": partial(_wood, 16, (0.72, 0.64, 0.53), (0.90, 0.84, 0.73), 2),
    "linen": partial(_linen, 21, (0.80, 0.75, 0.66)),
    "denim": partial(_linen, 22, (0.22, 0.30, 0.44)),
    "felt": partial(_linen, 23, (0.26, 0.39, 0.31)),
    "red gingham": partial(_gingham, 24, (0.70, 0.16, 0.16), 11),
    "blue gingham": partial(_gingham, 25, (0.20, 0.33, 0.60), 9),
    "stripes": partial(_stripes, 26, (0.88, 0.85, 0.78), (0.24, 0.36, 0.46), 6),
    "marble": partial(_marble, 31, (0.92, 0.91, 0.89), (0.48, 0.48, 0.50)),
    "dark marble": partial(_marble, 32, (0.10, 0.11, 0.12), (0.62, 0.60, 0.56)),
    "granite": partial(_granite, 33, (0.36, 0.35, 0.35), (0.78, 0.75, 0.72)),
    "sandstone": partial(_granite, 34, (0.76, 0.68, 0.55), (0.56, 0.46, 0.34)),
    "plain": partial(_plain, 41),
}
TEXTURES = tuple(_MAKERS)


def texture(name: str) -> NDArray[np.uint8]:
    """(SIZE, SIZE, 3) uint8 RGB of a table top."""
    return np.round(np.clip(_MAKERS[name](), 0, 1) * 255).astype(np.uint8)
