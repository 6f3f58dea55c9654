"""Draws the tutorial's picture: questions about teapots that no model has seen, answered before and after the lesson.

    .venv/bin/python scripts/tutorial_picture.py held_out lisa_with_teapots docs/tutorial.png

The first scenes of the folder are taken as they come, and each question is answered freely.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from lisa_core import Answer, LisaEngine
from lisa_core.datasets.reasonseg import TARGET
from lisa_core.evaluation.metrics import overlap
from lisa_core.options import CHECKPOINT
from lisa_core.overlay import Panel, contact_sheet, draw
from lisa_core.tabletop.dataset import StoredScene
from lisa_core.tabletop.scene import View

QUESTIONS = (
    "Where is the teapot?",
    "What can tea be poured from?",
    "Please segment the teapot.",
    "Can you show me the teapot?",
)
_PANEL_WIDTH = 400


def main(scenes: Path, taught: str, out: Path) -> None:
    views = [StoredScene(scenes, index).read() for index in range(len(QUESTIONS))]
    before, after = _panels("before", CHECKPOINT, views), _panels("after", taught, views)
    panels = [panel for pair in zip(before, after, strict=True) for panel in pair]
    Image.fromarray(contact_sheet(panels, 4, _PANEL_WIDTH)).quantize(256).save(out, optimize=True)


def _panels(when: str, checkpoint: str, views: Sequence[View]) -> list[Panel]:
    engine = LisaEngine.from_pretrained(checkpoint)
    panels = []
    for question, view in zip(QUESTIONS, views, strict=True):
        answer = engine.ask(engine.encode(view.rgb), question)
        said = f"{when}, IoU {_iou(answer, view):.2f}: {answer.text}"
        panels.append(Panel(question, draw(view.rgb, answer.segments), said))
    return panels


def _iou(answer: Answer, view: View) -> float:
    """Of all masks of an answer with the teapot."""
    found = np.zeros(view.owner.shape, bool)
    for segment in answer.segments:
        found |= segment.mask
    teapot = view.mask([thing.kind for thing in view.things].index("teapot"))
    return overlap(found, np.multiply(teapot, TARGET, dtype=np.uint8)).iou


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
