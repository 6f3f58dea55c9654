"""Qualities of service that are not ROS's defaults, and why."""

from rclpy.qos import QoSProfile

ANSWERS = QoSProfile(depth=1)
"""The topics of the answers: reliable, volatile, the newest only."""

BURST = QoSProfile(depth=256)
"""Service and action, at both ends. By default either keeps ten messages, and the middleware drops the oldest of more
without a word: a request that is dropped is never answered. A client's ten are those to all clients of the service, so
an answer to one can push out that to another; clients of a busy node should use this profile as well."""
