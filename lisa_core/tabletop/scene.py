"""Scenes, arrangements of things on a table, and views, their pictures with ground truth.

World axes (REP 103): x right, y away from the viewer, z up, origin in the middle of the table's top. Camera axes are
optical: x right, y down, z forward. Units are metres and radians.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lisa_core.tabletop.kinds import KIND_BY_NAME

Rgb = tuple[float, float, float]
"""Red, green and blue from 0 to 1."""

HELD_OUT_SEED = 10_000_000
"""First seed of evaluation and tests; training uses those below."""


@dataclass(frozen=True)
class Thing:
    """A thing on the table.

    Attributes:
        kind: name of a kind in `kinds`.
        colour: one of the kind's colours.
        position: (x, y, z) of the middle of its footprint, m.
        yaw: rotation about the vertical, rad.
        scale: factor on its usual size.
        stretch: factor on its height, on top of `scale`.
        tone: shade of its colour, from darkest (0) to lightest (1).
    """

    kind: str
    colour: str
    position: tuple[float, float, float]
    yaw: float
    scale: float
    stretch: float = 1.0
    tone: float = 0.5


@dataclass(frozen=True)
class Surroundings:
    """The table and the room.

    Attributes:
        texture: of the table top, one of `textures.TEXTURES`.
        tint: colour that multiplies the texture.
        yaw: of the table, rad.
        wall, floor: colours.
    """

    texture: str
    tint: Rgb
    yaw: float
    wall: Rgb
    floor: Rgb


@dataclass(frozen=True)
class Light:
    """A distant lamp, and ambient light.

    Attributes:
        direction: unit vector in which the lamp shines.
        colour: of the lamp, including intensity.
        ambient: colour of the light from all sides.
        shadows: whether things cast them.
    """

    direction: tuple[float, float, float]
    colour: Rgb
    ambient: Rgb
    shadows: bool


@dataclass(frozen=True)
class Viewpoint:
    """An upright camera that looks at a point.

    Attributes:
        target: the point, m.
        distance: from the target, m.
        elevation: above the horizon, rad.
        azimuth: to the right of the viewer's axis (-y), rad.
        fovy: vertical field of view, rad.
    """

    target: tuple[float, float, float]
    distance: float
    elevation: float
    azimuth: float
    fovy: float

    def pose(self) -> NDArray[np.float64]:
        """(4, 4), camera axes -> world."""
        level = np.cos(self.elevation)
        back = np.array([level * np.sin(self.azimuth), -level * np.cos(self.azimuth), np.sin(self.elevation)])
        right = np.array([np.cos(self.azimuth), np.sin(self.azimuth), 0.0])
        pose = np.eye(4)
        pose[:3, :3] = np.stack([right, np.cross(-back, right), -back], axis=1)
        pose[:3, 3] = np.array(self.target) + self.distance * back
        return pose

    def intrinsics(self, width: int, height: int) -> NDArray[np.float64]:
        """(3, 3), px; integer coordinates are pixel centres."""
        focal = height / 2 / np.tan(self.fovy / 2)
        return np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]])


@dataclass(frozen=True)
class Scene:
    """Everything that is rendered; `seed` is the one that it was sampled with."""

    seed: int
    things: tuple[Thing, ...]
    surroundings: Surroundings
    light: Light
    viewpoint: Viewpoint


@dataclass(frozen=True, eq=False)
class Extent:
    """Pixel counts of the things in a view; row i + 1 of each array is thing i, row 0 is empty.

    Attributes:
        columns: (things + 1, W) int64, pixels of a thing in each column of the picture.
        rows: (things + 1, H) int64, the same in each row.
        parts: (things + 1, 256) int64, pixels of a thing with each number in `View.part`.
    """

    columns: NDArray[np.int64]
    rows: NDArray[np.int64]
    parts: NDArray[np.int64]

    @property
    def sizes(self) -> NDArray[np.int64]:
        """(things + 1,) visible pixels of each thing."""
        return self.parts.sum(1)

    @property
    def middles(self) -> NDArray[np.float64]:
        """(2, things + 1) column and row of the centroid of each thing's visible pixels; 0 if none are."""
        seen = np.maximum(1, self.sizes)
        return np.stack([spread @ np.arange(spread.shape[1]) / seen for spread in (self.columns, self.rows)])


@dataclass(frozen=True)
class Target:
    """A thing, by its index in the scene, or a part of it."""

    thing: int
    part: str | None = None


@dataclass(frozen=True, eq=False)
class View:
    """A picture of a scene with its ground truth.

    Attributes:
        rgb: (H, W, 3) uint8.
        depth: (H, W) float32, m along the optical axis.
        owner: (H, W) uint8, i + 1 on thing i, 0 elsewhere.
        part: (H, W) uint8, j + 1 on part j of the owner's kind, 0 elsewhere.
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
        """(H, W): the visible pixels of thing number `thing`, or of its part of that name."""
        seen = self.owner == thing + 1
        if part is None:
            return seen
        return seen & (self.part == KIND_BY_NAME[self.things[thing].kind].parts.index(part) + 1)

    def covered(self, targets: Iterable[Target]) -> NDArray[np.bool_]:
        """(H, W): the visible pixels of one target or more, together."""
        return np.logical_or.reduce([self.mask(target.thing, target.part) for target in targets])

    @cached_property
    def extent(self) -> Extent:
        """The pixel counts of its things."""
        height, width = self.owner.shape
        places = np.flatnonzero(self.owner != 0)
        rows, columns = np.divmod(places, width)
        owner, part = (labels.ravel()[places] for labels in (self.owner, self.part))

        def counted(numbers: NDArray[Any], below: int) -> NDArray[np.int64]:
            things = len(self.things) + 1
            return np.bincount(owner.astype(np.int64) * below + numbers, minlength=things * below).reshape(things, -1)

        return Extent(counted(columns, width), counted(rows, height), counted(part, 256))
