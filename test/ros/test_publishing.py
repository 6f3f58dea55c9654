"""What is published of an answer, and when nothing more of it."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from geometry_msgs.msg import PoseStamped
from lisa_ros.msg import Answer
from scenes import found, scene
from std_msgs.msg import Header

from lisa_core import Segment
from lisa_core import overlay as drawn
from lisa_core.answer import tight_box
from lisa_core.geometry import Intrinsics, deproject
from lisa_ros.pictures import Picture
from lisa_ros.publishing import Publications


class TargetFrame:
    """Moves poses to `base` until it is closed."""

    def __init__(self) -> None:
        self.closed = False

    def find(self, header: Header) -> None:
        """Has none yet."""

    def __call__(self, pose: PoseStamped, found: None = None) -> PoseStamped:
        return PoseStamped(header=Header(frame_id="base"), pose=pose.pose)

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def sent() -> list[tuple[str, Any]]:
    """What was published: topic and message."""
    return []


@pytest.fixture
def publications(sent: list[tuple[str, Any]]) -> Publications:
    def create_publisher(_: type, topic: str, *__: object, **___: object) -> SimpleNamespace:
        return SimpleNamespace(
            get_subscription_count=lambda: 1, publish=lambda message: sent.append((topic.removeprefix("~/"), message))
        )

    node: Any = SimpleNamespace(create_publisher=create_publisher)
    return Publications(node)


def publish(publications: Publications) -> None:
    rgb = scene(1)
    mask, nothing = found(rgb, "red"), rgb[:0, 0, 0].astype("float32")
    answer: Any = SimpleNamespace(text="red", segments=(Segment(mask, 0.9, tight_box(mask), nothing, nothing),))
    picture = Picture(Header(frame_id="optical"), "camera", rgb, depth=mask.astype("float32") + 1.0)
    picture.intrinsics = Intrinsics(500.0, 500.0, 320.0, 240.0)
    publications.add_transform(picture)
    publications.publish(picture, answer, Answer(), [deproject(mask, picture.depth, picture.intrinsics)])


def topics(sent: list[tuple[str, Any]]) -> list[str]:
    return [topic for topic, _ in sent]


def test_an_answer_is_published_while_it_is_open(publications: Publications, sent: list[tuple[str, Any]]) -> None:
    publish(publications)
    assert not sent
    publications.open(None)
    publish(publications)
    assert topics(sent) == ["answer", "text", "mask", "labels", "overlay", "points", "target"]
    assert sent[-1][1].header.frame_id == "optical"
    target: Any = TargetFrame()
    publications.open(target)
    publish(publications)
    assert sent[-1][1].header.frame_id == "base"


@pytest.mark.parametrize("reopened", [False, True])
def test_nothing_of_an_answer_goes_out_once_it_was_closed(
    publications: Publications, sent: list[tuple[str, Any]], monkeypatch: pytest.MonkeyPatch, reopened: bool
) -> None:
    def closing(draw: Callable[..., Any], *what: Any) -> Any:
        """Another thread closes it while the overlay is drawn."""
        publications.close()
        if reopened:
            publications.open(None)
        return draw(*what)

    draw = drawn.draw
    monkeypatch.setattr(drawn, "draw", lambda *what: closing(draw, *what))
    target: Any = TargetFrame()
    publications.open(target)
    publish(publications)
    assert topics(sent) == ["answer", "text", "mask", "labels"]
    assert target.closed
