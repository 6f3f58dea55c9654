"""Meshes made by lofting: a row of rings, joined by quads and closed at both ends.

All lengths are in metres. Rings may turn either way; faces of closed surfaces are oriented outward afterwards.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
CREASE = np.cos(np.radians(38))
"""Faces with an angle of less than 38 degrees between their normals are shaded smoothly; others keep an edge."""


@dataclass(frozen=True, eq=False)
class Mesh:
    """A triangle mesh.

    Attributes:
        vertices: (N, 3), m.
        faces: (M, 3) indices of vertices, counter-clockwise from outside.
    """

    vertices: Floats
    faces: NDArray[np.int64]

    def moved(self, x: float = 0, y: float = 0, z: float = 0) -> "Mesh":
        """The mesh, translated."""
        return Mesh(self.vertices + np.array([x, y, z]), self.faces)

    def turned(self, axis: str, degrees: float) -> "Mesh":
        """The mesh, rotated about the world's axis `x`, `y` or `z`."""
        return Mesh(self.vertices @ rotation(axis, np.radians(degrees)).T, self.faces)

    def corner_normals(self) -> Floats:
        """(M, 3, 3): the normal of each corner of each face, smooth where edges are not sharp."""
        a, b, c = (self.vertices[self.faces[:, corner]] for corner in range(3))
        weighted = np.cross(b - a, c - a)
        unit = weighted / np.maximum(np.linalg.norm(weighted, axis=1, keepdims=True), 1e-15)
        vertex = self.faces.ravel()
        by_vertex = np.argsort(vertex, kind="stable")
        first = np.searchsorted(vertex[by_vertex], np.arange(len(self.vertices) + 1))
        counts = np.diff(first)[vertex]
        corner = np.repeat(np.arange(len(vertex)), counts)
        step = np.arange(len(corner)) - np.repeat(np.cumsum(counts) - counts, counts)
        neighbour = by_vertex[first[vertex[corner]] + step] // 3
        smooth = np.einsum("ij,ij->i", unit[corner // 3], unit[neighbour]) > CREASE
        normals = np.zeros((len(vertex), 3))
        np.add.at(normals, corner[smooth], weighted[neighbour[smooth]])
        lengths = np.linalg.norm(normals, axis=1, keepdims=True)
        return np.where(lengths > 1e-15, normals / np.maximum(lengths, 1e-15), [0.0, 0.0, 1.0]).reshape(-1, 3, 3)


def rotation(axis: str, radians: float) -> Floats:
    """(3, 3) rotation about `x`, `y` or `z`."""
    c, s = np.cos(radians), np.sin(radians)
    i, j = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
    matrix = np.eye(3)
    matrix[i, i], matrix[i, j], matrix[j, i], matrix[j, j] = c, -s, s, c
    return matrix


def merged(*meshes: Mesh) -> Mesh:
    """Several meshes as one."""
    starts = np.cumsum([0, *(len(mesh.vertices) for mesh in meshes)])
    faces = [mesh.faces + start for mesh, start in zip(meshes, starts, strict=False)]
    return Mesh(np.concatenate([mesh.vertices for mesh in meshes]), np.concatenate(faces))


def loft(rings: Sequence[Floats] | Floats, *, endless: bool = False) -> Mesh:
    """The surface through rings of K points each: closed by a fan at both ends, or `endless`, joined last to first."""
    stack = np.asarray(rings, float)
    count, size = stack.shape[:2]
    rows = np.arange(count if endless else count - 1)[:, None]
    here, along = np.arange(size), (np.arange(size) + 1) % size
    below, above = rows * size, (rows + 1) % count * size
    quads = [np.stack([below + here, below + along, above + along], -1)]
    quads += [np.stack([below + here, above + along, above + here], -1)]
    faces, vertices = [quad.reshape(-1, 3) for quad in quads], [stack.reshape(-1, 3)]
    if not endless:
        for end, start, flip in ((stack[0], 0, True), (stack[-1], (count - 1) * size, False)):
            middle = np.full(size, count * size + len(vertices) - 1)
            fan = np.stack([start + here, start + along, middle], -1)
            faces.append(fan[:, ::-1] if flip else fan)
            vertices.append(end.mean(axis=0, keepdims=True))
    return _cleaned(np.concatenate(vertices), np.concatenate(faces))


def _cleaned(vertices: Floats, faces: NDArray[np.int64]) -> Mesh:
    """Welds coincident points, drops faces without area, and orients the rest outward."""
    _, first, same = np.unique(np.round(vertices, 6), axis=0, return_index=True, return_inverse=True)
    welded = same.reshape(-1)[faces]
    a, b, c = (vertices[first][welded[:, corner]] for corner in range(3))
    normals = np.cross(b - a, c - a)
    outward = np.einsum("ij,ij->", a, normals) > 0  # six times the volume
    kept = welded[np.linalg.norm(normals, axis=1) > 1e-11]
    return Mesh(vertices[first], kept if outward else kept[:, ::-1])


def circle(radius: float, z: float = 0, points: int = 32) -> Floats:
    """A horizontal circle."""
    angles = np.arange(points) * 2 * np.pi / points
    return np.stack([radius * np.cos(angles), radius * np.sin(angles), np.full(points, z)], -1)


def rectangle(width: float, depth: float, corner: float, z: float = 0) -> Floats:
    """A horizontal rectangle with rounded corners."""
    angles = np.linspace(0, np.pi / 2, 5)
    quarter = np.stack([np.cos(angles), np.sin(angles)], -1) * corner
    inner = np.array([width, depth]) / 2 - corner
    turns = ((1, 1, 0), (-1, 1, 1), (-1, -1, 2), (1, -1, 3))
    ring = [quarter @ rotation("z", turn * np.pi / 2)[:2, :2].T + inner * (sx, sy) for sx, sy, turn in turns]
    return np.column_stack([np.concatenate(ring), np.full(20, z)])


def revolved(profile: ArrayLike, points: int = 32, *, hole: bool = False) -> Mesh:
    """A surface of revolution about z from (radius, z) pairs: a line, or with `hole` a closed outline off the axis."""
    return loft([circle(radius, z, points) for radius, z in np.asarray(profile, float)], endless=hole)


def block(width: float, depth: float, height: float, corner: float, bevel: float = 0.0015) -> Mesh:
    """A box on z = 0 with rounded corners and bevelled edges."""
    layers = ((bevel, 0.0), (0.0, bevel), (0.0, height - bevel), (bevel, height))
    return loft([rectangle(width - 2 * i, depth - 2 * i, max(corner - i, 1e-4), z) for i, z in layers])


def slab(outline: ArrayLike, thickness: float) -> Mesh:
    """A plate on z = 0 with an outline (K, 2), counter-clockwise about its middle."""
    flat = np.asarray(outline, float)
    return loft([np.column_stack([flat, np.full(len(flat), z)]) for z in (0, thickness)])


def tube(path: ArrayLike, radii: ArrayLike, points: int = 16, flat: float = 1.0) -> Mesh:
    """A tube along (K, 3) points with one radius for each or for all; `flat` is the ratio of thickness to width.

    Its width is horizontal, except where the path is nearly vertical.
    """
    line = np.asarray(path, float)
    tangents = np.gradient(line, axis=0)
    tangents /= np.linalg.norm(tangents, axis=1, keepdims=True)
    vertical = np.abs(tangents[:, 2:]).max() > 0.95
    side = np.cross([0.0, 1.0, 0.0] if vertical else [0.0, 0.0, 1.0], tangents)
    side /= np.linalg.norm(side, axis=1, keepdims=True)
    up = np.cross(tangents, side)
    angles = np.arange(points) * 2 * np.pi / points
    wide = np.broadcast_to(np.asarray(radii, float), len(line))[:, None, None]
    around = side[:, None] * np.cos(angles)[:, None] + up[:, None] * np.sin(angles)[:, None] * flat
    return loft(line[:, None] + wide * around)


def ring(radius: float, thickness: float, stretch: float = 1.0, tall: float = 1.0) -> Mesh:
    """A horizontal torus about z, stretched along x; `tall` is the ratio of its height to its thickness."""
    angles = np.arange(28) * 2 * np.pi / 28
    outward = np.stack([np.cos(angles), np.sin(angles), 0 * angles], -1)
    section = np.arange(12) * 2 * np.pi / 12
    up = np.array([0, 0, tall])
    rings = outward[:, None] * (radius + thickness * np.cos(section))[:, None] + thickness * (
        np.sin(section)[:, None] * up
    )
    return loft(rings[:, ::-1] * (stretch, 1, 1), endless=True)


def arc(centre: tuple[float, float], radius: tuple[float, float], degrees: tuple[float, float], points: int) -> Floats:
    """(points, 2) on an ellipse, between two angles."""
    angles = np.radians(np.linspace(*degrees, points))
    return np.stack([centre[0] + radius[0] * np.cos(angles), centre[1] + radius[1] * np.sin(angles)], -1)
