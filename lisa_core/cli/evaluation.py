"""Shared by the commands of `lisa evaluate`: options, files, and a run that can be resumed."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar

import typer
from rich.table import Table

from lisa_core.cli import terminal
from lisa_core.cli.loading import ModelOptions, loaded
from lisa_core.cli.progress import over_pictures
from lisa_core.cli.terminal import plain
from lisa_core.evaluation import Protocol
from lisa_core.hub import state_of

if TYPE_CHECKING:
    from lisa_core.evaluation.journal import Entry, Journal
    from lisa_core.evaluation.run import Failure

    E = TypeVar("E", bound=Entry)
    R = TypeVar("R")

JsonFile = Annotated[
    Path, typer.Option("--json", metavar="FILE", dir_okay=False, help="Where the results go, as JSON.")
]
CsvFile = Annotated[
    Path | None, typer.Option("--csv", metavar="FILE", dir_okay=False, help="A table, a line for each, too.")
]
Sheet = Annotated[
    Path | None,
    typer.Option(metavar="PNG", dir_okay=False, help="A picture of the worst answers, beside the truth."),
]
How = Annotated[Protocol, typer.Option(help="How the model is asked.")]


@dataclass(frozen=True)
class Targets:
    """The files and folders to write."""

    json: Path
    csv: Path | None
    sheet: Path | None
    masks: Path | None

    @property
    def journal(self) -> Path:
        """File of the finished results during a run."""
        return self.json.with_name(self.json.name + ".journal")

    def written(self, any_results: bool) -> list[Path]:
        """The files and folders that exist after a run."""
        return [path for path in (self.json, self.csv, self.sheet if any_results else None, self.masks) if path]

    def prepare(self, data: Path) -> None:
        """Makes the folders; raises OSError, or BadParameter for a file that would lie among the data."""
        from lisa_core import files

        targets = [path for path in (self.json, self.csv, self.sheet) if path]
        if len({path.resolve() for path in targets}) < len(targets):
            raise typer.BadParameter("two kinds of results cannot go into one file; name a file for each")
        if data.resolve() in {
            folder.resolve() for folder in (*(path.parent for path in targets), self.masks) if folder
        }:
            raise typer.BadParameter(f"{data} has the data that are evaluated; choose another folder for results")
        for path in targets:
            files.prepare(path)
        if self.masks:
            self.masks.mkdir(parents=True, exist_ok=True)


def opening() -> AbstractContextManager[None]:
    """Around opening the data and making the folders: see `terminal.told`."""
    return terminal.told("the results", stopped=lambda: "stopped before anything was evaluated.")


def measure(app_state: Any, model: ModelOptions, journal: Path, evaluation: Callable[[Any], bool]) -> NoReturn:
    """Loads the model, evaluates it and ends the command: with 1 if `evaluation` returns that anything failed."""

    def stopped() -> str:
        goes_on = f"the same command goes on from here, by {journal}" if journal.exists() else "nothing is finished yet"
        return f"stopped; {goes_on}."

    told = terminal.told(journal, stopped=stopped, more=terminal.GOES_ON)
    with told, closing(loaded(app_state, model)) as engine:
        failed = evaluation(engine)
    raise typer.Exit(1 if failed else 0)


def asked_of(engine: Any, model: ModelOptions, max_new_tokens: int) -> dict[str, Any]:
    """The JSON about the model and how it is asked."""
    return {
        "checkpoint": model.checkpoint,
        "precision": engine.precision,
        "device": engine.device,
        "template": engine.template,
        "max_new_tokens": max_new_tokens,
    }


def states(model: ModelOptions) -> dict[str, Any]:
    """What results depend on besides the settings: the model's files."""
    return {"weights": state_of(model.checkpoint), "vision_tower": state_of(model.vision_tower)}


def evaluate_all(
    entries: "Sequence[E]", journal: "Journal[R]", evaluate: "Callable[[Sequence[E]], list[R]]"
) -> "tuple[list[R], list[Failure]]":
    """Evaluates with a progress bar, and complains about each failure; see `lisa_core.evaluation.run`."""
    from lisa_core.evaluation.run import Run

    run = Run(entries, journal, evaluate)
    if run.finished:
        terminal.say(f"going on after {len(run.finished)} of {len(entries)} images of an earlier run")
    with over_pictures(len(entries), len(run.finished)) as progress:

        def on_end(failure: "Failure | None") -> None:
            if failure:
                with progress.paused():
                    terminal.complain(failure.reason)
            progress.advance()

        run.go(progress.current, on_end)
    return run.results, run.failures


def show_table(
    headings: Sequence[str], rows: Sequence[tuple[str | float | None, ...]], written: Sequence[Path]
) -> None:
    """Prints a table of names, numbers and shares, `-` for None, and the files with the details."""
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="dim")
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="right" if number else "left")
    for row in rows:
        table.add_row(
            *("-" if cell is None else f"{cell:.4f}" if isinstance(cell, float) else str(cell) for cell in row)
        )
    console = terminal.stdout()
    console.print(table)
    for path in written:
        console.print(plain(str(path), "dim"))
