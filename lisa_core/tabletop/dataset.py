"""Folders of rendered scenes: 000000.jpg is the picture, .png its labels, .json the scene, _depth.png its depth in mm.

In the labels, red is the owner of a pixel and green its part; blue is unused. Depth has 16 bit.
"""

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lisa_core.datasets.reasonseg import digest_of
from lisa_core.errors import DatasetError, brief
from lisa_core.files import png, write_whole
from lisa_core.json_lines import decoded
from lisa_core.tabletop.kinds import KIND_BY_NAME, Kind
from lisa_core.tabletop.render import Renderer
from lisa_core.tabletop.sampling import sample_scene
from lisa_core.tabletop.scene import Light, Scene, Surroundings, Thing, View, Viewpoint


@dataclass(frozen=True)
class StoredScene:
    """Scene number `index` of a folder, not loaded yet."""

    folder: Path
    index: int

    @property
    def stem(self) -> str:
        """Its files' names without what they end in."""
        return f"{self.index:06d}"

    @property
    def name(self) -> str:
        """The picture's file name."""
        return self.picture.name

    @property
    def picture(self) -> Path:
        """File of the RGB picture."""
        return self.folder / f"{self.stem}.jpg"

    @property
    def labels(self) -> Path:
        """File of whose each pixel is."""
        return self.folder / f"{self.stem}.png"

    @property
    def depth(self) -> Path:
        """File of the depth; not every scene has one."""
        return self.folder / f"{self.stem}_depth.png"

    @property
    def annotation(self) -> Path:
        """File of the scene: what is on the table."""
        return self.folder / f"{self.stem}.json"

    @property
    def is_whole(self) -> bool:
        """Whether all its files are there: its annotation is written last."""
        return self.annotation.is_file()

    def digest(self) -> str:
        """A digest of its files' contents but for the depth; raises DatasetError if they cannot be read."""
        return digest_of((self.picture, self.labels, self.annotation))

    def read(self) -> View:
        """Loads the picture and the truth; depth is zero where none was stored.

        Raises:
            DatasetError: a file is missing, damaged or of another scene; the message names the scene.
        """
        try:
            record = decoded(self.annotation.read_text())
            picture = np.array(Image.open(self.picture).convert("RGB"))
            labels = np.array(Image.open(self.labels).convert("RGB"))
            depth = np.zeros(picture.shape[:2], np.float32)
            if self.depth.is_file():
                depth = (np.array(Image.open(self.depth)) / 1000).astype(np.float32)
            scene = scene_from(record["scene"])
            camera = np.array(record["camera"], float).reshape(4, 4)
            intrinsics = np.array(record["intrinsics"], float).reshape(3, 3)
            _check_together(picture, labels, depth, scene.things)
        except MemoryError:
            raise
        except Exception as error:  # whatever a damaged file makes a decoder raise means the same
            raise DatasetError(
                f"Scene {self.folder / self.stem} cannot be read ({brief(error)}); delete {self.annotation.name}, and"
                " the same `lisa tabletop render` makes the scene again."
            ) from error
        return View(picture, depth, labels[..., 0], labels[..., 1], intrinsics, camera, scene.things)

    def description(self) -> Scene:
        """Loads what is in the scene, without pictures.

        Raises:
            DatasetError: its annotation is missing, damaged, or no scene's; the message names it.
        """
        try:
            return scene_from(decoded(self.annotation.read_text())["scene"])
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise DatasetError(
                f"{self.annotation} is no rendered scene, or damaged ({brief(error)}); take another folder."
            ) from error

    def write(self, view: View, scene: Scene, *, with_depth: bool = False) -> None:
        """Stores a scene and the view of it; raises OSError if a file cannot be written."""
        jpeg = io.BytesIO()
        Image.fromarray(view.rgb).save(jpeg, "JPEG", quality=95, subsampling=0)
        files = {
            self.picture: jpeg.getvalue(),
            self.labels: png(np.dstack([view.owner, view.part, np.zeros_like(view.owner)])),
        }
        if with_depth:
            files[self.depth] = _png16(np.round(view.depth * 1000).astype(np.uint16))
        record = {"scene": asdict(scene), "camera": view.camera.tolist(), "intrinsics": view.intrinsics.tolist()}
        files[self.annotation] = json.dumps(record, indent=1).encode()
        write_whole(files)


def scenes_in(folder: Path) -> list[StoredScene]:
    """The scenes that a folder has, by number."""
    return [StoredScene(folder, int(path.stem)) for path in sorted(folder.glob(f"{'[0-9]' * 6}.json"))]


def open_scenes(folder: Path) -> list[StoredScene]:
    """The scenes in a folder.

    Raises:
        DatasetError: there are none.
    """
    if not folder.is_dir():
        raise DatasetError(f"{folder} is {'a file' if folder.exists() else 'not there'}; give a folder of scenes.")
    if not (scenes := scenes_in(folder)):
        raise DatasetError(f"{folder} has no scenes (000000.json); make some with `lisa tabletop render`.")
    return scenes


def render_missing(
    folder: Path,
    scenes: int,
    seed: int,
    guest: Kind | None,
    share: tuple[int, int],
    with_depth: bool,
    done: Callable[[int], None],
) -> None:
    """Renders the missing ones of a worker's scenes: numbers `share[0]`, `share[0] + share[1]`, ..."""
    renderer = None
    for index in range(share[0], scenes, share[1]):
        stored = StoredScene(folder, index)
        if not stored.is_whole:
            renderer = renderer or Renderer()
            scene = sample_scene(seed + index, guest=guest)
            stored.write(renderer.render(scene), scene, with_depth=with_depth)
            done(index)


def scene_from(record: dict[str, Any]) -> Scene:
    """The inverse of `dataclasses.asdict` for a scene, also after JSON."""
    plain = {name: _tuples(value) for name, value in record.items() if name != "things"}
    return Scene(
        seed=plain["seed"],
        things=tuple(Thing(**_tuples(thing)) for thing in record["things"]),
        surroundings=Surroundings(**plain["surroundings"]),
        light=Light(**plain["light"]),
        viewpoint=Viewpoint(**plain["viewpoint"]),
    )


def _check_together(
    picture: NDArray[np.uint8], labels: NDArray[np.uint8], depth: NDArray[np.float32], things: Sequence[Thing]
) -> None:
    """Raises ValueError if the files of a scene, each whole, are not of the same one, or name what no scene has."""
    if not picture.shape[:2] == labels.shape[:2] == depth.shape or labels[..., 0].max() > len(things):
        raise ValueError("its files are not of the same scene")
    for thing in things:
        if thing.kind not in KIND_BY_NAME or thing.colour not in KIND_BY_NAME[thing.kind].colours:
            raise ValueError(f"there is no {thing.colour} {thing.kind} in any scene")
        if np.array([*thing.position, thing.yaw, thing.scale], float).shape != (5,):
            raise ValueError("a thing has no position")


def _tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _tuples(each) for name, each in value.items()}
    return tuple(_tuples(each) for each in value) if isinstance(value, (list, tuple)) else value


def _png16(pixels: NDArray[np.uint16]) -> bytes:
    return cv2.imencode(".png", pixels)[1].tobytes()
