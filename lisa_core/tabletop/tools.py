"""Cutlery and tools: steel with a coloured handle, a bit thick so that they are visible to a camera."""

import numpy as np
from numpy.typing import ArrayLike

from lisa_core.tabletop.meshes import Mesh, arc, block, merged, revolved, ring, slab, tube
from lisa_core.tabletop.pieces import RUBBER, STEEL, Piece

_SHINE = 0.9


def _steel(mesh: Mesh, part: str = "") -> Piece:
    return Piece(mesh, STEEL, part, _SHINE)


def _grip(start: float, end: float, width: float) -> Mesh:
    """A flattened handle along x, swelling toward its end."""
    x = np.linspace(start, end, 9)
    swell = width / 2 * np.array([0.55, 0.8, 0.85, 0.85, 0.9, 1.0, 1.0, 0.85, 0.4])
    return tube(np.stack([x, 0 * x, 0 * x], -1), swell, flat=0.55).moved(z=width / 2 * 0.55)


def _lathed(profile: ArrayLike) -> Mesh:
    """A surface of revolution about x from (radius, x) pairs."""
    return revolved(profile, 24).turned("y", 90)


def knife() -> list[Piece]:
    """A kitchen knife: a long blade with a curved edge and a point."""
    edge = arc((0.03, 0.014), (0.105, 0.036), (-90, 0), 10)
    back = np.array([[0.115, 0.0155], [0.06, 0.0175], [-0.012, 0.0165], [-0.012, -0.02]])
    blade = slab(np.concatenate([edge, back]) * (1, 0.85), 0.0035).moved(z=0.005)
    rivets = [revolved([(0.0028, 0), (0.0028, 0.0015), (0.001, 0.002)], 10).moved(x, 0, 0.0135) for x in (-0.09, -0.04)]
    bolster = block(0.012, 0.022, 0.013, 0.002).moved(-0.012)
    return [
        Piece(_grip(-0.012, -0.125, 0.025), part="handle"),
        _steel(merged(*rivets), "handle"),
        _steel(blade, "blade"),
        _steel(bolster),
    ]


def fork() -> list[Piece]:
    """Four tines with visible gaps."""
    neck = tube([(x, 0, 0.007 + 3 * x * x) for x in np.linspace(-0.02, 0.045, 6)], 0.0055, flat=0.6)
    palm = slab([*arc((0.06, 0), (0.018, 0.0185), (90, 270), 11), (0.07, -0.0185), (0.07, 0.0185)], 0.004).moved(z=0.01)
    along = np.linspace(0.066, 0.118, 6)
    lift = 0.011 - 0.006 * np.linspace(-1, 1, 6) ** 2 + 0.003
    tines = [
        tube(np.stack([along, np.full(6, y), lift], -1), [0.0034] * 4 + [0.0028, 0.0012], points=10)
        for y in (-0.015, -0.005, 0.005, 0.015)
    ]
    return [Piece(_grip(-0.015, -0.12, 0.023), part="handle"), _steel(merged(neck, palm, *tines))]


def spoon() -> list[Piece]:
    """A deep oval bowl on a thin neck."""
    neck = tube([(x, 0, 0.007 + 2 * x * x) for x in np.linspace(-0.02, 0.05, 6)], 0.0055, flat=0.6)
    outside = [(0.0, 0.0), (0.5, 0.001), (0.8, 0.005), (0.97, 0.0105), (1.0, 0.0125)]
    inside = [(0.92, 0.012), (0.75, 0.0065), (0.5, 0.0035), (0.0, 0.0025)]
    bowl = revolved([(0.022 * radius, z) for radius, z in outside + inside])
    oval = Mesh(bowl.vertices * (1.5, 1, 1), bowl.faces).moved(0.078)
    return [Piece(_grip(-0.015, -0.12, 0.023), part="handle"), _steel(merged(neck, oval))]


def screwdriver() -> list[Piece]:
    """A fat ribbed handle, a thin shaft and a flat tip."""
    profile = [(0.004, 0.0), (0.011, 0.002), (0.013, 0.012), (0.010, 0.022), (0.0155, 0.032), (0.0165, 0.06)]
    handle = _lathed([(r, -z) for r, z in [*profile, (0.0165, 0.088), (0.014, 0.098), (0.007, 0.101)]])
    ribs = [
        tube([(-0.036, 0, 0), (-0.06, 0, 0), (-0.088, 0, 0)], [0.002, 0.0024, 0.002], points=8)
        .moved(z=0.0155)
        .turned("x", angle)
        for angle in range(0, 360, 45)
    ]
    shaft = _lathed([(0.0048, 0.0), (0.0048, 0.1), (0.004, 0.102)])
    tip = block(0.022, 0.013, 0.0035, 0.001, 0.0005).moved(0.108, 0, -0.0017)
    return [
        Piece(handle.moved(z=0.0165), part="handle", shine=0.6),
        Piece(merged(*ribs).moved(z=0.0165), "deep", "handle"),
        _steel(merged(shaft, tip).moved(z=0.0165)),
    ]


def hammer() -> list[Piece]:
    """A long handle and a big steel head across it, with a face and a claw."""
    x = np.linspace(-0.14, 0.075, 10)
    radius = [0.008, 0.0125, 0.013, 0.0125, 0.0115, 0.0105, 0.0095, 0.009, 0.009, 0.009]
    handle = tube(np.stack([x, 0 * x, 0 * x + 0.016], -1), radius)
    cap = tube([(0.072, 0, 0.016), (0.076, 0, 0.016), (0.081, 0, 0.016)], [0.0085, 0.0085, 0.006])
    cheek = block(0.028, 0.036, 0.03, 0.004, 0.003).moved(0.058, 0, 0.001)
    face = revolved([(0.01, 0), (0.01, 0.014), (0.0155, 0.017), (0.0155, 0.031), (0.0135, 0.033)], 24)
    curve = np.linspace(0, 1, 6)
    claws = [
        tube(
            np.stack([0.058 + side * (0.005 + 0.006 * curve), 0.015 + 0.045 * curve, 0.02 - 0.012 * curve**2], -1),
            0.0065 - 0.0045 * curve,
            points=10,
            flat=0.8,
        )
        for side in (-1, 1)
    ]
    head = merged(cheek, face.turned("x", 90).moved(0.058, -0.016, 0.016), *claws)
    return [Piece(handle, part="handle"), Piece(cap, (0.35, 0.24, 0.15)), _steel(head, "head")]


def scissors() -> list[Piece]:
    """Two rings and two blades, a little open."""
    pieces = []
    for side, height in ((1, 0.0), (-1, 0.004)):
        blade = slab(
            [(-0.012, -0.007), (0.02, -0.0075), (0.1, -0.001), (0.098, 0.002), (0.03, 0.008), (-0.012, 0.008)], 0.004
        ).moved(z=0.004 + height)
        shank = tube([(0.0, 0, 0), (-0.02, -0.004, 0), (-0.04, -0.008, 0)], [0.0075, 0.006, 0.005], flat=0.7)
        loop = ring(0.0185, 0.0058, stretch=1.35, tall=0.85).moved(-0.062, -0.012, 0)
        handle = merged(shank, loop).moved(z=0.005 + height * 0.5)
        mirrored = [Mesh(mesh.vertices * (1, side, 1), mesh.faces[:, ::side]) for mesh in (blade, handle)]
        opened = [mesh.turned("z", 13 * side) for mesh in mirrored]
        pieces += [_steel(opened[0]), Piece(opened[1], part="handles", shine=0.5)]
    pivot = revolved([(0.005, 0), (0.005, 0.002), (0.002, 0.003)], 14).moved(z=0.0118)
    return [*pieces, Piece(pivot, RUBBER)]
