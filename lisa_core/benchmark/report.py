"""The JSON of a measurement."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from lisa_core.benchmark import machine
from lisa_core.benchmark.cases import Case
from lisa_core.benchmark.cost import Costs, Gpu, Work, known_gpu
from lisa_core.benchmark.stages import Stage
from lisa_core.benchmark.subject import Subject
from lisa_core.tokenizer import IMAGE_ID

MASK_TOLERANCE = 1e-3
"""Largest accepted difference of mask logits from the baseline's, relative to the largest of those."""


def costs_of(subject: Subject) -> Costs:
    """The work of each stage of a loaded model."""
    return Costs(subject.checkpoint.shape, subject.engine.memory(), subject.dtype.itemsize)


def summary(
    subject: Subject,
    settings: dict[str, Any],
    cases: Sequence[Case],
    stages: Sequence[Stage],
    peaks: dict[str, dict[str, int]],
) -> dict[str, Any]:
    """The machine and the model, cases and stages in seconds, and memory in bytes.

    `equal` is whether every answer has the baseline's tokens, and masks within `MASK_TOLERANCE`; None without a
    baseline. `mask_distance` is None without a baseline, or if the numbers of masks differ. `limit_seconds` is the time
    at the GPU's stated peaks, if they are known.
    """
    facts = machine.facts(subject.device)
    gpu = known_gpu(facts["gpu"], facts["gpu_multiprocessors"]) if subject.precision != "fp32" else None
    costs = costs_of(subject)
    measured = [_case(case, _least(case, costs, gpu)) for case in cases]
    return {
        "machine": facts,
        "settings": {
            **settings,
            "model": subject.name,
            "precision": subject.precision,
            "device": str(subject.device),
            "compute": str(subject.dtype).removeprefix("torch."),
        },
        "model": {
            "shape": asdict(subject.checkpoint.shape),
            "parameters": _parameters(subject),
            "memory": dict(subject.engine.memory()),
        },
        "cases": measured,
        "stages": [_stage(stage, gpu) for stage in stages],
        "peak_memory": peaks,
        "equal": None if any(case.uncached is None for case in cases) else not differing(measured),
    }


def _parameters(subject: Subject) -> dict[str, int]:
    parts: dict[str, int] = {}
    for name, stored in subject.checkpoint.stored.items():
        part = name.split(".")[0]
        parts[part] = parts.get(part, 0) + int(np.prod(stored.shape))
    return parts


def differing(cases: Sequence[Mapping[str, Any]]) -> list[str]:
    """The names of those cases in a report whose answer is not the baseline's."""
    return [
        case["name"]
        for case in cases
        if not case["tokens_equal"] or case["mask_distance"] is None or case["mask_distance"] > MASK_TOLERANCE
    ]


def _case(case: Case, limit: float | None) -> dict[str, Any]:
    typical = float(np.median(case.seconds))
    uncached = case.uncached_seconds
    return {
        "name": case.name,
        "about": case.about,
        "seconds_p50": typical,
        "seconds_p95": float(np.percentile(case.seconds, 95)),
        "baseline_seconds": uncached,
        "ratio": None if uncached is None else uncached / typical,
        "runs": len(case.seconds),
        "tokens": len(case.answer.token_ids),
        "masks": len(case.answer.segments),
        "read_tokens": case.read,
        "tokens_equal": case.tokens_equal,
        "mask_distance": _finite(case.mask_distance),
        **_limited(typical, limit),
    }


def _finite(number: float | None) -> float | None:
    """The number, or None for infinity and NaN, which JSON lacks."""
    return number if number is not None and math.isfinite(number) else None


def _stage(stage: Stage, gpu: Gpu | None) -> dict[str, Any]:
    typical = float(np.median(stage.seconds))
    return {
        "name": stage.name,
        "about": stage.about,
        "seconds_p50": typical,
        "seconds_p95": float(np.percentile(stage.seconds, 95)),
        "flops": None if stage.work is None else stage.work.flops,
        "bytes": None if stage.work is None else stage.work.bytes,
        **_limited(typical, gpu.seconds(stage.work) if gpu and stage.work else None),
    }


def _limited(seconds: float, limit: float | None) -> dict[str, float | None]:
    return {"limit_seconds": limit, "limit_share": None if limit is None else limit / seconds}


def _least(case: Case, costs: Costs, gpu: Gpu | None) -> float | None:
    """The least seconds that the GPU needs, without mask decoding and preprocessing."""
    if gpu is None:
        return None
    work: list[Work] = [costs.clip()] if case.new_frame else []
    if case.new_frame and case.answer.segments:
        work.append(costs.sam())
    ids = case.answer.prompt_ids  # those of v0 have all of the image's tokens
    prompt = len(ids) + (costs.shape.clip.tokens - 1) * ids.count(IMAGE_ID)
    before = prompt - case.read
    work.append(costs.read(case.read, before))
    if not case.asked.mask_only:
        steps = range(len(case.answer.token_ids) - 1)  # reading the prompt gave the first token
        work += [costs.read(1, before + case.read + step) for step in steps]
    return sum(gpu.seconds(part) for part in work)
