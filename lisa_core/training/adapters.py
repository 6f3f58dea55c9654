"""The weights that a fine-tuning trains (LoRA on the language model's attention, some parts in full), and their merge.

Source: Hu et al. 2021, "LoRA"; Dettmers et al. 2023, "QLoRA"; which parts, from LISA's published training code.
"""

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from lisa_core import devices, footprint, loading, quantization, tensor_files
from lisa_core.checkpoint import LAYOUT_KEY, TEMPLATE_KEY, Checkpoint
from lisa_core.errors import CheckpointError, check_imports
from lisa_core.model.linear import Linear, put
from lisa_core.model.lisa import Lisa, parameter_name
from lisa_core.training import trouble
from lisa_core.training.export import export
from lisa_core.training.recipe import Lora

WHOLE = ("language.embed_tokens.", "language.lm_head.", "text_hidden_fcs.", "sam.mask_decoder.")
"""Parameters that are trained in full, by the beginning of their names."""

_DOWN, _UP = ".lora_A.default.weight", ".lora_B.default.weight"
_OFFICIAL = "base_model.model."
"""Prefix that peft puts before the parameter names of a whole model."""


def check_available() -> None:
    """Raises `LisaError` if peft cannot be imported; to call before minutes of loading."""
    with contextlib.suppress(CheckpointError):
        quantization.import_bitsandbytes()  # before peft does, and it prints advice to install what downloads code
    check_imports("peft", "Fine-tuning needs", "train")


def check_learnable(checkpoint: Checkpoint) -> None:
    """Raises CheckpointError if the weights are stored in 4 bit."""
    if checkpoint.quantised:
        raise CheckpointError(f"{checkpoint.folder} is stored in 4 bit, which cannot be learnt on; give the original.")


def load_learner(
    checkpoint: Checkpoint, precision: str, device: torch.device, lora: Lora, progress: loading.Progress | None = None
) -> Lisa:
    """Loads the checkpoint for training: frozen weights in that precision with adapters, the parts in `WHOLE` in fp32.

    Raises:
        CheckpointError: it is stored in 4 bit, or the precision cannot be trained in.
        OutOfMemoryError: the device, or the host's memory for a CPU, is too small.
        DeviceError: the GPU does not work.
    """
    from peft import LoraConfig, inject_adapter_in_model

    check_learnable(checkpoint)
    resolved = devices.resolve_precision(precision, device)
    if resolved not in ("nf4", "bf16", "fp32"):
        raise CheckpointError(f"Nothing can be learnt in {resolved}; choose nf4, bf16 or fp32.")
    model = loading.load(checkpoint, resolved, device, progress, to_learn=True)
    if resolved == "nf4":
        quantization.widen(model)
    with footprint.fitting(resolved, device):
        if resolved != "fp32":
            _make_whole(model, checkpoint, device)
        config = LoraConfig(
            r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=list(lora.targets)
        )
        inject_adapter_in_model(config, model.language)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name.startswith(WHOLE) or name.endswith((_DOWN, _UP)))
            if parameter.requires_grad:
                parameter.data = parameter.data.to(device, torch.float32)
    return model


def learnt(model: Lisa) -> dict[str, nn.Parameter]:
    """The parameters that are trained, by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def write_merged(
    checkpoint: Checkpoint,
    taught: Mapping[str, Tensor],
    scale: float,
    out: Path,
    progress: loading.Progress | None = None,
    beside: Sequence[Path] = (),
) -> None:
    """Writes the checkpoint with what was learnt, in the official v1 layout.

    Args:
        checkpoint: the one that was trained, not in 4 bit.
        taught: the trained tensors by parameter; adapters as `<layer>.lora_A.default.weight` and `lora_B`.
        scale: alpha over rank.
        out: folder to make; must not exist.
        progress: called with (share done, parameter).
        beside: files to copy into it, too.

    Raises:
        LisaError: a tensor does not belong to this checkpoint, or `out` exists.
        OSError: it could not be written.
    """
    _check_fits(checkpoint, taught)
    config = json.loads((checkpoint.folder / "config.json").read_text(encoding="utf-8"))
    tower = json.loads((checkpoint.vision_tower / "config.json").read_text(encoding="utf-8"))
    config |= {LAYOUT_KEY: checkpoint.layout, TEMPLATE_KEY: checkpoint.template}
    weights = _merged(checkpoint, taught, scale)
    with trouble.translated(out.parent, torch.device("cpu")):
        export(weights, config, tower, checkpoint.folder, out, len(checkpoint.stored), progress, beside)


def _merged(checkpoint: Checkpoint, taught: Mapping[str, Tensor], scale: float) -> Iterator[tuple[str, Tensor]]:
    """Yields each parameter, trained or from the checkpoint, one at a time: the model is not in memory twice."""
    for name, stored, _ in checkpoint.tensors():
        base = taught.get(name, stored)
        layer = name.removesuffix(".weight")
        if (down := taught.get(layer + _DOWN)) is None:
            yield name, base
        else:
            yield name, base.float().cpu() + scale * (taught[layer + _UP].float() @ down.float()).cpu()


def read_official(files: Iterable[Path], checkpoint: Checkpoint) -> tuple[dict[str, Tensor], int]:
    """Reads the weights of an official training run: tensors by parameter name, and the rank of the adapters.

    Args:
        files: `pytorch_model*.bin`, as `zero_to_fp32.py` writes them.
        checkpoint: the one to merge them into.

    Raises:
        CheckpointError: a file is damaged, or holds no adapters, or tensors of another model.
    """
    known = {name for name, _ in Lisa.on_meta(checkpoint.shape).named_parameters()}
    taught: dict[str, Tensor] = {}
    for file in files:
        saved = tensor_files.load_saved(file, "is missing, damaged, or holds more than tensors; fetch it again.")
        for stored, tensor in tensor_files.named(file, saved).items():
            name = parameter_name(stored.removeprefix(_OFFICIAL).replace(".base_layer.", "."))
            plain = (name or "").replace(_DOWN, ".weight").replace(_UP, ".weight")
            if name is not None and plain in known:
                taught[name] = tensor
            elif name is None or (plain.startswith("language.layers.") and ".rotary_emb." not in plain):
                raise CheckpointError(f"{file} holds {stored}, which {checkpoint.folder} has no place for.")
    ranks = {tensor.shape[0] for name, tensor in taught.items() if name.endswith(_DOWN) and tensor.dim() == 2}
    if len(ranks) != 1:
        raise CheckpointError("The files hold no LoRA weights (lora_A, lora_B) of one rank; give those of a training.")
    _check_whole(taught, known)
    return taught, ranks.pop()


def _check_whole(taught: Mapping[str, Tensor], known: Iterable[str]) -> None:
    """Raises CheckpointError if a tensor that the recipe trains is missing, as its merge script does, or not finite."""
    adapted = {name.removesuffix(_DOWN) for name in taught if name.endswith(_DOWN)}
    kinds = {layer.rpartition(".")[2] for layer in adapted}
    wanted = {name for name in known if name.startswith(WHOLE)} - taught.keys()
    wanted |= {
        f"{layer}{_DOWN}"
        for name in known
        if (layer := name.removesuffix(".weight")).startswith("language.layers.")
        and layer.rpartition(".")[2] in kinds
        and layer not in adapted
    }
    if wanted:
        raise CheckpointError(
            f"The files lack {len(wanted)} of the tensors that a training learns, among them {min(wanted)};"
            " give all files of it."
        )
    if broken := [name for name, tensor in taught.items() if not tensor.isfinite().all()]:
        raise CheckpointError(f"{broken[0]} is not finite: the training has diverged; give an earlier state of it.")


def _make_whole(model: Lisa, checkpoint: Checkpoint, device: torch.device) -> None:
    """Replaces the parameters in `WHOLE`, rounded to the frozen weights' precision, by the checkpoint's own in fp32."""
    quantised = {
        name: module
        for name, module in model.named_modules()
        if f"{name}.".startswith(WHOLE) and isinstance(module, nn.Linear) and not isinstance(module, Linear)
    }
    for name, module in quantised.items():
        layer = Linear(module.in_features, module.out_features, bias=module.bias is not None, device=device)
        put(model, name, layer)
    for parameter, tensor, _ in checkpoint.tensors():
        if parameter.startswith(WHOLE):
            model.get_parameter(parameter).data = tensor.to(device, torch.float32, copy=True)


def _check_fits(checkpoint: Checkpoint, taught: Mapping[str, Tensor]) -> None:
    """Raises CheckpointError, naming the parameter, if the tensors are of another model."""
    for name, tensor in taught.items():
        parameter, shape = name, tuple(tensor.shape)
        if name.endswith((_DOWN, _UP)):
            layer = name.removesuffix(_DOWN).removesuffix(_UP)
            down, up = taught.get(layer + _DOWN), taught.get(layer + _UP)
            if down is None or up is None:
                raise CheckpointError(f"The adapter of {layer} is half there; it takes lora_A and lora_B.")
            if down.dim() != 2 or up.dim() != 2 or len(down) != up.shape[1]:
                sizes = f"{tuple(down.shape)} and {tuple(up.shape)}"
                raise CheckpointError(f"The adapter of {layer} has lora_A and lora_B of shapes {sizes}: no pair.")
            parameter, shape = f"{layer}.weight", (len(up), down.shape[1])
        stored = checkpoint.stored.get(parameter)
        if stored is None:
            raise CheckpointError(
                f"What was learnt has {parameter}, which this checkpoint lacks; give the one that learnt it."
            )
        if stored.shape != shape:
            raise CheckpointError(
                f"What was learnt of {parameter} has shape {shape}, but the checkpoint has {stored.shape}:"
                " it was trained on another model, or for other tokens."
            )
