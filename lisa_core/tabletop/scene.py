"""A seeded arrangement of things on a table, and what a camera sees of it.

World axes (REP 103): x right, y away from the viewer, z up, origin in the middle of the table's top. Camera axes are
optical: x right, y down, z forward. Metres and radians throughout.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lisa_core.tabletop.kinds import KIND_BY_NAME


@dataclass(frozen=True)
class Thing:
    """Something on the table.

    Attributes:
        kind: name of a kind of `kinds`.
        colour: one of the kind's colours.
        position: (x, y, z) of its middle at the table's top, m.
        yaw: rotation about the vertical, rad.
        scale: of its usual size.
    """

    kind: str
    colour: str
    position: tuple[float, float, float]
    yaw: float
    scale: float


@dataclass(frozen=True, eq=False)
class View:
    """A picture of a scene with the truth about it.

    Attributes:
        rgb: (H, W, 3) uint8.
        depth: (H, W) float32, m along the optical axis.
        owner: (H, W) uint8; i + 1 on thing i, 0 elsewhere.
        part: (H, W) uint8; j + 1 on part j of the owner's kind, 0 elsewhere.
        intrinsics: (3, 3), px.
        camera: (4, 4), camera axes -> world.
        things: of the scene, in the order of `owner`.
    """

    rgb: NDArray[np.uint8]
    depth: NDArray[np.float32]
    owner: NDArray[np.uint8]
    part: NDArray[np.uint8]
    intrinsics: NDArray[np.float64]
    camera: NDArray[np.float64]
    things: tuple[Thing, ...]

    def mask(self, thing: int, part: str | None = None) -> NDArray[np.bool_]:
        """(H, W) where thing number `thing` is seen, or only its part of that name."""
        seen = self.owner == thing + 1
        if part is None:
            return seen
        return seen & (self.part == KIND_BY_NAME[self.things[thing].kind].parts.index(part) + 1)
