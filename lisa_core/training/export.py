"""Writes a trained model as a checkpoint: official v1 layout, safetensors, with the vision tower inside."""

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lisa_core import files
from lisa_core.checkpoint_files import OWN_TOWER
from lisa_core.model.lisa import released_name
from lisa_core.saving import check_new, copy_tokenizer, write_weights


def export(
    weights: Iterable[tuple[str, Tensor]],
    config: Mapping[str, Any],
    tower_config: Mapping[str, Any],
    tokenizer: Path,
    out: Path,
    count: int,
    on_progress: Callable[[float, str], None] | None = None,
    beside: Sequence[Path] = (),
) -> None:
    """Writes a model in fp16; the folder appears under its name once it is complete.

    Args:
        weights: every parameter of `Lisa` and its tensor, in any floating dtype; read one at a time, written soon
            after.
        config: `config.json` of the checkpoint.
        tower_config: `config.json` of its vision tower.
        tokenizer: folder with `tokenizer.model` and `added_tokens.json`.
        out: folder to make; must not exist.
        count: number of parameters, for the progress.
        on_progress: called with (share done, parameter).
        beside: files to copy into the folder, too.

    Raises:
        LisaError: `out` exists, or is a name with a meaning of its own (`bundled`).
        OSError: it could not be written; nothing is left behind.
    """
    check_new(out)
    with files.whole_folder(out) as partial:
        write_weights(_halves(weights), partial, count, on_progress)
        (partial / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
        (partial / OWN_TOWER / "config.json").write_text(json.dumps(tower_config, indent=2), encoding="utf-8")
        copy_tokenizer(tokenizer, partial)
        for file in beside:
            shutil.copyfile(file, partial / file.name)


def _halves(weights: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, dict[str, Tensor]]]:
    for name, tensor in weights:
        yield name, {released_name(name): tensor.detach().to("cpu", torch.float16).contiguous().clone()}
