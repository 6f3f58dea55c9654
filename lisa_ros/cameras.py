"""The newest colour image, depth and intrinsics of each camera, unconverted until somebody asks.

Ages and rates are measured by receipt on the steady clock. Stamps serve for two things only: they are copied into
the answers, and they pair depth with colour. So stamps of zero, jumps and loops of the clock change nothing.
"""

import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header

from lisa_core.errors import ImageError
from lisa_core.geometry import Intrinsics
from lisa_ros import conversions
from lisa_ros.parameters import CameraParameters

if TYPE_CHECKING:
    from lisa_core import Frame

SILENCE = 5.0
"""Seconds without an image after which a camera is called silent."""

DEPTHS_KEPT = 8
"""Depth images that wait for their colour image; they come in any order."""

RATE_WINDOW = 32
"""Receipts over which the frame rate is taken."""


@dataclass(frozen=True, eq=False)
class Arrival:
    """A message as it came over the wire, and when, in seconds of the steady clock."""

    serialized: bytes
    received: float

    @property
    def stamp(self) -> int:
        """The header's stamp in ns, read without the rest: every sensor message starts with it (CDR)."""
        order = "<" if self.serialized[1] & 1 else ">"
        seconds, nanoseconds = struct.unpack_from(f"{order}iI", self.serialized, 4)
        return int(seconds) * 1_000_000_000 + int(nanoseconds)


@dataclass(eq=False)
class Picture:
    """One image that questions are asked about, with all that belongs to it.

    Attributes:
        header: the message's.
        camera: its name; empty if the image came with the question.
        rgb: (H, W, 3) uint8.
        depth: (h, w) float32 m; None without.
        intrinsics: of the (H, W) image; None without.
        encoded: the engine's frame, once somebody asked.
    """

    header: Header
    camera: str
    rgb: NDArray[np.uint8]
    depth: NDArray[np.float32] | None = None
    intrinsics: Intrinsics | None = None
    encoded: "Frame | None" = None

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) in px."""
        return (self.rgb.shape[0], self.rgb.shape[1])


@dataclass(frozen=True)
class CameraHealth:
    """How a camera does: seconds since the newest image (None: never one) and images per second."""

    age: float | None
    rate: float


@dataclass(eq=False)
class _Streams:
    """What has come in; guarded by a lock, for the executor writes and the inference thread reads."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    image: Arrival | None = None
    depths: deque[Arrival] = field(default_factory=lambda: deque(maxlen=DEPTHS_KEPT))
    info: CameraInfo | None = None
    receipts: deque[float] = field(default_factory=lambda: deque(maxlen=RATE_WINDOW))


class Camera:
    """Subscribes to one camera's topics and keeps the newest of each.

    Images are taken from the middleware serialized: nothing is converted, and at 1080p a message object alone
    would cost ten times what the callback may.
    """

    def __init__(
        self,
        node: Node,
        name: str,
        parameters: CameraParameters,
        on_image: Callable[[], None],
    ) -> None:
        self.name = name
        self.parameters = parameters
        self._node = node
        self._on_image = on_image
        self._opened = time.monotonic()
        self._warned = False
        self._streams = _Streams()
        self._compressed = parameters.transport == "compressed"
        self.topic = node.resolve_topic_name(parameters.image) + ("/compressed" if self._compressed else "")
        self._message_type = CompressedImage if self._compressed else Image
        self._group = ReentrantCallbackGroup()  # its own, for a group remembers all that was ever in it
        self._subscriptions = [self._subscribe(self._message_type, self.topic, self._keep_image, serialized=True)]
        if parameters.depth:
            self._subscriptions.append(self._subscribe(Image, parameters.depth, self._keep_depth, serialized=True))
        if parameters.camera_info:
            self._subscriptions.append(
                self._subscribe(CameraInfo, parameters.camera_info, self._keep_info, serialized=False)
            )

    def _subscribe(self, message_type: type, topic: str, callback: Callable[[Any], None], *, serialized: bool) -> Any:
        reliable = self.parameters.qos == "reliable"
        reliability = ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT
        qos = QoSProfile(depth=1, reliability=reliability)
        return self._node.create_subscription(
            message_type, topic, callback, qos, raw=serialized, callback_group=self._group
        )

    def close(self) -> None:
        """Unsubscribe; what was kept is forgotten. To be called on the executor's thread."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions = []
        self._streams = _Streams()

    def _keep_image(self, serialized: bytes) -> None:
        now = time.monotonic()
        streams = self._streams
        with streams.lock:
            streams.image = Arrival(serialized, now)
            streams.receipts.append(now)
        self._on_image()

    def _keep_depth(self, serialized: bytes) -> None:
        with self._streams.lock:
            self._streams.depths.append(Arrival(serialized, time.monotonic()))

    def _keep_info(self, info: CameraInfo) -> None:
        with self._streams.lock:
            self._streams.info = info

    @property
    def newest(self) -> Arrival | None:
        """The newest image, None before the first."""
        return self._streams.image

    def picture(self, arrival: Arrival) -> Picture:
        """The image converted, with the depth that is there by now; raises ImageError if it cannot be read."""
        message = deserialize_message(arrival.serialized, self._message_type)
        rgb = conversions.to_rgb_compressed(message) if self._compressed else conversions.to_rgb(message)
        picture = Picture(header=message.header, camera=self.name, rgb=rgb)
        self.add_depth(picture)
        return picture

    def add_depth(self, picture: Picture) -> None:
        """Give the picture the depth nearest in time, and the intrinsics, as far as there are any.

        Called again a little later it finds a better one, for depth often comes after its colour image.
        """
        with self._streams.lock:
            depths, info = list(self._streams.depths), self._streams.info
        if info is not None:
            picture.intrinsics = conversions.intrinsics(info, picture.size)
        stamp = picture.header.stamp.sec * 1_000_000_000 + picture.header.stamp.nanosec
        apart = [(abs(depth.stamp - stamp), -depth.received, index) for index, depth in enumerate(depths)]
        if not apart or min(apart)[0] > self.parameters.depth_max_dt * 1e9:
            return
        try:
            picture.depth = conversions.to_depth(deserialize_message(depths[min(apart)[2]].serialized, Image))
        except ImageError as error:
            self._node.get_logger().warning(f"depth of camera {self.name}: {error}", throttle_duration_sec=5.0)

    @property
    def health(self) -> CameraHealth:
        """Age of the newest image and the rate at which they come."""
        now = time.monotonic()
        with self._streams.lock:
            receipts = list(self._streams.receipts)
        if not receipts:
            return CameraHealth(None, 0.0)
        recent = [received for received in receipts if now - received < SILENCE]
        span = now - recent[0] if recent else 0.0
        return CameraHealth(now - receipts[-1], len(recent) / span if span > 0 else 0.0)

    def warn_if_silent(self) -> None:
        """Log a warning that names topic and QoS once per spell of silence."""
        age = self.health.age
        silent = (time.monotonic() - self._opened if age is None else age) > SILENCE
        if silent and not self._warned:
            self._node.get_logger().warning(self.silence())
        self._warned = silent

    def silence(self) -> str:
        """Why no image comes, as far as can be seen: the topic, its QoS here and that of its publishers."""
        publishers = self._node.get_publishers_info_by_topic(self.topic)
        heard = "nothing publishes there"
        if publishers:
            offered = ", ".join(sorted({p.qos_profile.reliability.name.lower() for p in publishers}))
            heard = f"{len(publishers)} publish there, {offered}"
            if self.parameters.qos == "reliable" and "best_effort" in offered:
                heard += f"; set {self.name}.qos to sensor_data to hear them"
        return f"camera {self.name}: no image for {SILENCE:g} s on {self.topic} (QoS {self.parameters.qos}): {heard}"
