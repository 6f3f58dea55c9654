"""The sizes that can be measured with random weights."""

from collections.abc import Mapping
from typing import Literal

from lisa_core.model.clip import ClipShape
from lisa_core.model.language import LanguageShape
from lisa_core.model.lisa import LisaShape
from lisa_core.model.sam import SamShape

ShapeName = Literal["tiny", "small", "7b", "13b"]


def _clip(width: int, heads: int, hidden: int, layers: int) -> ClipShape:
    """CLIP at 224 px with patches of 14; the last of its `layers` is not run, as LLaVA reads the one before."""
    return ClipShape(
        image=224,
        patch=14,
        width=width,
        heads=heads,
        hidden=hidden,
        layers=layers - 1,
        norm_eps=1e-5,
        activation="quick_gelu",
    )


def _llama(vocabulary: int, width: int, hidden: int, layers: int, heads: int) -> LanguageShape:
    return LanguageShape(
        vocabulary=vocabulary,
        width=width,
        hidden=hidden,
        layers=layers,
        heads=heads,
        kv_heads=heads,
        context=2048,
        norm_eps=1e-6,
        rope_theta=10000.0,
    )


def _sam(image: int, width: int, heads: int, layers: int, window: int, whole: tuple[int, ...]) -> SamShape:
    """SAM with global attention in the blocks `whole` of its encoder, and windows in the others."""
    return SamShape(
        image=image,
        patch=16,
        width=width,
        heads=heads,
        hidden=4 * width,
        windows=tuple(0 if block in whole else window for block in range(layers)),
        embedding=256,
        decoder_layers=2,
        decoder_hidden=2048,
        attention_inner=128,
        mask_tokens=4,
        iou_hidden=256,
        iou_depth=3,
    )


_LARGE_CLIP = _clip(width=1024, heads=16, hidden=4096, layers=24)
_HUGE_SAM = _sam(image=1024, width=1280, heads=16, layers=32, window=14, whole=(7, 15, 23, 31))

BY_NAME: Mapping[ShapeName, LisaShape] = {
    "tiny": LisaShape(
        clip=_clip(width=32, heads=2, hidden=64, layers=3),
        language=_llama(vocabulary=703, width=64, hidden=160, layers=3, heads=4),
        sam=_sam(image=256, width=64, heads=2, layers=2, window=7, whole=(1,)),
    ),
    "small": LisaShape(
        clip=_clip(width=768, heads=12, hidden=3072, layers=12),
        language=_llama(vocabulary=32003, width=1024, hidden=2816, layers=16, heads=16),
        sam=_sam(image=1024, width=768, heads=12, layers=12, window=14, whole=(2, 5, 8, 11)),
    ),
    "7b": LisaShape(
        clip=_LARGE_CLIP,
        language=_llama(vocabulary=32003, width=4096, hidden=11008, layers=32, heads=32),
        sam=_HUGE_SAM,
    ),
    "13b": LisaShape(
        clip=_LARGE_CLIP,
        language=_llama(vocabulary=32003, width=5120, hidden=13824, layers=40, heads=40),
        sam=_HUGE_SAM,
    ),
}
