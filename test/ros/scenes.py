"""Pictures whose content depends on the frame's index, so that an answer can be checked against its header."""

import cv2
import numpy as np
from numpy.typing import NDArray

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (40, 60, 220)}
"""Colours of the squares in a scene, which the fake engine finds by name."""

SQUARE = 48
"""Side of a square, px."""

Box = tuple[int, int, int, int]


def box_of(colour: str, index: int, size: tuple[int, int] = (480, 640)) -> Box:
    """(x, y, width, height) of the square of that colour in frame `index` of an (H, W) camera; all differ."""
    row = list(COLOURS).index(colour)
    return (index * 8 * (row + 1) % (size[1] - SQUARE), 16 + row * (SQUARE + 16), SQUARE, SQUARE)


def scene(index: int, size: tuple[int, int] = (480, 640)) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 RGB: a square of each colour on grey, at places that belong to frame `index`."""
    picture = np.full((*size, 3), 90, np.uint8)
    for colour, rgb in COLOURS.items():
        x, y, width, height = box_of(colour, index, size)
        picture[y : y + height, x : x + width] = rgb
    return picture


def found(picture: NDArray[np.uint8], colour: str) -> NDArray[np.bool_]:
    """(H, W) bool: the pixels of about that colour, as the fake engine sees them."""
    rgb = np.array(COLOURS[colour])
    return cv2.inRange(picture, np.maximum(rgb - 50, 0), np.minimum(rgb + 50, 255)) > 0
