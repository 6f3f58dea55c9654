"""What is published of an answer, and when nothing more of it."""

import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
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
    return heard_by(sent.append)


def heard_by(listener: Callable[[tuple[str, Any]], None], subscribers: int = 1) -> Publications:
    """Publications whose every topic has so many subscribers; topic and message are given to the listener."""

    def create_publisher(_: type, topic: str, *__: object, **___: object) -> SimpleNamespace:
        return SimpleNamespace(
            get_subscription_count=lambda: subscribers,
            publish=lambda message: listener((topic.removeprefix("~/"), message)),
        )

    node: Any = SimpleNamespace(create_publisher=create_publisher)
    return Publications(node)


def publish(publications: Publications, *colours: str) -> None:
    """Publish an answer with a segment for each colour: red is 2 m away, all else 1 m."""
    rgb = scene(1)
    nothing, depth = np.zeros(0, np.float32), found(rgb, "red").astype(np.float32) + 1.0
    masks = [found(rgb, colour) for colour in colours]
    segments = tuple(Segment(mask, 0.9, tight_box(mask), nothing, nothing) for mask in masks)
    answer: Any = SimpleNamespace(text="red", segments=segments)
    picture = Picture(Header(frame_id="optical"), "camera", rgb, depth=depth)
    picture.intrinsics = Intrinsics(500.0, 500.0, 320.0, 240.0)
    publications.add_transform(picture)
    publications.publish(picture, answer, Answer(), [deproject(mask, depth, picture.intrinsics) for mask in masks])


def topics(sent: list[tuple[str, Any]]) -> list[str]:
    return [topic for topic, _ in sent]


def test_an_answer_is_published_while_it_is_open(publications: Publications, sent: list[tuple[str, Any]]) -> None:
    publish(publications, "red")
    assert not sent
    publications.open(None)
    publish(publications, "red")
    assert topics(sent) == ["answer", "text", "mask", "labels", "overlay", "points", "target"]
    assert sent[-1][1].header.frame_id == "optical"
    target: Any = TargetFrame()
    publications.open(target)
    publish(publications, "red")
    assert sent[-1][1].header.frame_id == "base"


def test_the_target_is_the_first_segment(publications: Publications, sent: list[tuple[str, Any]]) -> None:
    publications.open(None)
    for colours, metres in ((("red", "blue"), 2.0), (("blue", "red"), 1.0)):
        publish(publications, *colours)
        assert sent[-1][1].pose.position.z == metres


def test_without_segments_the_points_of_the_answer_before_go(
    publications: Publications, sent: list[tuple[str, Any]]
) -> None:
    publications.open(None)
    publish(publications)
    assert topics(sent) == ["answer", "text", "mask", "labels", "overlay", "points"]
    assert sent[-1][1].width == 0


def test_what_nobody_listens_to_is_not_built(sent: list[tuple[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawn, "draw", None)
    publications = heard_by(sent.append, subscribers=0)
    publications.open(None)
    publish(publications, "red")
    assert not sent


def test_closing_waits_for_the_message_that_is_going_out() -> None:
    """For afterwards the publisher may be gone."""
    waits: list[bool] = []

    def close(_: tuple[str, Any]) -> None:
        if not waits:  # the next message may go out before the one that waits gets its turn
            closer.start()
            closer.join(0.2)  # in vain
            waits.append(closer.is_alive())

    publications = heard_by(close)
    closer = threading.Thread(target=publications.close)
    publications.open(None)
    publish(publications, "red")
    assert waits == [True]


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
    publish(publications, "red")
    assert topics(sent) == ["answer", "text", "mask", "labels"]
    assert target.closed
