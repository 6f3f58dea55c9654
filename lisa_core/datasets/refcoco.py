"""RefCOCO-style sets: COCO's instances, and sentences that each refer to one of them.

    instances.json    refs(unc).json    images/COCO_train2014_....jpg

The published sets (refCOCO, refCOCO+, refCOCOg) store their references as a pickle, which runs code when it is read;
here they are JSON with the same content.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from operator import itemgetter
from pathlib import Path
from typing import Any

from lisa_core import files
from lisa_core.datasets.coco import layers_of
from lisa_core.datasets.reasonseg import Sample, digest_of, json_of, question
from lisa_core.errors import DatasetError, brief

_CONVERT = (
    "convert it once, if you trust where it came from: python -c "
    '"import json, pickle; json.dump(pickle.load(open({source!r}, {mode!r})), open({target!r}, {write!r}))"'
)


@dataclass(frozen=True)
class Reference:
    """One sentence about one instance of a picture, the picture not read yet.

    Attributes:
        number: of the reference and its sentence, unique in the set.
        picture: its file.
        annotation: the file of the references.
        sentence: of the set, in lower case as the authors ask it.
        segmentation: of the instance, as COCO writes it: polygons or run lengths.
    """

    number: str
    picture: Path
    annotation: Path
    sentence: str
    segmentation: Any

    @property
    def name(self) -> str:
        """The picture's file name and the number."""
        return f"{self.picture.name} {self.number}"

    def digest(self) -> str:
        """Identifies picture, sentence and mask by content; raises DatasetError if the picture cannot be read."""
        return digest_of((self.picture,)) + json.dumps([self.sentence, self.segmentation])

    def read(self) -> Sample:
        """The picture with its question, asked as the authors' validation does.

        Raises:
            DatasetError, ImageError: the picture or the mask is damaged; names it.
        """
        image = files.read_rgb(self.picture)
        try:
            # as the authors count: pixels covered once are TARGET, those where parts of an instance overlap are not
            truth = layers_of(self.segmentation, (image.shape[0], image.shape[1]))
        except (ValueError, TypeError, LookupError, OverflowError) as error:
            raise DatasetError(
                f"{self.annotation}: the mask of reference {self.number} is damaged ({error})."
            ) from error
        return Sample(image, truth, self.sentence, question(self.sentence, False), "short")


_PARTS = {"ref_id", "image_id", "ann_id", "sentences"}
"""Keys that a reference must have."""


@dataclass(frozen=True)
class References:
    """The references of one split.

    Attributes:
        entries: grouped by picture.
        faults: a sentence for each reference that cannot be used.
        explanations: empty; such sets have none.
    """

    folder: Path
    entries: tuple[Reference, ...]
    faults: tuple[str, ...]
    explanations: Mapping[tuple[str, str], str] = field(default_factory=dict)


@dataclass(frozen=True)
class RefCoco:
    """A folder of such a set.

    Attributes:
        folder: of the JSON files.
        refs: file of the references; None: the only refs*.json in the folder.
        images: folder of the pictures; None: `images` in the folder.
    """

    folder: Path
    refs: Path | None = None
    images: Path | None = None

    def split(self, name: str) -> References:
        """The references of a split; "testA" includes those of testAB, and "test" those of all tests.

        Raises:
            DatasetError: a file is missing or damaged, or there is no such split.
        """
        path = self.refs or _only_refs(self.folder)
        references = json_of(path)
        try:
            splits = sorted({str(each["split"]) for each in references})
            chosen = [each for each in references if _is_in(name, str(each["split"]))]
            if not chosen:
                raise DatasetError(f"{path} has no split {name}; it has {', '.join(splits) or 'none'}.")
            whole = [each for each in chosen if each.keys() >= _PARTS]
            entries = [
                entry for each in sorted(whole, key=itemgetter("image_id")) for entry in self._entries(path, each)
            ]
        except (KeyError, TypeError, AttributeError) as error:
            raise DatasetError(f"{path} is no list of references ({brief(error)}).") from error
        entries += [
            f"{path}: reference {each.get('ref_id', '?')} has no {', '.join(sorted(_PARTS - each.keys()))}."
            for each in chosen
            if not each.keys() >= _PARTS
        ]
        found = [entry for entry in entries if isinstance(entry, Reference)]
        first = {entry.number: entry for entry in reversed(found)}
        known = tuple(entry for entry in found if first[entry.number] is entry)
        faults = [entry for entry in entries if isinstance(entry, str)] + [
            f"{path}: the reference {entry.number} is there twice; {entry.sentence!r} is left out."
            for entry in found
            if first[entry.number] is not entry
        ]
        if not known and not faults:
            raise DatasetError(f"{path} has no sentences in its split {name}.")
        return References(self.folder, known, tuple(faults))

    def _entries(self, path: Path, reference: Mapping[str, Any]) -> list[Reference | str]:
        """An entry for each sentence of a reference, or one fault."""
        number = reference["ref_id"]
        picture = self._instances["images"].get(reference["image_id"])
        instance = self._instances["annotations"].get(reference["ann_id"])
        if picture is None or instance is None:
            return [f"{path}: reference {number} is about a picture or an instance that instances.json has not."]
        if "file_name" not in picture:
            return [f"{self.folder / 'instances.json'}: picture {reference['image_id']} has no file_name."]
        file = (self.images or self.folder / "images") / str(picture["file_name"])
        return [
            Reference(
                f"{number}.{place}", file, path, str(sentence["sent"]).strip().lower(), instance.get("segmentation")
            )
            for place, sentence in enumerate(reference["sentences"], 1)
        ]

    @cached_property
    def _instances(self) -> dict[str, dict[Any, Any]]:
        path = self.folder / "instances.json"
        content = json_of(path)
        try:
            return {name: {each["id"]: each for each in content[name]} for name in ("images", "annotations")}
        except (KeyError, TypeError) as error:
            raise DatasetError(f"{path} is no COCO file of instances ({brief(error)}).") from error


def _is_in(name: str, split: str) -> bool:
    """Whether a reference of `split` is meant by the name of a split, as in the sets' own code."""
    if name in ("testA", "testB", "testC"):
        return name[-1] in split
    return name in split if name == "test" else name == split


def _only_refs(folder: Path) -> Path:
    if not folder.is_dir():
        raise DatasetError(
            f"{folder} is {'a file' if folder.exists() else 'not there'}; give the folder of a data set."
        )
    found = sorted(folder.glob("refs*.json"))
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(path.name for path in found)
        raise DatasetError(f"{folder} has several files of references ({names}); choose one with --refs.")
    if pickles := sorted(folder.glob("refs*.p")):
        source, target = str(pickles[0]), str(pickles[0].with_suffix(".json"))
        how = _CONVERT.format(source=source, mode="rb", target=target, write="w")
        raise DatasetError(f"{pickles[0]} is a pickle, which runs code when it is read; {how}")
    raise DatasetError(f"{folder} has no refs*.json; give the folder of a data set, or the file by --refs.")
