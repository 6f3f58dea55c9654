"""A camera: scenes at a steady rate, frame `i` stamped with `i` seconds; depth and intrinsics if asked for."""

import argparse
import itertools
import sys
import time

import numpy as np
import rclpy
from rclpy.qos import QoSProfile, ReliabilityPolicy
from scenes import scene
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header

from lisa_ros.conversions import image_message


def main() -> None:
    """Publish until killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--topic", default="image")
    parser.add_argument("--depth", default="", help="topic of the depth image, 1 m everywhere")
    parser.add_argument("--info", default="", help="topic of the CameraInfo")
    parser.add_argument("--rate", type=float, default=30.0)
    parser.add_argument("--size", type=int, nargs=2, default=(480, 640), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--reliable", action="store_true")
    options = parser.parse_args()

    rclpy.init(args=[sys.argv[0]])
    node = rclpy.create_node(options.topic.strip("/").replace("/", "_") + "_camera")
    reliability = ReliabilityPolicy.RELIABLE if options.reliable else ReliabilityPolicy.BEST_EFFORT
    qos = QoSProfile(depth=1, reliability=reliability)
    images = node.create_publisher(Image, options.topic, qos)
    depths = node.create_publisher(Image, options.depth, qos) if options.depth else None
    infos = node.create_publisher(CameraInfo, options.info, qos) if options.info else None
    size = tuple(options.size)
    depth = np.full(size, 1000, np.uint16)
    k = [500.0, 0.0, size[1] / 2, 0.0, 500.0, size[0] / 2, 0.0, 0.0, 1.0]
    due = time.monotonic()
    for index in itertools.count(1):
        header = Header(frame_id=options.topic)
        header.stamp.sec = index
        images.publish(image_message(scene(index, size), "rgb8", header))
        if depths is not None:
            depths.publish(image_message(depth, "16UC1", header))
        if infos is not None:
            infos.publish(CameraInfo(header=header, height=size[0], width=size[1], k=k))
        due += 1.0 / options.rate
        time.sleep(max(0.0, due - time.monotonic()))


if __name__ == "__main__":
    main()
