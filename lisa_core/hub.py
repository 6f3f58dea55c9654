"""From what the user names, a folder or a hub id, to a folder on this machine, and what tells it from another."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lisa_core.errors import CheckpointError
from lisa_core.options import CHECKPOINT

_BUNDLED = Path(__file__).with_name("bundled")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
V0_PARTS = ("pytorch_model-visual_model.bin", "pytorch_model-text_hidden_fcs.bin")
"""Files of a v0 checkpoint besides the language model, which is all that its index knows."""
TOKENIZER_FILES = ("tokenizer.model", "added_tokens.json")
LISA_TYPE = "llava"
"""`model_type` in the `config.json` of a LISA."""
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""In one file of these names or in shards; where there are both, the first."""
_FILES = ["*.json", "*.safetensors", "tokenizer.model"]
_OLDER = "*.bin"
"""Weights, too; a repository may have the same ones in both formats."""


def folder_of(name: str | Path, on_download: Callable[[str], None] = lambda _: None) -> Path:
    """The local folder of a checkpoint.

    "bundled" is the one that comes with this package. A folder is taken as it is, without any network. A hub id is
    looked up in the local hub cache, and downloaded only if it is not there whole; `on_download` is told the id then.

    Raises:
        CheckpointError: neither; says where it looked.
    """
    if name == CHECKPOINT:
        return _BUNDLED
    if not str(name):
        raise CheckpointError(
            f"No checkpoint is named; give a folder, a hub id such as xinlai/LISA-7B-v1, or {CHECKPOINT}."
        )
    try:
        folder = Path(name).expanduser()
        if folder.is_dir():
            return folder
        if folder.exists():
            raise CheckpointError(f"{folder} is a file; give the checkpoint's folder.")
    except (OSError, RuntimeError) as error:  # a name too long, somebody else's home, no such user's
        raise CheckpointError(f"{name} cannot be looked at ({error}); give a checkpoint's folder.") from error
    if not _HUB_ID.fullmatch(str(name)):
        raise CheckpointError(
            f"There is no folder {folder}, and it is no hub id either; give a checkpoint's folder or an id such as"
            " xinlai/LISA-7B-v1."
        )
    return _from_hub(str(name), on_download)


def _from_hub(name: str, on_download: Callable[[str], None]) -> Path:
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        cached = Path(snapshot_download(name, allow_patterns=[*_FILES, _OLDER], local_files_only=True))
        if is_whole(cached):
            return cached
    except LocalEntryNotFoundError:
        pass
    except HFValidationError as error:
        raise CheckpointError(
            f"There is no folder {name}, and it is no hub id either: {_first_line(error)}."
        ) from error
    on_download(name)
    try:
        folder = Path(snapshot_download(name, allow_patterns=_FILES))
        if not is_whole(folder):
            folder = Path(snapshot_download(name, allow_patterns=[*_FILES, _OLDER]))
    except Exception as error:  # the hub's client lets through whatever the network below it raises
        raise CheckpointError(
            f"{name} is not in the hub cache ({constants.HF_HUB_CACHE}), is no folder here, and could not be downloaded"
            f" ({_first_line(error)}). Connect to the network once, or copy the folder here and give its path."
        ) from error
    if not is_whole(folder):  # offline the client takes what it has for all there is
        raise CheckpointError(
            f"{name} is in the hub cache only in part ({folder}), and the rest could not be downloaded. Connect to the"
            " network once, or copy the whole folder here and give its path."
        )
    return folder


def is_whole(folder: Path) -> bool:
    """Whether a folder has a configuration and all shards of its weights; a LISA all its other parts, too."""
    try:
        is_lisa = json.loads((folder / "config.json").read_text()).get("model_type") == LISA_TYPE
        shard_of = next((found for name in WEIGHTS if (found := _weight_map(folder, name)) is not None), None)
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError):
        return False
    if shard_of is None:
        return False
    needed = set(shard_of.values())
    if is_lisa:
        needed |= set(TOKENIZER_FILES)
        if shard_of and not any("visual_model" in name for name in shard_of):
            needed |= set(V0_PARTS)
    return all((folder / file).is_file() for file in needed)


def state_of(model: str) -> list[Any]:
    """What tells a checkpoint from another that stands in its place later: names, sizes and times of its files.

    Those of the folders in it count, too: its vision tower may be one. Empty for no name.
    """
    if not model:
        return []
    folder = folder_of(model) if model == CHECKPOINT else Path(os.path.expanduser(model))  # noqa: PTH111
    if not os.path.isdir(folder):  # noqa: PTH112 # neither raises: what cannot be looked at is told on loading
        return [model]
    states = ((str(path.relative_to(folder)), path.stat()) for path in sorted(folder.rglob("*")) if path.is_file())
    return [str(folder.resolve()), *([name, state.st_size, state.st_mtime_ns] for name, state in states)]


def _weight_map(folder: Path, name: str) -> dict[str, str] | None:
    """Which shard each tensor is in, by the index; of weights in one file nothing, None where there are none."""
    index = folder / f"{name}.index.json"
    if index.is_file():
        return {tensor: str(shard) for tensor, shard in dict(json.loads(index.read_text())["weight_map"]).items()}
    return {} if (folder / name).is_file() else None


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}".rstrip(": ")
