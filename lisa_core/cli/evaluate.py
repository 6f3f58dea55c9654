"""`lisa evaluate`: how good a model is on a data set; one command for each kind of data set."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from lisa_core.cli import options, terminal
from lisa_core.cli.loading import ModelOptions, loaded
from lisa_core.cli.progress import over_pictures
from lisa_core.cli.terminal import plain
from lisa_core.errors import LisaError
from lisa_core.evaluation import Protocol
from lisa_core.options import MAX_NEW_TOKENS

if TYPE_CHECKING:
    from lisa_core.evaluation.journal import Journal
    from lisa_core.evaluation.reasonseg import Entry, Split
    from lisa_core.evaluation.report import Failure
    from lisa_core.evaluation.runner import Result

app = typer.Typer(help="Measure how good a model is on a data set.", no_args_is_help=True, rich_markup_mode="rich")


@app.callback()
def _evaluate() -> None:
    """Keeps the data set's kind in the command line, though there is one kind only."""


@app.command()
def reasonseg(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The data set, or the folder of one split.")],
    json_file: Annotated[
        Path, typer.Option("--json", metavar="FILE", dir_okay=False, help="Where the results go, as JSON.")
    ],
    split: Annotated[
        str, typer.Option(metavar="NAME", help="train, val, test; default: val, or DIR itself if it has no val.")
    ] = "",
    protocol: Annotated[Protocol, typer.Option(help="How the model is asked.")] = "teacher-forced",
    csv_file: Annotated[
        Path | None, typer.Option("--csv", metavar="FILE", dir_okay=False, help="A table of the images, too.")
    ] = None,
    sheet: Annotated[
        Path | None,
        typer.Option(metavar="PNG", dir_okay=False, help="A picture of the worst images, beside the ground truth."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", file_okay=False, help="Folder for the masks, <image>_mask.png.")
    ] = None,
    checkpoint: options.Checkpoint = "",
    precision: options.Precision = "auto",
    device: options.Device = "",
    vision_tower: options.VisionTower = "",
    template: options.Template = None,
    memory_limit: options.MemoryLimit = 0.0,
    max_new_tokens: options.MaxNewTokens = MAX_NEW_TOKENS,
) -> None:
    """Measure gIoU and cIoU on a folder in ReasonSeg's format.

    The folder of a split has pictures, and beside each a JSON file with the
    question and polygons.

    [b]teacher-forced[/b] is the published protocol: "[SEG]." is taken for the answer.
    [b]generated[/b] lets the model answer; all masks of its answer count as one.

    Stopped, or killed: the same command goes on where it was. What is finished
    is in FILE.journal until all images are evaluated.

    [b]The published benchmark[/b]

    $ lisa evaluate reasonseg ReasonSeg --split val --json val.json
        --checkpoint xinlai/LISA-13B-llama2-v1 --sheet worst.png

    [b]Exit codes[/b]: 0 all evaluated; 1 a file failed, and the rest was
    evaluated; 2 wrong usage; 130 stopped.
    """
    from lisa_core.evaluation.reasonseg import open_split

    model = ModelOptions(checkpoint, precision, device, vision_tower, template, memory_limit)
    targets = Targets(json_file, csv_file, sheet, out)
    try:
        pictures = open_split(folder, split)
        targets.prepare(pictures.folder)
    except LisaError as error:
        terminal.fail(str(error))
    except OSError as error:
        terminal.fail(f"{error.strerror}: {error.filename}")
    engine = loaded(context.obj, model)
    try:
        failed = _evaluate_split(engine, pictures, Asking(protocol, max_new_tokens), model, targets)
    except KeyboardInterrupt:
        terminal.fail(f"stopped; the same command goes on from here, by {targets.journal}.", 130)
    except LisaError as error:
        terminal.fail(str(error))
    except OSError as error:
        path = error.filename or targets.journal
        terminal.fail(f"{error.strerror}: {path}. The same command goes on once that is remedied.")
    finally:
        engine.close()
    raise typer.Exit(1 if failed else 0)


@dataclass(frozen=True)
class Asking:
    """How the model is asked: the options of `runner.evaluate`."""

    protocol: Protocol
    max_new_tokens: int


@dataclass(frozen=True)
class Targets:
    """The files to write."""

    json: Path
    csv: Path | None
    sheet: Path | None
    masks: Path | None

    @property
    def journal(self) -> Path:
        """What is finished, while a run is under way."""
        return self.json.with_name(self.json.name + ".journal")

    def prepare(self, data: Path) -> None:
        """Makes the folders; raises OSError, or BadParameter for a file that would get between the data."""
        folders = [path.parent for path in (self.json, self.csv, self.sheet) if path]
        for folder in (*folders, self.masks) if self.masks else folders:
            if folder.resolve() == data.resolve():
                raise typer.BadParameter(f"{data} has the data that are evaluated; choose another folder for results")
            folder.mkdir(parents=True, exist_ok=True)


def _evaluate_split(engine: Any, split: "Split", asking: Asking, model: ModelOptions, targets: Targets) -> bool:
    """Evaluates, writes and shows; whether anything failed."""
    from lisa_core.evaluation.journal import Journal, state_of

    settings = {
        "split": str(split.folder),
        "protocol": asking.protocol,
        "checkpoint": model.checkpoint,
        "precision": engine.precision,
        "device": engine.device,
        "template": engine.template,
        "max_new_tokens": asking.max_new_tokens,
    }
    weights = {"weights": state_of(model.checkpoint), "vision_tower": state_of(model.vision_tower)}
    for fault in split.faults:
        terminal.complain(fault)
    with Journal(targets.journal, settings | weights) as journal:
        results, failures = _evaluate_all(engine, split, asking, journal)
        _write(targets, settings, split, results, failures)
        failed = bool(failures or split.faults)
        if not failed:  # else, what was finished need not be repeated once the rest is remedied
            journal.delete()
    _show(results, targets)
    return failed


def _evaluate_all(
    engine: Any, split: "Split", asking: Asking, journal: "Journal"
) -> tuple[list["Result"], list["Failure"]]:
    """What came of each entry, in their order; of those that an earlier run has finished, too."""
    from lisa_core.evaluation.report import Failure
    from lisa_core.evaluation.runner import evaluate

    finished = {entry.name: result for entry in split.entries if (result := journal.find(entry))}
    failures: list[Failure] = []
    if finished:
        terminal.stderr().print(f"going on after {len(finished)} of {len(split.entries)} images of an earlier run")
    with over_pictures(len(split.entries), len(finished)) as progress:
        for entry in split.entries:
            if entry.name in finished:
                continue
            progress.current(entry.name)
            try:
                result = evaluate(engine, entry, asking.protocol, asking.max_new_tokens)
                journal.add(entry, result)
                finished[entry.name] = result
            except LisaError as error:
                failures.append(Failure(entry.name, _sentence(entry, error)))
                with progress.paused():
                    terminal.complain(failures[-1].reason)
            progress.advance()
    return [finished[entry.name] for entry in split.entries if entry.name in finished], failures


def _sentence(entry: "Entry", error: LisaError) -> str:
    named = str(error).startswith((str(entry.picture), str(entry.annotation)))
    return str(error) if named else f"{entry.picture}: {error}"


def _write(
    targets: Targets,
    settings: Mapping[str, Any],
    split: "Split",
    results: Sequence["Result"],
    failures: Sequence["Failure"],
) -> None:
    """Writes all files or none; raises OSError."""
    from lisa_core import files
    from lisa_core.cli.results import as_json, stems
    from lisa_core.evaluation import report

    contents: dict[Path, bytes] = {}
    if targets.masks:
        names = stems([entry.picture for entry in split.entries])
        for result in results:
            contents[targets.masks / f"{names[split.folder / result.image]}_mask.png"] = result.mask_png
    if targets.csv:
        contents[targets.csv] = report.as_csv(results)
    if targets.sheet and results:
        contents[targets.sheet] = report.sheet(split.entries, results)
    contents[targets.json] = as_json(report.summary(settings, results, failures, split.faults, split.explanations))
    files.write_whole(contents)


def _show(results: Sequence["Result"], targets: Targets) -> None:
    from lisa_core.evaluation.report import scores

    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="dim")
    for heading in ("queries", "images", "gIoU", "cIoU"):
        table.add_column(heading, justify="left" if heading == "queries" else "right")
    for name, score in scores(results).items():
        values = ("-" if value is None else f"{value:.4f}" for value in (score.giou, score.ciou))
        table.add_row(name, str(score.images), *values)
    console = terminal.stdout()
    console.print(table)
    for path in (targets.json, targets.csv, targets.sheet if results else None, targets.masks):
        if path:
            console.print(plain(str(path), "dim"))
