"""Publishes answers; a message is built only if its topic has a subscriber."""

from collections.abc import Callable, Sequence
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


class Publications:
    """Publishes an answer on `~/answer ~/text ~/mask ~/labels ~/overlay ~/points ~/target`.

    Attributes:
        target_frame: transforms poses to another frame; None: they stay in the camera's.
    """

    def __init__(self, node: Node) -> None:
        self._logger = node.get_logger()
        self.target_frame: TargetFrame | None = None
        self._answer = _publisher(node, Answer, "~/answer")
        self._text = _publisher(node, String, "~/text")
        self._mask = _publisher(node, Image, "~/mask")
        self._labels = _publisher(node, Image, "~/labels")
        self._overlay = _publisher(node, Image, "~/overlay")
        self._points = _publisher(node, PointCloud2, "~/points")
        self._target = _publisher(node, PoseStamped, "~/target")

    def publish(
        self, picture: Picture, answer: lisa_core.Answer, message: Answer, points: Sequence[SurfacePoints]
    ) -> None:
        """Publish one answer; every message has the header of the picture.

        Args:
            message: the answer without masks.
            points: one entry per segment; empty without depth and intrinsics.
        """
        header, size, segments = picture.header, picture.size, answer.segments
        _publish(self._answer, lambda: message)
        _publish(self._text, lambda: String(data=answer.text))
        _publish(self._mask, lambda: conversions.mask_message(segments, size, header))
        _publish(self._labels, lambda: conversions.labels_message(segments, size, header))
        _publish(self._overlay, lambda: conversions.image_message(overlay.draw(picture.rgb, segments), "rgb8", header))
        if picture.depth is not None and picture.intrinsics is not None:
            _publish(self._points, lambda: conversions.points_message(points, picture.rgb, header))
        placement = points[0].placement if points else None
        if placement is not None:
            _publish(self._target, lambda: self._target_message(placement, picture))

    def add_transform(self, picture: Picture) -> None:
        """Add the transform to `target_frame` if tf has it now; when the answer comes tf may have forgotten it."""
        if picture.to_target is None and (target_frame := self.target_frame) is not None:
            picture.to_target = target_frame.find(picture.header)

    def _target_message(self, placement: Placement, picture: Picture) -> PoseStamped | None:
        pose, target_frame = conversions.target_message(placement, picture.header), self.target_frame
        return pose if target_frame is None else target_frame(pose, picture.to_target)


def _publisher(node: Node, message_type: type, topic: str) -> Any:
    """A publisher with ROS's parameters for its QoS, such as `qos_overrides./lisa/overlay.publisher.depth`."""
    overridable = QoSOverridingOptions.with_default_policies()
    return node.create_publisher(message_type, topic, answers(), qos_overriding_options=overridable)


def _publish(publisher: Any, build: Callable[[], Any]) -> None:
    if publisher.get_subscription_count() and (message := build()) is not None:
        publisher.publish(message)
