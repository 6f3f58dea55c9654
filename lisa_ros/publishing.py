"""Publishes answers; a message is built only if its topic has a subscriber."""

from collections.abc import Callable, Sequence
from typing import Any

from geometry_msgs.msg import PoseStamped
from rclpy.node import Node
from sensor_msgs.msg import Image, PointCloud2
from std_msgs.msg import String

import lisa_core
from lisa_core import overlay
from lisa_core.geometry import Placement, SurfacePoints
from lisa_ros import conversions
from lisa_ros.msg import Answer
from lisa_ros.pictures import Picture
from lisa_ros.qos import ANSWERS
from lisa_ros.transforms import TargetFrame


class Publications:
    """Publishes an answer on `~/answer ~/text ~/mask ~/labels ~/overlay ~/points ~/target`.

    Attributes:
        target_frame: transforms poses to another frame; None: they stay in the camera's.
    """

    def __init__(self, node: Node) -> None:
        self._logger = node.get_logger()
        self.target_frame: TargetFrame | None = None
        self._answer = node.create_publisher(Answer, "~/answer", ANSWERS)
        self._text = node.create_publisher(String, "~/text", ANSWERS)
        self._mask = node.create_publisher(Image, "~/mask", ANSWERS)
        self._labels = node.create_publisher(Image, "~/labels", ANSWERS)
        self._overlay = node.create_publisher(Image, "~/overlay", ANSWERS)
        self._points = node.create_publisher(PointCloud2, "~/points", ANSWERS)
        self._target = node.create_publisher(PoseStamped, "~/target", ANSWERS)

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


def _publish(publisher: Any, build: Callable[[], Any]) -> None:
    if publisher.get_subscription_count() and (message := build()) is not None:
        publisher.publish(message)
