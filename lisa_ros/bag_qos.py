"""The QoS with which the topics of a bag are published again."""

from collections.abc import Sequence

from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rosbags.interfaces import Qos, QosDurability, QosHistory, QosReliability

from lisa_ros.bags import Topic

STATIC = "tf2_msgs/msg/TFMessage"
"""The type of static transforms, on a latched topic."""
USUAL_DEPTH = 10
"""Depth of a publisher that was recorded without one; most publishers have this depth."""
MOST_KEPT = 1000
"""Most messages of a latched topic that are kept for late subscribers."""


def offered(topic: Topic) -> QoSProfile:
    """Reliability, durability and depth as recorded; else reliable, which all subscribers accept; `/tf_static` latched.

    Deadline, lifespan and liveliness are left out: they promise the original publisher's timing.
    """
    profile = QoSProfile(depth=_depth(topic, topic.qos[0]) if topic.qos else USUAL_DEPTH)
    if topic.qos and all(offer.reliability is QosReliability.BEST_EFFORT for offer in topic.qos):
        profile.reliability = ReliabilityPolicy.BEST_EFFORT
    latched = [offer for offer in topic.qos if offer.durability is QosDurability.TRANSIENT_LOCAL]
    if latched or (not topic.qos and topic.name == "/tf_static"):
        profile.durability = DurabilityPolicy.TRANSIENT_LOCAL
        profile.depth = _kept(topic, latched)
    return profile


def _kept(topic: Topic, latched: Sequence[Qos]) -> int:
    """How many messages late subscribers get: as many as all publishers together kept, and every static transform.

    A recording does not list publishers that started later, each of which sent its static transforms once.
    """
    kept = sum(_depth(topic, offer) for offer in latched)
    if topic.type == STATIC:
        kept = max(kept, topic.messages)
    return min(max(kept, 1), MOST_KEPT)


def _depth(topic: Topic, offer: Qos) -> int:
    """How many messages a recorded publisher kept; recorders write 0 if the middleware does not tell them."""
    kept = topic.messages if offer.history is QosHistory.KEEP_ALL else offer.depth or USUAL_DEPTH
    return min(max(kept, 1), MOST_KEPT)
