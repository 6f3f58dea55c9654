"""Writes a folder in ReasonSeg's format: pictures with their JSON files, in the splits train and val."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lisa_core import files
from lisa_core.datasets.polygons import LONGEST_OUTLINE, outline_of, polygons_of
from lisa_core.datasets.reasonseg import SUFFIXES
from lisa_core.errors import DatasetError, LisaError
from lisa_core.labelling.sources import Label, Mask


def write(
    labels: Sequence[Label],
    out: Path,
    val_share: float,
    on_label: Callable[[str], None],
    on_fault: Callable[[str], None],
    *,
    of_a_recording: bool = False,
) -> dict[str, int]:
    """Writes a data set; the folder appears once it is complete.

    All labels of a picture go into the same split, so that no picture is both trained on and validated with.

    Args:
        labels: to write; one that raises a LisaError is a fault, and the others are written.
        out: folder to make; must not exist.
        val_share: of the pictures, for validation.
        on_label: called with the picture's name after each label.
        on_fault: called with a sentence for each label that cannot be used.
        of_a_recording: sorted by name, the pictures are in the order of time, and the last ones are validated with:
            random ones would be too similar to their neighbours in train.

    Returns:
        The number of labels by split.

    Raises:
        LisaError: `out` exists, or no label can be used.
        OSError: the disk is full; nothing is left behind.
    """
    written: dict[str, list[Path]] = {}
    with files.whole_folder(out) as partial:
        train, val = partial / "train", partial / "val"
        train.mkdir()
        for label, name in _named(labels):
            try:
                contents = _files(label, name)
            except LisaError as error:
                on_fault(f"{label.picture}, {label.queries[0]!r}: {error}")
                continue
            files.write_whole({train / file: content for file, content in contents.items()})
            written.setdefault(label.picture, []).extend(train / file for file in contents)
            on_label(label.picture)
        if not written:
            raise DatasetError("No label can be used, so no data set was written.")
        chosen = (_last if of_a_recording else _by_lot)(written, val_share)
        if chosen:
            val.mkdir()
        for path in (path for picture in chosen for path in written[picture]):
            path.rename(val / path.name)
        return {split.name: len(list(split.glob("*.json"))) for split in (train, val)}


def _by_lot(pictures: Iterable[str], share: float) -> set[str]:
    """Draws pictures for validation by a hash of their names, so that they are drawn in other sets as well.

    If `share` is above 0, at least one is drawn, and at least one is not.
    """
    drawn = sorted((_lot(picture), picture) for picture in pictures)
    count = _count(sum(lot < share for lot, _ in drawn), share, len(drawn))
    return {picture for _, picture in drawn[:count]}


def _last(pictures: Iterable[str], share: float) -> set[str]:
    in_order = sorted(pictures)
    return set(in_order[len(in_order) - _count(round(share * len(in_order)), share, len(in_order)) :])


def _count(count: int, share: float, pictures: int) -> int:
    return min(max(count, 1), pictures - 1) if share else 0


def _lot(picture: str) -> float:
    return int.from_bytes(hashlib.sha256(picture.encode(errors="replace")).digest()[:8], "big") / 2**64


def _named(labels: Sequence[Label]) -> Iterator[tuple[Label, str]]:
    """Each label with a unique file name: a file has one question, so a picture may have to be there several times."""
    numbers: dict[str, int] = {}
    several = len({label.picture for label in labels}) < len(labels)
    for label in labels:
        number = numbers[label.picture] = numbers.get(label.picture, 0) + 1
        yield label, f"{label.picture}_{number}" if several else label.picture


def _files(label: Label, name: str) -> dict[str, bytes]:
    """The files of a label, picture and JSON, by name; raises LisaError if it cannot be used."""
    if not all(query.strip() for query in label.queries):
        raise DatasetError("it has no words; say what is to be found.")
    image = label.image()
    pixels = files.read_rgb(image) if isinstance(image, Path) else image
    *targets, unsure = label.masks()
    for target in targets:
        _check(pixels, target, label.shows)
    if isinstance(image, Path) and image.suffix.lower() in SUFFIXES:
        picture, content = name + image.suffix, image.read_bytes()
    else:
        picture, content = name + ".png", files.png(pixels)
    shapes = [
        _shape("target", points, picture) | ({"group_id": group} if len(targets) > 1 else {})
        for group, target in enumerate(targets)
        for points in polygons_of(target)
    ]
    shapes += [_shape("ignore", points, picture) for points in polygons_of(unsure)]
    annotation: dict[str, Any] = {"text": label.queries, "is_sentence": label.is_sentence, "shapes": shapes}
    if label.answers:
        annotation["answers"] = label.answers
    return {
        picture: content,
        f"{name}.json": json.dumps(annotation, ensure_ascii=False).encode(errors="backslashreplace"),
    }


def _check(image: NDArray[np.uint8], target: Mask, shows: bool) -> None:
    if target.shape != image.shape[:2]:
        sizes = [f"{shape[1]}x{shape[0]}" for shape in (target.shape, image.shape)]
        raise DatasetError(f"the mask is {sizes[0]}, but the picture {sizes[1]}; they must be of one size.")
    if shows and not target.any():
        raise DatasetError("the mask is empty; leave it out, or draw what is to be found.")


def _shape(kind: str, points: list[list[int]], picture: str) -> dict[str, Any]:
    if outline_of(np.array(points, np.float64)) > LONGEST_OUTLINE:  # `reasonseg` would refuse it
        raise DatasetError(
            f"a part of the mask has an outline of more than {LONGEST_OUTLINE} px;"
            " smooth its edges, or scale picture and mask down."
        )
    return {"label": kind, "labels": [kind], "shape_type": "polygon", "image_name": picture, "points": points}
