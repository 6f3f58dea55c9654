"""Draws the README's picture: questions about rendered scenes of test/data, with the answers that are true there.

    .venv/bin/python scripts/readme_picture.py docs/answers.png

The pictures are those that the node publishes on `~/overlay`; no model has been asked.
"""

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lisa_core.answer import Segment, tight_box
from lisa_core.overlay import Panel, contact_sheet, draw
from lisa_core.tabletop.dataset import load_view
from lisa_core.tabletop.scene import View

SCENES = Path(__file__).resolve().parents[1] / "test" / "data" / "tabletop_scenes"
QUESTIONS: tuple[tuple[int, str, str, tuple[str, ...]], ...] = (
    (14, "What could I drive a nail with?", "The yellow hammer is [SEG].", ("hammer",)),
    (12, "What must a child not touch?", "The scissors are [SEG] and [SEG].", ("scissors",)),
    (15, "What can I drink from?", "The white mug is [SEG] and the red mug is [SEG].", ("mug",)),
    (7, "Which fruit is rich in potassium?", "The bananas are [SEG] and [SEG].", ("banana",)),
)


def main(out: Path) -> None:
    panels = []
    for index, question, text, kinds in QUESTIONS:
        view = load_view(SCENES, index)
        panels.append(Panel(question, draw(view.rgb, [_segment(mask) for mask in _masks(view, kinds)]), text))
    Image.fromarray(contact_sheet(panels, columns=2)).quantize(256).save(out, optimize=True)


def _masks(view: View, kinds: tuple[str, ...]) -> list[NDArray[np.bool_]]:
    """The things of these kinds, from left to right."""
    masks = [view.mask(index) for index, thing in enumerate(view.things) if thing.kind in kinds]
    return sorted(masks, key=lambda mask: tight_box(mask)[0])


def _segment(mask: NDArray[np.bool_]) -> Segment:
    return Segment(mask, 1.0, tight_box(mask), np.zeros(256, np.float32), np.zeros((256, 256), np.float32))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
