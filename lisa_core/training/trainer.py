"""Training steps that survive a kill: all randomness in a step comes from the seed and the step's number."""

import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from lisa_core import files, tensor_files
from lisa_core.errors import CheckpointError, LisaError
from lisa_core.training.ahead import ahead
from lisa_core.training.log import lines_up_to
from lisa_core.training.muon import Muon
from lisa_core.training.recipe import Plan

Batch = TypeVar("Batch")
Losses = Mapping[str, Tensor]
"""By name; `loss` is minimised, the others are only logged."""

STATE, LOG = "state.pt", "log.jsonl"
_BETAS = (0.9, 0.95)


class Trainer(Generic[Batch]):
    """Trains `learnt` to minimise the loss of `loss_of`.

    Args:
        learnt: parameters by name.
        make_batch: from a batch's number, on the host; called ahead of time in another thread or process.
        loss_of: the losses of a batch.
        folder: for the state and the log; a state in it is resumed.
        workers: processes that make batches; 0: one thread.
        around: from a step's number, a context for its forward and backward passes.
    """

    def __init__(
        self,
        learnt: Mapping[str, nn.Parameter],
        make_batch: Callable[[int], Batch],
        loss_of: Callable[[Batch], Losses],
        folder: Path,
        plan: Plan,
        workers: int = 0,
        around: Callable[[int], AbstractContextManager[None]] = lambda _: nullcontext(),
    ) -> None:
        self._learnt = dict(learnt)
        self._make_batch = make_batch
        self._loss_of = loss_of
        self._folder = folder
        self._plan = plan
        self._workers = workers
        self._around = around
        self._optimisers = _optimisers(self._learnt, plan)
        self.step = 0
        folder.mkdir(parents=True, exist_ok=True)
        self._resume()

    def run(self) -> Iterator[Mapping[str, float]]:
        """Trains to the end of the plan; yields the losses of each step.

        Raises:
            LisaError: a loss or its gradient is not finite; the last saved state is kept.
        """
        saved, pause, each = time.monotonic(), self._plan.save_every, self._plan.batches
        numbers = range(self.step * each, self._plan.steps * each)
        with closing(ahead(self._make_batch, numbers, self._workers)) as batches:
            while self.step < self._plan.steps:
                yield self._do(islice(batches, each))
                now = time.monotonic()
                if now - saved > pause or self.step == self._plan.steps:
                    self._save()
                    saved = time.monotonic()
                    pause = self._plan.save_every * max(1.0, saved - now)

    def _do(self, batches: Iterable[Batch]) -> Mapping[str, float]:
        torch.manual_seed(hash((self._plan.seed, self.step)))
        for optimiser in self._optimisers:
            optimiser.zero_grad(set_to_none=True)
        with self._around(self.step):
            losses = self._mean(batches)
        norm = nn.utils.clip_grad_norm_(self._learnt.values(), self._plan.clip)
        for optimiser in self._optimisers:
            for group in optimiser.param_groups:
                group["lr"] = self._plan.learning_rate * self._plan.rate(self.step)
            optimiser.step()
        self.step += 1
        *values, length = torch.stack([*losses.values(), norm]).tolist()
        named = dict(zip(losses, values, strict=True))
        if not (math.isfinite(named["loss"]) and math.isfinite(length)):
            raise LisaError(
                f"Step {self.step} made the weights no numbers any more (loss {named['loss']:g}, gradient {length:g});"
                f" {self._folder} keeps what was learnt before. Begin anew with a smaller learning rate than"
                f" {self._plan.learning_rate:g}."
            )
        with (self._folder / LOG).open("a", encoding="utf-8") as log:
            log.write(json.dumps({"step": self.step, **named}) + "\n")
        return named

    def _mean(self, batches: Iterable[Batch]) -> Losses:
        """The mean losses over the batches; leaves the mean gradients in the parameters."""
        each = []
        for batch in batches:
            losses = self._loss_of(batch)
            (losses["loss"] / self._plan.batches).backward()
            each.append({name: value.detach() for name, value in losses.items()})
        return {name: torch.stack([values[name] for values in each]).mean() for name in each[0]}

    def _save(self) -> None:
        state = {
            "plan": _fixed(self._plan),
            "step": self.step,
            "weights": {name: weight.data for name, weight in self._learnt.items()},
            "optimisers": [optimiser.state_dict() for optimiser in self._optimisers],
        }
        tensor_files.save(self._folder / STATE, state)

    def _resume(self) -> None:
        path = self._folder / STATE
        if not path.is_file():
            (self._folder / LOG).unlink(missing_ok=True)
            return
        remedy = "is damaged, or no state of a training; delete it to start again."
        state = tensor_files.load_saved(path, remedy, "plan", "step", "weights", "optimisers")
        if state["plan"] != _fixed(self._plan) or state["weights"].keys() != self._learnt.keys():
            raise CheckpointError(f"{path} is of a training with other settings; give those again, or another folder.")
        with torch.no_grad():
            for name, weight in self._learnt.items():
                weight.copy_(state["weights"][name])
        for optimiser, saved in zip(self._optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        self.step = state["step"]
        log = self._folder / LOG
        files.write_whole({log: "".join(f"{line}\n" for line in lines_up_to(log, self.step)).encode()})


_NOT_INSIDE = ("embed", "lm_head", "rel_pos", "iou_token", "mask_tokens", "heads.", "positional")
"""Parts of the names of matrices that AdamW always optimises: tables of embeddings, and output layers."""


def _optimisers(learnt: Mapping[str, nn.Parameter], plan: Plan) -> list[torch.optim.Optimizer]:
    inside = {
        name: weight
        for name, weight in learnt.items()
        if plan.muon and weight.dim() == 2 and not any(part in name for part in _NOT_INSIDE)
    }
    rest = [weight for name, weight in learnt.items() if name not in inside]
    rate, decay = plan.learning_rate, plan.weight_decay
    fused = all(weight.is_cuda for weight in rest) or None
    adam = torch.optim.AdamW(rest, lr=rate, betas=_BETAS, weight_decay=decay, fused=fused)
    return [adam, Muon(inside.values(), lr=rate, weight_decay=decay)] if inside else [adam]


def _fixed(plan: Plan) -> dict[str, Any]:
    """The settings that must be the same when a training is resumed."""
    return {name: value for name, value in asdict(plan).items() if name != "save_every"}
