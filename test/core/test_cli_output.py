"""What a program does where its streams are closed, full, or of an encoding that lacks its letters."""

import errno
import os
import subprocess
import sys

import pytest
import typer

from lisa_core.cli import terminal
from lisa_core.errors import DatasetError, ImageError

PROGRAM = """
import sys
from pathlib import Path

from lisa_core.cli import terminal

app = terminal.program()

@app.command()
def say(words: str) -> None:
    Path("done").touch()
    terminal.stdout().print(words + sys.stdin.read())
    if words == "fail":
        terminal.fail("This failed.", 7)

terminal.run(app, None, "say")
"""


@pytest.fixture
def say(tmp_path):
    """Runs the program on words, in a shell that redirects its streams; returns how it ended."""

    def run(words, redirection, **environment):
        ended = subprocess.run(
            ["sh", "-c", f'"$@" {redirection}', "sh", sys.executable, "-c", PROGRAM, words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            cwd=tmp_path,
            env=os.environ | environment,
            timeout=60,
        )
        assert (tmp_path / "done").exists()
        assert b"Traceback" not in ended.stderr
        assert b"Exception ignored" not in ended.stderr
        return ended

    return run


@pytest.mark.parametrize("redirection", [">&-", ">/dev/full"])
def test_output_that_is_lost_is_told(say, redirection):
    ended = say("cup", redirection)
    assert ended.returncode == 1
    assert b"error: Standard output is full or closed; what was to be written there is lost." in ended.stderr


@pytest.mark.parametrize("redirection", [">&-", ""])
def test_a_failure_keeps_its_exit_code(say, redirection):
    ended = say("fail", redirection)
    assert ended.returncode == 7
    assert b"error: This failed." in ended.stderr


def test_no_complaints_can_be_heard(say):
    assert say("fail", "2>&-").returncode == 7


def test_nothing_can_be_typed(say):
    ended = say("cup", "<&-")
    assert (ended.returncode, ended.stdout) == (0, b"cup\n")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_letters_that_the_encoding_lacks(say, encoding):
    ended = say("cup \u2615", "", PYTHONIOENCODING=encoding)
    assert (ended.returncode, ended.stdout) == (0, b"cup ?\n")


@pytest.mark.parametrize(
    ("error", "sentence", "code"),
    [
        (KeyboardInterrupt(), "stopped; half is there.", 130),
        (ImageError("It is dark."), "It is dark.", 1),
        (DatasetError("It is empty."), "It is empty.", 2),
        (OSError(errno.ENOSPC, "No room"), "No room: results. The same command goes on once that is remedied.", 1),
        (OSError(errno.EIO, "Broken", "a"), "Broken: a. The same command goes on once that is remedied.", 1),
    ],
)
def test_what_ends_a_command_is_told(capsys, error, sentence, code):
    told = terminal.told(
        "results", stopped=lambda: "stopped; half is there.", more=terminal.GOES_ON, misuse=(DatasetError,)
    )
    with pytest.raises(typer.Exit) as ended, told:
        raise error
    assert ended.value.exit_code == code
    assert capsys.readouterr().err == f"error: {sentence}\n"


def test_a_bug_is_not_told():
    with pytest.raises(ZeroDivisionError), terminal.told("results"):
        raise ZeroDivisionError
