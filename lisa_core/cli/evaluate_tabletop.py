"""`lisa evaluate tabletop`: measures a model on rendered tabletops, by kind of question."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lisa_core.cli import options
from lisa_core.cli.evaluation import (
    CsvFile,
    JsonFile,
    Sheet,
    Targets,
    asked_of,
    evaluate_all,
    measure,
    opening,
    show_table,
    states,
)
from lisa_core.cli.loading import ModelOptions
from lisa_core.evaluation import DIALOGUES
from lisa_core.options import CHECKPOINT, MAX_NEW_TOKENS

if TYPE_CHECKING:
    from lisa_core.evaluation.tabletop import Result
    from lisa_core.tabletop.dataset import StoredScene


def tabletop(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Scenes, as `lisa tabletop render` writes them.")],
    json_file: JsonFile,
    scenes: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="The first N scenes only.", show_default="all")
    ] = None,
    dialogues: Annotated[
        int,
        typer.Option(
            "--dialogues", "--questions", metavar="N", min=1, help="Dialogues about each scene, of a question or more."
        ),
    ] = DIALOGUES,
    csv_file: CsvFile = None,
    sheet: Sheet = None,
    checkpoint: options.Checkpoint = CHECKPOINT,
    precision: options.Precision = "auto",
    device: options.Device = "",
    vision_tower: options.VisionTower = "",
    template: options.Template = None,
    memory_limit: options.MemoryLimit = 0.0,
    max_new_tokens: options.MaxNewTokens = MAX_NEW_TOKENS,
) -> None:
    """Measure a model on rendered tabletops, by kind of question.

    The questions are in wordings that training never has, and the same each
    time. The model answers freely; each of its masks is compared with the thing
    asked for that it fits best, for no question tells an order.

    In the table, shares: [b]masks[/b]: as many as things asked for; [b]refused[/b]: no mask
    for what is not there; [b]named[/b]: explanations of the right thing; [b]words[/b]: true
    answers without a mask.

    Stopped, or killed: the same command goes on where it was. What is finished
    is in FILE.journal until all scenes are evaluated.

    $ lisa evaluate tabletop scenes --json tabletop.json --sheet worst.png

    [b]Exit codes[/b]: 0 all evaluated; 1 a scene failed, and the rest was
    evaluated; 2 wrong usage; 130 stopped.
    """
    model = ModelOptions(checkpoint, precision, device, vision_tower, template, memory_limit)
    targets = Targets(json_file, csv_file, sheet, None)
    with opening():
        from lisa_core.tabletop.dataset import open_scenes

        chosen = open_scenes(folder)[:scenes]
        targets.prepare(folder)
    evaluation = partial(_evaluate_scenes, chosen, dialogues, max_new_tokens, model, targets)
    measure(context.obj, model, targets.journal, evaluation)


def _evaluate_scenes(
    scenes: "Sequence[StoredScene]",
    dialogues: int,
    max_new_tokens: int,
    model: ModelOptions,
    targets: Targets,
    engine: Any,
) -> bool:
    """Evaluates, writes and shows; returns whether anything failed."""
    from lisa_core import files
    from lisa_core.answer_files import as_json
    from lisa_core.evaluation import tabletop_report as report
    from lisa_core.evaluation.journal import Journal
    from lisa_core.evaluation.tabletop import Result, evaluate, unpacked

    settings = {"scenes": str(scenes[0].folder), "dialogues": dialogues} | asked_of(engine, model, max_new_tokens)
    with Journal(targets.journal, settings | states(model), Result.packed, unpacked) as journal:
        results, failures = evaluate_all(
            scenes, journal, lambda each: [evaluate(engine, scene, dialogues, max_new_tokens) for scene in each]
        )
        contents: dict[Path, bytes] = {}
        if targets.csv:
            contents[targets.csv] = report.as_csv(results)
        if targets.sheet and results:
            contents[targets.sheet] = report.sheet(scenes, results, dialogues)
        contents[targets.json] = as_json(report.summary(settings, results, failures))
        files.write_whole(contents)
        if not failures:  # else the next run need not repeat the finished ones
            journal.delete()
    _show(results, targets)
    return bool(failures)


def _show(results: "Sequence[Result]", targets: Targets) -> None:
    from lisa_core.evaluation.tabletop_report import scores

    headings = ("kind", "asked", "gIoU", "cIoU", "masks", "refused", "named", "words")
    rows = [
        (kind, each.questions, each.giou, each.ciou, each.counts, each.refusals, each.named, each.words)
        for kind, each in scores(results).items()
    ]
    show_table(headings, rows, targets.written(bool(results)))
