"""`lisa evaluate`: measures a model on a data set; one command for each kind of data set."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lisa_core.cli import options, terminal
from lisa_core.cli.evaluate_tabletop import tabletop
from lisa_core.cli.evaluation import (
    CsvFile,
    How,
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
from lisa_core.evaluation import Protocol
from lisa_core.options import CHECKPOINT, MAX_NEW_TOKENS

if TYPE_CHECKING:
    from lisa_core.datasets.reasonseg import Split
    from lisa_core.datasets.refcoco import References
    from lisa_core.evaluation.masks import Result, SampleEntry
    from lisa_core.evaluation.run import Failure

app = terminal.group("Measure how good a model is on a data set.")
app.command()(tabletop)


@app.command()
def reasonseg(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The data set, or the folder of one split.")],
    json_file: JsonFile,
    split: Annotated[
        str, typer.Option(metavar="NAME", help="train, val, test; default: val, or DIR itself if it has no val.")
    ] = "",
    protocol: How = "teacher-forced",
    csv_file: CsvFile = None,
    sheet: Sheet = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", file_okay=False, help="Folder for the masks, <image>_mask.png.")
    ] = None,
    checkpoint: options.Checkpoint = CHECKPOINT,
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
    Pictures whose JSON has "answers", as lisa label tabletop writes, are
    answered freely by either.

    Stopped, or killed: the same command goes on where it was. What is finished
    is in FILE.journal until all images are evaluated.

    [b]The published benchmark[/b], in bf16 as it was measured; v1 was trained on
    val as well, so take a v0

    $ lisa evaluate reasonseg ReasonSeg --split val --json val.json
        --checkpoint xinlai/LISA-13B-llama2-v0 --precision bf16 --sheet worst.png

    [b]Exit codes[/b]: 0 all evaluated; 1 a file failed, and the rest was
    evaluated; 2 wrong usage; 130 stopped.
    """
    model = ModelOptions(checkpoint, precision, device, vision_tower, template, memory_limit)
    targets = Targets(json_file, csv_file, sheet, out)
    with opening():
        from lisa_core.datasets.reasonseg import open_split

        pictures = open_split(folder, split)
        targets.prepare(pictures.folder)
    measure(
        context.obj,
        model,
        targets.journal,
        partial(
            _evaluate_split,
            pictures,
            {"split": str(pictures.folder)},
            Asking(protocol, max_new_tokens),
            model,
            targets,
        ),
    )


@app.command()
def refcoco(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="instances.json, refs*.json and the folder images.")],
    json_file: JsonFile,
    split: Annotated[str, typer.Option(metavar="NAME", help="val, testA ...; test: all tests together.")] = "val",
    refs: Annotated[
        Path | None, typer.Option(metavar="FILE", dir_okay=False, help="The references, if DIR has several refs*.json.")
    ] = None,
    images: Annotated[
        Path | None, typer.Option(metavar="DIR", file_okay=False, help="The pictures, if they are elsewhere.")
    ] = None,
    protocol: How = "teacher-forced",
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
    """Measure gIoU and cIoU on refCOCO, refCOCO+, refCOCOg and the like.

    DIR has COCO's instances.json, the references as JSON (the published
    refs(unc).p is a pickle; the command says how to convert it) and the
    pictures. Each sentence is asked, and each picture encoded once.

    $ lisa evaluate refcoco refcoco --split testA --json testA.json
        --checkpoint xinlai/LISA-7B-v1 --precision bf16

    [b]Exit codes[/b]: as of reasonseg.
    """
    model = ModelOptions(checkpoint, precision, device, vision_tower, template, memory_limit)
    targets = Targets(json_file, csv_file, sheet, None)
    with opening():
        from lisa_core.datasets.refcoco import RefCoco

        references = RefCoco(folder, refs, images).split(split)
        targets.prepare(images or folder / "images")
    source = {"set": str(folder), "split": split}
    evaluation = partial(_evaluate_split, references, source, Asking(protocol, max_new_tokens), model, targets)
    measure(context.obj, model, targets.journal, evaluation)


@dataclass(frozen=True)
class Asking:
    """How the model is asked: the options of `masks.evaluate`."""

    protocol: Protocol
    max_new_tokens: int


def _evaluate_split(
    split: "Split | References",
    source: Mapping[str, str],
    asking: Asking,
    model: ModelOptions,
    targets: Targets,
    engine: Any,
) -> bool:
    """Evaluates, writes and shows; `source` describes the data in JSON. Returns whether anything failed."""
    from lisa_core.evaluation.journal import Journal
    from lisa_core.evaluation.masks import Result, evaluate_together, unpacked

    settings = {**source, "protocol": asking.protocol, **asked_of(engine, model, asking.max_new_tokens)}
    entries: Sequence[SampleEntry] = split.entries
    for fault in split.faults:
        terminal.complain(fault)
    with Journal(targets.journal, settings | states(model), Result.packed, unpacked) as journal:
        results, failures = evaluate_all(
            entries,
            journal,
            lambda together: evaluate_together(engine, together, asking.protocol, asking.max_new_tokens),
        )
        _write(targets, settings, split, results, failures)
        failed = bool(failures or split.faults)
        if not failed:  # else the next run need not repeat the finished ones
            journal.delete()
    _show(results, targets)
    return failed


def _write(
    targets: Targets,
    settings: Mapping[str, Any],
    split: "Split | References",
    results: Sequence["Result"],
    failures: Sequence["Failure"],
) -> None:
    """Writes all files, or none and raises OSError."""
    from lisa_core import files
    from lisa_core.answer_files import as_json, stems
    from lisa_core.evaluation import masks_report as report

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
    from lisa_core.evaluation.masks_report import scores

    rows = [(name, score.images, score.giou, score.ciou) for name, score in scores(results).items()]
    show_table(("queries", "images", "gIoU", "cIoU"), rows, targets.written(bool(results)))
