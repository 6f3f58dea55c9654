"""The bag in `test/data`, its ground truth, and an engine that answers with that truth."""

import json
import threading
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rosbags.interfaces import Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime

from lisa_core import Answer, PromptError, Segment
from lisa_core.answer import tight_box
from lisa_ros.bags import BagReader, Message, typestore, write_bag

BAG = Path(__file__).parents[1] / "data" / "tabletop_bag"
IMAGE, DEPTH, INFO = "/camera/image", "/camera/depth", "/camera/camera_info"


@cache
def truth() -> Any:
    """`things` (name, size and where they stand) and `frames` (stamp, camera pose and what is seen where, metres)."""
    return json.loads((BAG / "truth.json").read_text())


@cache
def labels() -> NDArray[np.uint8]:
    """(frames, H, W): i + 1 on thing i, 0 elsewhere."""
    return np.load(BAG / "labels.npz")["labels"]


@cache
def frame_numbers() -> dict[bytes, int]:
    """The number of each frame in the bag, by the bytes of its picture."""
    with BagReader(BAG) as bag:
        return {bag.decode(message).data.tobytes(): i for i, message in enumerate(bag.messages([IMAGE]))}


def messages(path: Path = BAG) -> list[Message]:
    """All messages of a bag in the order of their recording."""
    with BagReader(path) as bag:
        return list(bag.messages(bag.topics))


def save(path: Path, contents: Iterable[Message], **other_types: str) -> Path:
    """A bag of these messages; topics have the types that they have in the bag in `test/data`, or `other_types`.

    The topics of `other_types` are in it without messages, too.
    """
    contents = list(contents)
    with BagReader(BAG) as bag:
        types = {topic.name: topic.type for topic in bag.topics.values()} | other_types
    with write_bag(path, typestore()) as writer:
        for name in sorted({message.topic for message in contents} | other_types.keys()):
            writer.add_topic(name, types[name])
        for message in contents:
            writer.write(message.topic, message.time, message.data)
    return path


def qos(
    reliability: QosReliability,
    durability: QosDurability,
    depth: int,
    history: QosHistory = QosHistory.KEEP_LAST,
) -> Qos:
    """What a publisher offers that promises nothing about time."""
    forever = QosTime(2147483647, 4294967295)
    automatic = QosLiveliness.AUTOMATIC
    return Qos(history, depth, reliability, durability, forever, forever, automatic, forever, False)


def changed(message: Message, **fields: Any) -> Message:
    """The message with other values in these fields."""
    store = typestore()
    with BagReader(BAG) as bag:
        kind = bag.topics[message.topic].type
    content = store.deserialize_cdr(message.data, kind)
    for name, value in fields.items():
        setattr(content, name, value)
    return message._replace(data=bytes(store.serialize_cdr(content, kind)))


class TabletopEngine:
    """Answers about the pictures of the bag with true masks of the things that the question names."""

    checkpoint, precision, device = "tabletop", "fp32", "cpu"

    def __init__(self, checkpoint: str, **options: Any) -> None:
        self.options = {"checkpoint": checkpoint, **options}

    def encode(self, rgb: NDArray[np.uint8]) -> int:
        """The number of the picture in the bag."""
        return frame_numbers()[rgb.tobytes()]

    def ask(
        self,
        frame: int,
        instruction: str,
        history: Sequence[tuple[str, str]] = (),
        *,
        max_new_tokens: int = 512,
        max_segments: int = 16,
        mask_only: bool = False,
        on_token: Callable[[str], None] | None = None,
        on_stage: Callable[[str], None] | None = None,
        cancel: threading.Event | None = None,
    ) -> Answer:
        """One segment for each thing that is named, in the order of the truth; "unspeakable" is an error."""
        if "unspeakable" in instruction:
            raise PromptError("that cannot be asked: ask something else")
        named = [i for i, thing in enumerate(truth()["things"], start=1) if thing["name"] in instruction]
        segments = tuple(_segment(labels()[frame] == i) for i in named)
        marks = " and ".join(["[SEG]"] * len(segments)) or "nowhere"
        return Answer("[SEG]." if mask_only else f"It is {marks}.", segments)

    def close(self) -> None:
        """Nothing to give back."""


def _segment(mask: NDArray[np.bool_]) -> Segment:
    nothing = np.zeros(0, np.float32)
    return Segment(mask, 0.875, tight_box(mask), nothing, nothing)
