"""Every size of a model, read from its checkpoint's configuration and tensors, never from constants."""

import math
from collections.abc import Mapping
from typing import Any

from lisa_core.errors import CheckpointError
from lisa_core.model.clip import ClipShape
from lisa_core.model.language import LanguageShape
from lisa_core.model.lisa import LisaShape
from lisa_core.model.sam import DECODER_HEADS, SamShape

Config = Mapping[str, Any]
Shapes = Mapping[str, tuple[int, ...]]

_SAM = "model.visual_model."
_LARGE = 1 << 20
_MANY_LAYERS = 1 << 10
"""No model has such sizes; building one of them to compare it with the tensors would take hours."""


def read_shape(config: Config, tower: Config, tensors: Shapes) -> LisaShape:
    """The sizes of the model whose tensors (released name -> shape) these are.

    Args:
        config: the checkpoint's `config.json`.
        tower: the vision tower's `config.json`, of the tower alone or of a whole CLIP.
        tensors: shapes of the checkpoint's and the tower's tensors.

    Raises:
        CheckpointError: a size is missing, absurd, or contradicts another.
    """
    layer = config.get("mm_vision_select_layer", -2)
    if config.get("mm_vision_select_feature", "patch") != "patch":
        raise CheckpointError("config.json: only mm_vision_select_feature 'patch' is known.")
    vision = tower.get("vision_config", tower)
    if not isinstance(vision, Mapping):
        raise CheckpointError("config.json of the vision tower: vision_config is no object.")
    return LisaShape(
        clip=_clip(vision, layer),
        language=_language(config),
        sam=_sam(tensors),
        projector_layers=2 if "model.mm_projector.0.weight" in tensors else 1,
    )


def _clip(config: Config, selected: Any) -> ClipShape:
    layers = _integer(config, "num_hidden_layers", "vision tower", below=_MANY_LAYERS)
    heads = _integer(config, "num_attention_heads", "vision tower")
    width = _integer(config, "hidden_size", "vision tower")
    if width % heads:
        raise CheckpointError(f"config.json of the vision tower: {heads} heads do not divide a width of {width}.")
    if type(selected) is not int or not -layers - 1 <= selected <= layers:
        raise CheckpointError(f"config.json selects layer {selected!r} of a vision tower of {layers} layers.")
    return ClipShape(
        image=_integer(config, "image_size", "vision tower"),
        patch=_integer(config, "patch_size", "vision tower"),
        width=width,
        heads=heads,
        hidden=_integer(config, "intermediate_size", "vision tower"),
        layers=selected if selected >= 0 else layers + 1 + selected,
        norm_eps=_number(config, "layer_norm_eps", 1e-5),
        activation=_choice(config, "hidden_act", "quick_gelu", ("quick_gelu", "gelu")),
    )


def _language(config: Config) -> LanguageShape:
    heads = _integer(config, "num_attention_heads")
    width = _integer(config, "hidden_size")
    kv_heads = _integer(config, "num_key_value_heads", default=heads)
    if width % heads or (width // heads) % 2 or heads % kv_heads:
        raise CheckpointError(f"config.json: {heads} heads ({kv_heads} for keys) do not divide a width of {width}.")
    _choice(config, "hidden_act", "silu", ("silu",))
    rope_theta, rope_scale = _rope(config)
    return LanguageShape(
        vocabulary=_integer(config, "vocab_size"),
        width=width,
        hidden=_integer(config, "intermediate_size"),
        layers=_integer(config, "num_hidden_layers", below=_MANY_LAYERS),
        heads=heads,
        kv_heads=kv_heads,
        context=_integer(config, "max_position_embeddings", default=2048),
        norm_eps=_number(config, "rms_norm_eps", 1e-6),
        rope_theta=rope_theta,
        rope_scale=rope_scale,
    )


def _rope(config: Config) -> tuple[float, float]:
    """The base of the positions and their scale; transformers 5 writes both into `rope_parameters`."""
    key = "rope_scaling" if config.get("rope_parameters") is None else "rope_parameters"
    scaling = config.get(key)
    if scaling is None:
        return _number(config, "rope_theta", 10000.0), 1.0
    if isinstance(scaling, dict):
        theta = _number({**config, **scaling}, "rope_theta", 10000.0)
        match scaling.get("type", scaling.get("rope_type")):
            case "default":
                return theta, 1.0
            case "linear":
                return theta, _number(scaling, "factor", 1.0)
    raise CheckpointError(f"config.json: {key} {scaling!r} is not known; only linear scaling is.")


def _sam(tensors: Shapes) -> SamShape:
    encoder, decoder = _SAM + "image_encoder.", _SAM + "mask_decoder."
    _, grid, _, width = _shape(tensors, encoder + "pos_embed", 4)
    patch = _shape(tensors, encoder + "patch_embed.proj.weight", 4)[-1]
    sides = [
        (_shape(tensors, f"{encoder}blocks.{index}.attn.rel_pos_h", 2)[0] + 1) // 2
        for index in range(_count(tensors, encoder + "blocks."))
    ]
    head_width = _shape(tensors, encoder + "blocks.0.attn.rel_pos_h", 2)[1]
    blocks = decoder + "transformer.layers."
    return SamShape(
        image=grid * patch,
        patch=patch,
        width=width,
        heads=max(1, width // head_width),
        hidden=_shape(tensors, encoder + "blocks.0.mlp.lin1.weight", 2)[0],
        windows=tuple(0 if side == grid else side for side in sides),
        embedding=_split_by_heads(tensors, encoder + "neck.0.weight", 4),
        decoder_layers=_count(tensors, blocks),
        decoder_hidden=_shape(tensors, blocks + "0.mlp.lin1.weight", 2)[0],
        attention_inner=_split_by_heads(tensors, blocks + "0.cross_attn_token_to_image.q_proj.weight", 2),
        mask_tokens=_few(_shape(tensors, decoder + "mask_tokens.weight", 2)[0], decoder + "mask_tokens"),
        iou_hidden=_shape(tensors, decoder + "iou_prediction_head.layers.0.weight", 2)[0],
        iou_depth=_count(tensors, decoder + "iou_prediction_head.layers."),
    )


def _shape(tensors: Shapes, name: str, dimensions: int) -> tuple[int, ...]:
    shape = tensors.get(name)
    if shape is None:
        raise CheckpointError(f"The checkpoint has no tensor {name}: it is no LISA checkpoint, or not whole.")
    if len(shape) != dimensions or math.prod(shape) == 0:
        raise CheckpointError(f"Tensor {name} has shape {shape}, but {dimensions} dimensions are needed.")
    return shape


def _split_by_heads(tensors: Shapes, name: str, dimensions: int) -> int:
    """The first dimension of a tensor of SAM's mask decoder, or of what it reads."""
    shape = _shape(tensors, name, dimensions)
    if shape[0] % DECODER_HEADS:
        raise CheckpointError(f"Tensor {name} has shape {shape}, but {DECODER_HEADS} heads do not divide {shape[0]}.")
    return shape[0]


def _count(tensors: Shapes, prefix: str) -> int:
    """How many numbers follow the prefix."""
    return _few(len({name.removeprefix(prefix).split(".")[0] for name in tensors if name.startswith(prefix)}), prefix)


def _few(count: int, name: str) -> int:
    if count >= _MANY_LAYERS:
        raise CheckpointError(f"The checkpoint has {count} of {name.rstrip('.')}, which no model has.")
    return count


def _integer(config: Config, key: str, where: str = "", default: int | None = None, below: int = _LARGE) -> int:
    value = config.get(key, default)
    if type(value) is not int or not 0 < value < below:
        of = f" of the {where}" if where else ""
        raise CheckpointError(f"config.json{of}: {key} is {value!r}, which is no size.")
    return value


def _number(config: Config, key: str, default: float) -> float:
    value = config.get(key, default)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < math.inf:
        raise CheckpointError(f"config.json: {key} is {value!r}, which is no positive number.")
    return float(value)


def _choice(config: Config, key: str, default: str, known: tuple[str, ...]) -> str:
    value = config.get(key, default)
    if value not in known:
        raise CheckpointError(f"config.json: {key} is {value!r}; known: {', '.join(known)}.")
    return str(value)
