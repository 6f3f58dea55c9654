"""Files of tensors: weights, `.bin` or `.safetensors`, behind one reader, and what a training keeps.

Nothing in a file can run code: `.bin` files are read with `weights_only=True`.
"""

import pickle
import struct
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lisa_core.errors import CheckpointError

_NO_TENSORS = (
    pickle.UnpicklingError,
    struct.error,
    RuntimeError,
    OSError,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    zipfile.BadZipFile,
)
"""What `torch.load` raises of a file that is missing or damaged, by what its bytes happen to say."""
_SAFE_DTYPES = {  # integers, too: beside its weights the official CLIP holds the numbers of its positions
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies, and what it is."""

    file: Path
    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    statistics: tuple[str, ...] = ()
    """Of a 4-bit weight: the names of `quantization.STATISTICS` as they stand beside it."""


def not_allowed(path: object) -> str:
    """What to say of a file or folder that this user may not read."""
    return f"{path} may not be read by this user; give it to them (chown, chmod), or fetch it as them."


class TensorFile:
    """One file of weights, either format, behind one reader; its errors are `CheckpointError`s that name it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> "TensorFile":
        try:
            if self.path.suffix == ".safetensors":
                self._safe = safe_open(self.path, framework="pt")
                self._names = list(self._safe.keys())
            else:
                self._bin = _load_bin(self.path)
        except pickle.UnpicklingError as error:
            if "global" in str(error).lower():
                raise CheckpointError(
                    f"{self.path} was refused: it holds more than tensors and would run code when loaded."
                ) from error
            raise CheckpointError(self._damaged(error)) from error
        except PermissionError as error:
            raise CheckpointError(not_allowed(self.path)) from error
        except (SafetensorError, *_NO_TENSORS) as error:
            raise CheckpointError(self._damaged(error)) from error
        return self

    def __exit__(self, *_: object) -> None:
        self.__dict__.pop("_safe", None)
        self.__dict__.pop("_bin", None)

    def _damaged(self, error: Exception) -> str:
        line = (str(error).splitlines() or [""])[0]
        cause = f" ({line[:200]})" if line and "weights_only" not in line else ""  # torch would have it read as code
        return f"{self.path} is damaged or truncated, or no file of tensors{cause}; fetch it again."

    def catalogue(self) -> Iterator[StoredTensor]:
        """What every tensor of the file is; none is read."""
        if self.path.suffix == ".safetensors":
            for name in self._names:
                tensor = self._safe.get_slice(name)
                yield StoredTensor(self.path, name, tuple(tensor.get_shape()), self._dtype(tensor.get_dtype()))
            return
        for name, tensor in self._bin.items():
            yield StoredTensor(self.path, name, tuple(tensor.shape), tensor.dtype)

    def _dtype(self, name: str) -> torch.dtype:
        if name not in _SAFE_DTYPES:
            raise CheckpointError(f"{self.path} holds tensors of type {name}; known: {', '.join(_SAFE_DTYPES)}.")
        return _SAFE_DTYPES[name]

    def read(self, name: str) -> Tensor:
        """A tensor on the host, mapped into memory: its bytes are read when they are used."""
        return self._safe.get_tensor(name) if self.path.suffix == ".safetensors" else self._bin[name]


def _load_bin(path: Path) -> Mapping[str, Tensor]:
    tensors = named(path, torch.load(path, map_location="cpu", weights_only=True, mmap=_can_be_mapped(path)))
    for name, tensor in tensors.items():
        if tensor.layout is not torch.strided or tensor.device.type != "cpu":
            raise CheckpointError(
                f"{path} holds {name} without its numbers, or only some of them, as a program leaves it that loads a"
                " model in parts; fetch the original."
            )
    return tensors


def _can_be_mapped(path: Path) -> bool:
    """Whether the numbers of a `.bin` stand in the file as they are; otherwise it is read whole.

    Those of torch before 1.6 are no zip. In one that a zip tool has packed anew, torch would map the compressed bytes
    and take them for numbers.
    """
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return all(member.compress_type == zipfile.ZIP_STORED for member in archive.infolist())


def load_saved(path: Path, otherwise: str, *keys: str) -> dict[str, Any]:
    """What `torch.save` wrote of a dictionary that has these keys, on the host.

    Raises:
        CheckpointError: "{path} {otherwise}": it is missing, damaged, would run code, or is something else.
    """
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
    except _NO_TENSORS as error:
        raise CheckpointError(f"{path} {otherwise}") from error
    if not isinstance(saved, dict) or not saved.keys() >= set(keys):
        raise CheckpointError(f"{path} {otherwise}")
    return saved


def named(path: Path, saved: object) -> dict[str, Tensor]:
    """What was saved in a file, if that is tensors by their names; else raises CheckpointError."""
    if isinstance(saved, dict) and all(isinstance(name, str) and isinstance(saved[name], Tensor) for name in saved):
        return saved
    raise CheckpointError(f"{path} is no table of named tensors.")


def save(path: Path, values: Mapping[str, Any]) -> None:
    """Writes tensors and plain values, whole or not at all; raises OSError if the disk is full."""
    partial = path.with_name(f".{path.name}.part")
    try:
        with partial.open("wb") as file:  # opened here, for torch would hide why it cannot be written
            torch.save(dict(values), file)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
