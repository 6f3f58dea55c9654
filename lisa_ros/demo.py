"""`make demo`: plays a recorded camera, asks the node by its service, and shows texts, masks and positions.

The node runs in its own process, in a ROS domain and namespace of its own, so that no robot's graph is disturbed.
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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NoReturn

import numpy as np
import rclpy
import typer
from ament_index_python.packages import get_package_prefix, get_package_share_directory
from numpy.typing import NDArray
from rclpy.executors import SingleThreadedExecutor
from rclpy.signals import SignalHandlerOptions
from rich.table import Table
from rich.text import Text

from lisa_core import files
from lisa_core.cli import options, terminal
from lisa_core.cli.terminal import answer_text, plain, readable, segment_style
from lisa_core.errors import LisaError
from lisa_core.options import CHECKPOINT
from lisa_core.signals import postponed
from lisa_ros import recording
from lisa_ros.client import AskError, Reply, ask
from lisa_ros.contact_sheet import Shown, box, contact_sheet, position
from lisa_ros.msg import Answer
from lisa_ros.questions import Code
from lisa_ros.recording import Recording
from lisa_ros.shared_memory import make_room

QUESTIONS = (
    "Segment the blue mug.",
    "What could I read?",
    "Where is the handle of the knife?",
    "Please find the scissors.",
    "Which fruit is rich in potassium? Explain why.",
)
"""About the recording: by name and colour, by use, for a part, for a missing thing, and with a reason."""

PAUSE = 0.6
"""Seconds between two questions, while the camera moves on."""
PATIENCE = 20.0
"""Seconds to wait for an answer; they start anew as long as the node is loading its model."""
ARRIVAL = 10.0
"""Seconds in which a question is asked again if its frame had no depth: a loaded machine may lose messages."""
CLOSING = 5.0
"""Seconds to wait for the node to end."""
PR_SET_PDEATHSIG = 1
"""Option of Linux's prctl(2)."""
LAST_LINES = 20
"""Lines of the node's log that are shown when something fails."""

app = terminal.program()


class DemoError(LisaError):
    """The demo cannot continue; the message says why, with the end of the node's log."""


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Runs the demo and exits, as `terminal.run` says."""
    terminal.run(app, argv, "lisa_demo")


@app.command()
def demo(
    checkpoint: options.Checkpoint = CHECKPOINT,
    vision_tower: options.VisionTower = "",
    precision: options.Precision = "auto",
    image: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A picture to ask about instead of the recording.", show_default=False),
    ] = None,
    question: Annotated[
        list[str] | None,
        typer.Option(
            "--question",
            "-q",
            metavar="TEXT",
            help="What to ask instead; may be given several times.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option(metavar="DIR", file_okay=False, help="Folder for the contact sheet and the node's log.")
    ] = Path("demo_out"),
) -> None:
    """Ask some questions over ROS 2: starts the node and a recorded camera, prints the answers, writes a picture, ends.

    [b]Exit codes[/b]: 0 answered; 1 something failed; 2 wrong usage; 130 stopped.
    """
    if image is not None and not question:
        raise typer.BadParameter("say with --question what to ask about the picture")
    model = {"checkpoint": checkpoint, "vision_tower": vision_tower, "precision": precision}
    sheet = out / "contact_sheet.png"
    try:
        out.mkdir(parents=True, exist_ok=True)
        shown = []
        with answering(image, model, out / "node.log") as answer:
            for words in question or QUESTIONS:
                shown.append(answer(readable(words)))
                _report(shown[-1])
        files.write_whole({sheet: files.png(contact_sheet(shown))})
    except LisaError as error:
        terminal.fail(str(error))
    except OSError as error:
        if terminal.is_of_stdout(error):
            raise
        terminal.fail(terminal.cause(error, out))
    terminal.stdout().print(plain("picture ", "dim"), plain(str(sheet)))
    if checkpoint == CHECKPOINT:
        terminal.stdout().print(
            "\nThe model in the package is small and knows rendered tables like this one only. For your own pictures:"
            "\n  make demo ARGS='--checkpoint xinlai/LISA-7B-v1 --image FILE --question TEXT'"
        )


@contextmanager
def answering(image: Path | None, model: Mapping[str, str], log: Path) -> Iterator[Callable[[str], Shown]]:
    """Runs the node, and yields a function that answers a question.

    Args:
        image: the picture to ask about; None: the newest frame of the recording, which is played meanwhile.
        model: parameters of the node.
        log: file for the node's output.

    Raises:
        DemoError: the node did not answer.
        BagError, ImageError: the recording or the picture cannot be read.
    """
    if image is not None:
        rgb = files.read_rgb(image)
        with own_graph() as graph, RunningNode(graph, model, log) as running, Asker(graph, running) as asker:
            yield lambda question: Shown(question, image.name, rgb, asker.ask(question, rgb))
        return
    camera = Recording(Path(get_package_share_directory("lisa_ros"), "demo_bag"))
    parameters = {**model, **recording.PARAMETERS}
    with own_graph() as graph, RunningNode(graph, parameters, log) as running, Asker(graph, running) as asker:
        camera.play(asker.node)

        def answer(question: str) -> Shown:
            asker.spin(PAUSE)
            deadline = time.monotonic() + ARRIVAL
            while True:
                reply = asker.ask(question)
                located = all(segment.has_position or not segment.area for segment in reply.answer.segments)
                if located or time.monotonic() > deadline:
                    return Shown(question, *camera.frame(reply.answer.header.stamp), reply)

        yield answer


@dataclass(frozen=True)
class Graph:
    """A ROS graph of this process and its children."""

    domain: int
    namespace: str

    @property
    def server(self) -> str:
        """The full name of the node."""
        return f"{self.namespace}/lisa"


@contextmanager
def own_graph() -> Iterator[Graph]:
    """Sets up a graph on this machine only, for this process and its children, and initialises ROS in it."""
    taken = os.environ.get("ROS_DOMAIN_ID", "").strip().lstrip("0")  # whatever it is
    graph = Graph(
        domain=random.choice([number for number in range(1, 102) if str(number) != taken]),
        namespace=f"/demo_{os.getpid()}",  # in case somebody else uses that domain, too
    )
    os.environ["ROS_DOMAIN_ID"] = str(graph.domain)
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    if os.environ.get("ROS_DISTRO") == "humble":  # which does not know the range
        os.environ["ROS_LOCALHOST_ONLY"] = "1"
    with tempfile.TemporaryDirectory() as logs:
        os.environ["ROS_LOG_DIR"] = logs
        make_room()
        rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
        try:
            yield graph
        finally:
            rclpy.shutdown()


class RunningNode:
    """The node in a process of its own, which ends with the block."""

    def __init__(self, graph: Graph, parameters: Mapping[str, str], log: Path) -> None:
        """`parameters` are texts; `log` is the file for the node's output."""
        executable = Path(get_package_prefix("lisa_ros"), "lib", "lisa_ros", "lisa_node")
        settings = [part for name, value in parameters.items() for part in ("-p", f"{name}:={json.dumps(value)}")]
        self._command = [sys.executable, str(executable), "--ros-args", "-r", f"__ns:={graph.namespace}", *settings]
        self._log = log

    def __enter__(self) -> "RunningNode":
        with self._log.open("wb") as log, postponed():
            self._process = subprocess.Popen(
                self._command,
                stdout=log,
                stderr=log,
                start_new_session=True,  # so that Ctrl-C reaches the demo only, which then ends the node
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
        """The error with that sentence, and the last lines of the node's log."""
        lines = self._log.read_text(errors="replace").splitlines()[-LAST_LINES:]
        return DemoError("\n".join([f"{sentence} The node's last words ({self._log}):", *lines]))


def _end_with_parent() -> None:
    """Called in the node's process: on Linux, the kernel sends it SIGINT when the demo dies."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGINT)


class Asker:
    """Asks the running node, by a node of its own that lives until the block ends."""

    def __init__(self, graph: Graph, running: RunningNode) -> None:
        """The running node may still be loading its model."""
        self.node = rclpy.create_node("demo", namespace=graph.namespace)
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self.node)
        self._server = graph.server
        self._running = running

    def __enter__(self) -> "Asker":
        return self

    def __exit__(self, *_: object) -> None:
        self._executor.shutdown()
        self.node.destroy_node()

    def spin(self, seconds: float) -> None:
        """Spins for that many seconds, so that the camera plays on."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self._executor.spin_once(timeout_sec=deadline - time.monotonic())

    def ask(self, question: str, rgb: NDArray[np.uint8] | None = None) -> Reply:
        """The answer about that picture, or the camera's newest one; waits until the node has loaded its model.

        Raises:
            DemoError: the node ended, or did not answer in time.
        """

        async def attempt() -> Reply | AskError:
            try:
                return await ask(self.node, question, image=rgb, server=self._server)
            except AskError as error:  # raised here, it would end the spinning
                return error

        deadline = time.monotonic() + PATIENCE
        with terminal.stderr().status("waiting for the node") as status:
            while True:
                outcome = self._executor.create_task(attempt)
                self._executor.spin_once(timeout_sec=0.1)  # begins it: Python warns of a coroutine that never ran
                while not outcome.done():
                    self._running.check()
                    self._executor.spin_once(timeout_sec=0.1)
                reply = outcome.result()
                if isinstance(reply, Reply):
                    return reply
                status.update(plain(str(reply)))
                if reply.code == Code.LOADING:  # a large model takes its time
                    deadline = time.monotonic() + PATIENCE
                elif reply.code not in (Code.NO_FRAME, Code.TIMEOUT) or time.monotonic() > deadline:
                    raise self._running.error(f"The node did not answer: {str(reply).rstrip('.')}.")


def _report(shown: Shown) -> None:
    console = terminal.stdout()
    words = Table.grid(padding=(0, 2, 0, 0))
    words.add_row(plain("question", "dim"), plain(shown.question))
    words.add_row(plain("answer", "dim"), answer_text(shown.reply.text))
    words.add_row(plain("about", "dim"), plain(shown.source))
    console.print(words)
    if shown.reply.answer.segments:
        console.print(_segment_table(shown.reply.answer))
    console.print()


def _segment_table(answer: Answer) -> Table:
    """Number (as in the picture), box, score and position of each segment."""
    frame = answer.header.frame_id
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="dim")
    table.add_column("#", justify="right")
    table.add_column("box", no_wrap=True)
    table.add_column("score", justify="right", no_wrap=True)
    table.add_column(plain(f"position in {frame}" if frame else "position"))
    for index, segment in enumerate(answer.segments):
        style = segment_style(index)
        table.add_row(
            Text(str(index + 1), style),
            Text(", ".join(map(str, box(segment))), style),
            f"{segment.score:.3f}",
            position(segment),
        )
    return table
