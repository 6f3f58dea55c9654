"""Stores a checkpoint in 4 bit: about a third of the size, and loaded by memory mapping.

The folder holds what the official v1 layout holds, in safetensors, with the vision tower in a folder of its own. Each
quantised weight lies beside its statistics under the names that bitsandbytes and transformers use.

On a CPU the 4-bit values of a loaded model stay in these files: pages are read when they are used, and the system can
drop them again. So the files of a model in use may be removed, or replaced by renaming as here, but never overwritten.
"""

import errno
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from lisa_core import files, footprint, quantization
from lisa_core.checkpoint import LAYOUT_KEY, QUANTISED_KEY, Checkpoint
from lisa_core.checkpoint_files import OWN_TOWER, TOKENIZER_FILES, TOKENIZER_SETTINGS
from lisa_core.errors import CheckpointError, LisaError
from lisa_core.model.lisa import Lisa, released_name
from lisa_core.options import CHECKPOINT

_SHARD = 1 << 30
"""Most bytes of one file, and so of what waits in memory to be written."""

_QUANTISATION = {
    "quant_method": "bitsandbytes",
    "load_in_4bit": True,
    "bnb_4bit_quant_type": "nf4",
    "bnb_4bit_use_double_quant": True,
}
_FOR_OTHERS = ("special_tokens_map.json", "generation_config.json")


def save_quantised(
    checkpoint: Checkpoint,
    out: Path,
    device: torch.device,
    on_progress: Callable[[float, str], None] | None = None,
    shard_bytes: int = _SHARD,
) -> None:
    """Writes a checkpoint's 4-bit twin; loaded, it answers bit for bit as the original does in nf4.

    The folder appears under its name only once it is whole.

    Args:
        checkpoint: not yet quantised.
        out: folder to make; must not exist.
        device: where to quantise.
        on_progress: called with (share done, parameter).
        shard_bytes: size of one file at most, but for a tensor that is larger by itself.

    Raises:
        LisaError: it is in 4 bit already, or there is something at `out`, or that means another model.
        OutOfMemoryError: the device is too small.
        OSError: it could not be written; nothing is left of it.
    """
    if checkpoint.quantised:
        raise CheckpointError(f"{checkpoint.folder} is stored in 4 bit already; use it as it is.")
    check_new(out)
    with files.whole_folder(out) as partial, footprint.fitting("nf4", device):
        parameters = _quantised(checkpoint, device)
        write_weights(parameters, partial, len(checkpoint.stored), on_progress, shard_bytes)
        _copy_the_rest(checkpoint, partial)


def check_new(out: Path) -> None:
    """Raises LisaError unless that can become a checkpoint's folder, and be named as one."""
    files.check_free(out)
    if str(out) == CHECKPOINT:
        raise LisaError(f"{out} always means the model that comes with this package; name another folder.")


def write_weights(
    parameters: Iterable[tuple[str, Mapping[str, Tensor]]],
    folder: Path,
    count: int,
    on_progress: Callable[[float, str], None] | None = None,
    shard_bytes: int = _SHARD,
) -> None:
    """Writes a model's weights, and its vision tower's into a folder of its own.

    Args:
        parameters: each parameter of `Lisa`, with what is stored for it by released names, on the host.
        folder: exists.
        count: how many parameters there are.
        on_progress: called with (share done, parameter).
        shard_bytes: size of one file at most, but for a tensor that is larger by itself.

    Raises:
        OSError: the disk is full or broken.
    """
    (folder / OWN_TOWER).mkdir()
    model, tower = _Shards(folder, shard_bytes), _Shards(folder / OWN_TOWER, shard_bytes)
    try:
        for done, (parameter, tensors) in enumerate(parameters, start=1):
            (tower if parameter.startswith("clip.") else model).add(tensors)
            if on_progress is not None:
                on_progress(done / count, parameter)
        model.finish()
        tower.finish()
    except SafetensorError as error:  # the disk's error, in words
        found = re.search(r"(?:os error|code:) (\d+)", str(error))  # 0.4 has another wording
        number = int(found[1]) if found else errno.EIO
        raise OSError(number, os.strerror(number), str(folder.parent)) from error


def _quantised(checkpoint: Checkpoint, device: torch.device) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Every parameter, and what is stored for it by released names, on the host."""
    quantization.check_works("nf4", device, torch.float16)
    model = Lisa.on_meta(checkpoint.shape)
    small = set(quantization.quantised_parameters(model, checkpoint.layout))
    for parameter, tensor, _ in checkpoint.tensors():
        name = released_name(parameter)
        if parameter not in small:
            yield parameter, {name: tensor.clone().contiguous()}
            continue
        weight = quantization.quantised_weight(tensor, "nf4", device)
        statistics = quantization.statistics_of(weight)
        yield parameter, {name: weight.data.cpu(), **{f"{name}.{part}": kept for part, kept in statistics.items()}}


class _Shards:
    """Files of tensors in one folder, each written once it is full, and the index that names several."""

    def __init__(self, folder: Path, most_bytes: int) -> None:
        self._folder = folder
        self._most_bytes = most_bytes
        self._waiting: dict[str, Tensor] = {}
        self._index: dict[str, str] = {}

    def add(self, tensors: Mapping[str, Tensor]) -> None:
        """Takes tensors that belong into one file."""
        size = sum(tensor.nbytes for tensor in (*self._waiting.values(), *tensors.values()))
        if self._waiting and size > self._most_bytes:
            self._write()
        self._waiting.update(tensors)

    def finish(self) -> None:
        """Writes what waits, and the index; a single file has a name that needs none."""
        self._write()
        if len(names := set(self._index.values())) == 1:
            (self._folder / names.pop()).rename(self._folder / "model.safetensors")
            return
        index = {"metadata": {}, "weight_map": self._index}
        (self._folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1))

    def _write(self) -> None:
        name = f"model-{len(set(self._index.values())) + 1:05d}.safetensors"
        save_file(self._waiting, self._folder / name, metadata={"format": "pt"})
        self._index.update(dict.fromkeys(self._waiting, name))
        self._waiting = {}


def _copy_the_rest(checkpoint: Checkpoint, out: Path) -> None:
    config = json.loads((checkpoint.folder / "config.json").read_text(encoding="utf-8"))
    config |= {QUANTISED_KEY: _QUANTISATION, LAYOUT_KEY: checkpoint.layout}
    (out / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    copy_tokenizer(checkpoint.folder, out)
    shutil.copyfile(checkpoint.vision_tower / "config.json", out / OWN_TOWER / "config.json")


def copy_tokenizer(folder: Path, out: Path) -> None:
    """Copies a checkpoint's tokenizer, with its settings and what other programs read beside it where that is there."""
    for name in TOKENIZER_FILES:
        shutil.copyfile(folder / name, out / name)
    for name in (TOKENIZER_SETTINGS, *_FOR_OTHERS):
        if (folder / name).is_file():
            shutil.copyfile(folder / name, out / name)
