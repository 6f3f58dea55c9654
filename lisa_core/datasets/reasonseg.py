"""ReasonSeg folders: a picture, and beside it a JSON file of the same name with the question and polygons.

    ReasonSeg/train/0001.jpg  0001.json  ...
    ReasonSeg/val/...
    ReasonSeg/explanatory/train.json        answers in words to some of the questions of train

A JSON file has `text` (the question in one or more wordings; the benchmark asks the first), `is_sentence` (true for a
question, false for the name of something) and `shapes`, polygons (or LabelMe's rectangles) labelled `target`, `ignore`
or `flag`. As an extension it may have `answers`, one for each text: then the texts are asked verbatim, and these are
the true answers. If an answer has several `[SEG]`, the `group_id` of a polygon, from 0, says which one it belongs to.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from lisa_core import files
from lisa_core.datasets.polygons import LONGEST_OUTLINE, outline_of
from lisa_core.errors import DatasetError
from lisa_core.template import SEG

TARGET = 1
IGNORED = 255
"""Values in a ground truth; `IGNORED` pixels count neither for nor against a mask, all other values are background."""

SUFFIXES = (".jpg", ".jpeg", ".png")
"""Suffixes of pictures; the published set has .jpg only."""

DEFAULT_SPLIT = "val"

Length = Literal["short", "long"]
"""Kind of a query: the name of something, or a sentence."""


@dataclass(frozen=True, eq=False)
class Polygon:
    """One labelled outline.

    Attributes:
        number: its position in the file, from 1.
        value: of its pixels in the ground truth, `TARGET` or `IGNORED`.
        points: (n, 2) int32, x and y in px; may lie outside the picture.
        group: the `[SEG]` that it belongs to, if an answer has several; published files may have any number.
    """

    number: int
    value: int
    points: NDArray[np.int32]
    group: int | None = None


@dataclass(frozen=True)
class Annotation:
    """The content of a JSON file.

    Attributes:
        answers: empty, or one for each text.
        size: (height, width) in px of the picture that was labelled, if the file states it.
    """

    texts: tuple[str, ...]
    is_sentence: bool
    polygons: tuple[Polygon, ...]
    answers: tuple[str, ...] = ()
    size: tuple[float, float] | None = None

    @property
    def length(self) -> Length:
        """Kind of its texts."""
        return "long" if self.is_sentence else "short"

    @property
    def first(self) -> tuple[Polygon, ...]:
        """The polygons that the first text asks for; only the ignored ones if its answer has no `[SEG]`."""
        if self.answers and SEG not in self.answers[0]:
            return tuple(polygon for polygon in self.polygons if polygon.value == IGNORED)
        return self.polygons

    def targets_of(self, answer: str) -> list[tuple[Polygon, ...]]:
        """The polygons of each `[SEG]` in an answer, each with all ignored ones."""
        count = answer.count(SEG)
        if count < 2:
            return [self.polygons] * count
        return [
            tuple(polygon for polygon in self.polygons if polygon.value == IGNORED or polygon.group == group)
            for group in range(count)
        ]


@dataclass(frozen=True, eq=False)
class Sample:
    """A picture, one question about it, and the ground truth.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        truth: (H, W) uint8: `TARGET`, `IGNORED`, or anything else for background; in refCOCO the number of parts that
            cover the pixel.
        query: of the annotation.
        question: the query worded as the benchmark asks it, or verbatim if `answered`.
        answered: the annotation has an answer to it, so the model must answer freely.
    """

    image: NDArray[np.uint8]
    truth: NDArray[np.uint8]
    query: str
    question: str
    length: Length
    answered: bool = False


@dataclass(frozen=True)
class Entry:
    """A picture of a split and its annotation, not loaded yet."""

    picture: Path
    annotation: Path

    @property
    def name(self) -> str:
        """File name of the picture, unique in its split."""
        return self.picture.name

    def digest(self) -> str:
        """A digest of the contents of picture and annotation.

        Raises:
            DatasetError: a file cannot be read.
        """
        return digest_of((self.picture, self.annotation))

    def read(self) -> Sample:
        """Loads the picture with its first question.

        Raises:
            DatasetError, ImageError: a file is damaged; the message names it.
        """
        annotation = read_annotation(self.annotation)
        image = files.read_rgb(self.picture)
        try:
            self._check_size(annotation.size, image.shape[:2])
            check_inside(annotation.polygons, image.shape[:2])
        except DatasetError as error:
            raise DatasetError(f"{self.annotation}: {error}") from error
        truth = rasterize(annotation.first, image.shape[:2])
        query = annotation.texts[0]
        answered = bool(annotation.answers)
        asked = query if answered else question(query, annotation.is_sentence)
        return Sample(image, truth, query, asked, annotation.length, answered)

    def _check_size(self, stated: tuple[float, float] | None, size: tuple[int, ...]) -> None:
        """Raises DatasetError if another size was labelled than that of the upright picture, (height, width).

        Polygons are of the upright picture, as LabelMe shows it; but some tools state its size as the file has it.
        """
        if not stated or stated == size:
            return
        if stated != size[::-1] or not files.is_turned(self.picture):
            raise DatasetError(
                f"it was labelled at {stated[1]}x{stated[0]} px, but the picture is of {size[1]}x{size[0]};"
                " give the picture that was labelled, or label this one."
            )


@dataclass(frozen=True)
class Split:
    """The pictures of one folder.

    Attributes:
        entries: sorted by name.
        faults: a sentence for each file that cannot be used.
        explanations: answers in words, by picture name and query.
    """

    folder: Path
    entries: tuple[Entry, ...]
    faults: tuple[str, ...]
    explanations: Mapping[tuple[str, str], str]

    def explanation(self, picture: str, query: str) -> str:
        """The explanation for a query, else any other of the picture, as the authors do; else ""."""
        return self.explanations.get((picture, query)) or self._by_picture.get(picture, "")

    @cached_property
    def _by_picture(self) -> dict[str, str]:
        return {picture: answer for (picture, _), answer in self.explanations.items()}


def open_split(root: Path, split: str = "") -> Split:
    """Lists a split of a data set.

    Args:
        root: folder of the splits, or of the pictures.
        split: name of a folder in `root`; empty: `val`, or `root` itself if there is no such folder.

    Raises:
        DatasetError: the folder is missing or empty.
    """
    folder = _folder_of(root, split)
    try:
        paths = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise DatasetError(f"{folder} cannot be read ({error.strerror}).") from error
    entries, faults = _pair(paths)
    if not entries and not faults:
        raise DatasetError(f"{folder} is empty: there are no pictures ({', '.join(SUFFIXES)}) in it.")
    explanations: Mapping[tuple[str, str], str] = {}
    try:
        explanations = read_explanations(folder.parent / "explanatory" / f"{folder.name}.json")
    except DatasetError as error:
        faults.append(str(error))
    return Split(folder, tuple(entries), tuple(faults), explanations)


def question(query: str, is_sentence: bool) -> str:
    """A query as the authors' validation asks it, including the space after the image's line."""
    words = query if is_sentence else f"What is {query} in this image?"
    return f" {words} Please output segmentation mask."


def digest_of(paths: Iterable[Path]) -> str:
    """A digest of the contents of these files, in order; raises DatasetError if one cannot be read, or is a pipe."""
    digest = hashlib.sha256()
    for path in paths:
        if why := files.not_a_file(path):
            raise DatasetError(f"{why}; give a file.")
        digest.update(hashlib.sha256(_bytes_of(path)).digest())
    return digest.hexdigest()


def read_annotation(path: Path) -> Annotation:
    """Reads the JSON file of a picture: UTF-8, or cp1252 as in some published files.

    Raises:
        DatasetError: it is damaged or incomplete; the message says where.
    """
    content = json_of(path)
    try:
        return _annotation(content)
    except DatasetError as error:
        raise DatasetError(f"{path}: {error}") from error


def rasterize(polygons: Sequence[Polygon], size: tuple[int, ...]) -> NDArray[np.uint8]:
    """The ground truth, (H, W) uint8, as the authors draw it: largest first, each filled and with its outline.

    Polygons are clipped to the picture; two points make a line, and one a pixel. OpenCV 4.11 changed its filling:
    pixels at outlines differ from those of 4.10 and older, which published numbers were made with.

    Args:
        polygons: in the order of their file; among those of equal size the last is drawn first.
        size: (height, width) of the picture.
    """
    areas = []
    for polygon in polygons:
        alone = np.zeros(size, np.uint8)
        _draw(alone, polygon.points, 1)
        areas.append(np.count_nonzero(alone))
    truth = np.zeros(size, np.uint8)
    for index in np.argsort(areas, kind="stable")[::-1]:
        _draw(truth, polygons[index].points, polygons[index].value)
    return truth


def check_inside(polygons: Sequence[Polygon], size: tuple[int, ...], what: str = "polygon") -> None:
    """Raises DatasetError if there are polygons and all lie outside a picture of this size; `what` names them."""
    if polygons and not rasterize(polygons, size).any():
        raise DatasetError(
            f"no {what} lies in the picture, which is {size[1]}x{size[0]};"
            " they may belong to another one, or to one of another size."
        )


def read_explanations(path: Path) -> dict[tuple[str, str], str]:
    """Reads answers in words from a file of the `explanatory` folder, by picture name and query; {} without a file.

    Raises:
        DatasetError: it is damaged, or has two answers to a question.
    """
    if not path.exists():
        return {}
    explanations: dict[tuple[str, str], str] = {}
    try:
        for number, item in enumerate(json_of(path), 1):
            image, query, answer = (str(item[key]).strip() for key in ("image", "query", "outputs"))
            if explanations.setdefault((image, query), answer) != answer:
                raise DatasetError(f"{path}: item {number} answers the query about {image} again; keep one answer.")
    except (LookupError, TypeError) as error:
        raise DatasetError(f"{path} is no list of items with `image`, `query` and `outputs`.") from error
    return explanations


def _folder_of(root: Path, split: str) -> Path:
    folder = root / (split or DEFAULT_SPLIT)
    if folder.is_dir():
        return folder
    if not root.is_dir():
        raise DatasetError(f"{root} is {'a file' if root.exists() else 'not there'}; give the folder of a data set.")
    if not split:
        return root
    there = sorted(path.name for path in root.iterdir() if path.is_dir())
    raise DatasetError(
        f"{root} has no split {split}; it has {', '.join(there) or 'no folders'}: name one of those, or make"
        f" {root / split}, of pictures with their JSON files."
    )


def _pair(paths: Sequence[Path]) -> tuple[list[Entry], list[str]]:
    """Entries, and faults: pictures without an annotation or with a shared one, and annotations without a picture."""
    pictures: defaultdict[Path, list[Path]] = defaultdict(list)
    for path in paths:
        if path.suffix.lower() in SUFFIXES:
            pictures[path.with_suffix(".json")].append(path)
    entries, faults = [], []
    for annotation, candidates in pictures.items():
        names = " and ".join(picture.name for picture in candidates)
        if len(candidates) > 1:
            faults.append(f"{annotation.parent}: {names} share {annotation.name}; give each a name of its own.")
        elif not annotation.is_file():
            faults.append(f"{candidates[0]} has no {annotation.name} beside it; label the picture, or move it away.")
        else:
            entries.append(Entry(candidates[0], annotation))
    faults += [
        f"{path} has no picture beside it; put the one of its name there, or move it away."
        for path in paths
        if path.suffix == ".json" and path not in pictures
    ]
    return entries, faults


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DatasetError(f"{path} cannot be read ({error.strerror}).") from error


def json_of(path: Path) -> Any:
    """The content of a JSON file, UTF-8 or cp1252; raises DatasetError, naming it, if it cannot be read."""
    content = _bytes_of(path)
    try:
        return json.loads(_text_of(content))
    except UnicodeDecodeError:
        cause = "its text is neither UTF-8 nor cp1252"
    except json.JSONDecodeError as error:
        cause = f"{error.msg} in line {error.lineno}, column {error.colno}"
    except RecursionError:
        cause = "it is nested too deeply"
    except ValueError as error:  # a number with more digits than Python reads
        cause = str(error)
    raise DatasetError(f"{path} is damaged, or no JSON: {cause}.")


def _text_of(content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("cp1252")


def _annotation(content: Any) -> Annotation:
    if not isinstance(content, dict):
        raise DatasetError("the JSON is no object with `text`, `is_sentence` and `shapes`.")
    texts, is_sentence, shapes = (content.get(key) for key in ("text", "is_sentence", "shapes"))
    if not isinstance(is_sentence, int) or is_sentence not in (0, 1):  # Python's bools are 0 and 1, too
        raise DatasetError("`is_sentence` must be true or false.")
    if not isinstance(shapes, list):
        raise DatasetError("`shapes` must be a list of polygons.")
    polygons = (_polygon(number, shape) for number, shape in enumerate(shapes, 1))
    queries = _queries(texts, alone="answers" not in content)
    answers = _answers(content.get("answers", []), len(queries))
    size = _size(content.get("imageHeight"), content.get("imageWidth"))
    annotation = Annotation(queries, bool(is_sentence), tuple(filter(None, polygons)), answers, size)
    _check_groups(annotation)
    return annotation


def _size(height: Any, width: Any) -> tuple[float, float] | None:
    """What LabelMe states; published files have nothing or null."""
    return (height, width) if type(height) in (int, float) and type(width) in (int, float) else None


def _queries(texts: Any, alone: bool) -> tuple[str, ...]:
    """The texts; `alone`, without answers, blank ones after the first are dropped."""
    words = texts if isinstance(texts, list) and all(isinstance(text, str) for text in texts) else []
    queries = [text.strip() for text in words]
    if not any(queries[:1]) or not (alone or all(queries)):
        raise DatasetError("`text` must be a list of at least one query, each in words.")
    return tuple(filter(None, queries))


def _answers(answers: Any, texts: int) -> tuple[str, ...]:
    if not isinstance(answers, list) or not all(isinstance(answer, str) and answer.strip() for answer in answers):
        raise DatasetError("`answers` must be a list of words, one answer to each text.")
    if answers and len(answers) != texts:
        raise DatasetError(f"`answers` has {len(answers)}, but there are {texts} texts; give one to each.")
    return tuple(answer.strip() for answer in answers)


def _check_groups(annotation: Annotation) -> None:
    groups = {polygon.group for polygon in annotation.polygons if polygon.value == TARGET}
    for answer in annotation.answers:
        count = answer.count(SEG)
        if count > 1 and groups != set(range(count)):
            raise DatasetError(
                f"an answer has {count} [SEG], so each target needs the `group_id` of its own, 0 to {count - 1}."
            )


def _polygon(number: int, shape: Any) -> Polygon | None:
    """The polygon of a shape; None if flagged as void. As for the authors, any other label but `ignore` is a target."""
    label = shape.get("label") if isinstance(shape, dict) else None
    if not isinstance(label, str):
        raise DatasetError(f"polygon {number} has no label; it must be target, ignore or flag.")
    if label.lower() == "flag":
        return None
    try:
        points = np.array(shape.get("points"), np.float64)
    except (TypeError, ValueError, OverflowError):
        points = np.empty(0)
    if points.ndim != 2 or points.shape[1] != 2 or not np.all(np.abs(points) <= LONGEST_OUTLINE):
        raise DatasetError(f"polygon {number} must have `points`, a list of [x, y] in pixels.")
    points = _outline(number, shape.get("shape_type"), points)
    if outline_of(points) > LONGEST_OUTLINE:
        raise DatasetError(f"polygon {number} has an outline of more than {LONGEST_OUTLINE} px; draw it with less.")
    value = IGNORED if "ignore" in label.lower() else TARGET
    group = shape.get("group_id")
    return Polygon(number, value, points.astype(np.int32), group if type(group) is int else None)


def _outline(number: int, kind: Any, points: NDArray[np.float64]) -> NDArray[np.float64]:
    """The points of a shape of LabelMe as a polygon's: of a rectangle it has two opposite corners, or all four."""
    if kind in (None, "polygon") or (kind == "rectangle" and len(points) == 4):
        return points
    if kind == "rectangle" and len(points) == 2:
        (x, y), (other_x, other_y) = points
        return np.array([[x, y], [other_x, y], [other_x, other_y], [x, other_y]])
    what = f"{kind} of {len(points)} points" if kind == "rectangle" else kind
    raise DatasetError(f"shape {number} is a {what}; draw it as a polygon.")


def _draw(picture: NDArray[np.uint8], points: NDArray[np.int32], value: int) -> None:
    cv2.polylines(picture, [points], True, (value,), 1)
    cv2.fillPoly(picture, [points], (value,))
