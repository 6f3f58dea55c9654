"""Measures a model during training, on other scenes and with held-out wordings."""

import json
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from lisa_core import files
from lisa_core.engine import LisaEngine
from lisa_core.evaluation import tabletop_report
from lisa_core.evaluation.tabletop import evaluate
from lisa_core.model.lisa import Lisa
from lisa_core.tabletop.dataset import open_scenes
from lisa_core.tokenizer import Tokenizer
from lisa_core.training.fresh import TEMPLATE
from lisa_core.training.log import lines_up_to
from lisa_core.training.scratch import Machine

_DIALOGUES = 6
_LONGEST = 64
"""Most tokens of an answer: a model that has not learnt to end one must not take long."""


class Exam:
    """Measures the model every so many steps.

    Args:
        scenes: folder of rendered scenes.
        folder: for `exams.jsonl`, and a picture of the worst answers of each measurement.
        every: steps between two measurements.

    Raises:
        DatasetError: there are no scenes, or one is damaged: better told now than after a thousand steps.
    """

    def __init__(self, scenes: Path, folder: Path, every: int) -> None:
        self._scenes = open_scenes(scenes)
        for scene in self._scenes:
            scene.read()
        self._folder, self._every = folder, every

    def is_due(self, step: int, last: int) -> bool:
        """Whether to measure after this step: at intervals, and after the last."""
        return step % self._every == 0 or step == last

    def take(self, step: int, model: Lisa, tokenizer: Tokenizer, machine: Machine) -> Sequence[str]:
        """Measures, writes the files, and returns the figures as words; raises OSError if a file cannot be written."""
        engine = LisaEngine("in training", model, tokenizer, "v1", TEMPLATE, "fp32", machine.device)
        with closing(engine):
            results = [evaluate(engine, scene, _DIALOGUES, _LONGEST) for scene in self._scenes]
        overall = tabletop_report.scores(results)["all"]
        figures = {name: value for name, value in vars(overall).items() if value is not None}
        log, picture = self._folder / "exams.jsonl", self._folder / f"worst_{step:06d}.png"
        lines = [*lines_up_to(log, step - 1), json.dumps({"step": step, **figures})]
        files.write_whole(
            {
                picture: tabletop_report.sheet(self._scenes, results, _DIALOGUES),
                log: "".join(f"{line}\n" for line in lines).encode(),
            }
        )
        return [f"{name} {value:.3g}" for name, value in figures.items()]
