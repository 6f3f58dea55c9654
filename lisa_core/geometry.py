"""From a mask and a depth image to where the thing is and how large it is.

Axes are those of a camera's optical frame (REP 103): x right, y down, z forward, in metres.
Depth images are as in REP 118: float metres or uint16 millimetres; 0, negative, NaN and infinite pixels know nothing.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lisa_core.answer import tight_box
from lisa_core.errors import ImageError

EROSION = 2
"""Pixels taken off the rim of a mask: depth there is often that of the background."""

OUTLIER_MADS = 3.0
"""Depths further from the median than this many median absolute deviations are dropped."""

RESOLUTION = 0.001
"""Metres; the smallest deviation that depth in millimetres can show, so the least that the MAD is taken for."""

SAMPLE = 1 << 14
"""Medians and percentiles of more points than this are those of an even sample, so that a floor costs little more than
a cup: the error is below a hundredth of the points' spread."""

Vector = tuple[float, float, float]
Depth = NDArray[np.float32] | NDArray[np.uint16]


@dataclass(frozen=True)
class Intrinsics:
    """A pinhole camera without distortion, in pixels of the image that the masks belong to.

    A pixel's centre is at its integer coordinates, as in OpenCV and ROS. Raises ValueError for what is no camera:
    a focal length that is not positive, or a number that is not finite.
    """

    fx: float
    fy: float
    cx: float
    cy: float

    def __post_init__(self) -> None:
        if not all(map(math.isfinite, (self.fx, self.fy, self.cx, self.cy))) or self.fx <= 0 or self.fy <= 0:
            raise ValueError(f"{self} is no camera: fx and fy must be positive, and all four finite.")


@dataclass(frozen=True)
class Placement:
    """Where a segment is and how far it extends along the optical axes, m: (x, y, z) each.

    Attributes:
        position: the median of the surface's points, per axis.
        size: from their 2nd to their 98th percentile, per axis.
    """

    position: Vector
    size: Vector


@dataclass(frozen=True, eq=False)
class SurfacePoints:
    """The part of a segment's surface that the camera saw, without rim and outliers.

    Attributes:
        xyz: (N, 3) float32, m, optical axes.
        pixels: (N,) the index of each point's pixel in the flattened (H * W) image, for its colour.
    """

    xyz: NDArray[np.float32]
    pixels: NDArray[np.intp]

    @cached_property
    def placement(self) -> Placement | None:
        """Position and size of the segment, None where there is no point."""
        if not len(self.xyz):
            return None
        low, middle, high = np.percentile(_sample(self.xyz, SAMPLE), (2, 50, 98), axis=0).astype(float)
        return Placement(position=tuple(middle.tolist()), size=tuple((high - low).tolist()))


def locate(mask: NDArray[np.bool_], depth: Depth, intrinsics: Intrinsics) -> Placement | None:
    """Position and size of a segment, None where its depth is unknown; arguments and errors as in `deproject`."""
    return deproject(mask, depth, intrinsics, most=SAMPLE).placement


def deproject(mask: NDArray[np.bool_], depth: Depth, intrinsics: Intrinsics, most: int | None = None) -> SurfacePoints:
    """The points of a segment's surface: of the mask, 2 px inside its rim, within 3 MAD of the median depth.

    The rim at the border of the image stays, for the object goes on there. A mask too thin for 2 px loses 1 px, or
    none: a cable's position is worth more than none, and the median holds as long as most of its pixels are right.

    Args:
        mask: (H, W) bool.
        depth: (h, w) float metres or uint16 millimetres, aligned to the image. It may be smaller or larger than the
            mask if it shows the same view (equal aspect ratio): each pixel then has the nearest depth.
        intrinsics: of the (H, W) image.
        most: return at most so many points, evenly picked; None: all.

    Raises:
        ImageError: the depth is no depth image, or not one of this view.
    """
    _check_aligned(mask, depth)
    x, y, width, height = tight_box(mask)
    # With its neighbours, so that the rim is known; cut at the image, so that its border is no rim.
    rows = np.arange(max(y - EROSION, 0), min(y + height + EROSION, mask.shape[0]))
    columns = np.arange(max(x - EROSION, 0), min(x + width + EROSION, mask.shape[1]))
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)

    inner = _core(mask[box])
    depth = depth[box] if depth.shape == mask.shape else _nearest(depth, mask.shape, rows, columns)
    inner &= (depth > 0) & (depth < np.inf)
    at = _sample(np.flatnonzero(inner), most)
    z = metres(depth.ravel()[at])
    kept = _inliers(z)
    z, (v, u) = z[kept], np.divmod(at[kept], len(columns))

    rays_x = ((columns - intrinsics.cx) / intrinsics.fx).astype(np.float32)
    rays_y = ((rows - intrinsics.cy) / intrinsics.fy).astype(np.float32)
    return SurfacePoints(
        xyz=np.stack((rays_x[u] * z, rays_y[v] * z, z), axis=1),
        pixels=(v + rows[0]) * mask.shape[1] + (u + columns[0]),
    )


def metres(depth: Depth) -> NDArray[np.float32]:
    """Depth in float32 metres, of any shape: floats are metres already, uint16 are millimetres.

    Raises ImageError for any other type, for its unit is unknown.
    """
    if depth.dtype == np.uint16:
        return depth * np.float32(0.001)
    if depth.dtype.kind == "f":
        return depth.astype(np.float32, copy=False)
    raise ImageError(f"The depth is {depth.dtype}; give float metres or uint16 millimetres.")


def _check_aligned(mask: NDArray[np.bool_], depth: Depth) -> None:
    if depth.ndim != 2 or 0 in depth.shape:
        raise ImageError(f"The depth image is of shape {depth.shape}; give (height, width).")
    (height, width), (depth_height, depth_width) = mask.shape, depth.shape
    # One pixel of rounding is allowed either way: half of 1241 x 376 is 620 or 621 wide.
    if abs(depth_width * height - width * depth_height) > max(height, width):
        raise ImageError(
            f"A depth image of {depth_width}x{depth_height} does not show the view of an image of {width}x{height};"
            " use the camera's depth that is aligned (registered) to the colour image."
        )


def _nearest(depth: Depth, size: tuple[int, int], rows: NDArray[np.intp], columns: NDArray[np.intp]) -> Depth:
    """Depth at those pixels of an image of size (H, W): of the depth pixel that their centres fall in."""
    v = (2 * rows + 1) * depth.shape[0] // (2 * size[0])
    u = (2 * columns + 1) * depth.shape[1] // (2 * size[1])
    return depth[np.ix_(v, u)]


def _core(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The mask without its rim, `EROSION` px wide, or as much of that as leaves anything; a new array."""
    for margin in range(EROSION, 0, -1):
        inner = _erode_rows(_erode_rows(mask, margin).T, margin).T
        if inner.any():
            return inner
    return mask.copy()


def _erode_rows(mask: NDArray[np.bool_], margin: int) -> NDArray[np.bool_]:
    """True where all rows up to `margin` above and below are; those beyond the array count as true."""
    inner = mask.copy(order="K")
    for distance in range(1, margin + 1):
        inner[distance:] &= mask[:-distance]
        inner[:-distance] &= mask[distance:]
    return inner


def _inliers(z: NDArray[np.float32]) -> NDArray[np.bool_]:
    """(N,) true where the depth is within 3 MAD of the median."""
    if not len(z):
        return np.zeros(0, bool)
    sample = _sample(z, SAMPLE)
    median = np.median(sample)
    mad = np.median(np.abs(sample - median))
    return np.abs(z - median) <= OUTLIER_MADS * max(mad, RESOLUTION)


def _sample(values: NDArray[Any], most: int | None) -> NDArray[Any]:
    """Every n-th row, so that at most that many are left."""
    return values if most is None else values[:: max(-(-len(values) // most), 1)]
