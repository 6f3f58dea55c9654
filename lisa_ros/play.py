"""`play`: publishes a bag and its clock, for machines without `ros2 bag`."""

import heapq
import importlib
import math
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn

import rclpy
import typer
from builtin_interfaces.msg import Time
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.serialization import serialize_message
from rclpy.signals import SignalHandlerOptions
from rclpy.utilities import remove_ros_args
from rosgraph_msgs.msg import Clock

from lisa_core.cli import terminal
from lisa_ros.arguments import refuse
from lisa_ros.bag_qos import offered
from lisa_ros.bags import LONGEST, BagReader, Message, Topic, TopicError
from lisa_ros.shared_memory import make_room

CLOCK = "/clock"
FAREWELL = 2.0
"""Seconds to wait at the end until reliable subscribers have the last messages."""
SLOWEST_CLOCK = 0.001
"""Hz; what runs on a clock that ticks more slowly stands still."""
SHORTEST_ROUND = 1 / 40
"""Least seconds between two starts of a loop: a bag with one message takes no time."""
WAIT_INTERVAL = 0.05
"""Seconds between two checks for subscribers."""

app = terminal.program()


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Runs the command and exits, as `terminal.run` says; 0 also if Ctrl-C stopped it."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        own = remove_ros_args(arguments)
    except RuntimeError as error:  # rcl's
        refuse(error)
    terminal.run(app, own, "play", arguments)


@app.command()
def play(
    context: typer.Context,
    bag: Annotated[
        Path,
        typer.Argument(
            metavar="BAG", exists=True, help="The bag: a folder, or one .mcap or .db3 file.", show_default=False
        ),
    ],
    topics: Annotated[
        list[str] | None,
        typer.Option(metavar="TOPIC", help="A topic to publish; may be given several times; default: all."),
    ] = None,
    rate: Annotated[
        float, typer.Option(metavar="X", min=0.001, max=1000, help="How many times faster than it was recorded.")
    ] = 1.0,
    loop: Annotated[bool, typer.Option("--loop", help="From the start again and again; the clock jumps back.")] = False,
    clock: Annotated[
        float, typer.Option(metavar="HZ", min=0, max=1000, help="Hz of /clock, the time of the recording; 0: none.")
    ] = 40.0,
    start_offset: Annotated[
        float, typer.Option(metavar="SECONDS", min=0, max=LONGEST, help="Seconds of the recording to leave out.")
    ] = 0.0,
    wait: Annotated[bool, typer.Option("--wait", help="Begin when each topic, /clock too, has a subscriber.")] = False,
) -> None:
    """Publish a bag, with its clock, as it was recorded.

    Messages go out byte for byte, with the QoS of their recording where the bag says it.
    Who has not found the topics yet misses the first ones, unless you --wait.

    [b]Over and over, for a node that runs on the bag's time[/b]

    $ ros2 run lisa_ros play drive1 --loop

    $ ros2 run lisa_ros lisa_node --ros-args -p use_sim_time:=true
        -r image:=/camera/image -p checkpoint:=xinlai/LISA-7B-v1

    [b]Only the images, twice as fast, under another name[/b]

    $ ros2 run lisa_ros play drive1 --topics /camera/image --rate 2
        --ros-args -r /camera/image:=/image

    [b]Exit codes[/b]: 0 played, or stopped by Ctrl-C; 1 the bag is damaged; 2 wrong usage.
    """
    for name, number in (("--rate", rate), ("--clock", clock), ("--start-offset", start_offset)):
        if not math.isfinite(number):
            raise typer.BadParameter(f"{name} is no finite number")
    if 0 < clock < SLOWEST_CLOCK:
        raise typer.BadParameter(f"--clock is slower than {SLOWEST_CLOCK:g} Hz; 0 is none at all")
    with terminal.told(bag, misuse=(TopicError,)), BagReader(bag) as reader:
        wanted = [reader.require(name) for name in topics] if topics else list(reader.topics.values())
        start = reader.span.start + round(start_offset * 1e9)
        if start > reader.span.end:
            raise typer.BadParameter(f"--start-offset is beyond the end of {bag}")
        _publish(context.obj, reader, wanted, Pace(start, rate, clock), loop=loop, wait=wait)


class Pace:
    """Maps times of the recording to wall-clock times."""

    def __init__(self, start: int, rate: float, clock: float) -> None:
        """`start` is the time of the recording to start at, ns; `clock` the rate of `/clock`, Hz of wall time."""
        self.start = start
        self.clock = clock
        self._rate = rate
        self._began = 0.0

    def begin(self) -> None:
        """Start now."""
        self._began = time.monotonic()

    def wait_for(self, moment: int, stopped: threading.Event) -> bool:
        """Sleeps until that time of the recording, ns; true if Ctrl-C ended it."""
        due = self._began + (moment - self.start) / 1e9 / self._rate
        return stopped.wait(max(0.0, due - time.monotonic()))

    def fill(self, seconds: float, stopped: threading.Event) -> None:
        """Sleeps until that many seconds of wall time have passed since the start."""
        stopped.wait(max(0.0, self._began + seconds - time.monotonic()))

    def ticks(self, end: int) -> Iterator[Message]:
        """The messages of `/clock`, from the start to that time of the recording, ns."""
        if not self.clock:
            return
        step = max(1, round(1e9 * self._rate / self.clock))
        for moment in range(self.start, end + step, step):
            seconds, nanoseconds = divmod(moment, 1_000_000_000)
            tick = Clock(clock=Time(sec=seconds, nanosec=nanoseconds))
            yield Message(CLOCK, moment, serialize_message(tick))


def _publish(
    arguments: Sequence[str], bag: BagReader, topics: Sequence[Topic], pace: Pace, *, loop: bool, wait: bool
) -> None:
    stopped = threading.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, lambda *_: stopped.set())
    make_room()
    try:
        rclpy.init(args=list(arguments), signal_handler_options=SignalHandlerOptions.NO)
    except RuntimeError as error:  # rcl's
        refuse(error)
    try:
        node = rclpy.create_node("play", start_parameter_services=False)
        publishers = _publishers(node, topics, with_clock=pace.clock > 0)
        if wait:
            _wait_for_subscribers(publishers, stopped)
        if not stopped.is_set():
            terminal.say(f"playing {bag.path}: {', '.join(sorted(publishers))}{', Ctrl-C ends it' if loop else ''}")
        while not _play_once(bag, publishers, pace, stopped) and loop:
            pace.fill(SHORTEST_ROUND, stopped)
        if not stopped.is_set():
            for publisher in publishers.values():
                publisher.wait_for_all_acked(Duration(seconds=FAREWELL))
    finally:
        rclpy.shutdown()


def _wait_for_subscribers(publishers: Mapping[str, Publisher], stopped: threading.Event) -> None:
    told = ""
    while not stopped.is_set():
        alone = ", ".join(sorted(name for name, it in publishers.items() if not it.get_subscription_count()))
        if not alone:
            return
        if alone != told:
            terminal.say(f"waiting for a subscriber to {alone}")
            told = alone
        stopped.wait(WAIT_INTERVAL)


def _play_once(bag: BagReader, publishers: Mapping[str, Publisher], pace: Pace, stopped: threading.Event) -> bool:
    """Publishes all messages in the order of the recording; true if Ctrl-C ended it."""
    pace.begin()
    recorded = bag.messages(publishers.keys() - ({CLOCK} if pace.clock else set()), start=pace.start)
    for message in heapq.merge(pace.ticks(bag.span.end), recorded, key=lambda m: m.time):
        if pace.wait_for(message.time, stopped):
            return True
        publishers[message.topic].publish(message.data)
    return stopped.is_set()


def _publishers(node: Node, topics: Sequence[Topic], with_clock: bool) -> dict[str, Publisher]:
    """The publishers by topic; topics whose message type is not installed are left out, with a warning."""
    publishers = {}
    for topic in topics:
        if with_clock and topic.name == CLOCK:
            continue
        kind = message_type(topic.type)
        if kind is None:
            terminal.say(f"left out: {topic.name}, for {topic.type} is no message type that is installed")
            continue
        publishers[topic.name] = node.create_publisher(kind, topic.name, offered(topic))
    if with_clock:
        publishers[CLOCK] = node.create_publisher(Clock, CLOCK, 10)
    return publishers


def message_type(name: str) -> Any:
    """The class of a message type; None if the type is no message, or not installed."""
    match name.split("/"):
        case [package, "msg", kind] if package:
            pass
        case _:  # an action's or a service's type, or none at all
            return None
    try:
        return getattr(importlib.import_module(f"{package}.msg"), kind, None)
    except ModuleNotFoundError:
        return None
