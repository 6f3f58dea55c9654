"""From what the user names, a folder or a hub id, to a folder on this machine, and what tells it from another."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lisa_core.checkpoint_files import files_of, is_whole
from lisa_core.errors import CheckpointError, brief
from lisa_core.options import CHECKPOINT

_BUNDLED = Path(__file__).with_name("bundled")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
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
    if not isinstance(name, (str, Path)) or not str(name):
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
        raise CheckpointError(f"There is no folder {name}, and it is no hub id either: {brief(error)}.") from error
    on_download(name)
    try:
        folder = Path(snapshot_download(name, allow_patterns=_FILES))
        if not is_whole(folder):
            folder = Path(snapshot_download(name, allow_patterns=[*_FILES, _OLDER]))
    except Exception as error:  # the hub's client lets through whatever the network below it raises
        raise CheckpointError(
            f"{name} is not in the hub cache ({constants.HF_HUB_CACHE}), is no folder here, and could not be downloaded"
            f" ({brief(error)}). Connect to the network once, or copy the folder here and give its path."
        ) from error
    if not is_whole(folder):  # offline the client takes what it has for all there is
        raise CheckpointError(
            f"{name} is in the hub cache only in part ({folder}), and the rest could not be downloaded. Connect to the"
            " network once, or copy the whole folder here and give its path."
        )
    return folder


def state_of(model: str) -> list[Any]:
    """What tells a checkpoint from another that stands in its place later: names, sizes and times of its files.

    Those of a vision tower in it count, too, but nothing else that lies in the folder. Empty for no name.
    """
    if not model:
        return []
    try:
        folder = _BUNDLED if model == CHECKPOINT else Path(model).expanduser()
        if not folder.is_dir():
            return [model]
    except (OSError, RuntimeError):  # what cannot be looked at is told on loading
        return [model]
    states = ((str(path.relative_to(folder)), path.stat()) for path in files_of(folder))
    return [str(folder.resolve()), *([name, state.st_size, state.st_mtime_ns] for name, state in states)]
