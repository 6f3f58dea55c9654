"""Publishes answers; a message is built only if its topic has a subscriber."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from geometry_msgs.msg import PoseStamped
from rclpy.node import Node
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import Image, PointCloud2
from std_msgs.msg import String

import lisa_core
from lisa_core import overlay
from lisa_core.geometry import Placement, SurfacePoints
from lisa_ros import conversions
from lisa_ros.msg import Answer
from lisa_ros.pictures import Picture
from lisa_ros.qos import answers
from lisa_ros.transforms import TargetFrame


@dataclass(frozen=True, eq=False)
class _Opening:
    """The time from `open` to `close`."""

    target_frame: TargetFrame | None


class Publications:
    """Publishes an answer on `~/answer ~/text ~/mask ~/labels ~/overlay ~/points ~/target`, while it is open."""

    def __init__(self, node: Node) -> None:
        self._lock = threading.Lock()
        self._opening: _Opening | None = None
        self._answer = _publisher(node, Answer, "~/answer")
        self._text = _publisher(node, String, "~/text")
        self._mask = _publisher(node, Image, "~/mask")
        self._labels = _publisher(node, Image, "~/labels")
        self._overlay = _publisher(node, Image, "~/overlay")
        self._points = _publisher(node, PointCloud2, "~/points")
        self._target = _publisher(node, PoseStamped, "~/target")

    def open(self, target_frame: TargetFrame | None) -> None:
        """Publish from now on, poses in this frame; None: they stay in the camera's."""
        self._opening = _Opening(target_frame)

    def close(self) -> None:
        """Publish nothing any more, not even the rest of an answer. Call on the executor's thread."""
        with self._lock:
            opening, self._opening = self._opening, None
        if opening is not None and opening.target_frame is not None:
            opening.target_frame.close()

    def publish(
        self, picture: Picture, answer: lisa_core.Answer, message: Answer, points: Sequence[SurfacePoints]
    ) -> None:
        """Publish one answer; every message has the header of the picture.

        Args:
            message: the answer without masks.
            points: one entry per segment; empty without depth and intrinsics.
        """
        if (opening := self._opening) is None:
            return

        def send(publisher: Any, build: Callable[[], Any]) -> None:
            if publisher.get_subscription_count() and (built := build()) is not None:
                with self._lock:
                    if opening is self._opening:
                        publisher.publish(built)

        header, size, segments = picture.header, picture.size, answer.segments
        send(self._answer, lambda: message)
        send(self._text, lambda: String(data=answer.text))
        send(self._mask, lambda: conversions.mask_message(segments, size, header))
        send(self._labels, lambda: conversions.labels_message(segments, size, header))
        send(self._overlay, lambda: conversions.image_message(overlay.draw(picture.rgb, segments), "rgb8", header))
        if picture.depth is not None and picture.intrinsics is not None:
            send(self._points, lambda: conversions.points_message(points, picture.rgb, header))
        placement = points[0].placement if points else None
        if placement is not None:
            send(self._target, lambda: _target_message(placement, picture, opening.target_frame))

    def add_transform(self, picture: Picture) -> None:
        """Add the transform to `target_frame` if tf has it now; when the answer comes tf may have forgotten it."""
        opening = self._opening
        if picture.to_target is None and opening is not None and opening.target_frame is not None:
            picture.to_target = opening.target_frame.find(picture.header)


def _target_message(placement: Placement, picture: Picture, target_frame: TargetFrame | None) -> PoseStamped | None:
    pose = conversions.target_message(placement, picture.header)
    return pose if target_frame is None else target_frame(pose, picture.to_target)


def _publisher(node: Node, message_type: type, topic: str) -> Any:
    """A publisher with ROS's parameters for its QoS, such as `qos_overrides./lisa/overlay.publisher.depth`."""
    overridable = QoSOverridingOptions.with_default_policies()
    return node.create_publisher(message_type, topic, answers(), qos_overriding_options=overridable)
