"""Which depth belongs to an image: one rule for live cameras and for bags, so that the two agree."""

import math
import struct

MOST_APART = 5.0
"""Seconds between two receipts beyond which depth is of another moment, whatever the stamps say: all may be zero."""

Apart = tuple[float, float]
"""ns between two stamps, and s between two receipts."""

NEVER: Apart = (math.inf, math.inf)

_STAMPED = 12
"""Bytes of a serialised message with a header, up to the end of its stamp."""


def stamp_of(cdr: bytes) -> int:
    """The stamp of a serialised message, ns, read without decoding the rest; 0 if the message is cut off.

    Only for types that begin with a `std_msgs/Header`, as every sensor message does.
    """
    if len(cdr) < _STAMPED:
        return 0
    # 4 bytes say how the rest is encoded (odd: little-endian); then int32 sec, uint32 nanosec.
    sec, nanosec = struct.unpack_from("<iI" if cdr[1] & 1 else ">iI", cdr, 4)
    return nanoseconds(sec, nanosec)


def nanoseconds(sec: int, nanosec: int) -> int:
    """A stamp's two numbers as one, ns."""
    return sec * 1_000_000_000 + nanosec


def of_one_moment(apart: Apart, depth_max_dt: float) -> bool:
    """Whether depth that far from an image in time shows the same moment; `depth_max_dt` is the limit for stamps, s."""
    stamps, receipts = apart
    return stamps <= depth_max_dt * 1e9 and receipts <= MOST_APART
