"""What the results of any evaluation are shown by: a table, and a contact sheet of the worst beside the truth."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lisa_core import files, overlay
from lisa_core.overlay import Panel
from lisa_core.template import SEG

WORST = 12
"""Answers on the contact sheet."""

_PANEL_WIDTH = 480


def as_csv(columns: Sequence[str], records: Iterable[Mapping[str, Any]]) -> bytes:
    """A table with a line for each record, which has all the columns and no more."""
    table = io.StringIO(newline="")
    writer = csv.DictWriter(table, columns)
    writer.writeheader()
    writer.writerows(records)
    return table.getvalue().encode(errors="backslashreplace")


def sheet(pairs: Sequence[tuple[Panel, Panel]]) -> bytes:
    """A PNG of one answer or more, each beside the truth; two of them fit into a row."""
    columns = 2 if len(pairs) < 3 else 4
    return files.png(overlay.contact_sheet([panel for pair in pairs for panel in pair], columns, _PANEL_WIDTH))


def compared(
    image: NDArray[np.uint8],
    question: str,
    said: str,
    masks: Sequence[NDArray[np.bool_]],
    truth: Mapping[str, NDArray[np.bool_]],
) -> tuple[Panel, Panel]:
    """Two panels: the answer to a question, and the ground truth.

    Args:
        image: (H, W, 3) uint8 RGB.
        question: heading of the answer's panel.
        said: the score of the answer, and its words.
        masks: (H, W) each, of the answer.
        truth: the true masks by name; `[SEG]` in a name is drawn as the badge of the mask.
    """
    badges = SEG * len(masks)
    words = said.replace(SEG, "SEG")
    return (
        Panel(question, overlay.draw(image, overlay.regions(masks)), f"answer {badges} {words}"),
        Panel("ground truth", overlay.draw(image, overlay.regions(truth.values())), ", ".join(truth)),
    )
