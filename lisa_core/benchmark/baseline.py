"""The baseline: the same model, run as the reference implementation runs it, without any cache.

For each generated token, CLIP encodes the frame again, and the language model reads the whole prompt and everything
generated so far, with logits for every position. SAM encodes the frame for every question, even for an answer without
`[SEG]`. The modules are the engine's own, so the answers must be the same. Besides the order of work, two things
differ: SAM's attention is computed as in the reference (`reference_sam.py`), and products in fp32 are torch's own,
because this runs under `no_grad`, like the reference, and not under `inference_mode` (`model/linear.py`). In bf16 on a
CPU both use packed weights.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lisa_core import template
from lisa_core.benchmark import reference_sam
from lisa_core.benchmark.subject import Subject
from lisa_core.model.language import KVCache
from lisa_core.model.sam import upsample
from lisa_core.options import MAX_SEGMENTS
from lisa_core.template import SEG, History, Special
from lisa_core.tokenizer import IMAGE_ID


@dataclass(frozen=True)
class UncachedAnswer:
    """The parts of an `Answer` that are compared.

    Attributes:
        low_res_logits: (N, h, w) float32, one for each `[SEG]`.
    """

    token_ids: list[int]
    low_res_logits: NDArray[np.float32]


def ask(
    subject: Subject,
    rgb: NDArray[np.uint8],
    question: str,
    history: History = (),
    *,
    max_new_tokens: int,
    mask_only: bool = False,
) -> UncachedAnswer:
    """Answers a question about (H, W, 3) uint8 RGB without any cache; other arguments as in `LisaEngine.ask`."""
    with torch.no_grad():
        clip_pixels = subject.for_clip(rgb)
        prompt = subject.prompt(question, history)
        if mask_only:
            tokens, states = _taken(subject, clip_pixels, prompt)
        else:
            tokens, states = _generated(subject, clip_pixels, prompt, max_new_tokens)
        return UncachedAnswer(tokens, _masks(subject, rgb, states))


def _generated(
    subject: Subject, pixels: Tensor, prompt: Sequence[int], max_new_tokens: int
) -> tuple[list[int], list[Tensor]]:
    """Decodes; returns the new tokens, and the state (1, width) that emitted each `[SEG]`."""
    special = subject.checkpoint.tokenizer.special_ids
    tokens: list[int] = []
    states: list[Tensor] = []
    while len(tokens) < max_new_tokens:
        hidden, logits = _read(subject, pixels, [*prompt, *tokens])
        tokens.append(int(logits[-1].argmax()))
        if tokens[-1] == special[SEG]:
            states.append(hidden[-1:])
        if tokens[-1] == special[template.EOS]:
            break
    return tokens, states


def _taken(subject: Subject, pixels: Tensor, prompt: Sequence[int]) -> tuple[list[int], list[Tensor]]:
    """Reads the answer "[SEG]." in one pass, as if the model had generated it."""
    answer = subject.checkpoint.tokenizer.encode([Special(SEG), ".", Special(template.EOS)])[1:]
    hidden, _ = _read(subject, pixels, [*prompt, *answer])
    return answer, [hidden[len(prompt) - 1 : len(prompt)]]


def _read(subject: Subject, pixels: Tensor, ids: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Hidden states (T, width) and logits (T, vocabulary) of a text with its frame."""
    language = subject.model.language
    visual = subject.model.mm_projector(subject.model.clip(pixels)[0])
    wanted = torch.tensor(ids, device=subject.device)
    embeddings = language.embed_tokens(wanted.clamp(min=0))
    embeddings[wanted == IMAGE_ID] = visual.to(embeddings.dtype)
    nothing_read = KVCache(language.shape, len(ids), subject.dtype, subject.device)
    hidden = language(embeddings, nothing_read, 0)
    return hidden, language.lm_head(hidden)


def _masks(subject: Subject, rgb: NDArray[np.uint8], states: Sequence[Tensor]) -> NDArray[np.float32]:
    sam = subject.model.sam
    pixels, size = subject.for_sam(rgb)
    embedding = reference_sam.encode(sam.image_encoder, pixels)[0]
    if not states:
        return np.empty((0, 4 * sam.shape.grid, 4 * sam.shape.grid), np.float32)
    prompts = subject.model.text_hidden_fcs(torch.cat(list(states[:MAX_SEGMENTS])))
    logits, _ = sam.decode(embedding, prompts)
    (upsample(logits, sam.shape.image, size.resized, size.source) > 0).cpu()  # as the reference does
    return logits.float().cpu().numpy()
