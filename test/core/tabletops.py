"""Views made of rectangles: the truth that questions are asked about, with no renderer."""

import numpy as np

from lisa_core.tabletop.kinds import KIND_BY_NAME, KINDS
from lisa_core.tabletop.scene import Thing, View

HEIGHT, WIDTH = 480, 640
_FOCAL = 600.0
_ELEVATION = np.deg2rad(45)


def camera_pose():
    """0.8 m from the table's middle, 45 degrees above it."""
    pose = np.eye(4)
    forward = np.array([0, np.cos(_ELEVATION), -np.sin(_ELEVATION)])
    right = np.array([1.0, 0, 0])
    pose[:3, :3] = np.stack([right, np.cross(forward, right), forward], axis=1)
    pose[:3, 3] = -0.8 * forward
    return pose


def view_of(*things, size=50, sizes=None):
    """A view of (kind, colour, x, y) with x to the right and y away, m: a rectangle each, its parts at its top."""
    camera = camera_pose()
    owner = np.zeros((HEIGHT, WIDTH), np.uint8)
    part = np.zeros_like(owner)
    scene = tuple(Thing(kind, colour, (x, y, 0.0), 0.0, 1.0) for kind, colour, x, y in things)
    for index in sorted(range(len(scene)), key=lambda index: -scene[index].position[1]):
        x, y, z = camera[:3, :3].T @ (np.array(scene[index].position) - camera[:3, 3])
        u, v = int(WIDTH / 2 + _FOCAL * x / z), int(HEIGHT / 2 + _FOCAL * y / z)
        half = (sizes[index] if sizes else size) // 2
        rows, columns = slice(max(0, v - half), v + half), slice(max(0, u - half), u + half)
        owner[rows, columns], part[rows, columns] = index + 1, 0
        names = KIND_BY_NAME[scene[index].kind].parts
        for number in range(len(names)):
            strip = slice(max(0, v - half + number * half // 2), v - half + (number + 1) * half // 2)
            part[strip, columns] = number + 1
    intrinsics = np.array([[_FOCAL, 0, WIDTH / 2], [0, _FOCAL, HEIGHT / 2], [0, 0, 1]])
    depth = np.full(owner.shape, 0.8, np.float32)
    return View(np.zeros((HEIGHT, WIDTH, 3), np.uint8), depth, owner, part, intrinsics, camera, scene)


def random_view(rng):
    """3 to 7 things somewhere."""
    spots = [(x, y) for x in (-0.2, -0.1, 0.0, 0.1, 0.2) for y in (-0.16, 0.0, 0.16)]
    chosen = rng.permutation(len(spots))[: rng.integers(3, 8)]
    kinds = [KINDS[rng.integers(len(KINDS))] for _ in chosen]
    if rng.random() < 0.5:
        kinds[0] = kinds[1]
    things = [
        (
            kind.name,
            kind.colours[rng.integers(len(kind.colours))],
            *(np.array(spots[spot]) + rng.uniform(-0.02, 0.02, 2)),
        )
        for kind, spot in zip(kinds, chosen, strict=True)
    ]
    return view_of(*things)
