"""Samples scenes by seed: things, places, light and viewpoint. The same seed gives the same scene."""

from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from lisa_core.tabletop.kinds import KINDS, Kind
from lisa_core.tabletop.meshes import rotation
from lisa_core.tabletop.models import model
from lisa_core.tabletop.scene import Light, Rgb, Scene, Surroundings, Thing, Viewpoint
from lisa_core.tabletop.textures import TEXTURES

WIDTH, HEIGHT = 640, 480
_GAP = 0.006  # m between footprints
_COARSE = 4  # px of the picture per px of the sketch that tells what is hidden
_SEEN = 0.5  # share of a thing's outline that must be visible
_STRETCH = {"box": (0.65, 1.3), "book": (0.7, 1.6), "bottle": (0.9, 1.12), "can": (0.85, 1.08), "mug": (0.88, 1.08)}


def sample_scene(
    seed: int, kinds: Sequence[Kind] = KINDS, things: tuple[int, int] = (3, 9), guest: Kind | None = None
) -> Scene:
    """A scene with `things[0]` to `things[1]` things of these kinds, which do not touch and are all visible.

    With `guest`, the first of them is of that kind.
    """
    rng = np.random.default_rng(seed)
    guests = [] if guest is None else [guest]
    while True:
        empty = Scene(seed, (), _surroundings(rng), _light(rng), _viewpoint(rng))
        count = int(rng.integers(things[0], things[1] + 1))
        scene = _furnish(empty, guests, len(guests), rng)
        if len(scene.things) == len(guests):
            scene = _furnish(scene, kinds, count - len(guests), rng)
            if len(scene.things) >= things[0]:
                return scene


def footprint(thing: Thing) -> NDArray[np.float64]:
    """(4, 2) corners of the rectangle that the thing occupies on the table, m."""
    half = model(thing.kind).size[:2] * thing.scale / 2
    corners = np.array([(1, 1), (-1, 1), (-1, -1), (1, -1)]) * half
    return corners @ rotation("z", thing.yaw)[:2, :2].T + thing.position[:2]


def apart(first: NDArray[np.float64], second: NDArray[np.float64], gap: float = 0.0) -> bool:
    """Whether a straight gap of more than that width, m, lies between two rectangles (4, 2)."""
    for corners in (first, second):
        for edge in corners[1] - corners[0], corners[2] - corners[1]:
            axis = edge / np.linalg.norm(edge)
            a, b = first @ axis, second @ axis
            if max(a.min() - b.max(), b.min() - a.max()) > gap:
                return True
    return False


def _furnish(scene: Scene, kinds: Sequence[Kind], count: int, rng: np.random.Generator) -> Scene:
    """Adds things to the table, one after the other; those without a place are left out."""
    for _ in range(count):
        for _ in range(25):
            thing = _place(_thing(scene, kinds, rng), scene, rng)
            taken = footprint(thing)
            if all(apart(taken, footprint(other), _GAP) for other in scene.things):
                with_it = replace(scene, things=(*scene.things, thing))
                if _all_in_sight(with_it):
                    scene = with_it
                    break
    return scene


def _thing(scene: Scene, kinds: Sequence[Kind], rng: np.random.Generator) -> Thing:
    """A random thing at the origin; sometimes of a kind that is there already, in the same or another colour."""
    kind = kinds[int(rng.integers(len(kinds)))]
    colour = kind.colours[rng.integers(len(kind.colours))]
    alike = [thing for thing in scene.things if any(thing.kind == kind.name for kind in kinds)]
    if alike and rng.random() < 0.2:
        twin = alike[rng.integers(len(alike))]
        kind = next(kind for kind in kinds if kind.name == twin.kind)
        colour = twin.colour if rng.random() < 0.4 else kind.colours[rng.integers(len(kind.colours))]
    stretch = rng.uniform(*_STRETCH.get(kind.name, (1.0, 1.0)))
    scale, tone, yaw = rng.uniform(0.9, 1.15), rng.random(), rng.uniform(-np.pi, np.pi)
    return Thing(kind.name, colour, (0.0, 0.0, 0.0), float(yaw), float(scale), float(stretch), float(tone))


def _place(thing: Thing, scene: Scene, rng: np.random.Generator) -> Thing:
    """The thing, moved somewhere in the picture, or beside another thing."""
    if scene.things and rng.random() < 0.45:
        other = scene.things[rng.integers(len(scene.things))]
        reach = [np.linalg.norm(model(each.kind).size[:2]) * each.scale / 2 for each in (thing, other)]
        angle, distance = rng.uniform(0, 2 * np.pi), sum(reach) * rng.uniform(0.55, 1.0)
        x, y = np.array(other.position[:2]) + distance * np.array([np.cos(angle), np.sin(angle)])
    else:
        pose, matrix = scene.viewpoint.pose(), scene.viewpoint.intrinsics(WIDTH, HEIGHT)
        pixel = rng.uniform((110, 70), (530, 420))
        ray = pose[:3, :3] @ np.linalg.solve(matrix, (*pixel, 1))
        x, y = (pose[:3, 3] - ray * pose[2, 3] / ray[2])[:2]
    return replace(thing, position=(float(x), float(y), 0.0))


def _all_in_sight(scene: Scene) -> bool:
    """Whether all things are in the middle of the picture and none is mostly hidden, judged by convex outlines."""
    pose, matrix = scene.viewpoint.pose(), scene.viewpoint.intrinsics(WIDTH, HEIGHT)
    outlines = []
    for thing in scene.things:
        points = _surface(thing)
        seen = (points - pose[:3, 3]) @ pose[:3, :3]
        pixels = (seen @ matrix.T)[:, :2] / seen[:, 2:]
        if not (seen[:, 2].min() > 0.3 and seen[:, 2].max() < 1.3 and _in_the_middle(pixels)):
            return False
        hull = cv2.convexHull((pixels / _COARSE).astype(np.float32)).astype(np.int32)
        outlines.append((float(np.median(seen[:, 2])), hull))
    sketch = np.zeros((HEIGHT // _COARSE, WIDTH // _COARSE), np.uint8)
    areas = np.zeros(len(outlines) + 1)
    for index in sorted(range(len(outlines)), key=lambda index: -outlines[index][0]):
        alone = cv2.fillConvexPoly(np.zeros_like(sketch), outlines[index][1], (1,)) > 0
        areas[index + 1] = alone.sum()
        sketch[alone] = index + 1
    return bool((np.bincount(sketch.ravel(), minlength=len(areas))[1:] >= _SEEN * areas[1:]).all())


def _in_the_middle(pixels: NDArray[np.float64]) -> bool:
    """Whether a thing's middle is well inside the central square, which is all that the language model sees."""
    low, high = pixels.min(axis=0), pixels.max(axis=0)
    middle, edge = (low + high) / 2, (WIDTH - HEIGHT) / 2
    within = edge + 24 < middle[0] < WIDTH - edge - 24 and 40 < middle[1] < HEIGHT - 40
    return bool(within and low[0] > edge - 16 and high[0] < WIDTH - edge + 16 and low[1] > 3 and high[1] < HEIGHT - 4)


def _surface(thing: Thing) -> NDArray[np.float64]:
    points = model(thing.kind).points * thing.scale * (1, 1, thing.stretch)
    return points @ rotation("z", thing.yaw).T + np.array(thing.position)


def _surroundings(rng: np.random.Generator) -> Surroundings:
    texture = TEXTURES[rng.integers(len(TEXTURES))] if rng.random() < 0.85 else "plain"
    tint = rng.uniform(0.85, 1.0) * (1 - rng.uniform(0, 0.08, 3))
    if texture == "plain":
        tint = np.clip(rng.uniform(0.3, 0.9) + rng.uniform(-0.1, 0.1, 3), 0, 1)
    wall = rng.uniform(0.35, 0.9) * (1 - rng.uniform(0, 0.18, 3))
    floor = rng.uniform(0.15, 0.55) * (1 - rng.uniform(0, 0.25, 3))
    quarter = np.pi / 2 * rng.integers(4)
    return Surroundings(texture, _rgb(tint), float(quarter + rng.uniform(-0.12, 0.12)), _rgb(wall), _rgb(floor))


def _light(rng: np.random.Generator) -> Light:
    height, side = np.radians(rng.uniform(38, 78)), rng.uniform(0, 2 * np.pi)
    direction = (-np.cos(height) * np.cos(side), -np.cos(height) * np.sin(side), -np.sin(height))
    warmth, intensity = rng.uniform(-1, 1), rng.uniform(0.5, 0.8)
    colour = intensity * np.array([1 + 0.07 * warmth, 1, 1 - 0.09 * warmth])
    ambient = rng.uniform(0.22, 0.36) * np.array([1 - 0.03 * warmth, 1, 1 + 0.04 * warmth])
    return Light(
        (float(direction[0]), float(direction[1]), float(direction[2])),
        _rgb(colour),
        _rgb(ambient),
        bool(rng.random() < 0.85),
    )


def _viewpoint(rng: np.random.Generator) -> Viewpoint:
    target = (float(rng.uniform(-0.03, 0.03)), float(rng.uniform(-0.03, 0.03)), float(rng.uniform(0.0, 0.04)))
    elevation, azimuth = np.radians(rng.uniform(25, 65)), np.radians(rng.uniform(-18, 18))
    return Viewpoint(
        target, float(rng.uniform(0.6, 0.85)), float(elevation), float(azimuth), float(np.radians(rng.uniform(42, 47)))
    )


def _rgb(values: NDArray[np.float64]) -> Rgb:
    return float(values[0]), float(values[1]), float(values[2])
