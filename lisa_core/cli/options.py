"""Options shared by several commands, named like the node's parameters."""

from pathlib import Path
from typing import Annotated

import typer

from lisa_core import options

_MODEL = "Model"

Checkpoint = Annotated[
    str,
    typer.Option(
        metavar="MODEL",
        help="The LISA model: a folder, a hub id, or the bundled one for rendered tables.",
        rich_help_panel=_MODEL,
    ),
]
Precision = Annotated[
    options.Precision,
    typer.Option(help="Of the weights; auto: nf4 on a GPU and if stored so, else fp32.", rich_help_panel=_MODEL),
]
LearnerPrecision = Annotated[
    options.LearnerPrecision,
    typer.Option(help="Of the weights that stay as they are; auto: nf4 on a GPU, else fp32.", rich_help_panel=_MODEL),
]
Device = Annotated[
    str,
    typer.Option(metavar="DEVICE", help="cuda, cuda:1, cpu; default: cuda if there is one.", rich_help_panel=_MODEL),
]
VisionTower = Annotated[
    str,
    typer.Option(
        metavar="MODEL",
        help="Folder or hub id of CLIP; default: what the checkpoint brings or names.",
        rich_help_panel=_MODEL,
    ),
]
Template = Annotated[
    options.TemplateName | None,
    typer.Option(
        help="The prompt's template; default: the checkpoint's own (v1: llava_v1, v0: vicuna_v1_1).",
        rich_help_panel=_MODEL,
    ),
]
MemoryLimit = Annotated[
    float,
    typer.Option(
        metavar="GIB",
        min=0,
        help="GiB of device memory for weights, KV caches and frames; 0: no limit.",
        rich_help_panel=_MODEL,
    ),
]
MaxNewTokens = Annotated[int, typer.Option(metavar="N", min=1, help="Longest answer, in tokens.")]
MaxSegments = Annotated[int, typer.Option(metavar="N", min=1, help="Most masks in an answer.")]
Out = Annotated[Path, typer.Option(metavar="DIR", file_okay=False, help="Folder for what is written; made if need be.")]

DEFAULT_OUT = Path("lisa_out")
