"""The health of the node, once a second on `/diagnostics`."""

from collections.abc import Callable, Iterable

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.clock import Clock, ClockType
from rclpy.node import Node

from lisa_ros.cameras import Camera
from lisa_ros.model import Model
from lisa_ros.questions import Code
from lisa_ros.statistics import Statistics

REFUSALS = frozenset({Code.LOADING, Code.INACTIVE, Code.BUSY, Code.BAD_REQUEST})
"""Ends of questions that the model never saw; the others but OK and CANCELED are failures."""


def questions_status(statistics: Statistics, ahead: int) -> DiagnosticStatus:
    """The status `questions`; `ahead` of them are waiting or being answered."""
    summary = statistics.summary()
    ends = summary.ends
    failed = {code: n for code, n in ends.items() if code not in REFUSALS | {Code.OK, Code.CANCELED}}
    values: list[tuple[str, object]] = [
        ("in the queue", ahead),
        ("answered", ends[Code.OK]),
        ("refused", sum(ends[code] for code in REFUSALS)),
        ("canceled", ends[Code.CANCELED]),
        ("failed", sum(failed.values())),
        *((f"failed with {code.name}", n) for code, n in sorted(failed.items())),
    ]
    for stage, seconds in summary.latencies.items():
        median, p95 = np.percentile(seconds, (50, 95))
        values += [
            (f"{stage}, last, s", f"{seconds[-1]:.4f}"),
            (f"{stage}, p50, s", f"{median:.4f}"),
            (f"{stage}, p95, s", f"{p95:.4f}"),
        ]
    if summary.fault:
        text = f"the last question failed inside: {summary.fault}"
        return _status("questions", DiagnosticStatus.ERROR, text, values)
    if summary.standing_failure:
        text = f"the standing instruction fails with {summary.standing_failure}"
        return _status("questions", DiagnosticStatus.WARN, text, values)
    return _status("questions", DiagnosticStatus.OK, f"{ends[Code.OK]} answered", values)


def camera_status(camera: Camera) -> DiagnosticStatus:
    """The status `camera <name>`."""
    health = camera.health
    values: list[tuple[str, object]] = [
        ("topic", camera.topic),
        ("qos", camera.parameters.qos),
        ("rate, Hz", f"{health.rate:.1f}"),
        ("age of the newest frame, s", _age(health.ages["image"])),
    ]
    values += [(f"age of the newest {stream}, s", _age(health.ages[stream])) for stream in camera.companions]
    if health.ages["image"] is None or "image" in health.silent:
        return _status(f"camera {camera.name}", DiagnosticStatus.WARN, "silent", values)
    if health.silent:
        text = f"{health.rate:.1f} Hz, but no {' and no '.join(sorted(health.silent))}"
        return _status(f"camera {camera.name}", DiagnosticStatus.WARN, text, values)
    return _status(f"camera {camera.name}", DiagnosticStatus.OK, f"{health.rate:.1f} Hz", values)


def _age(seconds: float | None) -> str:
    return "none yet" if seconds is None else f"{seconds:.3f}"


def idle_camera_status(name: str, topic: str, state: str) -> DiagnosticStatus:
    """The status `camera <name>` while the node is not active and listens to none."""
    return _status(f"camera {name}", DiagnosticStatus.WARN, f"not heard while {state}", [("topic", topic)])


def model_status(state: str, reason: str, model: Model) -> DiagnosticStatus:
    """The status `model`; `reason` says why the last transition failed."""
    values = [("state", state), *model.facts.items()]
    if model.progress:
        return _status("model", DiagnosticStatus.WARN, f"loading: {model.progress}", values)
    if reason:
        return _status("model", DiagnosticStatus.ERROR, f"{state}: {reason}", values)
    level = DiagnosticStatus.OK if state == "active" else DiagnosticStatus.WARN
    return _status("model", level, state, values)


class Diagnostics:
    """Publishes the statuses once a second of the steady clock, so that a paused simulation does not silence them.

    Each is named after the node: `lisa: model`, `robot1/lisa: model`.
    """

    def __init__(self, node: Node, statuses: Callable[[], Iterable[DiagnosticStatus]]) -> None:
        self._node = node
        self._statuses = statuses
        self._who = node.get_fully_qualified_name().strip("/")
        self._publisher = node.create_publisher(DiagnosticArray, "/diagnostics", 1)
        clock = Clock(clock_type=ClockType.STEADY_TIME)
        node.create_timer(1.0, self._publish, clock=clock)

    def _publish(self) -> None:
        try:
            message = DiagnosticArray(status=list(self._statuses()))
            for status in message.status:
                status.name, status.hardware_id = f"{self._who}: {status.name}", self._who
            message.header.stamp = self._node.get_clock().now().to_msg()
            self._publisher.publish(message)
        except Exception as error:
            if self._node.context.ok():  # else the node is shutting down
                self._node.get_logger().error(f"diagnostics: {error}", throttle_duration_sec=10.0)


def _status(name: str, level: bytes, message: str, values: Iterable[tuple[str, object]]) -> DiagnosticStatus:
    pairs = [KeyValue(key=key, value=str(value)) for key, value in values]
    return DiagnosticStatus(name=name, level=level, message=message, values=pairs)
