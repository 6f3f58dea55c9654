"""Official checkpoint folders, opened strictly: every size is read from them, every tensor is checked before use.

Two layouts, told apart by what is in the folder:

- v1: one model in shards (`pytorch_model*.bin` or `model*.safetensors`) with everything but CLIP;
- v0: `pytorch_model*.bin` with the language model, `pytorch_model-visual_model.bin` with SAM,
  `pytorch_model-text_hidden_fcs.bin` with the projection.

Opening reads names, shapes and dtypes only. Weights are read one by one, by `Checkpoint.tensors()`.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from lisa_core import hub, quantization
from lisa_core.checkpoint_files import OWN_TOWER, V0_PARTS, weight_files
from lisa_core.errors import CheckpointError
from lisa_core.model.lisa import Lisa, LisaShape, parameter_name
from lisa_core.options import Layout, TemplateName
from lisa_core.shapes import read_shape
from lisa_core.template import BY_NAME, IM_PATCH
from lisa_core.tensor_files import StoredTensor, TensorFile, not_allowed
from lisa_core.tokenizer import Tokenizer

_DEFAULT_TEMPLATE: Mapping[Layout, TemplateName] = {"v1": "llava_v1", "v0": "vicuna_v1_1"}
QUANTISED_KEY = "quantization_config"
"""In `config.json` of a checkpoint whose linear layers are stored in NF4, as transformers names it."""
LAYOUT_KEY = "lisa_layout"
"""In `config.json` of a checkpoint that was stored anew: the layout that it came from."""
TEMPLATE_KEY = "lisa_template"
"""In `config.json` of a checkpoint that was fine-tuned: the template that it learnt with."""

_UNUSED = (  # parts of released tensors' names that LISA has but never uses for an answer
    "rotary_emb.inv_freq",
    "prompt_encoder.point_embeddings.",
    "prompt_encoder.not_a_point_embed.",
    "prompt_encoder.mask_downscaling.",
    "embeddings.position_ids",
    "vision_model.post_layernorm.",
)
_NOT_VISION = ("text_model.", "text_projection.", "visual_projection.", "logit_scale")


@dataclass(frozen=True)
class Checkpoint:
    """A checked folder; no weight has been read yet.

    Attributes:
        folder: of the checkpoint.
        vision_tower: folder of CLIP.
        layout: of the checkpoint.
        template: conversation template to use.
        shape: every size of the model.
        tokenizer: of the checkpoint.
        quantised: whether its linear layers are stored in NF4 already (`lisa quantize`).
        stored: parameter of `Lisa` -> where its tensor lies; complete, without extras, shapes checked.
    """

    folder: Path
    vision_tower: Path
    layout: Layout
    template: TemplateName
    shape: LisaShape
    tokenizer: Tokenizer
    quantised: bool
    stored: Mapping[str, StoredTensor]

    @classmethod
    def open(
        cls,
        checkpoint: str | Path,
        vision_tower: str | Path | None = None,
        template: str | None = None,
        on_download: Callable[[str], None] = lambda _: None,
    ) -> "Checkpoint":
        """Opens and checks a checkpoint.

        Args:
            checkpoint: folder, hub id, or "bundled".
            vision_tower: folder or hub id of CLIP; None: what the checkpoint brings or names.
            template: one of `options.TEMPLATES`; None: the one it was fine-tuned with, else the layout's.
            on_download: told a hub id before it is downloaded.

        Raises:
            CheckpointError: missing, damaged, or no LISA; names the file or tensor.
        """
        try:
            return cls._open(checkpoint, vision_tower, template, on_download)
        except PermissionError as error:
            raise CheckpointError(not_allowed(error.filename)) from error
        except OSError as error:  # such as a name that is too long
            raise CheckpointError(
                f"{checkpoint} cannot be looked at ({error}); give its right name, or fetch it again."
            ) from error

    @classmethod
    def _open(
        cls,
        checkpoint: str | Path,
        vision_tower: str | Path | None,
        template: str | None,
        on_download: Callable[[str], None],
    ) -> "Checkpoint":
        folder = hub.folder_of(checkpoint, on_download)
        config = _read_config(folder)
        layout = _layout(folder, config)
        weights = _weights(folder, layout)
        tokenizer = Tokenizer.from_folder(folder)
        if layout == "v0" and IM_PATCH not in tokenizer.special_ids:
            raise CheckpointError(f"The tokenizer of {folder} has no {IM_PATCH}, which a v0 checkpoint needs.")
        tower = _tower_folder(folder, config, vision_tower, on_download)
        stored = {**_catalogue(weights, layout), **_tower_catalogue(tower)}
        shape = read_shape(config, _read_config(tower), {name: tensor.shape for name, tensor in stored.items()})
        if tokenizer.vocabulary_size > shape.language.vocabulary:
            raise CheckpointError(
                f"The tokenizer of {folder} has ids up to {tokenizer.vocabulary_size - 1}, but the model embeds only"
                f" {shape.language.vocabulary} tokens: the files are of different checkpoints."
            )
        quantised = config.get(QUANTISED_KEY) is not None
        parameters = _check(stored, shape, folder, layout if quantised else None)
        return cls(
            folder,
            tower,
            layout,
            _template(template or config.get(TEMPLATE_KEY) or _DEFAULT_TEMPLATE[layout]),
            shape,
            tokenizer,
            quantised,
            parameters,
        )

    def tensors(self) -> Iterator[tuple[str, Tensor, Mapping[str, Tensor]]]:
        """Every (parameter, tensor on the host, its statistics if it is 4 bit), file by file.

        A tensor is read when it is used (mmap). The largest come first: on a CPU, quantising one takes 14 bytes of
        memory a weight for a moment, and there is more room before the others stand there.
        """
        by_file: dict[Path, list[tuple[str, StoredTensor]]] = {}
        for parameter, tensor in sorted(self.stored.items(), key=lambda entry: -math.prod(entry[1].shape)):
            by_file.setdefault(tensor.file, []).append((parameter, tensor))
        for file, wanted in by_file.items():
            with TensorFile(file) as opened:
                for parameter, tensor in wanted:
                    statistics = {
                        part: opened.read(name)
                        for part, name in zip(quantization.STATISTICS, tensor.statistics, strict=False)
                    }
                    yield parameter, opened.read(tensor.name), statistics


def _layout(folder: Path, config: Mapping[str, Any]) -> Layout:
    came_from = config.get(LAYOUT_KEY)
    if came_from not in (None, "v0", "v1"):
        raise CheckpointError(f"{folder / 'config.json'} names the layout {came_from!r}; it has to be v0 or v1.")
    if came_from == "v0" or any((folder / part).exists() for part in V0_PARTS):
        return "v0"
    return "v1"


def _template(name: str) -> TemplateName:
    for known in BY_NAME:
        if name == known:
            return known
    raise CheckpointError(f"There is no template {name!r}; choose one of {', '.join(BY_NAME)}.")


def _read_config(folder: Path) -> Mapping[str, Any]:
    path = folder / "config.json"
    if not path.is_file():
        raise CheckpointError(f"{folder} is no checkpoint: it has no config.json. Give the folder that holds it.")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except PermissionError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not readable JSON ({error}); fetch it again.") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{path} is not a JSON object; fetch it again.")
    return config


def _tower_folder(
    folder: Path, config: Mapping[str, Any], given: str | Path | None, on_download: Callable[[str], None]
) -> Path:
    if given is not None:
        return hub.folder_of(given, on_download)
    if (folder / OWN_TOWER).is_dir():
        return folder / OWN_TOWER
    named = config.get("vision_tower") or config.get("mm_vision_tower")
    if not isinstance(named, str):
        raise CheckpointError(f"{folder / 'config.json'} names no vision tower; give one (vision_tower).")
    try:
        return hub.folder_of(named, on_download)
    except CheckpointError as error:
        raise CheckpointError(
            f"The vision tower of {folder} is missing: {error} Or give its folder (vision_tower)."
        ) from error


def _weights(folder: Path, layout: Layout) -> list[Path]:
    """The files with the checkpoint's weights, all there."""
    files = weight_files(folder)
    if not files:
        raise CheckpointError(
            f"{folder} has no weights: neither model.safetensors nor pytorch_model.bin, nor an index of their shards."
        )
    if layout == "v0" and files[0].suffix == ".bin":
        files += [folder / part for part in V0_PARTS]
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise CheckpointError(f"{folder} lacks {', '.join(missing)}; fetch the missing files.")
    return files


def _catalogue(files: list[Path], layout: Layout) -> dict[str, StoredTensor]:
    """Released tensor name in v1 spelling -> where it lies."""
    stored: dict[str, StoredTensor] = {}
    for file in files:
        with TensorFile(file) as opened:
            for tensor in opened.catalogue():
                prefix = "model." if layout == "v0" and file.name in V0_PARTS else ""
                stored[prefix + tensor.name] = tensor
    return stored


def _tower_catalogue(folder: Path) -> dict[str, StoredTensor]:
    files = weight_files(folder)
    if not files or not all(file.is_file() for file in files):
        raise CheckpointError(f"The vision tower {folder} lacks its weights; fetch the whole folder.")
    tensors = _catalogue(files, "v1")
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(_NOT_VISION)}


def _check(
    stored: Mapping[str, StoredTensor], shape: LisaShape, folder: Path, quantised: Layout | None
) -> dict[str, StoredTensor]:
    """Parameter -> stored tensor, once every parameter has one of its shape and none is left over."""
    model = Lisa.on_meta(shape)
    expected = {name: (tuple(tensor.shape), True) for name, tensor in model.state_dict().items()}
    if quantised:
        for name in quantization.quantised_parameters(model, quantised):
            expected[name] = quantization.packed_size(model.get_parameter(name).shape), False
        stored = _with_statistics(stored)
    found: dict[str, StoredTensor] = {}
    extra: list[str] = []
    for name, tensor in stored.items():
        parameter = parameter_name(name)
        if parameter in expected:
            found[parameter] = tensor
        elif not any(part in name for part in _UNUSED) and not _after_selected_layer(parameter, shape):
            extra.append(name)
    missing = [parameter for parameter in expected if parameter not in found]
    if missing or extra:
        raise CheckpointError(
            f"{folder} does not hold the tensors of a LISA of its own sizes."
            + (f" Missing: {_some(missing)}." if missing else "")
            + (f" Unknown: {_some(extra)}." if extra else "")
        )
    for parameter, tensor in found.items():
        _check_tensor(tensor, *expected[parameter])
    return found


def _check_tensor(tensor: StoredTensor, needed: tuple[int, ...], floating: bool) -> None:
    """Raises CheckpointError if it is not of the needed shape, or is in 4 bit but should be `floating`, or not."""
    where = f"Tensor {tensor.name} in {tensor.file.name}"
    if floating and tensor.statistics:
        raise CheckpointError(f"{where} is in 4 bit, as an older lisa quantize left it; quantise the original again.")
    if tensor.dtype.is_floating_point != floating or bool(tensor.statistics) == floating:
        raise CheckpointError(f"{where} holds {tensor.dtype}, not weights.")
    if tensor.shape != needed:
        raise CheckpointError(f"{where} has shape {tensor.shape}, but this model needs {needed}.")


def _with_statistics(stored: Mapping[str, StoredTensor]) -> dict[str, StoredTensor]:
    """The same tensors, with the statistics of each 4-bit weight no longer beside it but in it."""
    alone = {name: tensor for name, tensor in stored.items() if not name.endswith(quantization.STATISTICS)}
    for name, tensor in alone.items():
        beside = [stored.get(f"{name}.{part}") for part in quantization.STATISTICS]
        if all(part is not None and part.file == tensor.file for part in beside):
            alone[name] = replace(tensor, statistics=tuple(part.name for part in beside if part))
    return alone


def _after_selected_layer(parameter: str | None, shape: LisaShape) -> bool:
    """Whether it belongs to a layer of CLIP behind the one whose output LISA reads."""
    parts = (parameter or "").split(".")
    number = parts[3] if len(parts) > 3 else ""
    return parts[:3] == ["clip", "encoder", "layers"] and number.isdecimal() and int(number) >= shape.clip.layers


def _some(names: list[str], most: int = 5) -> str:
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest
