"""Where the time of an answer goes: each stage timed alone, as a CUDA graph where the engine uses one."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lisa_core import devices
from lisa_core.benchmark.cases import LONG, Progress, question
from lisa_core.benchmark.cost import Costs, Work
from lisa_core.benchmark.subject import Subject
from lisa_core.inference import cuda_graphs
from lisa_core.inference.cuda_graphs import Replayed
from lisa_core.inference.stepping import Stepper
from lisa_core.model.language import KVCache
from lisa_core.model.sam import upsample
from lisa_core.tokenizer import IMAGE_ID

NAMES = ("preprocess", "clip", "sam", "prefill", "per_token", "mask_decode", "upsample")


@dataclass(frozen=True)
class Stage:
    """The times of one stage, and the least work that it has to do, where that is known."""

    name: str
    about: str
    seconds: list[float]
    work: Work | None = None


def measure(subject: Subject, rgb: NDArray[np.uint8], costs: Costs, runs: int, on_progress: Progress) -> list[Stage]:
    """Times the stages of `NAMES` for one question about one picture; calls `on_progress` after each.

    An answer that comes in one piece has no time per token.
    """
    with torch.inference_mode(), devices.current(subject.device):
        measured = []
        for stage in _Stages(subject, rgb, runs).timed(costs):
            measured.append(stage)
            on_progress(stage.name)
    return [stage for stage in measured if stage.seconds]


class _Stages:
    """One question, prepared so that each stage of its answer can be repeated."""

    def __init__(self, subject: Subject, rgb: NDArray[np.uint8], runs: int) -> None:
        self._subject, self._rgb, self._runs = subject, rgb, runs
        model = self._model = subject.model
        self._prompt = subject.prompt(question(0))
        self._for_clip = subject.for_clip(rgb)
        self._for_sam, self._size = subject.for_sam(rgb)
        ids = torch.tensor(self._prompt, device=subject.device)
        self._embeddings = model.language.embed_tokens(ids.clamp(min=0))
        visual = model.mm_projector(model.clip(self._for_clip)[0])
        self._embeddings[ids == IMAGE_ID] = visual.to(self._embeddings.dtype)
        capture_for = partial(cuda_graphs.capture_for, subject.device, subject.precision)
        self._stepper = Stepper(model.language, capture_for)
        end = self._stepper.end(0, len(self._prompt))
        self._cache = KVCache(subject.checkpoint.shape.language, end, subject.dtype, subject.device)
        self._state, _ = self._stepper.read(self._embeddings, self._cache, 0)
        self._clip = Replayed(lambda pixels: (model.mm_projector(model.clip(pixels)),), capture_for)
        self._sam = Replayed(lambda pixels: (model.sam.encode(pixels),), capture_for)
        self._decode = Replayed(lambda *given: model.sam.decode(given[0], model.text_hidden_fcs(given[1])), capture_for)
        self._embedding = self._sam(self._for_sam)[0][0]
        self._logits, _ = self._decode(self._embedding, self._state)

    def timed(self, costs: Costs) -> Iterator[Stage]:
        """Each stage, once it is timed."""
        length = len(self._prompt)
        height, width = self._rgb.shape[:2]
        yield self._time("preprocess", "for both encoders", self._preprocess)
        yield self._time("clip", "what the language model sees", lambda: self._clip(self._for_clip), costs.clip())
        yield self._time("sam", "what masks are made from", lambda: self._sam(self._for_sam), costs.sam())
        yield self._time("prefill", f"a prompt of {length} tokens", self._prefill, costs.read(length, 0))
        yield Stage("per_token", "one of the answer", self._gaps(), costs.read(1, length))
        yield self._time(
            "mask_decode", "one mask in low resolution", lambda: self._decode(self._embedding, self._state)
        )
        yield self._time("upsample", f"to {width}x{height} px", self._upsample)

    def _time(self, name: str, about: str, run: Callable[[], object], work: Work | None = None) -> Stage:
        run()
        return Stage(name, about, [self._seconds(run) for _ in range(self._runs)], work)

    def _seconds(self, run: Callable[[], object]) -> float:
        self._subject.synchronise()
        begun = time.perf_counter()
        run()
        self._subject.synchronise()
        return time.perf_counter() - begun

    def _preprocess(self) -> None:
        self._subject.for_clip(self._rgb)
        self._subject.for_sam(self._rgb)

    def _prefill(self) -> Tensor:
        """The first token of the answer."""
        step = self._stepper.read(self._embeddings, self._cache, 0)
        return self._model.language.lm_head(step.hidden).argmax(-1) if step.token is None else step.token

    def _upsample(self) -> Tensor:
        return upsample(self._logits, self._subject.checkpoint.shape.sam.image, self._size.resized, self._size.source)

    def _gaps(self) -> list[float]:
        """Seconds between the tokens of answers, as a caller receives them."""
        frame = self._subject.engine.encode(self._rgb)
        gaps = []
        for run in range(self._runs):
            seen: list[float] = []
            self._subject.engine.ask(
                frame,
                question(run),
                max_new_tokens=LONG,
                max_segments=0,
                on_token=lambda _, seen=seen: seen.append(time.perf_counter()),  # type: ignore[misc]
            )
            gaps += [later - earlier for earlier, later in pairwise(seen)]
        return gaps
