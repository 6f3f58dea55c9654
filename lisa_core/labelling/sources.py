"""Reads labels from PNG files, from COCO's JSON, and from the answers of a replayed bag."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lisa_core.datasets import coco
from lisa_core.datasets.reasonseg import json_of
from lisa_core.errors import DatasetError, brief
from lisa_core.template import SEG

Mask = NDArray[np.bool_]
UNSURE = 128
"""Value in a PNG mask of pixels that are ignored."""

_PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


@dataclass(frozen=True)
class Label:
    """Queries about a picture with the masks to find; picture and masks are read when they are called for.

    Attributes:
        picture: its name, the same for all labels of a picture.
        queries: one or more for the same masks.
        is_sentence: the queries are questions or instructions, not names.
        image: returns (H, W, 3) uint8 RGB, or its file.
        masks: returns (H, W) masks: the targets, mostly one, and last the ignored pixels.
        answers: one for each query, with a `[SEG]` for each target; empty: those of the recipe.
    """

    picture: str
    queries: tuple[str, ...]
    is_sentence: bool
    image: Callable[[], Path | NDArray[np.uint8]]
    masks: Callable[[], tuple[Mask, ...]]
    answers: tuple[str, ...] = ()

    @property
    def shows(self) -> bool:
        """Whether there is something to find: an answer with `[SEG]`, or no answers."""
        return not self.answers or any(SEG in answer for answer in self.answers)


def from_png(pictures: Path, masks: Path) -> tuple[list[Label], list[str]]:
    """Reads masks from folders named after the query: `masks/red cup/0001.png` is the red cup on `pictures/0001.*`.

    Returns:
        The labels, and a sentence for each mask that has no picture.

    Raises:
        DatasetError: a folder is missing or empty.
    """
    by_stem = _by_stem(pictures)
    labels, faults = [], []
    for path in sorted(masks.glob("*/*.[pP][nN][gG]")) if masks.is_dir() else ():
        picture = by_stem.get(path.stem)
        if picture is None:
            faults.append(f"{path} has no picture of its name in {pictures}; name it as its picture, or move it away.")
            continue
        query = path.parent.name
        labels.append(
            Label(path.stem, (query,), _is_sentence(query), partial(_itself, picture), partial(_read_png, path))
        )
    if not labels and not faults:
        raise DatasetError(f"{masks} has no masks; they are expected as {masks}/QUERY/PICTURE.png.")
    return labels, faults


def from_coco(annotations: Path, pictures: Path) -> tuple[list[Label], list[str]]:
    """Reads COCO's `instances` JSON: one label for each picture and category; crowds are ignored pixels.

    Returns:
        The labels, and a sentence for each annotation that cannot be used.

    Raises:
        DatasetError: the file is no such JSON, or lists several pictures of one name.
    """
    content = json_of(annotations)
    try:
        images = {item["id"]: item for item in content["images"]}
        names = {item["id"]: str(item["name"]) for item in content["categories"]}
        found: defaultdict[tuple[Any, Any], list[Any]] = defaultdict(list)
        for item in content["annotations"]:
            found[item["image_id"], item["category_id"]].append(item)
        stems = [Path(str(item["file_name"])).stem for item in images.values()]
    except (KeyError, TypeError) as error:
        raise DatasetError(f"{annotations} is no COCO file of instances ({brief(error)}).") from error
    twice = sorted(stem for stem, count in Counter(stems).items() if count > 1)
    if twice:
        raise DatasetError(f"{annotations} has several pictures named {', '.join(twice[:5])}; give each its own name.")
    labels, faults = [], []
    for (image, category), items in found.items():
        if image not in images or category not in names:
            faults.append(
                f"{annotations}: annotation {items[0].get('id')} is of no picture or category that is listed."
            )
            continue
        if all(item.get("iscrowd") for item in items):
            continue
        name = str(images[image]["file_name"])
        labels.append(
            Label(
                Path(name).stem,
                (names[category],),
                False,
                partial(_itself, pictures / name),
                partial(_drawn, items, images[image]),
            )
        )
    return labels, faults


def from_answers(
    answers: Path, frame: Callable[[int, int], Path | NDArray[np.uint8]], min_score: float
) -> tuple[list[Label], list[str]]:
    """Reads answers from `OUT.json` of `ros2 run lisa_ros replay`, whose segments become the masks to find.

    Args:
        answers: file of the replay, from which a person has deleted the wrong answers.
        frame: returns the picture of a frame by its number and its stamp, ns.
        min_score: answers with a segment below this score are left out.

    Raises:
        DatasetError: the file is no such JSON.
    """
    labels, faults = [], []
    try:
        for entry in json_of(answers)["answers"]:
            segments = entry.get("segments", ())
            if any(segment["score"] is None for segment in segments):
                faults.append(f"{answers}: a segment of {str(entry['question'])!r} has no score; it is left out.")
            elif segments and min(float(segment["score"]) for segment in segments) >= min_score:
                number, masks = int(entry["frame"]), [segment["mask"] for segment in segments]
                stamp = int(entry["stamp"]["sec"]) * 1_000_000_000 + int(entry["stamp"]["nanosec"])
                labels.append(
                    Label(
                        f"frame_{number:06}",
                        (str(entry["question"]),),
                        True,
                        partial(frame, number, stamp),
                        partial(_united, masks),
                    )
                )
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise DatasetError(f"{answers} has no answers of a replay: {brief(error)}.") from error
    return labels, faults


def numbered(folder: Path) -> Callable[[int, int], Path]:
    """Looks up pictures by the number at the end of their names, whatever the stamp; raises DatasetError."""
    by_number: defaultdict[int, list[Path]] = defaultdict(list)
    for path in sorted(folder.iterdir()):
        digits = path.stem[len(path.stem.rstrip("0123456789")) :]
        if digits and path.suffix.lower() in _PICTURES:
            by_number[int(digits)].append(path)

    def picture(number: int, _: int) -> Path:
        found = by_number.get(number, [])
        if not found:
            raise DatasetError(f"{folder} has no picture whose name ends in {number}.")
        if len(found) > 1:
            names = f"{found[0].name} and {found[1].name}"
            raise DatasetError(f"{names} in {folder} both end in {number}; leave only the one that was asked about.")
        return found[0]

    return picture


def _by_stem(folder: Path) -> Mapping[str, Path]:
    if not folder.is_dir():
        raise DatasetError(f"{folder} is no folder of pictures; give the one with the pictures that were labelled.")
    by_stem: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in _PICTURES:
            if path.stem in by_stem:
                raise DatasetError(f"{by_stem[path.stem].name} and {path.name} in {folder} share a name; rename one.")
            by_stem[path.stem] = path
    return by_stem


def _is_sentence(query: str) -> bool:
    return query.rstrip().endswith((".", "?", "!"))


def _read_png(path: Path) -> tuple[Mask, Mask]:
    """Target and ignored pixels: 0 is background and `UNSURE` ignored, in all channels; all else is the target.

    What alpha hides is background as well, whatever its colour: so a cut-out object is a mask of itself.
    """
    try:
        with Image.open(path) as opened:
            mode = "RGB" if opened.mode in ("RGB", "RGBA") else "L"
            channels = np.atleast_3d(np.asarray(opened if opened.mode in ("1", "L", "P") else opened.convert(mode)))
            if opened.has_transparency_data:
                channels = channels * (np.asarray(opened.convert("RGBA"))[..., 3:] > 0)
    except Exception as error:  # whatever a damaged or huge file makes a decoder raise means the same
        raise DatasetError(f"{path} is no picture that can be read ({error}).") from error
    unsure = (channels == UNSURE).all(-1)
    return (channels != 0).any(-1) & ~unsure, unsure


def _itself(path: Path) -> Path:
    return path


def _drawn(annotations: Iterable[Mapping[str, Any]], image: Mapping[str, Any]) -> tuple[Mask, Mask]:
    try:
        size = coco.size_of(image["height"], image["width"])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DatasetError("the JSON file has no `height` and `width` of this picture.") from error
    target, unsure = np.zeros(size, bool), np.zeros(size, bool)
    for item in annotations:
        try:
            (unsure if item.get("iscrowd") else target)[_covered(item.get("segmentation"), size)] = True
        except (KeyError, TypeError, ValueError, OverflowError, IndexError) as error:
            raise DatasetError(f"annotation {item.get('id')} cannot be used: {error}.") from error
    return target, unsure & ~target


def _covered(segmentation: Any, size: tuple[int, int]) -> Mask:
    covered = coco.layers_of(segmentation, size) > 0
    if not covered.any():
        raise ValueError("it covers no pixel")
    return covered


def _united(masks: Iterable[Any]) -> tuple[Mask, Mask]:
    try:
        target = np.logical_or.reduce([coco.decode(mask) for mask in masks])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DatasetError(f"a mask of the answer is damaged: {error}.") from error
    return target, np.zeros_like(target)
