"""A stand-in for tf2_ros, which has no wheel: one transform, from `optical` to `base`."""

import os
from pathlib import Path
from typing import Any

from geometry_msgs.msg import TransformStamped


class TransformException(Exception):
    """As in tf2."""


class Buffer:
    """Knows one transform: turned by a quarter about x, and shifted; `cleared` counts how often it was cleared.

    `asked` has for which time, ns, it was asked, and how long it might have waited, s.
    Once the file that TF_HAS_FORGOTTEN names is there it knows none.
    """

    def __init__(self) -> None:
        self.cleared = 0
        self.asked: list[tuple[int, float]] = []

    def clear(self) -> None:
        self.cleared += 1

    def lookup_transform(self, target: str, source: str, time: Any, timeout: Any) -> TransformStamped:
        self.asked.append((time.nanoseconds, timeout.nanoseconds / 1e9))
        if (forgotten := os.environ.get("TF_HAS_FORGOTTEN")) and Path(forgotten).exists():
            raise TransformException("Lookup would require extrapolation into the past")
        if (target, source) != ("base", "optical"):
            raise TransformException(f'"{target}" passed to lookup_transform does not exist')
        found = TransformStamped()
        shift = found.transform.translation
        shift.x, shift.y, shift.z = 10.0, 20.0, 30.0
        found.transform.rotation.x = found.transform.rotation.w = 0.5**0.5
        return found


class TransformListener:
    """Listens to nothing, until it is unregistered."""

    def __init__(self, buffer: Buffer, node: Any) -> None:
        self.listens = True

    def unregister(self) -> None:
        self.listens = False
