"""Output of the commands: results on stdout, everything else on stderr."""

import errno
import io
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lisa_core.answer import Answer
from lisa_core.errors import LisaError
from lisa_core.signals import ended_in_order
from lisa_core.template import SEG

_UNREADABLE = "\ufffd"
_CONTROL = {code: _UNREADABLE for code in (*range(32), *range(127, 160), *range(0xD800, 0xE000)) if code not in (9, 10)}

_OF_WRITES = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EPIPE, errno.EBADF)
"""What a write fails with when its target is full or closed."""

GOES_ON = ". The same command goes on once that is remedied."
"""For `told`: after an error of the disk, of commands that take up what is there."""


def program(**more: Any) -> typer.Typer:
    """What `run` runs: a command of its own; `more` goes to Typer."""
    return typer.Typer(
        rich_markup_mode="rich",
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        **more,
    )


def group(about: str) -> typer.Typer:
    """A command of a program that has subcommands."""
    return typer.Typer(help=about, no_args_is_help=True, rich_markup_mode="rich")


def run(app: typer.Typer, argv: Sequence[str] | None, name: str, passed_on: object = None) -> NoReturn:
    """Runs a program and exits.

    0 done, 1 something failed, 2 wrong usage, 130 stopped by Ctrl-C, 143 terminated, 129 hung up.

    Args:
        argv: its arguments; None: the process's.
        name: what it is called, for people.
        passed_on: the context's `obj`.
    """
    code: object = 0
    told = sys.stdout is not None
    _make_streams()
    try:
        with ended_in_order():
            app(args=None if argv is None else list(argv), prog_name=name, obj=passed_on)
    except SystemExit as ended:
        code = ended.code
    except OSError as error:
        if took_all() and not is_of_stdout(error):
            raise
        told = False
    if (took_all() and told) or code:
        raise SystemExit(code)
    complain("Standard output is full or closed; what was to be written there is lost.")
    sys.exit(1)


def _make_streams() -> None:
    """Stands in for streams that are closed, where Python has None, and replaces what an encoding lacks by `?`."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115 - until the process ends
        elif mode == "w" and isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def stdout() -> Console:
    """The console for results."""
    return Console(highlight=False, soft_wrap=True)


@cache
def stderr() -> Console:
    """The console for progress and complaints: one, so that a line that is printed appears above a progress bar."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


def readable(words: str) -> str:
    """The words of a user, with bytes that are not UTF-8 (surrogates in Python) replaced."""
    return words.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def plain(words: str, style: str = "") -> Text:
    """The words without markup; control characters are replaced."""
    return Text(words.translate(_CONTROL), style)


def say(sentence: str) -> None:
    """Prints a remark."""
    stderr().print(plain(sentence))


def complain(sentence: str) -> None:
    """Prints an error."""
    stderr().print(Text("error: ", "bold red"), plain(sentence), sep="")


def fail(sentence: str, code: int = 1) -> NoReturn:
    """Prints an error, and ends the command."""
    complain(sentence)
    raise typer.Exit(code)


@contextmanager
def told(
    place: object,
    *,
    stopped: Callable[[], str] = lambda: "stopped.",
    more: str = "",
    misuse: tuple[type[LisaError], ...] = (),
) -> Iterator[None]:
    """Around the work of a command: ends the command with a sentence if that fails, or if Ctrl-C stops it.

    Args:
        place: what an error of the disk is about that names no file.
        stopped: says what is left after Ctrl-C.
        more: what follows an error of the disk.
        misuse: errors that mean wrong usage.
    """
    try:
        yield
    except KeyboardInterrupt:
        fail(stopped(), 130)
    except LisaError as error:
        fail(str(error), 2 if isinstance(error, misuse) else 1)
    except OSError as error:
        fail(cause(error, place) + more)


def cause(error: OSError, place: object) -> str:
    """The error in words, with its file, or `place` if it names none; an error without a number as it stands."""
    return f"{error.strerror}: {error.filename or place}" if error.strerror else str(error)


def is_of_stdout(error: OSError) -> bool:
    """Whether writing to stdout can have raised this."""
    return error.filename is None and error.errno in _OF_WRITES


def took_all() -> bool:
    """Flushes stdout; if that fails, drops what is left, so that Python does not end with a traceback."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return False
    return True


def segment_style(index: int) -> str:
    """The colour of the segment in pictures."""
    from lisa_core.overlay import colour

    return "bold #{:02x}{:02x}{:02x}".format(*colour(index))


def answer_text(words: str, first: int = 0) -> Text:
    """An answer or a part of one, each [SEG] in the colour of its segment; `first` is the first one's index."""
    text = Text()
    for index, part in enumerate(words.split(SEG)):
        if index:
            text.append(SEG, segment_style(first + index - 1))
        text.append(plain(part))
    return text


def segment_table(answer: Answer, masks: Sequence[str] = ()) -> Table:
    """A table of the segments: number as in the picture, box, area, score, and the files of the masks if given."""
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="dim")
    table.add_column("#", justify="right")
    table.add_column("box (x, y, width, height)", no_wrap=True)
    table.add_column("area", justify="right", no_wrap=True)
    table.add_column("score", justify="right", no_wrap=True)
    if masks:
        table.add_column("mask", overflow="fold")
    for index, segment in enumerate(answer.segments):
        style = segment_style(index)
        cells: list[Text | str] = [
            Text(str(index + 1), style),
            Text(", ".join(map(str, segment.box)), style),
            f"{segment.area} px",
            f"{segment.score:.3f}",
            *([plain(masks[index])] if masks else []),
        ]
        table.add_row(*cells)
    return table
