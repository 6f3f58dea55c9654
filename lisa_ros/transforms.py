"""Transforms poses to another frame by tf2, if that is installed: there is no wheel of it."""

import importlib.util
from typing import Any

from geometry_msgs.msg import PoseStamped, Quaternion, TransformStamped
from rclpy.clock import JumpThreshold
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.time import Time
from std_msgs.msg import Header

from lisa_core.geometry import Vector

PATIENCE = 0.1
"""Seconds to wait for a transform that comes later than its image."""


def is_installed() -> bool:
    """Whether tf2 is installed."""
    return importlib.util.find_spec("tf2_ros") is not None


class TargetFrame:
    """Transforms poses to `frame` at the time of their stamps; listens to tf until it is closed."""

    def __init__(self, node: Node, frame: str) -> None:
        import tf2_ros

        self._logger = node.get_logger()
        self._frame = frame
        self._unavailable = (tf2_ros.TransformException, ValueError)  # the latter is rclpy's, of a negative stamp
        self._buffer: Any = tf2_ros.Buffer()
        self._listener: Any = tf2_ros.TransformListener(self._buffer, node)
        back = JumpThreshold(min_forward=None, min_backward=Duration(nanoseconds=-1))
        self._jump: Any = node.get_clock().create_jump_callback(back, post_callback=self._forget)

    def find(self, header: Header) -> TransformStamped | None:
        """The transform from an image's frame at its time, if tf has it now; tf keeps transforms for ten seconds."""
        try:
            return self._look_up(header, 0.0)
        except self._unavailable:
            return None

    def _look_up(self, header: Header, patience: float) -> TransformStamped:
        time, within = Time.from_msg(header.stamp), Duration(seconds=patience)
        return self._buffer.lookup_transform(self._frame, header.frame_id, time, within)

    def __call__(self, pose: PoseStamped, found: TransformStamped | None = None) -> PoseStamped | None:
        """The position in `frame`, with identity orientation; None, with a warning, if tf has no transform.

        Args:
            pose: stamped, in the camera's frame.
            found: the transform, if `find` returned it earlier.
        """
        try:
            found = found or self._look_up(pose.header, PATIENCE)
        except self._unavailable as error:
            self._logger.warning(f"~/target: {error}", throttle_duration_sec=5.0)
            return None
        moved = PoseStamped()
        moved.header.stamp = pose.header.stamp
        moved.header.frame_id = self._frame
        position, shift = pose.pose.position, found.transform.translation
        x, y, z = rotated(found.transform.rotation, (position.x, position.y, position.z))
        moved.pose.position.x, moved.pose.position.y, moved.pose.position.z = x + shift.x, y + shift.y, z + shift.z
        moved.pose.orientation.w = 1.0
        return moved

    def _forget(self, _: Any) -> None:
        """Called when the clock jumps back, as when a bag starts again: to tf, all new transforms would be too old."""
        self._buffer.clear()

    def close(self) -> None:
        """Stop listening."""
        self._jump.unregister()
        self._listener.unregister()


def rotated(rotation: Quaternion, vector: Vector) -> Vector:
    """The vector rotated by a unit quaternion."""
    w, axis = rotation.w, (rotation.x, rotation.y, rotation.z)
    first = _cross(axis, vector)
    second = _cross(axis, first)
    x, y, z = (v + 2.0 * (w * a + b) for v, a, b in zip(vector, first, second, strict=True))
    return (x, y, z)


def _cross(a: Vector, b: Vector) -> Vector:
    return (a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0])
