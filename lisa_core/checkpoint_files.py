"""Which files a released checkpoint consists of."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

from lisa_core.errors import CheckpointError, brief

V0_PARTS = ("pytorch_model-visual_model.bin", "pytorch_model-text_hidden_fcs.bin")
"""What a v0 checkpoint has beside the language model; its index of shards does not name them."""
OWN_TOWER = "vision_tower"
"""A checkpoint may bring its vision tower along, in a folder of this name."""
TOKENIZER_FILES = ("tokenizer.model", "added_tokens.json")
TOKENIZER_SETTINGS = "tokenizer_config.json"
"""Of the tokenizer; not every checkpoint has it."""
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""Weights in one file of these names, or in shards beside an index; where there are both, the first counts."""
_LISA_TYPE = "llava"
"""`model_type` in the `config.json` of a LISA; its vision tower has another."""


def weight_files(folder: Path) -> list[Path]:
    """The files with the weights, in the first format of which there is something; not all of them may be there.

    Raises:
        CheckpointError: the index of the shards is damaged, or names what is no file of its folder.
    """
    return _weights(folder)[0]


def is_whole(folder: Path) -> bool:
    """Whether a folder has a configuration and all files of its weights; a LISA all its other parts, too."""
    try:
        is_lisa = json.loads((folder / "config.json").read_text()).get("model_type") == _LISA_TYPE
        files, shard_of = _weights(folder)
        needed = [file.name for file in files]
        if is_lisa:
            needed += TOKENIZER_FILES
            if shard_of and not any("visual_model" in tensor for tensor in shard_of):
                needed += V0_PARTS
        return bool(files) and all((folder / name).is_file() for name in needed)
    except (OSError, ValueError, AttributeError, RecursionError, CheckpointError):
        return False


def files_of(folder: Path) -> list[Path]:
    """The files that a checkpoint, and a vision tower in it, are read from, as far as they are there."""
    parts = [*_parts_of(folder), *_parts_of(folder / OWN_TOWER)]
    return [path for path in parts if os.path.isfile(path)]  # noqa: PTH113 # where it cannot be looked at Path raises


def _parts_of(folder: Path) -> list[Path]:
    """The files that a checkpoint or a vision tower is read from; not all may be there."""
    try:
        weights = weight_files(folder)
    except (CheckpointError, OSError):
        weights = []
    others = (*V0_PARTS, "config.json", *TOKENIZER_FILES, TOKENIZER_SETTINGS)
    return [*weights, *(folder / name for name in others)]


def _weights(folder: Path) -> tuple[list[Path], Mapping[str, str]]:
    """The files with the weights, and which of them each tensor is in where an index says so."""
    for name in WEIGHTS:
        if (index := folder / f"{name}.index.json").is_file():
            shard_of = _read_index(index)
            if shard_of:
                return [folder / shard for shard in sorted(set(shard_of.values()))], shard_of
        elif (folder / name).is_file():
            return [folder / name], {}
    return [], {}


def _read_index(index: Path) -> dict[str, str]:
    try:
        shard_of = dict(json.loads(index.read_text(encoding="utf-8"))["weight_map"])
    except (OSError, ValueError, RecursionError, KeyError, TypeError) as error:
        raise CheckpointError(f"{index} is no readable index of shards ({brief(error)}); fetch it again.") from error
    suffix = Path(index.name.removesuffix(".index.json")).suffix
    for shard in shard_of.values():
        if not isinstance(shard, str) or Path(shard).name != shard or Path(shard).suffix != suffix:
            raise CheckpointError(f"{index} names {shard!r}, which is no file of its folder.")
    return shard_of
