"""An answer in files: a mask for each segment, the picture with all of them, and JSON that names them."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lisa_core import files, overlay
from lisa_core.answer import Answer
from lisa_core.errors import ImageError
from lisa_core.json_lines import decoded


@dataclass(frozen=True)
class Names:
    """The files of one answer.

    Attributes:
        folder: where they are.
        name: what their names begin with.
    """

    folder: Path
    name: str

    @property
    def overlay(self) -> Path:
        """The picture with all segments."""
        return self.folder / f"{self.name}_overlay.png"

    @property
    def json(self) -> Path:
        """The answer in numbers."""
        return self.folder / f"{self.name}.json"

    def mask(self, index: int) -> Path:
        """The mask of a segment, from 0."""
        return self.folder / f"{self.name}_mask_{index}.png"

    def masks(self, answer: Answer) -> list[str]:
        """The file names of an answer's masks."""
        return [self.mask(index).name for index in range(len(answer.segments))]


def masks(names: Names, answer: Answer) -> dict[Path, bytes]:
    """A PNG for each segment: 255 on it, 0 elsewhere, of the size of the picture."""
    return {names.mask(index): files.mask_png(segment.mask) for index, segment in enumerate(answer.segments)}


def record(names: Names, question: str, answer: Answer, timings: Mapping[str, float]) -> dict[str, Any]:
    """The answer as JSON has it, which knows no NaN; masks by the names of their files."""
    return {
        "question": question,
        "text": answer.text,
        "segments": [
            {
                "box": list(segment.box),
                "area": segment.area,
                "score": segment.score if math.isfinite(segment.score) else None,
                "mask": mask,
            }
            for segment, mask in zip(answer.segments, names.masks(answer), strict=True)
        ],
        "timings": dict(timings),
    }


def contents(
    names: Names, rgb: NDArray[np.uint8], question: str, answer: Answer, timings: Mapping[str, float]
) -> dict[Path, bytes]:
    """All files of an answer: the masks, the picture with all segments, and the JSON.

    Args:
        names: of the files.
        rgb: the picture that was asked about, (H, W, 3) uint8.
        question: that was asked.
        answer: to it.
        timings: s by stage.
    """
    return {
        **masks(names, answer),
        names.overlay: files.png(overlay.draw(rgb, answer.segments)),
        names.json: as_json(record(names, question, answer, timings)),
    }


def replace(names: Names, contents: Mapping[Path, bytes]) -> None:
    """Writes the files of an answer, all or none, in place of those of an earlier answer of the same name.

    Raises:
        ImageError: the JSON that would be replaced is no answer, but somebody's, such as labels beside a picture.
        OSError: one of them could not be written.
    """
    earlier = _masks_before(names)
    files.write_whole(contents)
    for path in earlier.difference(contents):
        path.unlink(missing_ok=True)


def _masks_before(names: Names) -> set[Path]:
    """The masks that the JSON of an earlier answer names; what else lies there is somebody's."""
    try:
        answer = decoded(names.json.read_bytes())
        _, _, segments = (answer[key] for key in ("question", "text", "segments"))
        return {
            names.mask(index) for index, segment in enumerate(segments) if segment["mask"] == names.mask(index).name
        }
    except FileNotFoundError:
        return set()
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ImageError(f"{names.json} is there and is no answer of an earlier run; choose another --out.") from error


def as_json(content: Any) -> bytes:
    """A file of JSON that people can read, too; names of files that are no UTF-8 come back as they were."""
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode(errors="backslashreplace")


def stems(images: Sequence[Path]) -> dict[Path, str]:
    """What the names of each image's results begin with: its stem, and a number for all but the first of one stem.

    Upper and lower case count as the same, as they do for some file systems.
    """
    wanted = {image.stem.casefold() for image in images}
    taken: set[str] = set()
    chosen: dict[Path, str] = {}
    for image in dict.fromkeys(images):
        name, number = image.stem, 1
        while name.casefold() in taken or (number > 1 and name.casefold() in wanted):
            number += 1
            name = f"{image.stem}_{number}"
        taken.add(name.casefold())
        chosen[image] = name
    return chosen
