"""Where the time of an answer goes: each stage by itself, recorded where the engine records it."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lisa_core import cuda_graphs, loading
from lisa_core.benchmark.cases import LONG, Progress, question
from lisa_core.benchmark.cost import Costs, Work
from lisa_core.benchmark.subject import Subject
from lisa_core.cuda_graphs import Replayed
from lisa_core.model.language import KVCache
from lisa_core.model.lisa import Lisa
from lisa_core.model.sam import upsample
from lisa_core.stepping import Step, Stepper
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
    """Times the stages of `NAMES` for one question about one picture; `on_progress` hears of each.

    An answer that comes in one piece has no time per token.
    """
    with torch.inference_mode(), loading.current(subject.device):
        measured = _measure(subject, rgb, costs, runs, on_progress)
    return [stage for stage in measured if stage.seconds]


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
    capture = cuda_graphs.capture_for(subject.device, subject.precision)
    stepper = Stepper(model.language, lambda: capture)
    cache = KVCache(shape.language, stepper.end(0, len(prompt)), subject.dtype, subject.device)
    state, _ = stepper.read(embeddings, cache, 0)
    clip = Replayed(lambda pixels: (model.mm_projector(model.clip(pixels)),), capture)
    sam = Replayed(lambda pixels: (model.sam.encode(pixels),), capture)
    decode = Replayed(lambda *given: model.sam.decode(given[0], model.text_hidden_fcs(given[1])), capture)
    embedding = sam(sam_pixels)[0][0]
    logits, _ = decode(embedding, state)

    def prepare() -> None:
        subject.for_clip(rgb)
        subject.for_sam(rgb)

    height, width = rgb.shape[:2]
    return [
        Stage("preprocess", "for both encoders", timed("preprocess", prepare)),
        Stage(
            "clip",
            "what the language model sees",
            timed("clip", lambda: clip(clip_pixels)),
            costs.clip(),
        ),
        Stage("sam", "what masks are made from", timed("sam", lambda: sam(sam_pixels)), costs.sam()),
        Stage(
            "prefill",
            f"a prompt of {len(prompt)} tokens",
            timed("prefill", lambda: _next_token(stepper.read(embeddings, cache, 0), model)),
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
            timed("mask_decode", lambda: decode(embedding, state)),
        ),
        Stage(
            "upsample",
            f"to {width}x{height} px",
            timed("upsample", lambda: upsample(logits, shape.sam.image, size.resized, size.source)),
        ),
    ]


def _next_token(step: Step, model: Lisa) -> Tensor:
    return model.language.lm_head(step.hidden).argmax(-1) if step.token is None else step.token


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
