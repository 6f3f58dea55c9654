"""`lisa bench`: how long answers take on this machine, and how long they would take without caches."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import filesize
from rich.console import Group
from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from lisa_core.benchmark.seconds import in_words
from lisa_core.cli import options, terminal
from lisa_core.cli.progress import progress
from lisa_core.cli.terminal import plain

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from lisa_core.benchmark.shapes import ShapeName
    from lisa_core.benchmark.subject import Subject

_BAR = 12
"""Length of the longest bar, in characters."""


def bench(
    shape: Annotated[
        str,
        typer.Option(
            metavar="SHAPE", help="tiny, small, 7b or 13b: sizes of a model with random weights; default: small."
        ),
    ] = "",
    checkpoint: Annotated[
        str, typer.Option(metavar="MODEL", help="Measure this LISA instead: a folder, a hub id or bundled.")
    ] = "",
    precision: options.Precision = "auto",
    device: options.Device = "",
    vision_tower: options.VisionTower = "",
    template: options.Template = None,
    runs: Annotated[int, typer.Option(metavar="N", min=1, help="How often each case is timed.")] = 5,
    baseline: Annotated[
        bool, typer.Option("--baseline", help="Ask once more as the reference does, and compare.")
    ] = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", dir_okay=False, help="Write the numbers.")
    ] = None,
    chart: Annotated[
        Path | None, typer.Option(metavar="PNG", dir_okay=False, help="Draw them; needs matplotlib.")
    ] = None,
) -> None:
    r"""Measure how long answers take on this machine.

    No weights are needed: random ones take as long. Their answers begin with
    "Sure, it is \[SEG]" in words of their own, so that there is a mask to make.

    [b]tiny[/b] takes seconds and shows that everything works; [b]small[/b] takes
    minutes on a CPU; [b]7b[/b] and [b]13b[/b] are LISA-7B and LISA-13B, for GPUs.

    What is timed, by p50 and p95 over --runs:

    - [b]new_frame_8[/b], [b]new_frame_40[/b]: a frame that was never seen, an
      answer of 8 or 40 tokens with its mask;

    - [b]same_frame_8[/b]: another question about a frame that was;

    - [b]turn_1[/b] to [b]turn_6[/b]: a conversation about it, each turn with
      all that was said before;

    - [b]mask_only[/b]: a new frame, no words, one mask;

    - each stage by itself: encoders, prefill, token, mask.

    With [b]--baseline[/b] each question is asked once more with nothing kept
    between tokens and questions, as the reference implementation does, by the
    same modules. In fp32 the answers must be equal, token by token and masks
    within 0.001.

    On a GPU whose peaks are known, [b]limit[/b] is the share of what its
    arithmetic and memory bandwidth would allow.

    [b]The reference's way and ours, side by side[/b]

    $ lisa bench --shape small --baseline --json small.json --chart small.png

    [b]Exit codes[/b]: 0 measured; 1 failed, or answers differ in fp32; 2 wrong
    usage; 130 stopped.
    """
    if shape and checkpoint:
        raise typer.BadParameter("give --shape or --checkpoint, not both")
    if json_file and chart and json_file.resolve() == chart.resolve():
        raise typer.BadParameter("--json and --chart cannot go into one file; name a file for each")
    with terminal.told(checkpoint or shape):
        from lisa_core import files
        from lisa_core.benchmark.report import differing

        for path in filter(None, (json_file, chart)):
            files.prepare(path)
        if chart:
            from lisa_core.benchmark.chart import check_available

            check_available()
        with progress(MofNCompleteColumn(), TimeElapsedColumn()) as bars:
            subject, peaks = _load(shape or "small", checkpoint, precision, device, vision_tower, template, bars)
            report = _measure(subject, runs, baseline, peaks, bars)
    try:
        written = _write(report, json_file, chart)
    except OSError as error:
        terminal.stdout().print(_tables(report))
        terminal.fail(terminal.cause(error, "the results"))
    terminal.stdout().print(_tables(report))
    for path in written:
        terminal.stdout().print(plain(str(path), "dim"))
    if report["equal"] is False and report["settings"]["precision"] == "fp32":
        names = ", ".join(differing(report["cases"]))
        terminal.fail(f"The answers of {names} are not those of the baseline: this is a bug in what is kept.")


def _load(
    shape: str,
    checkpoint: str,
    precision: str,
    device: str,
    vision_tower: str,
    template: str | None,
    bars: Progress,
) -> tuple["Subject", dict[str, dict[str, int]]]:
    """Loads the model; also returns the peak memory of loading."""
    from lisa_core import devices
    from lisa_core.benchmark.machine import PeakMemory
    from lisa_core.benchmark.random_model import RandomCheckpoint
    from lisa_core.benchmark.subject import Subject
    from lisa_core.checkpoint import Checkpoint

    target = devices.resolve_device(device or None)
    peak = PeakMemory(target)
    if checkpoint:
        opened = Checkpoint.open(checkpoint, vision_tower or None, template)
        resolved, name = devices.resolve_precision(precision, target, opened.quantised), checkpoint
    elif vision_tower or template:
        raise typer.BadParameter("--vision-tower and --template go with --checkpoint; a random model has its own")
    else:
        resolved, name = devices.resolve_precision(precision, target), f"random {shape}"
        opened = RandomCheckpoint.of(_known(shape), resolved, target)
    task = bars.add_task(plain(f"loading {name}").plain, total=None)
    subject = Subject.load(
        name, opened, resolved, target, lambda share, _: bars.update(task, total=100, completed=round(100 * share))
    )
    return subject, {"loading": peak.read()}


def _known(shape: str) -> "ShapeName":
    from lisa_core.benchmark.shapes import BY_NAME

    for name in BY_NAME:
        if name == shape:
            return name
    raise typer.BadParameter(f"there is no shape {shape!r}; choose one of {', '.join(BY_NAME)}")


def _measure(
    subject: "Subject", runs: int, compare: bool, peaks: dict[str, dict[str, int]], bars: Progress
) -> dict[str, Any]:
    from lisa_core import footprint
    from lisa_core.benchmark import report, stages
    from lisa_core.benchmark.cases import Measurement

    rgb = _picture()
    measurement = Measurement(subject, rgb, runs, compare, on_progress=lambda _: bars.advance(questions))
    questions = bars.add_task("questions", total=measurement.steps())
    with footprint.fitting(subject.precision, subject.device):
        cases = list(measurement.cases())
        task = bars.add_task("stages", total=len(stages.NAMES))
        timed = stages.measure(subject, rgb, report.costs_of(subject), runs, lambda _: bars.advance(task))
    settings = {"runs": runs, "baseline": compare, "image": list(rgb.shape[:2])}
    return report.summary(subject, settings, cases, timed, {**peaks, **measurement.peaks})


def _picture() -> "NDArray[np.uint8]":
    """(480, 640, 3) RGB: smooth colours with noise, like a camera's."""
    import numpy as np

    rows, columns = np.mgrid[0:1:480j, 0:1:640j]
    colours = np.stack([columns, rows, (columns + rows) / 2], axis=-1) * 200
    noise = np.random.default_rng(0).uniform(0, 55, colours.shape)
    return (colours + noise).astype(np.uint8)


def _write(report: dict[str, Any], json_file: Path | None, chart: Path | None) -> list[Path]:
    """Writes the results that are wanted as files; returns their names."""
    from lisa_core import files
    from lisa_core.answer_files import as_json

    contents = {json_file: as_json(report)} if json_file else {}
    if chart:
        from lisa_core.benchmark.chart import png

        contents[chart] = png(report)
    files.write_whole(contents)
    return list(contents)


def _tables(report: dict[str, Any]) -> Group:
    machine, settings = report["machine"], report["settings"]
    parameters = sum(report["model"]["parameters"].values())
    about = Table.grid(padding=(0, 2, 0, 0))
    held = filesize.decimal(sum(report["model"]["memory"].values()))
    height, width = settings["image"]
    rows = {
        "model": f"{settings['model']}, {parameters / 1e6:,.0f} million parameters, {settings['precision']}, {held}",
        "machine": f"{machine['gpu'] or machine['cpu']}, {machine['threads']} CPU threads, torch {machine['torch']}",
        "picture": f"{width}x{height} px",
        "memory": ", ".join(
            f"{doing} {filesize.decimal(peak.get('device', peak['host']))}"
            for doing, peak in report["peak_memory"].items()
        )
        + " at most",
    }
    for name, value in rows.items():
        about.add_row(plain(name, "dim"), plain(value))
    return Group(about, "", _case_table(report["cases"]), "", _stage_table(report["stages"]), *_verdict(report))


def _case_table(cases: list[dict[str, Any]]) -> Table:
    compared, limited = (any(case[key] is not None for case in cases) for key in ("ratio", "limit_share"))
    table = _table("Questions", limited, ["baseline", "faster"] if compared else [])
    longest = max(case["seconds_p50"] for case in cases)
    for case in cases:
        words = case["about"] if case["masks"] else f"{case['about']} (no mask)"
        cells = [_time(case["baseline_seconds"]), _factor(case["ratio"])] if compared else []
        table.add_row(plain(words), *_row(case, longest, limited, cells))
    return table


def _stage_table(stages: list[dict[str, Any]]) -> Table:
    limited = any(stage["limit_share"] is not None for stage in stages)
    table = _table("Stages", limited, ["TFLOP/s"])
    longest = max(stage["seconds_p50"] for stage in stages)
    for stage in stages:
        rate = f"{stage['flops'] / stage['seconds_p50'] / 1e12:.3f}" if stage["flops"] else ""
        table.add_row(
            plain(f"{stage['name'].replace('_', ' ')}, {stage['about']}"), *_row(stage, longest, limited, [Text(rate)])
        )
    return table


def _table(title: str, limited: bool, more: list[str]) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="dim")
    table.add_column("", overflow="fold")
    for heading in ("p50", "p95", *more, *(["limit"] if limited else [])):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    return table


def _row(record: dict[str, Any], longest: float, limited: bool, more: list[Text]) -> list[Text]:
    share = record["limit_share"]
    return [
        _time(record["seconds_p50"]),
        _time(record["seconds_p95"]),
        *more,
        *([Text("" if share is None else f"{share:.0%}")] if limited else []),
        Text("\u2588" * max(1, round(_BAR * record["seconds_p50"] / longest)), "cyan"),
    ]


def _time(seconds: float | None) -> Text:
    return Text("" if seconds is None else in_words(seconds))


def _factor(ratio: float | None) -> Text:
    return Text("" if ratio is None else f"{ratio:.1f}x", "bold green" if ratio and ratio >= 1 else "bold red")


def _verdict(report: dict[str, Any]) -> list[Text]:
    """Whether the answers are the baseline's, in words; empty without a baseline."""
    if report["equal"] is None:
        return []
    if report["equal"]:
        return [Text("\nEvery answer is the baseline's, token by token, and masks within 0.001.", "green")]
    from lisa_core.benchmark.report import differing

    names = ", ".join(differing(report["cases"]))
    return [Text(f"\nNot the baseline's answer: {names}. Sums in another order flip close calls.", "yellow")]
