"""A whole training on rendered scenes, as `lisa train` runs it: settings, tokenizer, both stages, the checkpoint."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lisa_core import files, loading
from lisa_core.checkpoint import Checkpoint
from lisa_core.errors import CheckpointError, DatasetError
from lisa_core.hub import state_of
from lisa_core.model.lisa import Lisa
from lisa_core.tabletop.dataset import StoredScene, open_scenes
from lisa_core.tabletop.scene import HELD_OUT_SEED, View
from lisa_core.template import BY_NAME
from lisa_core.tokenizer import Tokenizer
from lisa_core.training import adapters, curves, fresh, scratch, settings, trouble
from lisa_core.training.exam import Exam
from lisa_core.training.export import export
from lisa_core.training.recipe import Lora, Plan
from lisa_core.training.scenes import Scenes
from lisa_core.training.scratch import Looked, Machine, Portion
from lisa_core.training.trainer import LOG, Trainer

Bar = Callable[[str, int, int], AbstractContextManager[Callable[[int, str], None]]]
"""Opens a progress bar: its description, steps in all, steps done; yields what is called with (steps done, words)."""

_WORDS = "words"
"""Folder with the tokenizer of a new model, in the folder of the training."""
_PIECES = 1100
_READ_FOR_WORDS = 500
"""Scenes whose dialogues the tokenizer is trained on."""
_DRAW_EVERY = 200
"""Steps between two pictures of the losses."""


@dataclass(frozen=True)
class Course:
    """What a model is taught, and how.

    Attributes:
        scenes: folder of rendered scenes.
        see: the plan of the first stage, for a new model only.
        see_pictures: pictures in a step of it.
        speak: the plan of the second stage.
        portion: scenes and dialogues in a step of it.
        speak_scenes: the second stage is about the first so many scenes only; None: all.
        checkpoint: the model to go on with, which sees already; empty: a new one.
        lora: the second stage trains what the official recipe does, by adapters.
        whole: the second stage trains SAM's encoder, too.
    """

    scenes: Path
    see: Plan
    see_pictures: int
    speak: Plan
    portion: Portion
    speak_scenes: int | None
    checkpoint: str
    lora: bool
    whole: bool


class School:
    """A model on its way through a course.

    Args:
        course: what it is taught.
        run: folder of the training; one of the same course that was stopped goes on.
        machine: where to train.
        bar: shows the progress.

    Raises:
        LisaError: the scenes, the checkpoint or what is in `run` will not do.
    """

    def __init__(self, course: Course, run: Path, machine: Machine, bar: Bar) -> None:
        self._course, self._run, self._machine, self._bar = course, run, machine, bar
        self._seed = course.speak.seed
        self._stored = _opened_scenes(course.scenes)
        self._before = _opened(course.checkpoint, course.lora) if course.checkpoint else None
        settings.keep(run, self._settings())
        self._scenes = Scenes(self._read, len(self._stored), self._seed)
        self._tokenizer = self._before.tokenizer if self._before else _tokenizer(self._scenes, run / _WORDS)
        self._model = self._first_model()

    def teach(self, out: Path, exam: Exam | None, on_exam: Callable[[str], None]) -> None:
        """Trains to the end, and writes the checkpoint.

        Args:
            out: folder to make.
            exam: measures the model during the second stage.
            on_exam: called with the figures of each measurement, in words.

        Raises:
            LisaError: the training diverged, or a file of the scenes or of what was under way is damaged.
            OutOfMemoryError: a step needs more memory than there is.
            OSError: a file could not be written.
        """
        with trouble.translated(self._run, self._machine.device):
            if not self._before:
                self._see()
            self._speak(exam, on_exam)
            self._export(out)

    def _read(self, index: int) -> View:
        return self._stored[index].read()

    def _settings(self) -> dict[str, Any]:
        """What the training depends on besides its plans, which the trainer compares."""
        course, ends = self._course, (self._stored[0], self._stored[-1])
        return {
            "scenes": str(course.scenes.resolve()),
            "number_of_scenes": len(self._stored),
            "content_of_scenes": [scene.digest() for scene in ends],  # tells others that were rendered in their place
            "speak_scenes": course.speak_scenes,
            "checkpoint": course.checkpoint,
            "lora": course.lora,
            "whole": course.whole,
            "seed": self._seed,
            "mixed": self._machine.mixed,
            "weights": state_of(str(self._before.folder)) if self._before else [],
            "see_pictures": course.see_pictures,
            "speak_pictures": course.portion.scenes,
            "dialogues": course.portion.dialogues,
        }

    def _first_model(self) -> Lisa:
        """The model as it begins, with fp32 weights."""
        device = self._machine.device
        if not self._before:
            return fresh.new_model(fresh.small_shape(self._tokenizer.vocabulary_size), self._seed).to(device)
        if not self._course.lora:
            return loading.load(self._before, "fp32", device, to_learn=True)
        torch.manual_seed(self._seed)  # adapters start random
        return adapters.load_learner(self._before, "fp32", device, Lora())

    def _see(self) -> None:
        """The first stage: the encoders."""
        plan, folder = self._course.see, self._run / "see"
        trainer = scratch.seeing(self._model, self._scenes, self._course.see_pictures, self._machine, folder, plan)
        with self._bar("learning to see", plan.steps, trainer.step) as show:
            for losses in _drawn(trainer, folder, plan.steps):
                show(trainer.step, f"learning to see: {100 * losses['sam_knows']:.0f} % known")

    def _speak(self, exam: Exam | None, on_exam: Callable[[str], None]) -> None:
        """The second stage: everything else."""
        self._model.eval()
        course, plan, folder = self._course, self._course.speak, self._run / "speak"
        number = min(len(self._stored), course.speak_scenes or len(self._stored))
        encoder = scratch.encoder_of(self._model)
        settings.keep(folder, {"encoder": encoder})
        speaking = scratch.Speaking(
            self._model,
            self._tokenizer,
            Scenes(self._read, number, self._seed),
            None if course.whole else self._look(number, encoder),
            course.portion,
            self._machine,
            course.lora,
        )
        trainer = speaking.trainer(folder, plan)
        with self._bar("learning to speak", plan.steps, trainer.step) as show:
            for losses in _drawn(trainer, folder, plan.steps):
                show(trainer.step, f"learning to speak: loss {losses['loss']:.3f}")
                if exam and exam.is_due(trainer.step, plan.steps):
                    self._model.eval()
                    figures = exam.take(trainer.step, self._model, self._tokenizer, self._machine)
                    on_exam(f"step {trainer.step}: " + ", ".join(figures))

    def _look(self, number: int, encoder: str) -> Looked:
        """The embeddings of the first scenes by SAM's encoder, which is frozen."""
        looked = Looked.open(self._run, number, self._model.shape, encoder)
        with self._bar("looking at the scenes", number, 0) as show:
            for done in scratch.look(self._model, self._read, looked, self._machine):
                show(done, "looking at the scenes")
        return looked

    def _export(self, out: Path) -> None:
        """Writes the checkpoint: the one before with what was learnt, or a new one."""
        if self._before:
            adapters.write_merged(self._before, adapters.learnt(self._model), Lora().scale, out)
            return
        config, tower = fresh.config_of(self._model.shape), fresh.tower_config_of(self._model.shape.clip)
        state = self._model.state_dict()
        export(state.items(), config, tower, self._run / _WORDS, out, len(state))


def _drawn(trainer: Trainer[Any], folder: Path, last: int) -> Iterator[Mapping[str, float]]:
    """Trains, yields the losses of each step, and draws them every `_DRAW_EVERY` steps and after the last."""
    for losses in trainer.run():
        if trainer.step % _DRAW_EVERY == 0 or trainer.step == last:
            curves.draw(folder / LOG, folder / curves.NAME)
        yield losses


def _opened(checkpoint: str, lora: bool) -> Checkpoint:
    """The checkpoint to go on with; raises LisaError if this training cannot go on with it."""
    if lora:
        adapters.check_available()
    opened = Checkpoint.open(checkpoint)
    adapters.check_learnable(opened)
    if opened.template != fresh.TEMPLATE:
        raise CheckpointError(
            f"{checkpoint} speaks in the template {opened.template}, and this command teaches {fresh.TEMPLATE};"
            " take `lisa finetune`."
        )
    return opened


def _tokenizer(scenes: Scenes, folder: Path) -> Tokenizer:
    """The tokenizer in the folder; where there is none yet, it is trained on the dialogues of the first scenes."""
    if not folder.is_dir():
        with files.whole_folder(folder) as partial:
            template = BY_NAME[fresh.TEMPLATE]
            fixed = [template.opening, template.before_question, template.after_question] * _READ_FOR_WORDS
            fresh.write_tokenizer([*fixed, *scenes.sentences(_READ_FOR_WORDS)], _PIECES, partial)
    return Tokenizer.from_folder(folder)


def _opened_scenes(folder: Path) -> list[StoredScene]:
    """The scenes to train on; raises DatasetError if there are none, if some are missing, or if they are held out."""
    scenes = open_scenes(folder)
    for index, scene in enumerate(scenes):
        if scene.index != index:
            raise DatasetError(
                f"{folder} lacks scene {index:06d}, and {len(scenes) - index} come after it: a render of several"
                " workers was stopped; the same `lisa tabletop render` fills it up."
            )
    if scenes[-1].description().seed >= HELD_OUT_SEED:
        raise DatasetError(f"{folder} has scenes to measure with (seeds from {HELD_OUT_SEED}); train on others.")
    return scenes
