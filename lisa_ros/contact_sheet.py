"""A contact sheet: for each question the picture with its masks, the answer, and the positions."""

from collections.abc import Sequence
from dataclasses import dataclass

from lisa_core import overlay
from lisa_core.answer import Box
from lisa_core.overlay import Panel, Picture
from lisa_core.template import SEG
from lisa_ros.client import Reply
from lisa_ros.msg import Segment


@dataclass(frozen=True, eq=False)
class Shown:
    """An answered question.

    Attributes:
        source: name of the picture, for people.
        rgb: that picture, (H, W, 3) uint8.
    """

    question: str
    source: str
    rgb: Picture
    reply: Reply


def box(segment: Segment) -> Box:
    """The segment's tight box, px."""
    roi = segment.roi
    return (roi.x_offset, roi.y_offset, roi.width, roi.height)


def position(segment: Segment) -> str:
    """The segment's position, to the millimetre; `unknown` without depth."""
    if not segment.has_position:
        return "unknown"
    at = segment.position
    return f"({at.x:.3f}, {at.y:.3f}, {at.z:.3f}) m"


def contact_sheet(answers: Sequence[Shown]) -> Picture:
    """One panel per answer, in their order; takes at least one answer."""
    return overlay.contact_sheet([_panel(shown) for shown in answers])


def _panel(shown: Shown) -> Panel:
    picture = overlay.draw(shown.rgb, overlay.regions(shown.reply.masks))
    return Panel(shown.question, picture, shown.reply.text, _where(shown))


def _where(shown: Shown) -> str:
    answer = shown.reply.answer
    if not any(segment.has_position for segment in answer.segments):
        return shown.source
    positions = ", ".join(f"{SEG} {position(segment)}" for segment in answer.segments)
    return f"{shown.source}: {positions} in {answer.header.frame_id}"
