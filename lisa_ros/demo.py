"""`make demo`: a picture goes in through a camera's topic, a question through the service, words and masks come out.

The node runs in a process of its own, in a ROS domain and namespace of its own, so that no robot's graph is disturbed.
"""

import ctypes
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NoReturn

import numpy as np
import rclpy
import typer
from ament_index_python.packages import get_package_prefix
from numpy.typing import NDArray
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from rich.table import Table
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from lisa_core import files, overlay
from lisa_core.answer import Answer, Segment
from lisa_core.cli import terminal
from lisa_core.cli.terminal import answer_text, plain, segment_table
from lisa_core.errors import ImageError
from lisa_core.options import Precision
from lisa_ros.client import AskError, Reply, ask
from lisa_ros.conversions import image_message
from lisa_ros.questions import Code

GOLDENS = Path(__file__).resolve().parent.parent / "test" / "data" / "goldens"
CHECKPOINT = GOLDENS / "lisa-tiny-v1-vicuna"
VISION_TOWER = GOLDENS / "clip-vit-tiny-patch14"
IMAGE = GOLDENS / "images" / "portrait_360x640.png"
QUESTION = "Please segment the two cups on the table."

PATIENCE = 20.0
"""Seconds without a node that loads its model, after which no answer is waited for any longer."""
CLOSING = 5.0
"""Seconds that the node has to end."""
RATE = 10.0
"""Hz of the camera."""
PR_SET_PDEATHSIG = 1
"""Of Linux's prctl(2)."""
LAST_LINES = 20
"""Of the node's log, shown when something fails."""

app = typer.Typer(add_completion=False, rich_markup_mode="rich", pretty_exceptions_enable=False)


class DemoError(Exception):
    """The demo cannot go on; the sentence says why."""


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Runs the demo and exits: 0 answered, 1 something failed, 2 wrong usage, 130 stopped by Ctrl-C."""
    app(args=None if argv is None else list(argv), prog_name="lisa_demo")
    sys.exit(0)


@app.command()
def demo(
    checkpoint: Annotated[
        str,
        typer.Option(metavar="MODEL", help="The LISA model: a folder or a hub id; default: a tiny one of the tests."),
    ] = "",
    vision_tower: Annotated[
        str, typer.Option(metavar="MODEL", help="Folder or hub id of CLIP; default: what the checkpoint names.")
    ] = "",
    precision: Annotated[Precision, typer.Option(help="Of the weights; auto: nf4 on a GPU, fp32 on the CPU.")] = "nf4",
    image: Annotated[Path, typer.Option(metavar="FILE", help="The picture that the camera sees.")] = IMAGE,
    question: Annotated[str, typer.Option("--question", "-q", metavar="TEXT", help="What to ask.")] = QUESTION,
    out: Annotated[
        Path, typer.Option(metavar="DIR", file_okay=False, help="Folder for the overlay picture and the node's log.")
    ] = Path("demo_out"),
) -> None:
    """Ask one question over ROS 2: starts the node and a camera, prints the answer, writes the picture, ends.

    [b]Exit codes[/b]: 0 answered; 1 something failed; 2 wrong usage.
    """
    is_golden = not checkpoint
    if is_golden and not CHECKPOINT.is_dir():
        raise typer.BadParameter("name a model with --checkpoint: the tests' own is in a checkout only")
    parameters = {
        "checkpoint": checkpoint or str(CHECKPOINT),
        "vision_tower": vision_tower or (str(VISION_TOWER) if is_golden else ""),
        "precision": precision,
    }
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    signal.signal(signal.SIGHUP, lambda *_: sys.exit(128 + signal.SIGHUP))
    try:
        out.mkdir(parents=True, exist_ok=True)
        rgb = files.read_rgb(image)
        with own_graph() as graph, RunningNode(graph, parameters, out / "node.log") as running:
            answer = answer_of(seen_and_asked(graph, running, rgb, question))
        picture = out / f"{image.stem}_overlay.png"
        captioned = overlay.caption(overlay.draw(rgb, answer.segments), question, answer.text)
        files.write_whole({picture: files.png(captioned)})
    except (DemoError, ImageError) as error:
        terminal.fail(str(error))
    except OSError as error:
        terminal.fail(f"{error.strerror}: {error.filename}")
    _report(question, answer, picture)
    if is_golden:
        terminal.stdout().print(
            "\nThe weights of this checkpoint are random: its words are learnt by heart, and its masks mean nothing."
            "\nWhat this shows is the way from a camera to an answer. For one that means something:"
            "\n  make demo ARGS='--checkpoint xinlai/LISA-7B-v1'"
        )


@dataclass(frozen=True)
class Graph:
    """A ROS graph that nobody else is in."""

    domain: int
    namespace: str

    @property
    def server(self) -> str:
        """The full name of the node in it."""
        return f"{self.namespace}/lisa"


@contextmanager
def own_graph() -> Iterator[Graph]:
    """A graph on this machine only, for this process and those that it starts; ROS is up inside."""
    taken = int(os.environ.get("ROS_DOMAIN_ID") or 0)
    graph = Graph(
        domain=random.choice([number for number in range(1, 102) if number != taken]),
        namespace=f"/demo_{os.getpid()}",  # whoever else may have chosen the domain
    )
    os.environ["ROS_DOMAIN_ID"] = str(graph.domain)
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    if os.environ.get("ROS_DISTRO") == "humble":  # which does not know the range
        os.environ["ROS_LOCALHOST_ONLY"] = "1"
    with tempfile.TemporaryDirectory() as logs:
        os.environ["ROS_LOG_DIR"] = logs
        rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
        try:
            yield graph
        finally:
            rclpy.shutdown()


class RunningNode:
    """The node in a process of its own, which ends with the block, whatever happens in it."""

    def __init__(self, graph: Graph, parameters: Mapping[str, str], log: Path) -> None:
        """`parameters` are texts; `log` gets what the node says."""
        executable = Path(get_package_prefix("lisa_ros"), "lib", "lisa_ros", "lisa_node")
        settings = [part for name, value in parameters.items() for part in ("-p", f"{name}:={json.dumps(value)}")]
        self._command = [sys.executable, str(executable), "--ros-args", "-r", f"__ns:={graph.namespace}", *settings]
        self._log = log

    def __enter__(self) -> "RunningNode":
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                self._command,
                stdout=log,
                stderr=log,
                start_new_session=True,  # so that Ctrl-C comes to the demo alone, which then ends the node
                preexec_fn=_end_with_parent,  # noqa: PLW1509 - no thread holds a lock that it needs
            )
        return self

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(CLOSING)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def check(self) -> None:
        """Raises DemoError if the node has ended."""
        if self._process.poll() is not None:
            raise self.error(f"The node ended with exit code {self._process.returncode}.")

    def error(self, sentence: str) -> DemoError:
        """What went wrong, with what the node said last."""
        lines = self._log.read_text(errors="replace").splitlines()[-LAST_LINES:]
        return DemoError("\n".join([f"{sentence} The node's last words ({self._log}):", *lines]))


def _end_with_parent() -> None:
    """Called in the node's process: Ctrl-C comes from the kernel when the demo ends without a word, on Linux."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGINT)


class Camera:
    """Publishes a picture on the topic `image`, over and over."""

    def __init__(self, node: Node, rgb: NDArray[np.uint8]) -> None:
        """From now on, while the node is spun."""
        self._clock = node.get_clock()
        self._message = image_message(rgb, "rgb8", Header(frame_id="camera"))
        self._publisher = node.create_publisher(Image, "image", 1)
        node.create_timer(1 / RATE, self._publish)

    def _publish(self) -> None:
        self._message.header.stamp = self._clock.now().to_msg()
        self._publisher.publish(self._message)


def seen_and_asked(graph: Graph, running: RunningNode, rgb: NDArray[np.uint8], question: str) -> Reply:
    """The node's answer about a picture that a camera plays, once the node has loaded its model.

    Raises:
        DemoError: there was none in time.
    """
    node = rclpy.create_node("demo", namespace=graph.namespace)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    try:
        Camera(node, rgb)
        return _asked(executor, node, graph, running, question)
    finally:
        executor.shutdown()
        node.destroy_node()


def _asked(executor: SingleThreadedExecutor, node: Node, graph: Graph, running: RunningNode, question: str) -> Reply:
    async def attempt() -> Reply | AskError:
        try:
            return await ask(node, question, server=graph.server)
        except AskError as error:  # which would end the spinning
            return error

    deadline = time.monotonic() + PATIENCE
    with terminal.stderr().status("the node starts") as status:
        while True:
            outcome = executor.create_task(attempt)
            while not outcome.done():
                running.check()
                executor.spin_once(timeout_sec=0.1)
            reply = outcome.result()
            if isinstance(reply, Reply):
                return reply
            status.update(plain(str(reply)))
            if reply.code == Code.LOADING:  # a large model takes its time
                deadline = time.monotonic() + PATIENCE
            elif reply.code not in (Code.NO_FRAME, Code.TIMEOUT) or time.monotonic() > deadline:
                raise running.error(f"The node did not answer: {str(reply).rstrip('.')}.")


def answer_of(reply: Reply) -> Answer:
    """The answer as `lisa_core` has it, but for what no message carries: tokens, timings, embeddings and logits."""
    nothing = np.zeros(0, np.float32)
    segments = []
    for message, mask in zip(reply.answer.segments, reply.masks, strict=True):
        roi = message.roi
        box = (roi.x_offset, roi.y_offset, roi.width, roi.height)
        segments.append(Segment(mask, message.score, box, nothing, nothing))
    return Answer(reply.text, tuple(segments))


def _report(question: str, answer: Answer, picture: Path) -> None:
    console = terminal.stdout()
    words = Table.grid(padding=(0, 2, 0, 0))
    words.add_row(plain("question", "dim"), plain(question))
    words.add_row(plain("answer", "dim"), answer_text(answer.text))
    words.add_row(plain("picture", "dim"), plain(str(picture)))
    console.print(words)
    if answer.segments:
        console.print("", segment_table(answer), sep="\n")
