"""Fine-tunes a checkpoint on labelled pictures, validates it at intervals, and keeps the best state."""

import contextlib
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lisa_core import files, tensor_files
from lisa_core.checkpoint import Checkpoint
from lisa_core.datasets import reasonseg
from lisa_core.devices import resolve_device, resolve_precision
from lisa_core.engine import LisaEngine
from lisa_core.errors import CheckpointError, DatasetError, LisaError, PromptError
from lisa_core.evaluation import masks, metrics
from lisa_core.hub import state_of
from lisa_core.loading import Progress
from lisa_core.saving import check_new
from lisa_core.template import BY_NAME, SEG
from lisa_core.training import adapters, curves, forward, settings, trouble
from lisa_core.training.alone import work_of
from lisa_core.training.annotated import Annotated, Batch, check_length
from lisa_core.training.recipe import Recipe
from lisa_core.training.trainer import LOG, STATE, Trainer

_BEST, _SCORES = "best.pt", "validation.json"


class Finetuning:
    """One fine-tuning; constructed again with the same arguments after a kill, it goes on.

    Args:
        checkpoint: the model to train.
        folders: data sets with a split `train`, drawn from with equal probability. The split `val` of the first one
            decides which state is the best.
        out: folder to make for the result; `<out>.training` holds the unfinished training.
        precision: of the frozen weights: nf4 (QLoRA), bf16 or fp32.
        device: where to train.
        recipe: how to train.
        progress: of loading.

    Raises:
        LisaError: the checkpoint, the data or the unfinished training cannot be used.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        folders: Sequence[Path],
        out: Path,
        precision: str,
        device: str | None,
        recipe: Recipe,
        progress: Progress | None = None,
    ) -> None:
        adapters.check_available()
        curves.check_available()
        check_new(out)
        self.work = work_of(out)
        self._checkpoint, self._out, self._recipe = checkpoint, out, recipe
        self._train, self._val = _splits(folders, checkpoint)
        self._device = resolve_device(device)
        self._precision = resolve_precision(precision, self._device)
        settings.check(self.work, self._settings())
        torch.manual_seed(recipe.plan.seed)  # adapters start random
        self._model = adapters.load_learner(checkpoint, precision, self._device, recipe.lora, progress)
        settings.keep(self.work, self._settings())
        self._engine = self._validation_engine()
        with trouble.translated(self.work, self._device):
            self._trainer = self._new_trainer()
        self.scores = self._read_scores()
        self._best = self._read_best()["giou"] if self.scores else -1.0

    def _settings(self) -> dict[str, Any]:
        """What a training that was stopped must have in common with this one."""
        return {
            "checkpoint": state_of(str(self._checkpoint.folder)),
            "vision_tower": state_of(str(self._checkpoint.vision_tower)),
            "template": self._checkpoint.template,
            "precision": self._precision,
            "data": [_state(split) for split in (*self._train, self._val)],
            "recipe": asdict(self._recipe),
        }

    def _validation_engine(self) -> LisaEngine:
        """An engine on the weights that learn, to validate them with."""
        checkpoint = self._checkpoint
        return LisaEngine(
            str(checkpoint.folder),
            self._model,
            checkpoint.tokenizer,
            checkpoint.layout,
            checkpoint.template,
            self._precision,
            self._device,
        )

    def _new_trainer(self) -> Trainer[Batch]:
        tokenizer, template = self._checkpoint.tokenizer, BY_NAME[self._checkpoint.template]
        plan = self._recipe.plan
        data = Annotated(self._train, self._model, tokenizer, template, self._recipe.batch, plan.seed)
        return Trainer(adapters.learnt(self._model), data.batch, self._loss, self.work, plan)

    @property
    def faults(self) -> tuple[str, ...]:
        """What is wrong with files that are not used, a sentence each."""
        return tuple(fault for split in (*self._train, self._val) for fault in split.faults)

    @property
    def step(self) -> int:
        """Number of finished steps."""
        return self._trainer.step

    def run(self, on_step: Callable[[int, Mapping[str, float], float | None], None]) -> None:
        """Trains to the end of the plan, and plots the losses at each validation.

        Args:
            on_step: called after each step with its number, its losses, and gIoU if it was validated, else None; a new
                training calls it with 0 and no losses first.

        Raises:
            LisaError: the pictures have changed, or memory ran out.
            OSError: the state could not be written.
        """
        with trouble.translated(self.work, self._device):
            if not self.scores:
                on_step(0, {}, self._validate())
            for values in self._trainer.run():
                due = self.step % self._recipe.validate_every == 0 or self.step == self._recipe.plan.steps
                on_step(self.step, values, self._validate() if due else None)

    def finish(self, progress: Progress | None = None) -> tuple[int, float]:
        """Writes the best state as a checkpoint, with the plot of the losses, and deletes the training.

        Returns:
            The step of that state, and its gIoU.

        Raises:
            LisaError: a file of the training is damaged.
            OSError: it could not be written.
        """
        best, beside = self._read_best(), [self.work / curves.NAME]
        scale = self._recipe.lora.scale
        adapters.write_merged(self._checkpoint, best["weights"], scale, self._out, progress, beside)
        _delete(self.work)
        return best["step"], best["giou"]

    def _read_scores(self) -> dict[int, float]:
        """The gIoU of each validation up to now, by its step; empty before the first."""
        path = self.work / _SCORES
        try:
            scores = {int(step): float(giou) for step, giou in settings.read_json(path).items()}
        except (TypeError, ValueError, OverflowError) as error:
            raise CheckpointError(f"{path} is damaged; delete {self.work} to start again.") from error
        return {step: giou for step, giou in scores.items() if step <= self.step}

    def _read_best(self) -> dict[str, Any]:
        remedy = f"is missing or damaged; delete {self.work} to start again."
        return tensor_files.load_saved(self.work / _BEST, remedy, "step", "giou", "weights")

    def _loss(self, batch: Batch) -> Mapping[str, Tensor]:
        self._model.language.train()
        with self._autocast():
            return forward.of_batch(self._model, batch.pictures, batch.words, self._recipe.weights)

    def _validate(self) -> float:
        """Measures gIoU by the published protocol, and keeps the state if it is the best so far."""
        self._model.language.eval()
        with self._autocast():
            overlaps = [masks.evaluate(self._engine, entry).overlap for entry in self._val.entries]
        giou = metrics.score(overlaps).giou
        assert giou is not None
        if giou > self._best:
            self._keep(giou)
        self.scores[self.step] = giou
        files.write_whole({self.work / _SCORES: json.dumps(self.scores).encode()})
        if self.step:
            curves.draw(self.work / LOG, self.work / curves.NAME, {"gIoU in validation": self.scores})
        return giou

    def _keep(self, giou: float) -> None:
        weights = {name: weight.detach().cpu() for name, weight in adapters.learnt(self._model).items()}
        tensor_files.save(self.work / _BEST, {"step": self.step, "giou": giou, "weights": weights})
        self._best = giou

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self._device.type, torch.bfloat16, enabled=_is_mixed(self._precision, self._device))


def tidied(out: Path) -> bool:
    """Deletes the training that made `out`, if it was stopped before it could; returns whether it was.

    Raises:
        OSError: its files could not be deleted.
    """
    plots = [folder / curves.NAME for folder in (out, work_of(out))]
    if not all(plot.is_file() for plot in plots) or plots[0].read_bytes() != plots[1].read_bytes():
        return False
    _delete(work_of(out))
    return True


def _delete(work: Path) -> None:
    """Deletes the files of a training, the plot last, and its folder unless it has others or is a link."""
    for name in (STATE, LOG, _BEST, _SCORES, settings.NAME, curves.NAME):
        (work / name).unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        work.rmdir()


def _is_mixed(precision: str, device: torch.device) -> bool:
    """Whether autocast multiplies the fp32 weights in bf16: with frozen weights in bf16, or in nf4 on a GPU."""
    return precision == "bf16" or (precision == "nf4" and device.type == "cuda")


def _splits(folders: Sequence[Path], checkpoint: Checkpoint) -> tuple[list[reasonseg.Split], reasonseg.Split]:
    """The usable entries to train on, a split for each folder, and those of the first folder to validate with."""
    val = _usable(reasonseg.open_split(folders[0], "val"), checkpoint)
    validated = {_picture(entry) for entry in val.entries}
    train = [_without(validated, _usable(reasonseg.open_split(root, "train"), checkpoint)) for root in folders]
    return train, val


def _usable(split: reasonseg.Split, checkpoint: Checkpoint) -> reasonseg.Split:
    """The split's usable entries, the others as faults; raises DatasetError if none is left."""
    entries, faults = [], list(split.faults)
    for entry in split.entries:
        try:
            _check_targets(entry, entry.read().truth.shape)
            _check_explanations(split, entry)
            check_length(split, entry, checkpoint)
            entries.append(entry)
        except PromptError as error:
            faults.append(f"{entry.annotation}: {error}")
        except LisaError as error:
            faults.append(str(error))
    if not entries:
        raise DatasetError(f"{split.folder} has no picture that can be used: {' '.join(faults)}")
    return replace(split, entries=tuple(entries), faults=tuple(faults))


def _check_targets(entry: reasonseg.Entry, size: tuple[int, ...]) -> None:
    """Raises DatasetError if a mask of an answer is empty: nothing is marked, or what is lies outside the picture."""
    annotation = reasonseg.read_annotation(entry.annotation)
    try:
        for answer in annotation.answers or (SEG,):
            for polygons in annotation.targets_of(answer):
                _check_marked(polygons, size)
    except DatasetError as error:
        raise DatasetError(f"{entry.annotation}: {error}") from error


def _check_marked(polygons: Sequence[reasonseg.Polygon], size: tuple[int, ...]) -> None:
    targets = [polygon for polygon in polygons if polygon.value == reasonseg.TARGET]
    reasonseg.check_inside(targets, size, "target")
    if not (reasonseg.rasterize(polygons, size) == reasonseg.TARGET).any():
        raise DatasetError("nothing is marked as the target that is not ignored; mark it, or give `answers` in words.")


def _check_explanations(split: reasonseg.Split, entry: reasonseg.Entry) -> None:
    """Raises DatasetError if an explanation that would be learnt asks for a mask: it comes after one, or alone."""
    annotation = reasonseg.read_annotation(entry.annotation)
    for text in () if annotation.answers else annotation.texts:
        if SEG in split.explanation(entry.name, text):
            raise DatasetError(
                f"{entry.annotation}: the explanation of {text!r} in explanatory/{split.folder.name}.json has {SEG},"
                " but explanations are words alone; take it out there, or give `answers`."
            )


def _without(validated: Set[str], split: reasonseg.Split) -> reasonseg.Split:
    """The split without the pictures used for validation; raises DatasetError if none is left."""
    entries, faults = [], list(split.faults)
    for entry in split.entries:
        if _picture(entry) in validated:
            faults.append(f"{entry.picture} is among the pictures of validation, so it is not learnt.")
        else:
            entries.append(entry)
    if not entries:
        raise DatasetError(f"{split.folder} has no picture that validation does not have, so nothing to learn.")
    return replace(split, entries=tuple(entries), faults=tuple(faults))


def _picture(entry: reasonseg.Entry) -> str:
    return reasonseg.digest_of((entry.picture,))


def _state(split: reasonseg.Split) -> list[str]:
    digests = [entry.digest() for entry in split.entries]
    explanations = sorted([*key, words] for key, words in split.explanations.items())
    return [str(split.folder.resolve()), hashlib.sha256(json.dumps([digests, explanations]).encode()).hexdigest()]
