"""The pictures that questions are about, with the depth and the intrinsics that belong to each."""

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import numpy as np
from geometry_msgs.msg import TransformStamped
from numpy.typing import NDArray
from std_msgs.msg import Header

from lisa_core.geometry import Intrinsics
from lisa_ros.pairing import NEVER, Apart, nanoseconds, stamp_of

if TYPE_CHECKING:
    from lisa_core import Frame

COMPANIONS_KEPT = 8
"""Depth images, and as many CameraInfos, kept for a colour image that comes after them."""


@dataclass(frozen=True, eq=False)
class Arrival:
    """A serialised message, and when it was received, in seconds of the steady clock."""

    serialized: bytes
    received: float

    @property
    def stamp(self) -> int:
        """The header's, in ns."""
        return stamp_of(self.serialized)

    def apart(self, other: "Arrival | Picture") -> Apart:
        """How far apart the two are in time; as tuples compare, receipts decide between equal stamps only."""
        return (abs(self.stamp - other.stamp), abs(self.received - other.received))


@dataclass(eq=False)
class Picture:
    """An image that questions are about, with all that belongs to it.

    Attributes:
        header: the message's.
        camera: its name; empty if the image came with the question.
        rgb: (H, W, 3) uint8.
        received: when, in seconds of the steady clock.
        depth: (h, w) float32 m; None if there is none.
        intrinsics: of the (H, W) image; None if there are none.
        depth_apart, intrinsics_apart: how far those two are from the image in time, as `Arrival.apart` says.
        encoded: the engine's frame, once a question was asked about it.
        to_target: the transform from the image's frame to `target_frame` at the image's time, once tf has it.
    """

    header: Header
    camera: str
    rgb: NDArray[np.uint8]
    received: float = 0.0
    depth: NDArray[np.float32] | None = None
    intrinsics: Intrinsics | None = None
    depth_apart: Apart = NEVER
    intrinsics_apart: Apart = NEVER
    encoded: "Frame | None" = None
    to_target: TransformStamped | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) in px."""
        return (self.rgb.shape[0], self.rgb.shape[1])

    @property
    def stamp(self) -> int:
        """The header's, in ns."""
        return nanoseconds(self.header.stamp.sec, self.header.stamp.nanosec)


class Companions:
    """Finds the depth image, or the CameraInfo, that is nearest in time to each image of a camera.

    They may come before or after the image. So the newest few are kept, and for each image that `nearest_to` was called
    for, the nearest one of all, as long as the image exists.
    """

    def __init__(self) -> None:
        self._newest: deque[Arrival] = deque(maxlen=COMPANIONS_KEPT)
        self._nearest: WeakKeyDictionary[Arrival | Picture, Arrival | None] = WeakKeyDictionary()

    def add(self, arrival: Arrival) -> None:
        """Take one that has just come."""
        self._newest.append(arrival)
        for image, nearest in list(self._nearest.items()):
            if nearest is None or arrival.apart(image) < nearest.apart(image):
                self._nearest[image] = arrival

    def nearest_to(self, image: Arrival | Picture) -> Arrival | None:
        """The nearest one so far, None if none has come; from now on each that comes is compared with it."""
        if image not in self._nearest:
            kept = [*filter(None, self._nearest.values()), *self._newest]
            self._nearest[image] = min(kept, key=lambda arrival: arrival.apart(image), default=None)
        return self._nearest[image]

    def forget(self, image: Picture) -> None:
        """Stop looking for a nearer one: the image was answered about."""
        self._nearest.pop(image, None)

    @property
    def last(self) -> Arrival | None:
        """The one that came last, None before the first."""
        return self._newest[-1] if self._newest else None
