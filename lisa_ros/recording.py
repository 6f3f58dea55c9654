"""The recording of a depth camera, played in a loop by a node's timer as if it were a live camera."""

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from builtin_interfaces.msg import Time
from numpy.typing import NDArray
from rclpy.node import Node
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from lisa_ros.bag_qos import offered
from lisa_ros.bags import BagReader, Message
from lisa_ros.conversions import to_rgb_compressed
from lisa_ros.pairing import nanoseconds

IMAGE = "camera/image"
COMPRESSED, DEPTH, CAMERA_INFO = f"{IMAGE}/compressed", "camera/depth", "camera/camera_info"
KINDS: Mapping[str, Any] = {COMPRESSED: CompressedImage, DEPTH: Image, CAMERA_INFO: CameraInfo}
"""Message types by topic; the topics are at the root in the bag, and in the node's namespace when played."""

PARAMETERS: Mapping[str, str] = {
    "camera.image": IMAGE,
    "camera.transport": "compressed",
    "camera.qos": "reliable",
    "camera.depth": DEPTH,
    "camera.camera_info": CAMERA_INFO,
}
"""Parameters of the node that looks through the camera."""


class _Frame(NamedTuple):
    image: Message
    companions: tuple[Message, ...]


class Recording:
    """A bag with JPEGs, depth and intrinsics of one camera, held in memory."""

    def __init__(self, path: Path) -> None:
        """Raises BagError if the bag is missing or damaged, or lacks one of the topics."""
        with BagReader(path) as bag:
            self._topics = {name: bag.require(name, f"sensor_msgs/msg/{kind.__name__}") for name, kind in KINDS.items()}
            images, *others = (list(bag.messages([topic.name])) for topic in self._topics.values())
        self._frames = [_Frame(image, tuple(_nearest(image, messages) for messages in others)) for image in images]

    def play(self, node: Node) -> None:
        """Publishes the frames at their recorded pace, while the node is spun and each topic has a subscriber.

        Depth and intrinsics are sent before their image, so that they are mostly there when it arrives.
        """
        publishers = {
            topic.name: node.create_publisher(KINDS[name], name, offered(topic)) for name, topic in self._topics.items()
        }
        frames = itertools.cycle(self._frames)

        def publish_next() -> None:
            if not all(publisher.get_subscription_count() for publisher in publishers.values()):
                return
            frame = next(frames)
            for message in frame.companions:
                publishers[message.topic].publish(message.data)
            publishers[frame.image.topic].publish(frame.image.data)

        span = self._frames[-1].image.time - self._frames[0].image.time
        node.create_timer(span / 1e9 / (len(self._frames) - 1), publish_next)

    def frame(self, stamp: Time) -> tuple[str, NDArray[np.uint8]]:
        """The frame with that stamp: its name for people, and its picture, (H, W, 3) RGB."""
        images = {frame.image.stamp: (number, frame.image) for number, frame in enumerate(self._frames, start=1)}
        number, image = images[nanoseconds(stamp.sec, stamp.nanosec)]
        return f"frame {number} of {len(images)}", to_rgb_compressed(deserialize_message(image.data, CompressedImage))


def _nearest(image: Message, messages: list[Message]) -> Message:
    return min(messages, key=lambda message: abs(message.stamp - image.stamp))
