"""Draws the README's picture: questions about rendered scenes of test/data, answered by the model in this package.

    .venv/bin/python scripts/readme_picture.py docs/answers.png

The pictures are those that the node publishes on `~/overlay`. No training has seen these scenes.
"""

import sys
from pathlib import Path

from PIL import Image

from lisa_core import LisaEngine
from lisa_core.options import CHECKPOINT
from lisa_core.overlay import Panel, contact_sheet, draw
from lisa_core.tabletop.dataset import StoredScene

SCENES = Path(__file__).resolve().parents[1] / "test" / "data" / "tabletop_scenes"
QUESTIONS = (
    (0, "Help me find the object farther back, behind the tin."),
    (35, "Would you detect the handle of the screwdriver for me?"),
    (12, "My plan is to clean up a spill: what fits? Say why."),
    (44, "Could you outline the orange objects, every one?"),
)
"""Scenes and what is asked about them, chosen among those that it answers well."""


def main(out: Path) -> None:
    engine = LisaEngine.from_pretrained(CHECKPOINT)
    panels = []
    for index, question in QUESTIONS:
        rgb = StoredScene(SCENES, index).read().rgb
        answer = engine.ask(engine.encode(rgb), question)
        panels.append(Panel(question, draw(rgb, answer.segments), answer.text))
    Image.fromarray(contact_sheet(panels, columns=2)).quantize(256, kmeans=2).save(out, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
