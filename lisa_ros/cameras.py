"""Cameras: the newest colour image, depth and intrinsics of each, not converted before a question needs them.

Ages and rates are measured by receipt on the steady clock. Stamps serve for two things only: they are copied into
the answers, and they pair depth and intrinsics with colour. So stamps of zero, and a clock that jumps or loops, do no
harm.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from lisa_core.errors import ImageError, LisaError
from lisa_core.geometry import Intrinsics
from lisa_ros import conversions
from lisa_ros.arguments import rcl_says
from lisa_ros.pairing import of_one_moment
from lisa_ros.parameters import CameraParameters
from lisa_ros.pictures import Arrival, Companions, Picture

_LATCHED = (DurabilityPolicy.TRANSIENT_LOCAL, ReliabilityPolicy.RELIABLE)

RATE_WINDOW = 32
"""Receipts over which the frame rate is taken, if so many came within the last `SILENCE` seconds."""

RATE_SPAN = 1.0
"""Seconds over which the frame rate of a camera that was just opened is taken at least."""

SILENCE = 5.0
"""Seconds without a message after which a camera, or its depth, is called silent."""


class CameraError(LisaError):
    """A camera's topic cannot be subscribed to; the message says which and why."""


@dataclass(frozen=True)
class CameraHealth:
    """What a camera sends.

    Attributes:
        ages: seconds since the newest message of each stream; None: none yet.
        rate: images per second.
        silent: the streams of which nothing has come for `SILENCE` seconds; without images, the images alone.
    """

    ages: Mapping[str, float | None]
    rate: float
    silent: frozenset[str]


@dataclass(eq=False)
class _Streams:
    """The messages received; guarded by a lock, for the executor writes and the inference thread reads."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    image: Arrival | None = None
    depths: Companions = field(default_factory=Companions)
    infos: Companions = field(default_factory=Companions)
    receipts: deque[float] = field(default_factory=lambda: deque(maxlen=RATE_WINDOW))


def _read(arrival: Arrival, message_type: type) -> Any:
    """The message; raises ImageError if its bytes are none."""
    try:
        return deserialize_message(arrival.serialized, message_type)
    except Exception as error:  # whatever the middleware makes of them: RMWError, MemoryError, UnicodeDecodeError
        raise ImageError(
            f"it is no {message_type.__name__}, or damaged ({error}); see to what publishes it."
        ) from error


def image_topic(node: Node, parameters: CameraParameters) -> str:
    """The topic of a camera's images, remapped."""
    topic: str = node.resolve_topic_name(parameters.image)
    return topic + "/compressed" if parameters.transport == "compressed" else topic


class Camera:
    """Subscribes to one camera's topics and keeps the newest message of each.

    Messages are taken from the middleware serialised: at 1080p, building the message object alone would take ten times
    as long as the callback may.
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
        self._latched: Any = None
        self._warned: frozenset[str] = frozenset()
        self._of_another_frame: set[str] = set()
        self._streams = _Streams()
        self._compressed = parameters.transport == "compressed"
        self._message_type = CompressedImage if self._compressed else Image
        # rclpy remaps the names, but for a compressed image, remapping the name of the image has to count, too.
        image = image_topic(node, parameters) if self._compressed else parameters.image
        self._names = {"image": image, "depth": parameters.depth, "camera_info": parameters.camera_info}
        self._group = ReentrantCallbackGroup()  # of its own, for a group keeps all that was ever in it
        self._subscriptions: dict[str, Any] = {}
        try:
            self._listen()
        except BaseException:
            self.close()
            raise
        self._topics = {stream: str(subscribed.topic_name) for stream, subscribed in self._subscriptions.items()}
        self.topic = self._topics["image"]
        if parameters.depth and not parameters.camera_info:
            node.get_logger().warning(
                f"camera {name}: depth without camera_info gives no positions; name its topic, too"
            )

    def _listen(self) -> None:
        for stream, message_type, keep in (
            ("image", self._message_type, self._keep_image),
            ("depth", Image, self._keep_depth),
            ("camera_info", CameraInfo, self._keep_info),
        ):
            if topic := self._names[stream]:
                try:
                    self._subscriptions[stream] = self._subscribe(message_type, topic, keep)
                except Exception as error:  # rclpy's message names neither stream nor topic
                    raise CameraError(
                        f"camera {self.name}: {stream} cannot be heard on {topic}, which may be a topic of another type"
                        f" here ({rcl_says(error)})."
                    ) from error

    def _subscribe(
        self, message_type: type, topic: str, callback: Callable[[bytes], None], latched: bool = False
    ) -> Any:
        reliable = latched or self.parameters.qos == "reliable"
        qos = QoSProfile(
            depth=1,
            reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
            durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
        )
        return self._node.create_subscription(message_type, topic, callback, qos, raw=True, callback_group=self._group)

    def ask_for_latched(self) -> None:
        """Also subscribe with transient local durability, for a CameraInfo that was published once, before.

        Once every publisher is seen to offer it, and also if one was heard: the camera may start again with another.
        Call on the executor's thread.
        """
        name = self._names["camera_info"]
        if self._latched or not name:
            return
        offers = [publisher.qos_profile for publisher in self._node.get_publishers_info_by_topic(name)]
        if offers and all((offer.durability, offer.reliability) == _LATCHED for offer in offers):
            self._latched = self._subscribe(CameraInfo, name, self._keep_info, latched=True)

    def close(self) -> None:
        """Unsubscribe and forget all messages. Call on the executor's thread."""
        for subscription in filter(None, (*self._subscriptions.values(), self._latched)):
            self._node.destroy_subscription(subscription)
        self._subscriptions, self._latched = {}, None
        self._streams = _Streams()

    def _keep_image(self, serialized: bytes) -> None:
        now = time.monotonic()
        streams = self._streams
        with streams.lock:
            streams.image = Arrival(serialized, now)
            streams.depths.nearest_to(streams.image)
            streams.infos.nearest_to(streams.image)
            streams.receipts.append(now)
        self._on_image()

    def _keep_depth(self, serialized: bytes) -> None:
        with self._streams.lock:
            self._streams.depths.add(Arrival(serialized, time.monotonic()))

    def _keep_info(self, serialized: bytes) -> None:
        with self._streams.lock:
            self._streams.infos.add(Arrival(serialized, time.monotonic()))

    @property
    def newest(self) -> Arrival | None:
        """The newest image, None before the first."""
        return self._streams.image

    def picture(self, arrival: Arrival) -> Picture:
        """Convert the image, and add the depth that has come by now; raises ImageError if it cannot be read."""
        message = _read(arrival, self._message_type)
        rgb = conversions.to_rgb_compressed(message) if self._compressed else conversions.to_rgb(message)
        picture = Picture(header=message.header, camera=self.name, rgb=rgb, received=arrival.received)
        self.add_companions(picture)
        return picture

    def add_companions(self, picture: Picture) -> None:
        """Add the depth and the intrinsics that are nearest in time, if there are any.

        Both often come after their colour image: a later call may find nearer ones.
        """
        with self._streams.lock:
            depth, info = self._streams.depths.nearest_to(picture), self._streams.infos.nearest_to(picture)
        if info is not None and info.apart(picture) < picture.intrinsics_apart:
            picture.intrinsics_apart = info.apart(picture)
            picture.intrinsics = self._intrinsics(info, picture)
        if (
            depth is not None
            and depth.apart(picture) < picture.depth_apart
            and of_one_moment(depth.apart(picture), self.parameters.depth_max_dt)
        ):
            picture.depth_apart = depth.apart(picture)
            picture.depth = self._depth(depth, picture)

    def let_go(self, picture: Picture) -> None:
        """Stop matching depth to the picture; log a warning if there is depth, but none of the picture's moment."""
        with self._streams.lock:
            depth = self._streams.depths.nearest_to(picture)
            self._streams.depths.forget(picture)
            self._streams.infos.forget(picture)
        if picture.depth is not None or depth is None:
            return
        apart = depth.apart(picture)
        if of_one_moment(apart, self.parameters.depth_max_dt):
            return
        stamps, receipts = apart
        self._node.get_logger().warning(
            f"camera {self.name}: no position, for the depth nearest to the image is {stamps / 1e9:.3f} s from it by "
            f"its stamp, and came {receipts:.3f} s apart; depth_max_dt is {self.parameters.depth_max_dt:g} s",
            throttle_duration_sec=5.0,
        )

    def _intrinsics(self, arrival: Arrival, picture: Picture) -> Intrinsics | None:
        size = picture.size
        try:
            info = _read(arrival, CameraInfo)
        except ImageError as error:
            self._node.get_logger().warning(f"camera_info of camera {self.name}: {error}", throttle_duration_sec=5.0)
            return None
        self._compare_frames("camera_info", info.header.frame_id, picture)
        found = conversions.intrinsics(info, size)
        if found is None:
            self._node.get_logger().warning(
                f"camera_info of camera {self.name} is of {info.width}x{info.height} px, or uncalibrated, "
                f"and images are of {size[1]}x{size[0]} px: no positions",
                throttle_duration_sec=5.0,
            )
        return found

    def _depth(self, arrival: Arrival, picture: Picture) -> NDArray[np.float32] | None:
        try:
            message = _read(arrival, Image)
            self._compare_frames("depth", message.header.frame_id, picture)
            return conversions.to_depth(message)
        except ImageError as error:
            self._node.get_logger().warning(f"depth of camera {self.name}: {error}", throttle_duration_sec=5.0)
            return None

    def _compare_frames(self, stream: str, frame: str, picture: Picture) -> None:
        """Log a warning, once per stream, if it is of another frame than the image; some drivers only name it so."""
        images = picture.header.frame_id
        if frame and images and frame != images and stream not in self._of_another_frame:
            self._of_another_frame.add(stream)
            self._node.get_logger().warning(
                f"camera {self.name}: {stream} is in frame {frame}, images are in {images}: positions are wrong unless"
                " it is that of the colour image (depth aligned, or registered, to it)"
            )

    @property
    def topics(self) -> str:
        """The topics that are subscribed to, by stream, for people."""
        return ", ".join(f"{stream} {topic}" for stream, topic in self._topics.items())

    @property
    def companions(self) -> list[str]:
        """The streams that are subscribed to beside the images."""
        return [stream for stream in self._subscriptions if stream != "image"]

    @property
    def health(self) -> CameraHealth:
        """What comes of each stream now."""
        now = time.monotonic()
        newest = self._newest()
        with self._streams.lock:
            recent = [received for received in self._streams.receipts if now - received < SILENCE]
        open_for = min(SILENCE, now - self._opened)
        span = now - recent[0] if len(recent) == RATE_WINDOW else max(RATE_SPAN, open_for)
        return CameraHealth(
            ages={stream: now - arrival.received if arrival else None for stream, arrival in newest.items()},
            rate=len(recent) / span if span > 0 else 0.0,
            silent=self._silent(now, newest),
        )

    def _newest(self) -> dict[str, Arrival | None]:
        """The newest message of each stream; None before the first."""
        streams = self._streams
        with streams.lock:
            return {"image": streams.image, "depth": streams.depths.last, "camera_info": streams.infos.last}

    def _quiet_for(self, arrival: Arrival | None, now: float) -> float:
        """Seconds since the newest message of a stream, or since it was subscribed to."""
        return now - (arrival.received if arrival else self._opened)

    def _silent(self, now: float, newest: Mapping[str, Arrival | None]) -> frozenset[str]:
        silent = {stream for stream in self._subscriptions if self._quiet_for(newest[stream], now) > SILENCE}
        if newest["camera_info"]:  # which may come once and never again
            silent.discard("camera_info")
        return frozenset({"image"} if "image" in silent else silent)

    def warn_if_silent(self) -> None:
        """Log a warning for each stream that has fallen silent, once per silence."""
        silent = self.health.silent
        for stream in sorted(silent - self._warned):
            self._node.get_logger().warning(self.why_silent(stream))
        self._warned = silent

    def why_silent(self, stream: str = "image") -> str:
        """Why no message of the stream comes, as far as can be seen: its topic, its QoS here and its publishers'."""
        publishers = self._node.get_publishers_info_by_topic(self._names[stream])
        heard = "nothing publishes there"
        if publishers:
            offered = ", ".join(sorted({p.qos_profile.reliability.name.lower() for p in publishers}))
            types = ", ".join(sorted({p.topic_type for p in publishers}))
            heard = f"{len(publishers)} publish {types} there, {offered}"
            if self.parameters.qos == "reliable" and "best_effort" in offered:
                heard += f"; set {self.name}.qos to sensor_data to hear them"
        where = f"{self._topics[stream]} (QoS {self.parameters.qos})"
        quiet = self._quiet_for(self._newest()[stream], time.monotonic())
        return f"camera {self.name}: no {stream} for {min(SILENCE, quiet):.2g} s on {where}: {heard}"
