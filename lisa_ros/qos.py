"""QoS profiles that differ from ROS's defaults, and why."""

from rclpy.qos import QoSProfile


def answers() -> QoSProfile:
    """For a topic of the answers: reliable, volatile, newest message only. A new one: overrides are written into it."""
    return QoSProfile(depth=1)


BURST = QoSProfile(depth=256)
"""For the service and the action, in servers and clients. ROS's default keeps ten messages, and the middleware silently
drops the oldest of more: a dropped request is never answered. A client's queue also receives the answers to all other
clients of the service, which can push out its own; so clients of a busy node should use this profile, too."""
