"""The RGB values of named colours."""

import numpy as np

from lisa_core.tabletop.pieces import Piece
from lisa_core.tabletop.scene import Rgb, Thing

_SHADES: dict[str, tuple[Rgb, Rgb]] = {
    "red": ((0.58, 0.03, 0.05), (0.86, 0.10, 0.10)),
    "green": ((0.04, 0.33, 0.11), (0.16, 0.62, 0.22)),
    "blue": ((0.04, 0.12, 0.48), (0.12, 0.36, 0.82)),
    "yellow": ((0.88, 0.70, 0.04), (0.98, 0.88, 0.16)),
    "orange": ((0.88, 0.36, 0.02), (0.97, 0.48, 0.08)),
    "purple": ((0.30, 0.08, 0.42), (0.52, 0.22, 0.68)),
    "white": ((0.86, 0.85, 0.83), (0.97, 0.97, 0.96)),
    "black": ((0.035, 0.035, 0.04), (0.10, 0.10, 0.11)),
}
_FRUIT: dict[tuple[str, str], tuple[Rgb, Rgb]] = {
    ("apple", "green"): ((0.36, 0.58, 0.10), (0.55, 0.74, 0.22)),
    ("banana", "yellow"): ((0.88, 0.68, 0.10), (0.96, 0.80, 0.18)),
    ("lemon", "yellow"): ((0.93, 0.80, 0.10), (0.98, 0.90, 0.28)),
}
"""Shades that differ for fruit."""


def rgb(thing: Thing, piece: Piece) -> Rgb:
    """The RGB colour of a piece of a thing, 0 to 1."""
    if not isinstance(piece.paint, str):
        return piece.paint
    dark, light = (np.array(shade) for shade in _FRUIT.get((thing.kind, thing.colour), _SHADES[thing.colour]))
    main = dark + thing.tone * (light - dark)
    if piece.paint == "pale":  # grey on white things, so that it is visible
        main = main * 0.45 if main.min() > 0.8 else 0.25 * main + 0.75 * np.array([0.95, 0.94, 0.91])
    elif piece.paint == "deep":
        main = main * 0.5 + (0.08 if main.max() < 0.2 else 0.0)
    return float(main[0]), float(main[1]), float(main[2])
