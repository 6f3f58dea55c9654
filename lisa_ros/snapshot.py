"""Takes one picture from a camera's topic, for programs that are no nodes."""

import os
import time

import numpy as np
import rclpy
from numpy.typing import NDArray
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import CompressedImage, Image

from lisa_core.errors import ImageError
from lisa_ros.conversions import to_rgb, to_rgb_compressed

PATIENCE = 5.0
"""Seconds to wait for the camera to be discovered and to send a picture."""

_KINDS = {
    "sensor_msgs/msg/Image": (Image, to_rgb),
    "sensor_msgs/msg/CompressedImage": (CompressedImage, to_rgb_compressed),
}


def snapshot(topic: str, patience: float = PATIENCE) -> NDArray[np.uint8]:
    """The next picture on a topic of `Image`s or `CompressedImage`s, (H, W, 3) RGB.

    Raises:
        ImageError: no picture came in time, or it holds no colours or cannot be read.
    """
    context = Context()
    rclpy.init(args=[], context=context, signal_handler_options=SignalHandlerOptions.NO)
    try:
        node = Node(f"lisa_snapshot_{os.getpid()}", context=context)
        executor = SingleThreadedExecutor(context=context)
        try:
            executor.add_node(node)
            return _next(node, executor, topic, time.monotonic() + patience)
        finally:  # else the subscription lives until Python collects it
            executor.shutdown()
            node.destroy_node()
    finally:
        context.try_shutdown()


def _next(node: Node, executor: SingleThreadedExecutor, topic: str, deadline: float) -> NDArray[np.uint8]:
    came: list[object] = []
    kind = ""
    while not came and time.monotonic() < deadline:
        if not kind:
            offered = {info.topic_type for info in node.get_publishers_info_by_topic(topic)} & _KINDS.keys()
            if offered:
                kind = min(offered)
                node.create_subscription(_KINDS[kind][0], topic, came.append, qos_profile_sensor_data)
        executor.spin_once(timeout_sec=0.05)
    if came:
        return _KINDS[kind][1](came[0])
    there = sorted(name for name, types in node.get_topic_names_and_types() if not _KINDS.keys().isdisjoint(types))
    raise ImageError(
        f"No picture came on {topic}; topics with pictures are {', '.join(there)}."
        if there
        else f"No picture came on {topic}, and there is no other topic with pictures; start a camera."
    )
