"""Crockery, food, boxes and toys."""

import numpy as np

from lisa_core.tabletop.meshes import Mesh, arc, block, circle, loft, merged, revolved, ring, slab, tube
from lisa_core.tabletop.pieces import RUBBER, STEEL, Piece

_PAPER = (0.93, 0.90, 0.82)
_WOOD = (0.30, 0.20, 0.12)


def mug() -> list[Piece]:
    """A hollow cylinder with an ear."""
    outside = [(0.036, 0), (0.041, 0.003), (0.042, 0.05), (0.042, 0.097), (0.0405, 0.0985)]
    inside = [(0.0385, 0.097), (0.0385, 0.05), (0.037, 0.009), (0.0, 0.007)]
    bend = np.radians(np.linspace(87, -87, 15))
    ear = tube(np.stack([0.038 + 0.034 * np.cos(bend), 0 * bend, 0.051 + 0.031 * np.sin(bend)], -1), 0.0072, flat=0.7)
    return [Piece(revolved(outside + inside), shine=0.6), Piece(ear, part="handle", shine=0.6)]


def bottle() -> list[Piece]:
    """A body, shoulders, a neck and a cap, with a label around it."""
    shoulder = arc((0.0135, 0.105), (0.0185, 0.04), (0, 80), 8)
    profile = [(0.027, 0), (0.032, 0.004), (0.032, 0.06), *shoulder, (0.0135, 0.152), (0.0135, 0.172)]
    label = revolved([(0.031, 0.028), (0.0327, 0.029), (0.0327, 0.083), (0.031, 0.084)])
    emblem = revolved([(0.032, 0.048), (0.0331, 0.049), (0.0331, 0.063), (0.032, 0.064)])
    cap = [(0.0165, 0.164), (0.0175, 0.166), (0.0175, 0.187), (0.015, 0.19)]
    return [
        Piece(revolved(profile), shine=0.9),
        Piece(label, _PAPER, shine=0.1),
        Piece(emblem, shine=0.1),
        Piece(revolved(cap), (0.94, 0.94, 0.93), "cap"),
    ]


def can() -> list[Piece]:
    """A painted tin with metal ends, a tab and a round emblem all around."""
    tin = revolved([(0.0325, 0.007), (0.034, 0.009), (0.034, 0.103), (0.031, 0.107)])
    foot = revolved([(0.026, 0), (0.029, 0.0015), (0.0325, 0.008), (0.03, 0.009)])
    top = [(0.0315, 0.105), (0.031, 0.109), (0.0305, 0.1135), (0.0285, 0.1135), (0.0275, 0.109), (0.0, 0.109)]
    tab = ring(0.006, 0.0018, stretch=1.7).moved(0.004, 0, 0.1105)
    band = revolved([(0.033, 0.03), (0.0346, 0.031), (0.0346, 0.036), (0.033, 0.037)])
    emblems = [_disc_on_cylinder(0.0346, 0.064, angle) for angle in range(0, 360, 72)]
    return [
        Piece(tin, shine=0.8),
        Piece(merged(foot, revolved(top), tab), STEEL, shine=1.0),
        Piece(merged(band, band.moved(z=0.061), *emblems), "pale"),
    ]


def _disc_on_cylinder(radius: float, height: float, degrees: float) -> Mesh:
    """A round emblem on the side of an upright cylinder."""
    rings = []
    for size, out in ((1.0, -0.004), (1.0, 0.0), (0.66, 0.0), (0.33, 0.0)):
        rim = size * circle(0.014, points=18)
        angle = rim[:, 0] / radius
        rings.append(np.stack([(radius + out) * np.cos(angle), (radius + out) * np.sin(angle), height + rim[:, 1]], -1))
    return loft(rings).turned("z", degrees)


def bowl() -> list[Piece]:
    """Hollow, on a foot."""
    outside = [(0.032, 0), (0.034, 0.006), *arc((0.012, 0.066), (0.062, 0.06), (-62, -4), 9)]
    inside = [*arc((0.012, 0.066), (0.057, 0.055), (-4, -70), 9), (0.0, 0.0125)]
    return [Piece(revolved(outside + inside, 40), shine=0.6)]


def plate() -> list[Piece]:
    """Flat, with a raised rim and a ring on it."""
    outside = [(0.058, 0), (0.064, 0.003), (0.094, 0.0135), (0.0955, 0.0155)]
    inside = [(0.093, 0.016), (0.066, 0.007), (0.06, 0.005), (0.0, 0.005)]
    line = revolved([(0.0835, 0.0118), (0.0885, 0.0138), (0.0885, 0.0156), (0.0835, 0.0138)], 48, hole=True)
    return [Piece(revolved(outside + inside, 48), shine=0.5), Piece(line, "pale")]


def ball() -> list[Piece]:
    """A sphere with a stripe around it, tilted so that it is visible from all sides."""
    radius = 0.038
    angles = np.radians(np.linspace(-90, 90, 21))
    sphere = revolved(np.stack([radius * np.cos(angles), radius * np.sin(angles)], -1))
    band = np.radians(np.linspace(-13, 13, 5))
    outer = np.stack([(radius + 0.0004) * np.cos(band), (radius + 0.0004) * np.sin(band)], -1)
    stripe = revolved([(radius * 0.95, outer[0, 1]), *outer, (radius * 0.95, outer[-1, 1])])
    return [Piece(sphere.moved(z=radius), shine=0.7), Piece(stripe.turned("x", 58).moved(z=radius), "pale")]


def box() -> list[Piece]:
    """A parcel: a strip of tape over the middle of its top and down two sides, and a label."""
    tape = [block(0.1116, 0.021, 0.0006, 0.001, 0.0001).moved(z=0.0752)]
    tape += [block(0.0008, 0.021, 0.024, 0.0003, 0.0001).moved(side * 0.0556, 0, 0.0515) for side in (-1, 1)]
    label = block(0.03, 0.018, 0.0005, 0.001, 0.0001).moved(0.034, -0.024, 0.0752)
    return [
        Piece(block(0.11, 0.084, 0.075, 0.003), shine=0.05),
        Piece(merged(*tape), (0.80, 0.66, 0.42), shine=0.4),
        Piece(label, _PAPER, shine=0.05),
    ]


def book() -> list[Piece]:
    """Two covers and a spine around pale pages, a title on the front."""
    covers = [block(0.16, 0.115, 0.004, 0.001, 0.0008).moved(z=z) for z in (0, 0.026)]
    spine = block(0.16, 0.006, 0.03, 0.001, 0.001).moved(0, 0.0555)
    pages = block(0.152, 0.106, 0.024, 0.001, 0.0003).moved(0, 0.001, 0.003)
    title = block(0.09, 0.03, 0.0006, 0.001, 0.0001).moved(0.005, 0.018, 0.0299)
    rules = [block(0.11, 0.004, 0.0006, 0.0005, 0.0001).moved(0.005, y, 0.0299) for y in (0.044, -0.04)]
    return [
        Piece(merged(*covers, spine), shine=0.2),
        Piece(pages, _PAPER, shine=0.0),
        Piece(merged(title, *rules), (0.92, 0.87, 0.70), shine=0.1),
    ]


def banana() -> list[Piece]:
    """Bent, blunt-edged, with dark ends."""
    angles = np.radians(np.linspace(203, 337, 17))
    radius = 0.0185 * np.interp(
        np.linspace(0, 1, 17), [0, 0.08, 0.25, 0.5, 0.8, 0.94, 1], [0.35, 0.5, 0.9, 1, 0.9, 0.55, 0.35]
    )
    path = np.stack([0.098 * np.cos(angles), 0.098 * np.sin(angles), 0 * angles], -1)
    ends = [tube(path[:3] - (path[2] - path[0]) * 0.55, [0.0055, 0.0052, 0.0062], points=7)]
    ends += [tube(path[-3:] + (path[-1] - path[-3]) * 0.42, [0.006, 0.0055, 0.004], points=7)]
    body = tube(path, radius, points=7)
    return [Piece(body, shine=0.2), Piece(merged(*ends), (0.27, 0.19, 0.08), shine=0.1)]


def apple() -> list[Piece]:
    """Round with a dent, a stalk and a leaf."""
    angles = np.radians(np.linspace(-90, 90, 25))
    radius = 0.039 * np.cos(angles) ** 0.82 * (1 + 0.07 * np.sin(angles))
    height = 0.034 * np.sin(angles) - 0.012 * np.exp(-((radius / 0.011) ** 2)) * np.sign(angles)
    stalk = tube([(0, 0, 0.02), (0.001, 0, 0.034), (0.005, 0, 0.046)], [0.002, 0.0019, 0.0026], points=8)
    leaf = slab(
        [*arc((0, -0.008), (0.0135, 0.0155), (35, 145), 7), *arc((0, 0.01), (0.0135, 0.0155), (215, 325), 7)], 0.001
    )
    return [
        Piece(revolved(np.stack([radius, height], -1)), shine=0.6),
        Piece(stalk, _WOOD),
        Piece(leaf.turned("y", -18).moved(0.017, 0, 0.04), (0.16, 0.42, 0.12)),
    ]


def lemon() -> list[Piece]:
    """An oval with a nipple at each end, lying."""
    half = [
        (0.0, 0.046),
        (0.0045, 0.0455),
        (0.0065, 0.043),
        (0.0105, 0.039),
        (0.019, 0.032),
        (0.0255, 0.02),
        (0.028, 0.0),
    ]
    profile = [(r, -x) for r, x in half] + [(r, x) for r, x in half[-2::-1]]
    stalk = revolved([(0.004, 0.0445), (0.003, 0.0475)], 10).turned("y", 90)
    return [Piece(revolved(profile).turned("y", 90), shine=0.35), Piece(stalk, (0.36, 0.40, 0.13))]


def sponge() -> list[Piece]:
    """A foam block full of holes on a scouring pad."""
    rng = np.random.default_rng(7)
    width, depth, bottom, top = 0.112, 0.072, 0.011, 0.043
    holes = []
    for _ in range(46):
        x, y = rng.uniform(-0.46, 0.46, 2) * (width, depth)
        holes.append(_hole(rng).moved(x, y, top))
    for side in (-1, 1):
        for _ in range(16):
            x, z = rng.uniform(-0.45, 0.45) * width, rng.uniform(bottom + 0.004, top - 0.004)
            holes.append(_hole(rng).turned("x", 90).moved(x, side * depth / 2, z))
        for _ in range(10):
            y, z = rng.uniform(-0.45, 0.45) * depth, rng.uniform(bottom + 0.004, top - 0.004)
            holes.append(_hole(rng).turned("y", 90).moved(side * width / 2, y, z))
    return [
        Piece(block(width, depth, top - bottom, 0.006, 0.002).moved(z=bottom), shine=0.0),
        Piece(block(width, depth, bottom, 0.006, 0.001), (0.07, 0.25, 0.16), shine=0.0),
        Piece(merged(*holes), "deep", shine=0.0),
    ]


def _hole(rng: np.random.Generator) -> Mesh:
    radius = rng.uniform(0.0015, 0.0036)
    return revolved([(radius, -0.0004), (radius, 0.0003)], 9)


def lamp() -> list[Piece]:
    """A foot, a stem and a shade."""
    foot = revolved([(0.044, 0), (0.045, 0.006), (0.04, 0.011), (0.012, 0.017), (0.006, 0.024)])
    stem = revolved([(0.0055, 0.02), (0.0055, 0.15)], 14)
    shade = [(0.0615, 0.112), (0.0635, 0.1125), (0.032, 0.1945), (0.03, 0.194)]
    bulb = revolved([(0.008, 0.13), (0.016, 0.145), (0.014, 0.16), (0.006, 0.17)], 16)
    trim = [(0.0625, 0.1115), (0.0645, 0.1115), (0.0635, 0.1155), (0.062, 0.1155)]
    return [
        Piece(merged(foot, stem), (0.16, 0.15, 0.14), shine=0.8),
        Piece(bulb, (1.0, 0.95, 0.75)),
        Piece(revolved(shade, hole=True), part="shade", shine=0.1),
        Piece(revolved(trim, hole=True), "pale", "shade", shine=0.1),
    ]


def toy_car() -> list[Piece]:
    """A body, a cabin with windows, and four wheels."""
    body = block(0.132, 0.06, 0.026, 0.012, 0.005).moved(z=0.011)
    windows = loft([_cabin(1.0, 0.035), _cabin(0.74, 0.057)])
    roof = loft([_cabin(0.77, 0.056), _cabin(0.73, 0.0605)])
    lamps = [block(0.004, 0.012, 0.008, 0.002, 0.0005).moved(0.0655, side * 0.019, 0.02) for side in (-1, 1)]
    bumpers = [block(0.006, 0.054, 0.006, 0.0015, 0.0008).moved(side * 0.066, 0, 0.0115) for side in (-1, 1)]
    places = [(x, side) for x in (-0.04, 0.04) for side in (-1, 1)]
    tyre = revolved([(0.013, -0.006), (0.016, -0.0045), (0.016, 0.0045), (0.013, 0.006)], 22).turned("x", 90)
    hub = revolved([(0.0085, -0.0066), (0.0085, 0.0066)], 14).turned("x", 90)
    return [
        Piece(merged(body, roof), shine=0.7),
        Piece(windows, (0.11, 0.14, 0.18), shine=0.9),
        Piece(merged(*lamps), (0.97, 0.93, 0.70), shine=0.5),
        Piece(merged(*bumpers), STEEL, shine=0.8),
        Piece(merged(*(tyre.moved(x, side * 0.0285, 0.016) for x, side in places)), RUBBER, "wheels", 0.1),
        Piece(merged(*(hub.moved(x, side * 0.0285, 0.016) for x, side in places)), STEEL, "wheels", 0.8),
    ]


def _cabin(share: float, height: float) -> np.ndarray:
    half, depth = 0.036 * share, 0.025 * (0.4 + 0.6 * share)
    ring_ = [(half, depth), (-half, depth), (-half, -depth), (half, -depth)]
    return np.array([(x - 0.012, y, height) for x, y in ring_])


def teapot() -> list[Piece]:
    """A belly with a spout, an ear and a lid."""
    belly = [(0.03, 0), (0.034, 0.004), *arc((0.0, 0.046), (0.053, 0.044), (-50, 58), 14), (0.02, 0.084)]
    lid = [
        (0.03, 0.08),
        (0.0315, 0.083),
        (0.02, 0.0905),
        (0.006, 0.0935),
        (0.0045, 0.0965),
        (0.009, 0.1035),
        (0.005, 0.11),
    ]
    along = np.linspace(0, 1, 9)
    spout = tube(np.stack([0.042 + 0.052 * along, 0 * along, 0.034 + 0.05 * along**1.5], -1), 0.0135 - 0.0065 * along)
    bend = np.radians(np.linspace(80, 280, 15))
    ear = tube(np.stack([-0.044 + 0.034 * np.cos(bend), 0 * bend, 0.05 + 0.03 * np.sin(bend)], -1), 0.0062)
    return [
        Piece(merged(revolved(belly, 40), ear), shine=0.7),
        Piece(spout, part="spout", shine=0.7),
        Piece(revolved(lid, 32), "pale", "lid", 0.7),
    ]
