"""Draws the README's picture: questions about the bag in test/data, with the masks that are true there.

`PYTHONPATH=. .venv/bin/python scripts/readme_picture.py docs/answers.png` (needs `lisa_ros`, for reading the bag).
The pictures are those that the node publishes on `~/overlay`; no model has been asked.
"""

import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from lisa_core.answer import Segment, tight_box
from lisa_core.overlay import Panel, contact_sheet, draw
from lisa_ros.bags import BagReader
from lisa_ros.conversions import to_rgb

BAG = Path(__file__).resolve().parents[1] / "test" / "data" / "tabletop_bag"
QUESTIONS = (
    ("What would roll off the table if I bumped into it?", "It is [SEG] and [SEG].", ("green ball", "orange")),
    ("What can I drink from?", "You can drink from [SEG], and from [SEG] once it is open.", ("white cup", "blue can")),
)


def main(out: Path) -> None:
    names = [thing["name"] for thing in json.loads((BAG / "truth.json").read_text())["things"]]
    labels = np.load(BAG / "labels.npz")["labels"]
    with BagReader(BAG) as bag:
        message = next(iter(bag.messages(["/camera/image"])))
        rgb = to_rgb(bag.decode(message))
    panels = []
    for question, text, targets in QUESTIONS:
        masks = [labels[0] == names.index(target) + 1 for target in targets]
        panels.append(Panel(question, draw(rgb, [_segment(mask) for mask in masks]), text))
    Image.fromarray(contact_sheet(panels, columns=2)).save(out, optimize=True)


def _segment(mask: np.ndarray) -> Segment:
    return Segment(mask, 1.0, tight_box(mask), np.zeros(256, np.float32), np.zeros((256, 256), np.float32))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
