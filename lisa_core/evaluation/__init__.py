"""Measures a model on a data set: gIoU and cIoU by the published protocol, or of freely generated answers.

    for entry in reasonseg.open_split(Path("ReasonSeg"), "val").entries:
        result = masks.evaluate(engine, entry)

`masks` asks for one mask of a picture, as ReasonSeg and refCOCO do, and `masks_report` scores the results; `tabletop`
and `tabletop_report` do the same for rendered tabletops, with many questions about each. For both, `metrics` counts
pixels, `run` goes through all pictures, `journal` stores finished results, and `report` has what the files of either
are made of.
"""

from typing import Literal

Protocol = Literal["teacher-forced", "generated"]
"""How the model is asked.

`teacher-forced` is the published one: nothing is decoded, "[SEG]." is taken for the answer and gives one mask. It
measures how well the model segments, not whether it answers with a mask at all. `generated` asks the same question and
decodes an answer. Its mask is the union of the masks of all its [SEG]s, because the ground truth is one mask for
everything asked for; an answer without [SEG] has an empty mask.
"""

DIALOGUES = 8
"""Default number of dialogues about each tabletop."""
