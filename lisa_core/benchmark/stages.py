"""Where the time of an answer goes: each stage by itself."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from lisa_core.benchmark.cases import LONG, Progress, question
from lisa_core.benchmark.cost import Costs, Work
from lisa_core.benchmark.subject import Subject
from lisa_core.model.language import KVCache
from lisa_core.model.sam import upsample
from lisa_core.tokenizer import IMAGE_ID

NAMES = ("preprocess", "clip", "sam", "prefill", "per_token", "mask_decode", "upsample")


@dataclass(frozen=True)
class Stage:
    """The times of one stage, and the least that it has to do, where that is known."""

    name: str
    about: str
    seconds: list[float]
    work: Work | None = None


def measure(subject: Subject, rgb: NDArray[np.uint8], costs: Costs, runs: int, on_progress: Progress) -> list[Stage]:
    """Times every stage of `NAMES` for one question about one picture; `on_progress` hears of each."""
    with torch.inference_mode():
        return _measure(subject, rgb, costs, runs, on_progress)


def _measure(subject: Subject, rgb: NDArray[np.uint8], costs: Costs, runs: int, on_progress: Progress) -> list[Stage]:
    model, shape = subject.model, subject.checkpoint.shape

    def timed(name: str, run: Callable[[], object]) -> list[float]:
        run()
        seconds = [_seconds(subject, run) for _ in range(runs)]
        on_progress(name)
        return seconds

    clip_pixels = subject.for_clip(rgb)
    sam_pixels, size = subject.for_sam(rgb)
    prompt = subject.prompt(question(0))
    wanted = torch.tensor(prompt, device=subject.device)
    embeddings = model.language.embed_tokens(wanted.clamp(min=0))
    embeddings[wanted == IMAGE_ID] = model.mm_projector(model.clip(clip_pixels)[0]).to(embeddings.dtype)
    cache = KVCache(shape.language, len(prompt), subject.dtype, subject.device)
    state = model.language(embeddings, cache, 0)[-1:]
    embedding = model.sam.encode(sam_pixels)[0]
    logits, _ = model.sam.decode(embedding, model.text_hidden_fcs(state))

    def prepare() -> None:
        subject.for_clip(rgb)
        subject.for_sam(rgb)

    height, width = rgb.shape[:2]
    return [
        Stage("preprocess", "for both encoders", timed("preprocess", prepare)),
        Stage(
            "clip",
            "what the language model sees",
            timed("clip", lambda: model.mm_projector(model.clip(clip_pixels))),
            costs.clip(),
        ),
        Stage("sam", "what masks are made from", timed("sam", lambda: model.sam.encode(sam_pixels)), costs.sam()),
        Stage(
            "prefill",
            f"a prompt of {len(prompt)} tokens",
            timed("prefill", lambda: model.language.lm_head(model.language(embeddings, cache, 0)[-1:])),
            costs.read(len(prompt), 0),
        ),
        Stage(
            "per_token",
            "one of the answer",
            _gaps(subject, rgb, runs, on_progress),
            costs.read(1, len(prompt)),
        ),
        Stage(
            "mask_decode",
            "one mask in low resolution",
            timed("mask_decode", lambda: model.sam.decode(embedding, model.text_hidden_fcs(state))),
        ),
        Stage(
            "upsample",
            f"to {width}x{height} px",
            timed("upsample", lambda: upsample(logits, shape.sam.image, size.resized, size.source)),
        ),
    ]


def _gaps(subject: Subject, rgb: NDArray[np.uint8], runs: int, on_progress: Progress) -> list[float]:
    """Seconds between the tokens of an answer as a caller sees them come."""
    frame = subject.engine.encode(rgb)
    gaps = []
    for run in range(runs):
        seen: list[float] = []
        subject.engine.ask(
            frame,
            question(run),
            max_new_tokens=LONG,
            max_segments=0,
            on_token=lambda _, seen=seen: seen.append(time.perf_counter()),  # type: ignore[misc]
        )
        gaps += [later - earlier for earlier, later in pairwise(seen)]
    on_progress("per_token")
    return gaps


def _seconds(subject: Subject, run: Callable[[], object]) -> float:
    subject.synchronise()
    begun = time.perf_counter()
    run()
    subject.synchronise()
    return time.perf_counter() - begun
