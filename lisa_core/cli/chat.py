"""`lisa chat`: a conversation about one picture, in the terminal or over a pipe."""

import contextlib
import io
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from lisa_core.cli import options, ros_bridge, terminal
from lisa_core.cli.loading import ModelOptions, loaded
from lisa_core.cli.terminal import answer_text, plain, readable, segment_table
from lisa_core.errors import Cancelled, ImageError, LisaError
from lisa_core.options import CHECKPOINT, MAX_NEW_TOKENS, MAX_SEGMENTS
from lisa_core.template import SEG

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from lisa_core.answer import Answer
    from lisa_core.answer_files import Names

PROMPT = "> "

_WHERE = "where the answers go"

COMMANDS = {
    "/image PATH": "talk about another picture, from the start",
    "/camera TOPIC": "talk about what a ROS camera sees now",
    "/reset": "forget what was said",
    "/save": "write the conversation as JSON, with its masks",
    "/help": "this list",
    "/quit": "leave; so does Ctrl-D",
}


def chat(
    context: typer.Context,
    image: Annotated[
        Path | None, typer.Argument(metavar="IMAGE", help="The picture to talk about; /image names another.")
    ] = None,
    checkpoint: options.Checkpoint = CHECKPOINT,
    precision: options.Precision = "auto",
    device: options.Device = "",
    vision_tower: options.VisionTower = "",
    template: options.Template = None,
    memory_limit: options.MemoryLimit = 0.0,
    max_new_tokens: options.MaxNewTokens = MAX_NEW_TOKENS,
    max_segments: options.MaxSegments = MAX_SEGMENTS,
    out: options.Out = options.DEFAULT_OUT,
) -> None:
    r"""Talk about a picture: each answer knows what was said before.

    Pictures with the segments are written into --out as they come, and shown
    in terminals that can (kitty, iTerm2, WezTerm, Ghostty).
    Ctrl-C stops an answer; [b]/help[/b] lists what else there is.

    $ lisa chat table.jpg --checkpoint xinlai/LISA-7B-v1

    [b]Over a pipe[/b], one question a line

    $ printf 'Is there a cup?\nSegment it.\n' |
        lisa chat table.jpg --checkpoint xinlai/LISA-7B-v1

    [b]Exit codes[/b]: 0; 1 the model or IMAGE could not be read, or over a
    pipe a question failed; 2 wrong usage; 130 stopped.
    """
    model = ModelOptions(checkpoint, precision, device, vision_tower, template, memory_limit)
    with terminal.told(out):
        rgb = _read(image) if image is not None else None
        out.mkdir(parents=True, exist_ok=True)
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")  # so that bytes that are not UTF-8 reach `readable`
    interactive = sys.stdin.isatty()
    with terminal.told(_WHERE), contextlib.closing(loaded(context.obj, model)) as engine:
        talk = Chat(engine, out, {"max_new_tokens": max_new_tokens, "max_segments": max_segments})
        if interactive:
            talk.greet()
        if image is not None and rgb is not None:
            talk.open(image, rgb)
        failed = _hear(talk, _typed() if interactive else _piped(), interactive)
    raise typer.Exit(1 if failed and not interactive else 0)


@dataclass(frozen=True)
class Turn:
    """One question and its answer."""

    question: str
    answer: "Answer"
    timings: dict[str, float]
    names: "Names"


class Chat:
    """A conversation about one picture."""

    def __init__(self, engine: Any, out: Path, limits: dict[str, int]) -> None:
        from lisa_core.cli import inline

        self._engine = engine
        self._out = out
        self._limits = limits
        self._console = terminal.stdout()
        self._inline = inline.encoder(os.environ) if self._console.is_terminal else None
        self._image: Path | None = None
        self._frame: Any = None
        self._number = 0
        self._turns: list[Turn] = []

    def greet(self) -> None:
        """Prints which model answers."""
        engine = self._engine
        self._console.print(plain(f"{engine.checkpoint}, {engine.precision} on {engine.device}; /help for help", "dim"))

    def open(self, image: Path, rgb: "NDArray[np.uint8]") -> None:
        """Starts a conversation about another picture."""
        with self._console.status("looking"), _interruptible() as cancel:
            frame = self._engine.encode(rgb)
        if cancel.is_set():
            raise KeyboardInterrupt
        self._image, self._frame, self._turns = image, frame, []
        self._number = _last_number(self._out, image.stem)
        height, width = frame.size
        self._console.print(plain(f"{image}, {width}x{height}", "dim"))

    def ask(self, question: str) -> None:
        """Asks, shows the answer while it is generated, and writes the overlay."""
        if self._frame is None:
            raise ImageError("There is no picture to talk about yet: /image PATH names one.")
        history = [(turn.question, turn.answer.text) for turn in self._turns]
        with Words(self._console) as words, _interruptible() as cancel:
            answer = self._engine.ask(
                self._frame,
                question,
                history,
                **self._limits,
                on_token=words.on_token,
                on_stage=words.on_stage,
                cancel=cancel,
            )
        self._add(question, answer)

    def _add(self, question: str, answer: "Answer") -> None:
        from lisa_core import answer_files, files, overlay

        assert self._image is not None
        self._number += 1
        names = answer_files.Names(self._out, f"{self._image.stem}_{self._number:03}")
        self._turns.append(Turn(question, answer, {**self._frame.timings, **answer.timings}, names))
        if not answer.segments:
            return
        self._console.print(segment_table(answer))
        picture = overlay.draw(self._frame.image, answer.segments)
        if self._inline is not None:
            self._console.file.write(self._inline(picture))
        files.write_whole({names.overlay: files.png(picture)})
        self._console.print(plain(str(names.overlay), "dim"))

    def save(self) -> None:
        """Writes the conversation as JSON, with its masks."""
        from lisa_core import answer_files, files

        if not self._turns:
            raise LisaError("Nothing was said yet that could be saved.")
        contents: dict[Path, bytes] = {}
        records = []
        for turn in self._turns:
            contents |= answer_files.masks(turn.names, turn.answer)
            overlay = {"overlay": turn.names.overlay.name} if turn.answer.segments else {}
            records.append(answer_files.record(turn.names, turn.question, turn.answer, turn.timings) | overlay)
        path = self._turns[0].names.json.with_name(f"{self._turns[0].names.name}_chat.json")
        conversation = {"checkpoint": self._engine.checkpoint, "image": str(self._image), "turns": records}
        files.write_whole({**contents, path: answer_files.as_json(conversation)})
        self._console.print(plain(str(path), "dim"))

    def obey(self, line: str) -> None:
        """Runs a command that starts with a slash, except /quit."""
        command, _, argument = line.partition(" ")
        match command:
            case "/image" | "/camera" if not argument.strip():
                raise LisaError(f"Say which: {next(usage for usage in COMMANDS if usage.startswith(command))}.")
            case "/image":
                path = _path(argument.strip().strip("'\""))
                self.open(path, _read(path))
            case "/camera":
                topic = argument.strip()
                with self._console.status(f"waiting for {topic}"):
                    rgb = _snapshot(topic)
                self.open(Path(topic.strip("/").replace("/", "_")), rgb)
            case "/reset":
                self._turns = []
                self._console.print(plain("(forgotten)", "dim"))
            case "/save":
                self.save()
            case "/help":
                table = Table.grid(padding=(0, 3, 0, 0))
                for usage, text in COMMANDS.items():
                    table.add_row(plain(usage, "bold"), text)
                self._console.print(table)
            case _:
                raise LisaError(f"There is no {command}; /help lists what there is.")


class Words:
    """Prints an answer while it is generated, each [SEG] in the colour of its segment."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._waiting = console.status("thinking")
        self._segments = 0
        self._begun = False

    def __enter__(self) -> "Words":
        self._waiting.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end_line()

    def on_token(self, text: str) -> None:
        """Prints the new text of the answer."""
        self._waiting.stop()
        self._console.print(answer_text(text, self._segments), end="")
        self._segments += text.count(SEG)
        self._begun = True

    def on_stage(self, stage: str) -> None:
        """Shows a spinner while the masks are decoded."""
        if stage == "masking":
            self._end_line()
            self._waiting.update("drawing")
            self._waiting.start()

    def _end_line(self) -> None:
        self._waiting.stop()
        if self._begun:
            self._console.print()
        self._begun = False


def _hear(talk: Chat, lines: Iterator[str], interactive: bool) -> int:
    """Answers questions and runs commands until /quit or the end; returns how many failed."""
    failed = 0
    for line in lines:
        words = readable(line).strip()
        if words.split()[:1] == ["/quit"]:
            break
        try:
            if words.startswith("/"):
                talk.obey(words)
            elif words:
                talk.ask(words)
        except (Cancelled, KeyboardInterrupt):
            if not interactive:  # Ctrl-C stops the whole script
                raise KeyboardInterrupt from None
            terminal.stdout().print(plain("(stopped)", "dim"))
        except LisaError as error:
            failed += 1
            terminal.complain(str(error))
        except OSError as error:
            failed += 1
            terminal.complain(terminal.cause(error, _WHERE))
    return failed


def _typed() -> Iterator[str]:
    """The lines typed by a person; Ctrl-D ends them, Ctrl-C discards the current one."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 # gives input() line editing and a history
    while True:
        try:
            yield input(PROMPT)
        except KeyboardInterrupt:
            print("\n(/quit leaves)")
        except EOFError:
            print()
            return


def _piped() -> Iterator[str]:
    """The lines of a pipe or file, echoed so that the output reads like a conversation."""
    console = terminal.stdout()
    for line in sys.stdin:
        if line.strip():
            console.print(plain(PROMPT + readable(line).strip(), "bold"))
        yield line


def _path(name: str) -> Path:
    try:
        return Path(name).expanduser()
    except RuntimeError as error:  # ~ with an unknown user
        raise LisaError(f"{name} cannot be looked at ({error}); give a picture's path.") from error


def _read(image: Path) -> "NDArray[np.uint8]":
    from lisa_core import files

    return files.read_rgb(image)


def _snapshot(topic: str) -> "NDArray[np.uint8]":
    """The next picture on a ROS topic; raises LisaError without ROS, or without a picture."""
    ros = ros_bridge.module("snapshot", "/camera")
    try:
        rgb: NDArray[np.uint8] = ros.snapshot(topic)
    except ValueError as error:  # rclpy: not a topic name
        raise LisaError(f"{topic!r} is no name of a topic ({str(error).splitlines()[0]}).") from error
    return rgb


def _last_number(folder: Path, stem: str) -> int:
    """The highest number of the answers in the folder about a picture of that name; 0 without any."""
    name = re.compile(re.escape(stem) + r"_(\d{3,})_.*")
    return max((int(found[1]) for path in folder.iterdir() if (found := name.fullmatch(path.name))), default=0)


@contextlib.contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """Yields an event that Ctrl-C sets instead of raising KeyboardInterrupt."""
    cancel = threading.Event()
    before = signal.signal(signal.SIGINT, lambda *_: cancel.set())
    try:
        yield cancel
    finally:
        signal.signal(signal.SIGINT, before)
