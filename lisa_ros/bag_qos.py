"""The quality of service with which a bag's topics are published again."""

from collections.abc import Sequence

from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rosbags.interfaces import Qos, QosDurability, QosHistory, QosReliability

from lisa_ros.bags import Topic

STATIC = "tf2_msgs/msg/TFMessage"
"""The type of static transforms, where it is latched."""
USUAL_DEPTH = 10
"""Messages that a publisher keeps which is recorded without a depth, as most do."""
MOST_KEPT = 1000
"""Messages of a latched topic that are kept for late subscribers."""


def offered(topic: Topic) -> QoSProfile:
    """Reliability, durability and depth as recorded; else reliable, which all subscribers take, and latched if static.

    Deadline, lifespan and liveliness are left out: they are promises about the original publisher's timing.
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
    """What late subscribers get: what all the publishers kept together, and every static transform.

    Publishers that began after the recording are not in what it says of them, and each sent its transforms once.
    """
    kept = sum(_depth(topic, offer) for offer in latched)
    if topic.type == STATIC:
        kept = max(kept, topic.messages)
    return min(max(kept, 1), MOST_KEPT)


def _depth(topic: Topic, offer: Qos) -> int:
    """How many messages a recorded publisher kept; some middlewares do not tell recorders, who write 0 then."""
    kept = topic.messages if offer.history is QosHistory.KEEP_ALL else offer.depth or USUAL_DEPTH
    return min(max(kept, 1), MOST_KEPT)
