"""The frames of a recorded camera, with the depth and the intrinsics that belong to each."""

import contextlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from builtin_interfaces.msg import Time
from numpy.typing import NDArray
from std_msgs.msg import Header

from lisa_core.answer import Answer
from lisa_core.geometry import Placement, locate
from lisa_ros import conversions
from lisa_ros.bags import BagError, BagReader, Message, TopicError
from lisa_ros.pairing import MOST_APART, Apart, of_one_moment
from lisa_ros.parameters import CameraParameters

IMAGE, COMPRESSED, INFO = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage", "sensor_msgs/msg/CameraInfo"


class _Recorded(NamedTuple):
    """Stamp of a message with a header, ns, and where it is in the recording, as `BagReader.at` takes it."""

    stamp: int
    time: int
    place: int


@dataclass(frozen=True)
class FrameOfBag:
    """A frame to ask about: its number on its topic, from 0, and its image."""

    number: int
    image: _Recorded

    @property
    def stamp(self) -> int:
        """The stamp of its header, ns."""
        return self.image.stamp

    @property
    def time(self) -> int:
        """When it was recorded, ns since 1970."""
        return self.image.time


class Frames:
    """The frames of a bag to ask about, in the order of their recording, and the depth that belongs to them."""

    def __init__(
        self,
        bag: BagReader,
        camera: str,
        depth: str,
        camera_info: str,
        every: float,
        depth_max_dt: float = CameraParameters.depth_max_dt,
    ) -> None:
        """Chooses the frames; raises TopicError if a topic is missing, BagError if there is no frame."""
        self._bag = bag
        self._depth_max_dt = depth_max_dt
        self.unplaced: dict[str, dict[int, str]] = {}
        """Why `placements` found nothing: by the topic that lacks a message, reasons by number of the frame."""
        self.lost: dict[str, int] = {}
        """By topic, the number of messages that the bag says it has, and has not."""
        self.camera = (bag.require(camera, IMAGE, COMPRESSED) if camera else _only_camera(bag)).name
        self._to_rgb = (
            conversions.to_rgb_compressed if bag.topics[self.camera].type == COMPRESSED else conversions.to_rgb
        )
        self.depth = bag.require(depth, IMAGE).name if depth else ""
        self.camera_info = bag.require(camera_info, INFO).name if camera_info else ""
        self._chosen = list(_spaced(self._all_of(self.camera), every))
        if not self._chosen:
            raise BagError(f"{bag.path} has no frame on {self.camera}. {bag.listing()}")
        self._depths = sorted(self._all_of(self.depth))
        self._infos = sorted(self._all_of(self.camera_info))

    def _all_of(self, topic: str) -> list[_Recorded]:
        """All messages of a topic, in the order of their recording; none if no topic is named.

        For a damaged index rosbags passes over messages without a word.
        """
        if not topic:
            return []
        recorded = list(_recorded(self._bag.messages([topic])))
        if (missing := self._bag.topics[topic].messages - len(recorded)) > 0:
            self.lost[topic] = missing
        return recorded

    def __iter__(self) -> Iterator[FrameOfBag]:
        return iter(self._chosen)

    def __len__(self) -> int:
        return len(self._chosen)

    def rgb(self, frame: FrameOfBag) -> NDArray[np.uint8]:
        """(H, W, 3) RGB; raises ImageError or BagError if the encoding is unknown or the image damaged."""
        return self.image(frame)[0]

    def image(self, frame: FrameOfBag) -> tuple[NDArray[np.uint8], Header]:
        """(H, W, 3) RGB as of `rgb`, and the header of the image."""
        image = self._read(self.camera, frame.image)
        stamp = Time(sec=int(image.header.stamp.sec), nanosec=int(image.header.stamp.nanosec))
        return self._to_rgb(image), Header(stamp=stamp, frame_id=image.header.frame_id)

    def placements(self, frame: FrameOfBag, answer: Answer) -> list[Placement | None]:
        """Where each segment is, None if unknown; raises ImageError or BagError if the depth cannot be used.

        If the frame has no depth or no intrinsics, the reason is kept in `unplaced`.
        """
        if not self.depth or not answer.segments:
            return [None] * len(answer.segments)
        lacking, why = self.depth, self._depth_lacks(frame)
        if not why:
            depth = conversions.to_depth(self._read(self.depth, _nearest(self._depths, frame)))
            size = answer.segments[0].mask.shape
            info = self._read(self.camera_info, _nearest(self._infos, frame)) if self._infos else None
            if info and (lens := conversions.intrinsics(info, size)):
                return [locate(segment.mask, depth, lens) for segment in answer.segments]
            lacking, why = self.camera_info, _info_lacks(info, size)
        self.unplaced.setdefault(lacking, {})[frame.number] = f"{lacking} {why}"
        return [None] * len(answer.segments)

    def _depth_lacks(self, frame: FrameOfBag) -> str:
        """Why there is no depth of the frame's moment; empty if there is."""
        if not self._depths:
            return "has no message"
        stamps, receipts = apart = _apart(_nearest(self._depths, frame), frame)
        if of_one_moment(apart, self._depth_max_dt):
            return ""
        if not of_one_moment((stamps, 0.0), self._depth_max_dt):
            return f"is {stamps / 1e9:.3f} s from the image by its stamp; --depth-max-dt is {self._depth_max_dt:g} s"
        return f"was recorded {receipts:.3f} s from the image, more than {MOST_APART:g} s"

    def _read(self, topic: str, recorded: _Recorded) -> Any:
        return self._bag.decode(self._bag.at(topic, recorded.time, recorded.place))


def _only_camera(bag: BagReader) -> Any:
    """The bag's only topic with colour images; raises TopicError if there is none, or more than one."""
    cameras = [topic for topic in bag.topics.values() if topic.messages and _is_colour(bag, topic.name, topic.type)]
    if len(cameras) != 1:
        problem = "several topics with colour images: choose one with --camera" if cameras else "no colour images"
        raise TopicError(f"{bag.path} has {problem}. {bag.listing()}")
    return cameras[0]


def _is_colour(bag: BagReader, name: str, kind: str) -> bool:
    if kind == COMPRESSED:
        return not name.endswith("/compressedDepth")
    if kind != IMAGE:
        return False
    for message in bag.messages([name]):
        with contextlib.suppress(BagError):  # a damaged message does not tell its encoding
            return bag.decode(message).encoding not in conversions.DEPTH_ENCODINGS
    return False


def _info_lacks(info: Any, size: tuple[int, int]) -> str:
    if info is None:
        return "has no message"
    if (info.height, info.width) == tuple(size):
        return "is uncalibrated, or cut or binned to another size than the images"
    return f"is of {info.width}x{info.height} px, or uncalibrated, and images are of {size[1]}x{size[0]} px"


def _recorded(messages: Iterable[Message]) -> Iterator[_Recorded]:
    """The messages of one topic; several may have one time, for a clock may tick slowly, and files may overlap."""
    places = Counter[int]()
    for message in messages:
        yield _Recorded(message.stamp, message.time, places[message.time])
        places[message.time] += 1


def _spaced(images: Iterable[_Recorded], every: float) -> Iterator[FrameOfBag]:
    """The first image, and each one recorded at least `every` seconds after the previous one yielded.

    The recorder's clock may step back between two files of a recording: there it begins anew.
    """
    due = before = 0
    for number, image in enumerate(images):
        if image.time >= due or image.time < before:
            yield FrameOfBag(number, image)
            due = image.time + round(every * 1e9)
        before = image.time


def _nearest(recorded: Sequence[_Recorded], frame: FrameOfBag) -> _Recorded:
    return min(recorded, key=lambda one: _apart(one, frame))


def _apart(recorded: _Recorded, frame: FrameOfBag) -> Apart:
    """By stamp, then by time of recording, which is a bag's receipt and decides if stamps are equal, such as all 0."""
    return (abs(recorded.stamp - frame.stamp), abs(recorded.time - frame.time) / 1e9)
