"""Folders of rendered scenes: 000000.jpg is the picture, .png its labels, .json the scene, _depth.png its depth in mm.

In the labels, red is the owner of a pixel and green its part; blue is unused. Depth has 16 bit.
"""

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lisa_core.errors import DatasetError, brief
from lisa_core.files import png, write_whole
from lisa_core.json_lines import decoded
from lisa_core.tabletop.kinds import KIND_BY_NAME, Kind
from lisa_core.tabletop.render import Renderer
from lisa_core.tabletop.sampling import sample_scene
from lisa_core.tabletop.scene import Light, Scene, Surroundings, Thing, View, Viewpoint


def count(folder: Path) -> int:
    """Number of consecutive scenes in a folder, from number 0 on."""
    number = 0
    while (folder / f"{number:06d}.json").is_file():
        number += 1
    return number


def load_view(folder: Path, index: int) -> View:
    """Scene number `index` of a folder; depth is zero where none was stored.

    Raises:
        DatasetError: a file is missing, damaged or of another scene; the message names the scene.
    """
    stem = folder / f"{index:06d}"
    try:
        record = decoded(stem.with_suffix(".json").read_text())
        picture = np.array(Image.open(stem.with_suffix(".jpg")).convert("RGB"))
        labels = np.array(Image.open(stem.with_suffix(".png")).convert("RGB"))
        depth = np.zeros(picture.shape[:2], np.float32)
        millimetres = stem.with_name(f"{stem.name}_depth.png")
        if millimetres.is_file():
            depth = (np.array(Image.open(millimetres)) / 1000).astype(np.float32)
        scene = scene_from(record["scene"])
        camera = np.array(record["camera"], float).reshape(4, 4)
        intrinsics = np.array(record["intrinsics"], float).reshape(3, 3)
        _check_together(picture, labels, depth, scene.things)
    except MemoryError:
        raise
    except Exception as error:  # whatever a damaged file makes a decoder raise means the same
        raise DatasetError(
            f"Scene {stem} cannot be read ({brief(error)}); delete {stem.name}.json, and the same"
            " `lisa tabletop render` makes the scene again."
        ) from error
    return View(picture, depth, labels[..., 0], labels[..., 1], intrinsics, camera, scene.things)


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


def load_scene(folder: Path, index: int) -> Scene:
    """The description of scene number `index` of a folder.

    Raises:
        DatasetError: its file is missing, damaged, or no scene; the message names it.
    """
    path = folder / f"{index:06d}.json"
    try:
        return scene_from(decoded(path.read_text())["scene"])
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise DatasetError(f"{path} is no rendered scene, or damaged ({brief(error)}); take another folder.") from error


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


def save(view: View, scene: Scene, folder: Path, index: int, *, with_depth: bool = False) -> None:
    """Stores a view; its .json is written last, so a scene that has one is complete."""
    stem = folder / f"{index:06d}"
    jpeg = io.BytesIO()
    Image.fromarray(view.rgb).save(jpeg, "JPEG", quality=95, subsampling=0)
    files = {
        stem.with_suffix(".jpg"): jpeg.getvalue(),
        stem.with_suffix(".png"): png(np.dstack([view.owner, view.part, np.zeros_like(view.owner)])),
    }
    if with_depth:
        files[stem.with_name(f"{stem.name}_depth.png")] = _png16(np.round(view.depth * 1000).astype(np.uint16))
    record = {"scene": asdict(scene), "camera": view.camera.tolist(), "intrinsics": view.intrinsics.tolist()}
    files[stem.with_suffix(".json")] = json.dumps(record, indent=1).encode()
    write_whole(files)


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
        if not (folder / f"{index:06d}.json").is_file():
            renderer = renderer or Renderer()
            scene = sample_scene(seed + index, guest=guest)
            save(renderer.render(scene), scene, folder, index, with_depth=with_depth)
            done(index)


def _tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _tuples(each) for name, each in value.items()}
    return tuple(_tuples(each) for each in value) if isinstance(value, (list, tuple)) else value


def _png16(pixels: NDArray[np.uint16]) -> bytes:
    return cv2.imencode(".png", pixels)[1].tobytes()
