"""The 3D model of each kind of thing: painted meshes, made once.

Every model stands on z = 0 with the middle of its footprint at the origin; long things lie along x.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np

from lisa_core.tabletop import household, tools
from lisa_core.tabletop.kinds import KIND_BY_NAME
from lisa_core.tabletop.meshes import Floats, Mesh
from lisa_core.tabletop.pieces import Piece

_MAKERS: dict[str, Callable[[], list[Piece]]] = {
    "mug": household.mug,
    "bottle": household.bottle,
    "can": household.can,
    "bowl": household.bowl,
    "plate": household.plate,
    "ball": household.ball,
    "box": household.box,
    "book": household.book,
    "banana": household.banana,
    "apple": household.apple,
    "lemon": household.lemon,
    "knife": tools.knife,
    "fork": tools.fork,
    "spoon": tools.spoon,
    "screwdriver": tools.screwdriver,
    "hammer": tools.hammer,
    "scissors": tools.scissors,
    "sponge": household.sponge,
    "lamp": household.lamp,
    "toy car": household.toy_car,
    "teapot": household.teapot,
}


@dataclass(frozen=True, eq=False)
class Model:
    """The pieces of a kind, and its size.

    Attributes:
        pieces: in the order they are drawn.
        size: (3,) of the bounding box at scale 1, m; centred over the origin, on z = 0.
        points: (N, 3) vertices.
    """

    pieces: tuple[Piece, ...]
    size: Floats
    points: Floats


@cache
def model(kind: str) -> Model:
    """The model of a kind, by its name."""
    pieces = _MAKERS[kind]()
    parts = KIND_BY_NAME[kind].parts
    unknown = {piece.part for piece in pieces} - {"", *parts}
    assert not unknown, f"{kind} has no part {unknown}"
    points = np.concatenate([piece.mesh.vertices for piece in pieces])
    low, high = points.min(axis=0), points.max(axis=0)
    x, y = -(low + high)[:2] / 2
    placed = tuple(Piece(piece.mesh.moved(x, y, -low[2]), piece.paint, piece.part, piece.shine) for piece in pieces)
    return Model(placed, high - low, points + np.array([x, y, -low[2]]))


def meshes(kinds: list[str]) -> list[Mesh]:
    """All meshes of these kinds, in the order of kinds and pieces."""
    return [piece.mesh for kind in kinds for piece in model(kind).pieces]
