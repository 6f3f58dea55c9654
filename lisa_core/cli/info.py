"""`lisa info`: what a checkpoint is, without loading its weights."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer
from rich import filesize
from rich.console import Group
from rich.table import Table

from lisa_core.cli import options, terminal
from lisa_core.cli.terminal import plain
from lisa_core.options import ResolvedPrecision

if TYPE_CHECKING:
    from lisa_core.checkpoint import Checkpoint

DEVICES = ("cuda", "cpu")


def info(
    checkpoint: Annotated[
        str, typer.Argument(metavar="CHECKPOINT", help="The LISA model: a folder, a hub id or bundled.")
    ],
    vision_tower: options.VisionTower = "",
    template: options.Template = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs; sizes in bytes.")] = False,
) -> None:
    """Print what a checkpoint is, and what memory it needs in each precision; its weights are not loaded.

    The memory is that of the weights; the KV cache and what an answer is
    computed in come on top. A hub id that is not on this machine is downloaded.

    $ lisa info xinlai/LISA-7B-v1

    [b]Exit codes[/b]: 0; 1 the model will not do; 2 wrong usage; 130 stopped.
    """
    with terminal.told(checkpoint):
        from lisa_core.checkpoint import Checkpoint

        facts = _facts(Checkpoint.open(checkpoint, vision_tower or None, template))
    console = terminal.stdout()
    console.print(json.dumps(facts, indent=2) if as_json else _tables(facts), markup=False)


def _facts(opened: "Checkpoint") -> dict[str, Any]:
    import torch

    from lisa_core.footprint import estimate_memory

    files = sorted({stored.file for stored in opened.stored.values()})
    return {
        "checkpoint": str(opened.folder),
        "vision_tower": str(opened.vision_tower),
        "layout": opened.layout,
        "template": opened.template,
        "stored_as": sorted({str(stored.dtype).removeprefix("torch.") for stored in opened.stored.values()}),
        "files": {str(file): file.stat().st_size for file in files},
        "sizes": {
            "clip": {**asdict(opened.shape.clip), "tokens": opened.shape.clip.tokens},
            "language": asdict(opened.shape.language),
            "sam": asdict(opened.shape.sam),
            "mm_projector": {"layers": opened.shape.projector_layers},
        },
        "token_ids": dict(opened.tokenizer.special_ids),
        "parameters": _parameters(opened),
        "memory": {
            device: {
                precision: estimate_memory(opened, precision, torch.device(device))
                for precision in (("nf4",) if opened.quantised else get_args(ResolvedPrecision))
            }
            for device in DEVICES
        },
    }


def _parameters(opened: "Checkpoint") -> dict[str, int]:
    """Number of parameters by part of the model."""
    from lisa_core.model.lisa import Lisa

    model = Lisa.on_meta(opened.shape)
    return {part: sum(weight.numel() for weight in box.parameters()) for part, box in model.named_children()}


def _tables(facts: dict[str, Any]) -> Group:
    about = Table.grid(padding=(0, 2, 0, 0))
    about.add_column()
    about.add_column(overflow="fold")
    ids = ", ".join(f"{name} {number}" for name, number in facts["token_ids"].items())
    total = filesize.decimal(sum(facts["files"].values()))
    rows = {
        "checkpoint": facts["checkpoint"],
        "vision tower": facts["vision_tower"],
        "layout": facts["layout"],
        "template": facts["template"],
        "stored": f"{', '.join(facts['stored_as'])} in {len(facts['files'])} files, {total}",
        "token ids": ids,
    }
    for name, value in rows.items():
        about.add_row(plain(name, "dim"), plain(value))
    return Group(about, "", _sizes(facts["sizes"]), "", _memory(facts["parameters"], facts["memory"]))


def _sizes(sizes: dict[str, dict[str, Any]]) -> Table:
    table = Table("part", "sizes", title="Sizes", title_justify="left", box=None, pad_edge=False, header_style="dim")
    for part, values in sizes.items():
        words = ", ".join(f"{name} {_short(value)}" for name, value in values.items())
        table.add_row(plain(part, "bold"), plain(words))
    return table


def _short(value: Any) -> str:
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _memory(parameters: dict[str, int], memory: dict[str, dict[str, dict[str, int]]]) -> Table:
    totals = {device: {name: sum(parts.values()) for name, parts in memory[device].items()} for device in DEVICES}
    unit, size = ("GiB", 2**30) if totals["cuda"]["nf4"] >= 2**28 else ("MiB", 2**20)
    title = f"Parameters, and {unit} of weights"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="dim")
    table.add_column("part", no_wrap=True)
    for heading in ("parameters", *memory["cuda"]):
        table.add_column(heading, justify="right")
    for part, number in parameters.items():
        on_gpu = (f"{parts[part] / size:.2f}" for parts in memory["cuda"].values())
        table.add_row(plain(part, "bold"), f"{number:,}", *on_gpu)
    table.add_section()
    for device, name in (("cuda", "all, on a GPU"), ("cpu", "all, on the CPU")):
        sums = (f"{total / size:.2f}" for total in totals[device].values())
        table.add_row(plain(name, "bold"), f"{sum(parameters.values()):,}", *sums)
    return table
