"""Bags without a ROS graph: MCAP and sqlite3, read and written through `rosbags`, our own message types included."""

import glob
import itertools
import re
import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from rosbags.highlevel import AnyReader
from rosbags.interfaces import Qos
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from lisa_core.errors import LisaError
from lisa_ros.pairing import stamp_of


class BagError(LisaError):
    """A bag cannot be read or written; the sentence names the file, the cause and the remedy."""


class TopicError(BagError):
    """The bag has no such topic, or one of another type; the sentence lists those that it has."""


class Topic(NamedTuple):
    """What a bag says about one of its topics.

    Attributes:
        type: as ROS names it, e.g. `sensor_msgs/msg/Image`.
        messages: how many there are.
        qos: what its recorded publishers offered; empty where the recording does not say.
    """

    name: str
    type: str
    messages: int
    qos: tuple[Qos, ...]


class Message(NamedTuple):
    """One recorded message.

    Attributes:
        time: when it was recorded, ns since 1970.
        data: CDR, as it went over the wire.
        place: how many of its topic were recorded before it at that same time, as by a clock that ticks slowly.
    """

    topic: str
    time: int
    data: bytes
    place: int = 0

    @property
    def stamp(self) -> int:
        """The stamp of its header, ns; only for types that begin with a `std_msgs/Header`. 0 if it is cut off."""
        return stamp_of(self.data)


def typestore() -> Typestore:
    """The types of ROS 2 Jazzy and those of this package, from its own `.msg` files."""
    store = get_typestore(Stores.ROS2_JAZZY)
    for file in sorted(_message_folder().glob("*.msg")):
        store.register(get_types_from_msg(file.read_text(), f"lisa_ros/msg/{file.stem}"))
    return store


def _message_folder() -> Path:
    """Where this package's `.msg` files lie: in the share folder beside the installed package, or in the checkout.

    Not asked of the ament index: a bag can be read with no ROS sourced.
    """
    here = Path(__file__)
    candidates = [*(parent / "share/lisa_ros/msg" for parent in here.parents), here.parents[1] / "msg"]
    for folder in candidates:
        if (folder / "Answer.msg").is_file():
            return folder
    raise BagError(f"share/lisa_ros/msg is nowhere above {here}: install the package, its messages included.")


@dataclass(frozen=True)
class Span:
    """Of a recording, ns since 1970: the times of the first and the last message."""

    start: int
    end: int


class BagReader:
    """A bag that is open for reading: a folder with `metadata.yaml`, or a single `.mcap` or `.db3` file.

    with BagReader(path) as bag:
        for message in bag.messages(["/camera/image"]):
            image = bag.decode(message)

    Raises BagError wherever the bag turns out to be missing, cut off or damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.topics: dict[str, Topic] = {}

    def __enter__(self) -> "BagReader":
        if not self.path.exists():
            raise BagError(f"There is no bag at {self.path}.")
        if self.path.is_dir() and not (self.path / "metadata.yaml").is_file():
            raise BagError(
                f"{self.path} has no metadata.yaml: no bag, or a recording that was never closed; "
                "for the latter, `ros2 bag reindex` writes one."
            )
        _check_openable(self.path)
        with self._damage_named():
            self._reader = AnyReader([self.path], default_typestore=typestore())
            if not self._reader.is2:
                raise BagError(f"{self.path} is a bag of ROS 1: `rosbags-convert` makes one of ROS 2 from it.")
            self._reader.open()
        for connection in self._reader.connections:
            earlier = self.topics.get(connection.topic, Topic(connection.topic, connection.msgtype, 0, ()))
            self.topics[connection.topic] = Topic(
                earlier.name,
                earlier.type,
                earlier.messages + connection.msgcount,
                (*earlier.qos, *getattr(connection.ext, "offered_qos_profiles", ())),
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._reader.close()

    @property
    def span(self) -> Span:
        """When the recording begins and ends; raises BagError for a bag without messages."""
        if not self._reader.message_count:
            raise BagError(f"{self.path} has no messages.")
        return Span(self._reader.start_time, self._reader.end_time - 1)

    def require(self, name: str, *types: str) -> Topic:
        """The topic of that name (with or without the first slash); raises TopicError if it has none of the types."""
        topic = self.topics.get("/" + name.lstrip("/"))
        if topic is None:
            raise TopicError(f"{self.path} has no topic {name}. {self.listing()}")
        if types and topic.type not in types:
            raise TopicError(f"{topic.name} is of type {topic.type}, not {' or '.join(types)}. {self.listing()}")
        return topic

    def listing(self) -> str:
        """The bag's topics with their types, for people."""
        if not self.topics:
            return "It has no topics."
        lines = [f"  {topic.name}  {topic.type}  ({topic.messages})" for _, topic in sorted(self.topics.items())]
        return "\n".join(["Its topics, with types and numbers of messages:", *lines])

    def messages(self, topics: Collection[str], start: int | None = None, stop: int | None = None) -> Iterator[Message]:
        """The messages of these topics in the order of their recording, from start (ns) to before stop."""
        with self._damage_named():
            connections = [connection for connection in self._reader.connections if connection.topic in topics]
            if not connections:  # none would mean all
                return
            newest: dict[str, Message] = {}
            for connection, time, data in self._reader.messages(connections, start, stop):
                before = newest.get(connection.topic)
                place = before.place + 1 if before and before.time == time else 0
                newest[connection.topic] = message = Message(connection.topic, time, bytes(data), place)
                yield message

    def at(self, topic: str, time: int, place: int) -> Message:
        """The message of that topic, time and place, one of those that `messages` gave before."""
        return next(itertools.islice(self.messages([topic], time, time + 1), place, None))

    def decode(self, message: Message) -> Any:
        """The message with the fields that ROS gives it; arrays are numpy. Raises BagError if its bytes are damaged."""
        with self._damage_named():
            return self._reader.deserialize(message.data, self.topics[message.topic].type)

    @contextmanager
    def _damage_named(self) -> Iterator[None]:
        # What rosbags raises on damaged files is whatever the damaged bytes lead to, down to a TypeError of ord().
        try:
            yield
        except BagError:
            raise
        except Exception as error:
            if why := _beyond_rosbags(self.path, error):
                raise BagError(
                    f"{self.path} cannot be read by rosbags ({why}): `ros2 bag convert` makes a bag in MCAP from it."
                ) from error
            raise BagError(
                f"{self.path} is cut off or damaged ({error}). If its recording was interrupted, "
                "`ros2 bag reindex` (sqlite3) or `mcap recover` saves what is there."
            ) from error


def _is_sqlite3(bag: Path) -> bool:
    return bag.suffix == ".db3" or any(bag.glob("*.db3"))


def _check_openable(bag: Path) -> None:
    """Raises BagError for sqlite3 under a path that rosbags takes for another: it stands in a URI as it is."""
    found = re.search(r"[#?]|%[0-9A-Fa-f]{2}", str(bag))
    if found and _is_sqlite3(bag):
        raise BagError(
            f"{bag} cannot be read by rosbags, for there is a {found[0]} in its path: rename the file or folder."
        )


def _beyond_rosbags(bag: Path, error: Exception) -> str:
    """What rosbags does not know in a bag that is in order; empty if the bag is damaged."""
    if isinstance(error, KeyError) and error.args in (("",), ("unknown",)) and _is_sqlite3(bag):
        return "one of its topics has no message definition"  # its encoding is looked up
    return str(error) if "not supported" in str(error) else ""


class BagWriter:
    """A bag that is being written; made by `write_bag`."""

    def __init__(self, writer: Writer, store: Typestore) -> None:
        self._writer = writer
        self._store = store
        self._connections: dict[str, Any] = {}

    def add_topic(self, name: str, kind: str, qos: Collection[Qos] = ()) -> None:
        """Announces a topic of that type; `qos` is what a player is to offer for it."""
        self._connections[name] = self._writer.add_connection(
            name, kind, typestore=self._store, offered_qos_profiles=list(qos)
        )

    def write(self, topic: str, time: int, data: bytes) -> None:
        """Adds a serialised (CDR) message of an announced topic, recorded at that time, ns since 1970."""
        self._writer.write(self._connections[topic], time, data)


@contextmanager
def write_bag(path: Path, store: Typestore) -> Iterator[BagWriter]:
    """Writes an MCAP bag, compressed with zstd, that appears at `path` once it is whole, and never before.

    What was there before is replaced then. `store` knows the types of all topics.
    """
    path = path.resolve()  # a link stays one
    # rosbags names the file in a bag after the bag's folder, so it has to have its name from the start.
    path.parent.mkdir(parents=True, exist_ok=True)
    workshop = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent))
    try:
        writer = Writer(workshop / path.name, version=8, storage_plugin=StoragePlugin.MCAP)
        writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
        with writer:
            yield BagWriter(writer, store)
        if path.exists():
            shutil.rmtree(path)
        (workshop / path.name).rename(path)
    finally:
        shutil.rmtree(workshop, ignore_errors=True)


def discard_unfinished(path: Path) -> None:
    """Removes what was left by a `write_bag` of that path that was killed; no other may be at work on it."""
    path = path.resolve()
    for workshop in path.parent.glob(f".{glob.escape(path.name)}.{'?' * 8}.partial"):  # so long is mkdtemp's part
        shutil.rmtree(workshop, ignore_errors=True)
