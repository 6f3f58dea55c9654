"""`lisa quantize`: a checkpoint stored anew in 4 bit."""

from pathlib import Path
from typing import Annotated

import typer

from lisa_core.cli import options, terminal
from lisa_core.cli.progress import over_a_share


def quantize(
    checkpoint: Annotated[
        str, typer.Argument(metavar="CHECKPOINT", help="The LISA model: a folder, a hub id or bundled.")
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to make.")],
    device: options.Device = "",
    vision_tower: options.VisionTower = "",
) -> None:
    """Store a checkpoint in 4 bit, vision tower included: about a third of the size, and loaded as it lies.

    It answers bit for bit as the original does in nf4. The folder appears
    once it is whole; interrupted, nothing is left.

    $ lisa quantize xinlai/LISA-13B-llama2-v1 lisa-13b-nf4

    [b]Exit codes[/b]: 0; 1 the model or the disk will not do; 2 wrong usage; 130 stopped.
    """
    with terminal.told(checkpoint):
        from lisa_core.checkpoint import Checkpoint
        from lisa_core.devices import resolve_device
        from lisa_core.saving import save_quantised

        opened = Checkpoint.open(checkpoint, vision_tower or None)
        try:
            with over_a_share(f"quantising {checkpoint}") as on_progress:
                save_quantised(opened, out, resolve_device(device or None), on_progress)
        except OSError as error:
            terminal.fail(f"{out} could not be written: {error.strerror or error}; nothing is left of it.")
    size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    terminal.stdout().print(terminal.plain(f"{out}: {size / 2**20:,.0f} MiB in 4 bit; give it as the checkpoint."))
