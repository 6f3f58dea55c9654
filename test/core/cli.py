"""The command `lisa` in this process."""

from dataclasses import dataclass

from goldens import TOWER
from typer.testing import CliRunner

from lisa_core.cli import app
from lisa_core.late import load_engine


@dataclass
class Result:
    """What a command printed, without its line breaks, and how it ended."""

    code: int
    out: str
    errors: str


def run(*arguments, load=load_engine, typed=None):
    """Runs the command with these words, and this input."""
    end = CliRunner(env={"COLUMNS": "300", "TERM": "dumb"}).invoke(
        app, list(map(str, arguments)), input=typed, obj=load
    )
    if end.exception is not None and not isinstance(end.exception, SystemExit):
        raise end.exception
    return Result(end.exit_code, " ".join(end.stdout.split()), " ".join(end.stderr.split()))


def model(checkpoint):
    """The options that name a checkpoint of the goldens."""
    return ("--checkpoint", checkpoint, "--vision-tower", TOWER)
