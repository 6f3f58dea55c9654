"""`play` publishes a bag as it was recorded, with its clock: real processes, over the middleware."""

import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from threading import Thread

import pytest
import rclpy
from harness import PATIENCE, eventually
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message
from rosbags.interfaces import QosDurability, QosHistory, QosReliability
from rosbags.typesys import get_types_from_msg
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import String
from tabletop import BAG, DEPTH, IMAGE, INFO, messages, qos, save
from test_bags import as_sqlite3

from lisa_ros.bag_qos import offered
from lisa_ros.bags import BagReader, Topic, typestore, write_bag
from lisa_ros.play import message_type

KINDS = {IMAGE: Image, DEPTH: Image, INFO: CameraInfo, "/clock": Clock, "/renamed": Image, "/said": String}


class Listener:
    """A node that keeps everything that it hears, as it went over the wire."""

    def __init__(self, topics: Sequence[str], durability: DurabilityPolicy = DurabilityPolicy.VOLATILE) -> None:
        self.heard: dict[str, list[bytes]] = {topic: [] for topic in topics}
        self._context = Context()
        rclpy.init(context=self._context)
        self.node = Node("listener", context=self._context)
        for topic in topics:
            profile = QoSProfile(depth=500, durability=durability)
            self.node.create_subscription(KINDS[topic], topic, self.heard[topic].append, profile, raw=True)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self._thread = Thread(target=self._executor.spin)
        self._thread.start()

    @property
    def clock(self) -> list[int]:
        """The times that were heard on `/clock`, ns."""
        ticks = (deserialize_message(data, Clock).clock for data in list(self.heard["/clock"]))
        return [tick.sec * 10**9 + tick.nanosec for tick in ticks]

    def close(self) -> None:
        self._executor.shutdown()
        self._thread.join()
        self.node.destroy_node()
        rclpy.shutdown(context=self._context)


@pytest.fixture
def listener() -> Iterator[Listener]:
    listener = Listener([IMAGE, DEPTH, INFO, "/clock", "/renamed"])
    yield listener
    listener.close()


def start(*arguments: object, bag: Path = BAG) -> "subprocess.Popen[str]":
    code = "from lisa_ros.play import main; main()"
    command = [sys.executable, "-c", code, str(bag), *map(str, arguments)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def finish(process: "subprocess.Popen[str]", code: int = 0) -> str:
    """Its words, spaces made one, once it has ended with that code."""
    _, words = process.communicate(timeout=PATIENCE)
    assert process.returncode == code, words
    return " ".join(words.split())


def play(*arguments: object, bag: Path = BAG, code: int = 0) -> str:
    return finish(start(*arguments, bag=bag), code)


def recorded(topic: str) -> list[bytes]:
    return [message.data for message in messages() if message.topic == topic]


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_every_message_arrives_in_order_and_byte_for_byte(listener: Listener, tmp_path: Path, storage: str) -> None:
    play("--wait", "--rate", 4, bag=BAG if storage == "mcap" else as_sqlite3(tmp_path / "bag"))
    for topic in (IMAGE, DEPTH, INFO):
        eventually(lambda topic=topic: len(listener.heard[topic]) >= 14, f"14 messages on {topic}")
        for heard, sent in zip(listener.heard[topic], recorded(topic), strict=True):
            # The wire carries multiples of 4 bytes.
            assert heard[: len(sent)] == sent
            assert len(heard) < len(sent) + 4


def test_the_clock_runs_through_the_recording(listener: Listener) -> None:
    play("--wait", "--rate", 4, "--clock", 20)
    with BagReader(BAG) as bag:
        span = bag.span
    ticks = eventually(lambda: listener.clock and listener.clock[-1] >= span.end and listener.clock, "the last tick")
    assert ticks[0] == span.start
    assert ticks == sorted(ticks)
    assert {after - before for before, after in pairwise(ticks)} == {200_000_000}


def test_no_clock_on_demand(listener: Listener) -> None:
    play("--wait", "--rate", 4, "--clock", 0)
    eventually(lambda: len(listener.heard[IMAGE]) == 14, "all images")
    assert listener.clock == []


def test_a_loop_goes_back_in_time_until_ctrl_c(listener: Listener) -> None:
    process = start("--wait", "--rate", 10, "--loop")
    eventually(lambda: len(listener.heard[IMAGE]) > 3 * 14, "three rounds")
    process.send_signal(signal.SIGINT)
    assert "Ctrl-C ends it" in finish(process)
    assert _times_back(listener.clock) >= 3
    # A listener that is kept from its work may miss some, but never gets them in another order.
    frames = [recorded(IMAGE).index(data) for data in listener.heard[IMAGE]]
    assert len(frames) <= 14 * (_times_back(frames) + 1)
    assert set(frames) == set(range(14))


def _times_back(moments: Sequence[int]) -> int:
    return sum(after < before for before, after in pairwise(moments))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_at_once_and_without_a_traceback(number: signal.Signals) -> None:
    process = start("--rate", 0.01)
    assert process.stderr is not None
    process.stderr.readline()
    process.send_signal(number)
    assert "Traceback" not in finish(process)


def test_some_topics_from_some_moment_under_another_name(listener: Listener) -> None:
    chosen = ["--topics", IMAGE, "--start-offset", 2.0]
    play(*chosen, "--wait", "--rate", 4, "--ros-args", "-r", f"{IMAGE}:=/renamed")
    eventually(lambda: len(listener.heard["/renamed"]) >= 7, "seven images")
    assert listener.heard["/renamed"] == recorded(IMAGE)[7:]
    assert not any(listener.heard[topic] for topic in (IMAGE, DEPTH, INFO))


def test_a_clock_in_the_bag_gives_way_to_ours(listener: Listener, tmp_path: Path) -> None:
    store = typestore()
    clock = store.types["rosgraph_msgs/msg/Clock"](store.types["builtin_interfaces/msg/Time"](5, 0))
    with write_bag(tmp_path / "bag", store) as bag:
        bag.add_topic("/clock", "rosgraph_msgs/msg/Clock")
        bag.write("/clock", 10**9, bytes(store.serialize_cdr(clock, "rosgraph_msgs/msg/Clock")))
    play("--wait", bag=tmp_path / "bag")
    assert eventually(lambda: listener.clock, "a tick")[0] == 10**9
    play("--wait", "--clock", 0, bag=tmp_path / "bag")
    eventually(lambda: listener.clock[-1] == 5 * 10**9, "the bag's own clock")


def test_a_type_that_is_not_installed_is_left_out(listener: Listener, tmp_path: Path) -> None:
    store = typestore()
    store.register(get_types_from_msg("int32 data", "foreign_msgs/msg/Thing"))
    thing = store.types["foreign_msgs/msg/Thing"](1)
    with write_bag(tmp_path / "bag", store) as bag:
        bag.add_topic("/thing", "foreign_msgs/msg/Thing")
        bag.add_topic(IMAGE, "sensor_msgs/msg/Image")
        for image in (message for message in messages() if message.topic == IMAGE):
            bag.write("/thing", image.time, bytes(store.serialize_cdr(thing, "foreign_msgs/msg/Thing")))
            bag.write(image.topic, image.time, image.data)
    printed = play("--wait", "--rate", 4, bag=tmp_path / "bag")
    assert "left out: /thing, for foreign_msgs/msg/Thing is no message type that is installed" in printed
    eventually(lambda: listener.heard[IMAGE] == recorded(IMAGE), "all images")


@pytest.mark.parametrize(
    "kind",
    ["std_msgs/String", "lisa_ros/action/ReasonSegment_FeedbackMessage", "std_srvs/srv/Empty_Event", "/msg/X", ""],
)
def test_a_type_that_is_no_messages_cannot_be_played(kind: str) -> None:
    assert message_type(kind) is None
    assert message_type("std_msgs/msg/String") is String


def test_a_loop_over_one_message_does_not_spin(listener: Listener, tmp_path: Path) -> None:
    bag = save(tmp_path / "bag", [message for message in messages() if message.topic == INFO][:1])
    began = time.monotonic()
    process = start("--wait", "--loop", "--clock", 0, bag=bag)
    eventually(lambda: len(listener.heard[INFO]) > 150, "many rounds")
    process.send_signal(signal.SIGINT)
    finish(process)
    assert len(listener.heard[INFO]) <= 1 + 40 * (time.monotonic() - began)


def test_the_quality_of_service_is_that_of_the_recording(tmp_path: Path) -> None:
    best_effort = qos(QosReliability.BEST_EFFORT, QosDurability.VOLATILE, 5)
    latched = qos(QosReliability.RELIABLE, QosDurability.TRANSIENT_LOCAL, 1)
    with write_bag(tmp_path / "bag", typestore()) as writer:
        writer.add_topic("/fast", "sensor_msgs/msg/Image", [best_effort])
        writer.add_topic("/latched", "sensor_msgs/msg/Image", [latched])
        writer.add_topic("/unsaid", "sensor_msgs/msg/Image")
        writer.write("/fast", 0, recorded(IMAGE)[0])
    with BagReader(tmp_path / "bag") as bag:
        profiles = {name: offered(topic) for name, topic in bag.topics.items()}
    got = {name: (profile.reliability, profile.durability, profile.depth) for name, profile in profiles.items()}
    assert got == {
        "/fast": (ReliabilityPolicy.BEST_EFFORT, DurabilityPolicy.VOLATILE, 5),
        "/latched": (ReliabilityPolicy.RELIABLE, DurabilityPolicy.TRANSIENT_LOCAL, 1),
        "/unsaid": (ReliabilityPolicy.RELIABLE, DurabilityPolicy.VOLATILE, 10),
    }
    static = offered(Topic("/tf_static", "tf2_msgs/msg/TFMessage", 1, ()))
    assert static.durability is DurabilityPolicy.TRANSIENT_LOCAL


def test_what_is_latched_is_kept_for_all_its_publishers() -> None:
    reliable, latched, volatile = QosReliability.RELIABLE, QosDurability.TRANSIENT_LOCAL, QosDurability.VOLATILE
    one, two, none = qos(reliable, latched, 1), qos(reliable, latched, 2), qos(QosReliability.BEST_EFFORT, volatile, 5)
    transforms, grids = "tf2_msgs/msg/TFMessage", "nav_msgs/msg/OccupancyGrid"
    topics = {
        Topic("/map", grids, 50, (one,)): 1,
        Topic("/map", grids, 50, (one, two, two)): 5,
        Topic("/tf_static", transforms, 3, (one,)): 3,
        Topic("/tf_static", transforms, 3, (one, two, two)): 5,
        Topic("/robot/tf_static", transforms, 10**6, (one,)): 1000,
        Topic("/tf_static", transforms, 7, ()): 7,
        Topic("/tf_static", transforms, 0, ()): 1,
        Topic("/map", grids, 50, (qos(reliable, latched, 0, QosHistory.KEEP_ALL),)): 50,
        Topic("/map", grids, 50, (qos(reliable, latched, 0, QosHistory.UNKNOWN),)): 10,  # Humble with Fast DDS
        Topic("/map", grids, 50, (none, one)): 1,
    }
    assert {topic: offered(topic).depth for topic in topics} == topics
    assert {offered(topic).durability for topic in topics} == {DurabilityPolicy.TRANSIENT_LOCAL}
    assert {offered(topic).reliability for topic in topics} == {ReliabilityPolicy.RELIABLE}


def test_who_comes_late_gets_what_every_latched_publisher_said_last(tmp_path: Path) -> None:
    store = typestore()
    latched = qos(QosReliability.RELIABLE, QosDurability.TRANSIENT_LOCAL, 1)
    with write_bag(tmp_path / "bag", store) as bag:
        bag.add_topic("/said", "std_msgs/msg/String", [latched] * 3)
        for time, word in enumerate(("one", "two", "three", "much later"), start=1):
            said = store.types["std_msgs/msg/String"](word)
            moment = 10**12 if word == "much later" else time
            bag.write("/said", moment, bytes(store.serialize_cdr(said, "std_msgs/msg/String")))
    process = start("--wait", "--clock", 0, bag=tmp_path / "bag")
    with closing(Listener(["/said"])) as early:
        eventually(lambda: len(early.heard["/said"]) == 3, "all that is said at first")
        with closing(Listener(["/said"], DurabilityPolicy.TRANSIENT_LOCAL)) as late:
            eventually(lambda: late.heard["/said"] == early.heard["/said"], "the same, late")
    process.send_signal(signal.SIGINT)
    finish(process)


def test_wrong_usage(tmp_path: Path) -> None:
    assert "does not exist" in play(bag=tmp_path / "nothing", code=2)
    assert "has no topic /front" in play("--topics", "/front", code=2)
    assert "beyond the end" in play("--start-offset", 60, code=2)
    play("--rate", 0, code=2)
    for option in ("--rate", "--clock", "--start-offset"):
        for number in ("inf", "nan", "1e300"):
            assert re.search(f"Invalid value.*{option}|{option} is no finite number", play(option, number, code=2))
    assert "slower than 0.001 Hz" in play("--clock", "1e-300", "--rate", 100, code=2)
    assert "parse remap rule" in play("--ros-args", "-r", "/camera/image", code=2)


def test_nothing_is_said_that_a_terminal_would_obey() -> None:
    said = play("--topics", "/\x1b[2J[b]front", code=2)
    assert "\x1b[2J" not in said
    assert "/\ufffd[2J[b]front" in said


def test_a_damaged_bag(tmp_path: Path) -> None:
    (tmp_path / "bag.mcap").write_bytes((BAG / "tabletop_bag.mcap").read_bytes()[:100_000])
    assert "cut off or damaged" in play(bag=tmp_path / "bag.mcap", code=1)
