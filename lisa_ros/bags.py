"""Reads bags (MCAP, sqlite3) and writes them (MCAP) with `rosbags`, without ROS; knows this package's messages."""

import errno
import itertools
import re
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from rosbags.interfaces import Qos
from rosbags.rosbag2 import CompressionFormat, CompressionMode, Reader, StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from lisa_core import files
from lisa_core.errors import LisaError
from lisa_ros.pairing import stamp_of

LONGEST = 1e9
"""Seconds that are more than any recording lasts, and few enough to be counted in ns."""


class BagError(LisaError):
    """A bag cannot be read or written; the sentence names the file, the cause and the remedy."""


class TopicError(BagError):
    """The bag has no such topic, or one of another type; the message lists its topics."""


class Topic(NamedTuple):
    """A topic of a bag.

    Attributes:
        type: as ROS names it, e.g. `sensor_msgs/msg/Image`.
        messages: their number.
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
        data: CDR, as sent over the wire.
    """

    topic: str
    time: int
    data: bytes

    @property
    def stamp(self) -> int:
        """The stamp of its header, ns; 0 if cut off. Only for types that begin with a `std_msgs/Header`."""
        return stamp_of(self.data)


def typestore() -> Typestore:
    """The message types of ROS 2 Jazzy, and those in this package's `.msg` files."""
    store = get_typestore(Stores.ROS2_JAZZY)
    for file in sorted(_message_folder().glob("*.msg")):
        store.register(get_types_from_msg(file.read_text(), f"lisa_ros/msg/{file.stem}"))
    return store


def _message_folder() -> Path:
    """The folder of this package's `.msg` files: share/lisa_ros beside the installed package, or the checkout.

    Found without the ament index, so that bags can be read with no ROS sourced.
    """
    here = Path(__file__)
    candidates = [*(parent / "share/lisa_ros/msg" for parent in here.parents), here.parents[1] / "msg"]
    for folder in candidates:
        if (folder / "Answer.msg").is_file():
            return folder
    raise BagError(f"share/lisa_ros/msg is nowhere above {here}: install the package, its messages included.")


@dataclass(frozen=True)
class Span:
    """The times of the first and the last message of a recording, ns since 1970."""

    start: int
    end: int


class BagReader:
    """Reads a bag: a folder with `metadata.yaml`, or a single `.mcap` or `.db3` file.

    with BagReader(path) as bag:
        for message in bag.messages(["/camera/image"]):
            image = bag.decode(message)

    Every method raises BagError if the bag turns out to be missing, cut off or damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.topics: dict[str, Topic] = {}

    def __enter__(self) -> "BagReader":
        with self._trouble_named():
            _check_readable(self.path)
            self._reader = Reader(self.path)
            self._reader.open()
        self._store = typestore()
        # Those of the files, for rosbags finds no messages of a topic whose QoS was edited in metadata.yaml.
        storages = getattr(self._reader.storage, "storages", [self._reader.storage])
        self._connections = [connection for storage in storages for connection in storage.connections]
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
            raise BagError(f"{self.path} has no messages; record another.")
        return Span(self._reader.start_time, self._reader.end_time - 1)

    def require(self, name: str, *types: str) -> Topic:
        """The topic with that name (the first slash is optional); raises TopicError if missing or of another type."""
        topic = self.topics.get(name) or self.topics.get("/" + name.lstrip("/"))
        if topic is None:
            raise TopicError(f"{self.path} has no topic {name}. {self.listing()}")
        if types and topic.type not in types:
            raise TopicError(f"{topic.name} is of type {topic.type}, not {' or '.join(types)}. {self.listing()}")
        return topic

    def listing(self) -> str:
        """The bag's topics with types and numbers of messages, for people."""
        if not self.topics:
            return "It has no topics."
        lines = [f"  {topic.name}  {topic.type}  ({topic.messages})" for _, topic in sorted(self.topics.items())]
        return "\n".join(["Its topics, with types and numbers of messages:", *lines])

    def messages(self, topics: Collection[str], start: int | None = None, stop: int | None = None) -> Iterator[Message]:
        """The messages of these topics in the order of their recording, from `start` (ns) to before `stop`."""
        with self._trouble_named():
            connections = [connection for connection in self._connections if connection.topic in topics]
            if not connections:  # rosbags takes none for all
                return
            for connection, time, data in self._reader.messages(connections, start, stop):
                yield Message(connection.topic, time, bytes(data))

    def at(self, topic: str, time: int, place: int) -> Message:
        """Of that topic's messages of that time the one at that place, from 0, in the order of `messages`."""
        return next(itertools.islice(self.messages([topic], time, time + 1), place, None))

    def decode(self, message: Message) -> Any:
        """The decoded message, with ROS's field names and numpy arrays; raises BagError if its bytes are damaged.

        Only for types of `typestore`, by its definitions; those in the bag are not looked at.
        """
        with self._trouble_named():
            return self._store.deserialize_cdr(message.data, self.topics[message.topic].type)

    @contextmanager
    def _trouble_named(self) -> Iterator[None]:
        # On damaged files rosbags raises whatever the bytes lead to, even a TypeError of ord().
        try:
            yield
        except BagError:
            raise
        except Exception as error:
            raise BagError(_trouble(self.path, error)) from error


def _check_readable(bag: Path) -> None:
    """Raises BagError for what is no bag, and OSError or BagError for one that rosbags could not open."""
    if not bag.exists():
        raise BagError(f"There is no bag at {bag}; give its folder, or one .mcap or .db3 file.")
    if bag.is_dir():
        if not (bag / "metadata.yaml").is_file():
            raise BagError(
                f"{bag} has no metadata.yaml: no bag, or a recording that was never closed; "
                "for the latter, `ros2 bag reindex` writes one."
            )
    elif bag.suffix == ".bag":
        raise BagError(f"{bag} is a bag of ROS 1: `rosbags-convert` makes one of ROS 2 from it.")
    elif bag.suffix not in (".mcap", ".db3"):
        raise BagError(f"{bag} is no bag: give a folder with a metadata.yaml, or one .mcap or .db3 file.")
    for file in bag.glob("*.db3") if bag.is_dir() else [bag] if bag.suffix == ".db3" else []:
        file.open("rb").close()  # sqlite3 would not say why it cannot
        if found := re.search(r"[#?]|%[0-9A-Fa-f]{2}", str(bag)):  # rosbags puts it into a URI unquoted
            raise BagError(
                f"{bag} cannot be read by rosbags, for there is a {found[0]} in its path: rename the file or folder."
            )


def _trouble(bag: Path, error: Exception) -> str:
    """What was wrong when rosbags raised that error; says that the bag is damaged only if it is nothing else."""
    if beyond := _beyond_rosbags(error):
        return f"{bag} cannot be read by rosbags ({beyond[0]}): {beyond[1]}."
    cause = error if isinstance(error, OSError) else error.__cause__
    if isinstance(cause, PermissionError):
        return f"{cause.filename or bag} may not be read ({cause.strerror}): ask its owner for the permission."
    if isinstance(cause, OSError) and cause.errno not in (None, errno.EINVAL):  # EINVAL: damage led before the start
        if cause.filename is None and any(bag.glob("*.zstd")):
            return (
                f"{bag} is compressed and cannot be unpacked in {tempfile.tempdir or 'a temporary folder'} "
                f"({cause.strerror}): make room there, or name another folder in TMPDIR."
            )
        return f"{cause.filename or bag} cannot be read ({cause.strerror}): see to its disk, or copy it to another."
    return (
        f"{bag} is cut off or damaged ({error}). If its recording was interrupted, "
        "`ros2 bag reindex` (sqlite3) or `mcap recover` saves what is there."
    )


def _beyond_rosbags(error: Exception) -> tuple[str, str] | None:
    """What rosbags cannot read in an undamaged bag, and the remedy; None if that is not the trouble."""
    if isinstance(error, KeyError) and error.args in (("",), ("unknown",)):  # it looks up the definition's encoding
        remedy = "`ros2 bag convert` with a list of `topics:` that leaves it out makes a bag that can be"
        return "one of its topics has no message definition", remedy
    if "not in timestamp order" in str(error):
        return "its messages are in no order and have no index", "`mcap recover` makes a file with an index from it"
    if "not supported" in str(error) or "Profile is not ros2" in str(error):
        return str(error).rstrip("."), "`ros2 bag convert` makes a bag in MCAP from it"
    return None


class BagWriter:
    """Writes a bag; made by `write_bag`."""

    def __init__(self, writer: Writer, store: Typestore) -> None:
        self._writer = writer
        self._store = store
        self._connections: dict[str, Any] = {}

    def add_topic(self, name: str, kind: str, qos: Collection[Qos] = ()) -> None:
        """Adds a topic of that type; `qos` is what a player should offer for it."""
        self._connections[name] = self._writer.add_connection(
            name, kind, typestore=self._store, offered_qos_profiles=list(qos)
        )

    def write(self, topic: str, time: int, data: bytes) -> None:
        """Adds a serialised (CDR) message to an added topic; `time` is that of its recording, ns since 1970."""
        self._writer.write(self._connections[topic], time, data)


@contextmanager
def write_bag(path: Path, store: Typestore) -> Iterator[BagWriter]:
    """Writes an MCAP bag, compressed with zstd, which appears at `path` only when it is complete.

    It replaces the bag that was there. `store` has to know the types of all topics.
    """
    path = path.resolve()  # so that a link stays a link
    # rosbags names the file in a bag after the bag's folder, so the folder has its final name from the start.
    with files.workshop(path) as workshop:
        writer = Writer(workshop / path.name, version=8, storage_plugin=StoragePlugin.MCAP)
        writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
        with writer:
            yield BagWriter(writer, store)
        old = workshop / f"{path.name}.old"
        if path.exists():
            path.rename(old)  # so that a kill never leaves a part of it at `path`
        try:
            (workshop / path.name).rename(path)
        except BaseException:
            if old.exists():
                old.rename(path)
            raise
