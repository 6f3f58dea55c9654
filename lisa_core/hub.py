"""From what the user names, a folder or a hub id, to a folder on this machine."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

from lisa_core.errors import CheckpointError
from lisa_core.options import CHECKPOINT

_BUNDLED = Path(__file__).with_name("bundled")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_FILES = ("*.json", "*.bin", "*.safetensors", "tokenizer.model")


def folder_of(name: str | Path, files: Sequence[str] = _FILES) -> Path:
    """The local folder of a checkpoint.

    "bundled" is the one that comes with this package. A folder is taken as it is, without any network. A hub id is
    looked up in the local hub cache, and downloaded only if it is not there whole.

    Raises:
        CheckpointError: neither; says where it looked.
    """
    if name == CHECKPOINT:
        return _BUNDLED
    if not str(name):
        raise CheckpointError(
            f"No checkpoint is named; give a folder, a hub id such as xinlai/LISA-7B-v1, or {CHECKPOINT}."
        )
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if folder.exists():
        raise CheckpointError(f"{folder} is a file; give the checkpoint's folder.")
    if not _HUB_ID.fullmatch(str(name)):
        raise CheckpointError(
            f"There is no folder {folder}, and it is no hub id either; give a checkpoint's folder or an id such as"
            " xinlai/LISA-7B-v1."
        )
    return _from_hub(str(name), files)


def _from_hub(name: str, files: Sequence[str]) -> Path:
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        cached = Path(snapshot_download(name, allow_patterns=list(files), local_files_only=True))
        if is_whole(cached):
            return cached
    except LocalEntryNotFoundError:
        pass
    try:
        return Path(snapshot_download(name, allow_patterns=list(files)))
    except Exception as error:  # the hub's client lets through whatever the network below it raises
        raise CheckpointError(
            f"{name} is not in the hub cache ({constants.HF_HUB_CACHE}), is no folder here, and could not be downloaded"
            f" ({_first_line(error)}). Connect to the network once, or copy the folder here and give its path."
        ) from error


def is_whole(folder: Path) -> bool:
    """Whether a folder has a configuration and every shard that its index names."""
    if not (folder / "config.json").is_file():
        return False
    indexes = [path for path in folder.glob("*.index.json") if path.is_file()]
    try:
        shards = {shard for index in indexes for shard in json.loads(index.read_text())["weight_map"].values()}
    except (OSError, ValueError, KeyError, AttributeError):
        return False
    if indexes:
        return all((folder / shard).is_file() for shard in shards)
    return (folder / "pytorch_model.bin").is_file() or (folder / "model.safetensors").is_file()


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}".rstrip(": ")
