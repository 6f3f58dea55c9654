"""A new LISA: sizes, first weights and a tokenizer of its own."""

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from lisa_core.model.clip import ClipShape
from lisa_core.model.language import LanguageShape
from lisa_core.model.lisa import Lisa, LisaShape
from lisa_core.model.sam import FREQUENCIES, SamShape
from lisa_core.options import TemplateName
from lisa_core.template import IM_END, IM_PATCH, IM_START, SEG

TEMPLATE: TemplateName = "llava_v1"
"""The prompt template of a new model."""
ADDED_TOKENS = (SEG, IM_PATCH, IM_START, IM_END)
_NARROW = 0.02
"""Standard deviation of embeddings and positions, as in Llama and ViT."""


def small_shape(vocabulary: int) -> LisaShape:
    """The sizes of the bundled model: 12 million weights; SAM sees 384 px, the language model 400 visual tokens."""
    return LisaShape(
        clip=ClipShape(
            image=400, patch=20, width=192, heads=6, hidden=768, layers=6, norm_eps=1e-5, activation="quick_gelu"
        ),
        language=LanguageShape(
            vocabulary=vocabulary,
            width=256,
            hidden=608,
            layers=5,
            heads=8,
            kv_heads=8,
            context=2048,
            norm_eps=1e-6,
            rope_theta=10000.0,
        ),
        sam=SamShape(
            image=384,
            patch=16,
            width=192,
            heads=6,
            hidden=768,
            windows=(8, 8, 8, 0, 8, 8, 8, 0),
            embedding=128,
            decoder_layers=2,
            decoder_hidden=512,
            attention_inner=64,
            mask_tokens=1,
            iou_hidden=64,
            iou_depth=2,
        ),
    )


def new_model(shape: LisaShape, seed: int) -> Lisa:
    """A model with random initial weights; the same seed gives the same weights."""
    model = Lisa.on_meta(shape)
    model.to_empty(device="cpu")
    random = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        _fill(name, parameter.data, random)
    residuals = 2 * shape.language.layers
    for name, parameter in model.language.named_parameters():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            parameter.data /= math.sqrt(residuals)
    return model


def _fill(name: str, weight: torch.Tensor, random: torch.Generator) -> None:
    if name.endswith("bias") or ".rel_pos_" in name:
        weight.zero_()
    elif weight.dim() == 1 and name.endswith("weight"):
        weight.fill_(1)  # a norm
    elif name.endswith(FREQUENCIES):
        weight.normal_(generator=random)
    elif weight.dim() == 4 and "pos_embed" not in name:
        weight.normal_(std=1 / math.sqrt(math.prod(weight.shape[1:])), generator=random)
    elif ".mask_decoder." in name:
        weight.normal_(std=1 / math.sqrt(weight.shape[-1]), generator=random)
    else:
        weight.normal_(std=_NARROW, generator=random)


def config_of(shape: LisaShape) -> dict[str, Any]:
    """`config.json` of a checkpoint of this shape, in the official v1 layout, with the vision tower inside."""
    language = shape.language
    return {
        "architectures": ["LISAForCausalLM"],
        "model_type": "llava",
        "hidden_act": "silu",
        "hidden_size": language.width,
        "intermediate_size": language.hidden,
        "num_hidden_layers": language.layers,
        "num_attention_heads": language.heads,
        "num_key_value_heads": language.kv_heads,
        "max_position_embeddings": language.context,
        "rms_norm_eps": language.norm_eps,
        "rope_theta": language.rope_theta,
        "vocab_size": language.vocabulary,
        "mm_use_im_start_end": True,
        "mm_vision_select_feature": "patch",
        "mm_vision_select_layer": -1,
        "mm_hidden_size": shape.clip.width,
        "out_dim": shape.sam.embedding,
        "train_mask_decoder": True,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "tie_word_embeddings": False,
        "torch_dtype": "float16",
    }


def tower_config_of(shape: ClipShape) -> dict[str, Any]:
    """`config.json` of its vision tower."""
    return {
        "architectures": ["CLIPVisionModel"],
        "model_type": "clip_vision_model",
        "hidden_act": shape.activation,
        "hidden_size": shape.width,
        "image_size": shape.image,
        "intermediate_size": shape.hidden,
        "layer_norm_eps": shape.norm_eps,
        "num_attention_heads": shape.heads,
        "num_channels": 3,
        "num_hidden_layers": shape.layers,
        "patch_size": shape.patch,
    }


def write_tokenizer(sentences: Iterable[str], pieces: int, folder: Path) -> int:
    """Trains a tokenizer on a corpus, and writes `tokenizer.model` and `added_tokens.json`.

    Args:
        sentences: of the dialogues, and of the template.
        pieces: most word pieces, among them 256 bytes for what the corpus does not have.
        folder: where to write; must exist.

    Returns:
        The size of the vocabulary, added tokens included.
    """
    import sentencepiece

    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(sentences),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=pieces,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        add_dummy_prefix=True,
        remove_extra_whitespaces=False,
        split_digits=True,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    (folder / "tokenizer.vocab").unlink()
    words = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model")).vocab_size()
    added = {token: words + index for index, token in enumerate(ADDED_TOKENS)}
    (folder / "added_tokens.json").write_text(json.dumps(added))
    return int(words) + len(added)
