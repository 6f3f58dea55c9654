"""How good a model is on a data set: gIoU and cIoU by the published protocol, or of what it says by itself.

    for entry in reasonseg.open_split(Path("ReasonSeg"), "val").entries:
        result = runner.evaluate(engine, entry)

`lisa_core.reasonseg` and `refcoco` read the data, `metrics` counts pixels, `runner` asks the model about one picture,
`run` about all of them, `journal` stores finished results, and `report` writes them as files. `tabletop` and
`tabletop_report` do the same for rendered tabletops, with many questions for each.
"""

from typing import Literal

Protocol = Literal["teacher-forced", "generated"]
"""How the model is asked.

`teacher-forced` is the published one: no decoding, "[SEG]." is taken for the answer and gives one mask, so that it
measures how well things are found and not whether the model says that it found them. `generated` asks the same
question and lets the model answer: the mask is the union of those of all its [SEG]s, because the ground truth is one
mask for everything asked for, and an answer without [SEG] has found nothing.
"""

QUESTIONS = 8
"""Dialogues about each tabletop, by default."""
