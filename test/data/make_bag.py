"""Makes `tabletop_bag/`: a depth camera moves past a table with six things on it; ray-cast, so all geometry is known.

    python test/data/make_bag.py            # writes test/data/tabletop_bag, the same bytes every time

The bag (MCAP) holds `/camera/image` (rgb8), `/camera/depth` (16UC1, mm, aligned, with the holes of a real sensor) and
`/camera/camera_info`. Beside the MCAP file lie `truth.json` (stamps, camera poses, the things and where they are seen)
and `labels.npz` (which pixel belongs to which thing). World axes: x right, y away from the viewer, z up, origin in the
middle of the table's top. Camera axes are optical (REP 103): x right, y down, z forward. Metres throughout.
"""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from lisa_ros.bags import BagWriter, typestore, write_bag

Floats = NDArray[np.float64]

WIDTH, HEIGHT, FOCAL = 320, 240, 300.0
CX, CY = (WIDTH - 1) / 2, (HEIGHT - 1) / 2
FRAMES, PERIOD_NS = 14, 300_000_000
START_NS = 1_750_000_000_000_000_000
DEPTH_LAG_NS = 7_000_000
"""Depth and colour are exposed one after the other."""
DEPTH_RANGE, DEPTH_JUMP, DEPTH_DROPPED = 2.0, 0.03, 0.004
"""What the sensor does not see: beyond that many metres, beside steps of as many, and that share of all pixels."""
LATENCY_NS = 15_000_000
"""From exposure to recording."""
FRAME_ID = "camera_color_optical_frame"
SUPERSAMPLING = 3
LIGHT = np.array([-0.9, -0.7, 1.7])
TABLE = np.array([0.62, 0.42])
"""Half the table's sides along x and y; its top is at z = 0."""
FLOOR_Z, WALL_Y = -0.72, 1.35
TINY = 1e-6
"""Metres; less than this is rounding."""
BACKGROUND = 0


@dataclass(frozen=True)
class Thing:
    """Something that stands on the table, upright.

    Attributes:
        shape: "box", "sphere" or "cylinder".
        colour: RGB, 0 to 1.
        at: x and y of its middle on the table.
        size: extents along its own x, y, z; for round shapes the diameter counts, twice.
        yaw: rotation about the vertical, radians.
    """

    name: str
    shape: str
    colour: tuple[float, float, float]
    at: tuple[float, float]
    size: tuple[float, float, float]
    yaw: float = 0.0

    @property
    def centre(self) -> Floats:
        return np.array([*self.at, self.size[2] / 2])


THINGS = (
    Thing("red box", "box", (0.78, 0.13, 0.11), (-0.27, 0.06), (0.16, 0.11, 0.13), 0.45),
    Thing("green ball", "sphere", (0.16, 0.56, 0.20), (0.04, -0.15), (0.11, 0.11, 0.11)),
    Thing("blue can", "cylinder", (0.12, 0.28, 0.70), (0.12, 0.12), (0.075, 0.075, 0.16)),
    Thing("yellow block", "box", (0.93, 0.74, 0.12), (0.29, -0.09), (0.07, 0.16, 0.05), -0.6),
    Thing("white cup", "cylinder", (0.90, 0.89, 0.86), (-0.09, -0.02), (0.085, 0.085, 0.09)),
    Thing("orange", "sphere", (0.95, 0.47, 0.06), (0.36, 0.13), (0.085, 0.085, 0.085)),
)


@dataclass(frozen=True)
class Hits:
    """What N rays meet first: (N,) distance along the ray (inf: nothing), (N, 3) normals, (N,) which thing."""

    distance: Floats
    normal: Floats
    label: NDArray[np.uint8]


def camera_pose(frame: int) -> Floats:
    """(4, 4) world from camera: along a gentle arc in front of the table, always looking at its middle."""
    along = frame / (FRAMES - 1)
    angle = math.radians(-24 + 48 * along)
    eye = np.array([0.82 * math.sin(angle), -0.82 * math.cos(angle), 0.56 - 0.10 * along])
    forward = np.array([0.04, 0.0, 0.02]) - eye
    forward /= np.linalg.norm(forward)
    right = np.cross(forward, [0, 0, 1])
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, np.cross(forward, right), forward], axis=1)
    pose[:3, 3] = eye
    return pose


def cast(origin: Floats, direction: Floats) -> Hits:
    """The first surface on each of N rays; (N, 3) each, directions need not be of unit length."""
    count = len(direction)
    hits = Hits(np.full(count, np.inf), np.zeros((count, 3)), np.full(count, BACKGROUND, np.uint8))
    with np.errstate(divide="ignore", invalid="ignore"):
        _meet_room(hits, origin, direction)
        for label, thing in enumerate(THINGS, start=1):
            turn = _turn(thing.yaw)
            local_origin, local_direction = (origin - thing.centre) @ turn, direction @ turn
            distance, normal = _SHAPES[thing.shape](local_origin, local_direction, np.array(thing.size) / 2)
            _keep_nearer(hits, distance, normal @ turn.T, label)
    return hits


def _turn(yaw: float) -> Floats:
    """(3, 3) world from thing."""
    c, s = math.cos(yaw), math.sin(yaw)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])


def _keep_nearer(hits: Hits, distance: Floats, normal: Floats, label: int) -> None:
    nearer = (distance > TINY) & (distance < hits.distance)
    hits.distance[nearer] = distance[nearer]
    hits.normal[nearer] = normal[nearer]
    hits.label[nearer] = label


def _meet_room(hits: Hits, origin: Floats, direction: Floats) -> None:
    up, front = np.array([0.0, 0, 1]), np.array([0.0, -1, 0])
    table = -origin[:, 2] / direction[:, 2]
    at = origin + direction * table[:, None]
    table[~(np.abs(at[:, :2]) <= TABLE).all(axis=1)] = np.inf
    floor = (FLOOR_Z - origin[:, 2]) / direction[:, 2]
    wall = (WALL_Y - origin[:, 1]) / direction[:, 1]
    for distance, normal in ((table, up), (floor, up), (wall, front)):
        _keep_nearer(hits, distance, np.broadcast_to(normal, direction.shape), BACKGROUND)


def _meet_box(origin: Floats, direction: Floats, half: Floats) -> tuple[Floats, Floats]:
    low, high = (-half - origin) / direction, (half - origin) / direction
    entry, leave = np.minimum(low, high), np.maximum(low, high).min(axis=1)
    side = entry.argmax(axis=1)
    distance = entry.max(axis=1)
    normal = np.zeros_like(direction)
    rows = np.arange(len(direction))
    normal[rows, side] = -np.sign(direction[rows, side])
    return np.where(distance <= leave, distance, np.inf), normal


def _meet_sphere(origin: Floats, direction: Floats, half: Floats) -> tuple[Floats, Floats]:
    distance = _quadratic(direction, origin, half[0])
    return distance, (origin + direction * distance[:, None]) / half[0]


def _meet_cylinder(origin: Floats, direction: Floats, half: Floats) -> tuple[Floats, Floats]:
    side = _quadratic(direction[:, :2], origin[:, :2], half[0])
    at = origin + direction * side[:, None]
    side[~(np.abs(at[:, 2]) <= half[2])] = np.inf
    lid = (half[2] - origin[:, 2]) / direction[:, 2]
    over = origin + direction * lid[:, None]
    lid[~((over[:, :2] ** 2).sum(axis=1) <= half[0] ** 2)] = np.inf
    normal = np.where((side < lid)[:, None], at * [1, 1, 0] / half[0], [0.0, 0, 1])
    return np.minimum(side, lid), normal


def _quadratic(direction: Floats, origin: Floats, radius: float) -> Floats:
    """Distance at which |origin + distance * direction| first is the radius; inf where it never is."""
    a, b = (direction**2).sum(axis=1), (origin * direction).sum(axis=1)
    root = b**2 - a * ((origin**2).sum(axis=1) - radius**2)
    return np.where(root >= 0, (-b - np.sqrt(np.maximum(root, 0))) / a, np.inf)


_SHAPES = {"box": _meet_box, "sphere": _meet_sphere, "cylinder": _meet_cylinder}


def shade(hits: Hits, origin: Floats, direction: Floats) -> Floats:
    """(N, 3) RGB, 0 to 1: one lamp with shadows and highlights, and light from all around, less where things stand."""
    at = origin + direction * hits.distance[:, None]
    to_light = LIGHT - at
    to_light /= np.linalg.norm(to_light, axis=1, keepdims=True)
    start = at + hits.normal * 1e-4
    lit = ~np.isfinite(_blockers(start, LIGHT - start))
    diffuse = np.clip((hits.normal * to_light).sum(axis=1), 0, 1) * lit
    half_way = to_light - direction / np.linalg.norm(direction, axis=1, keepdims=True)
    half_way /= np.linalg.norm(half_way, axis=1, keepdims=True)
    shine = np.clip((hits.normal * half_way).sum(axis=1), 0, 1) ** 60 * lit * np.where(hits.label > 0, 0.45, 0.05)
    ambient = 0.34 + 0.10 * hits.normal[:, 2]
    for thing in THINGS:
        gap = np.linalg.norm(at[:, :2] - thing.at, axis=1) / (0.5 * max(thing.size[:2]))
        ambient *= np.where((hits.label == BACKGROUND) & (np.abs(at[:, 2]) < TINY), np.clip(0.35 + 0.4 * gap, 0, 1), 1)
    return np.clip(_albedo(hits, at) * (ambient + 0.72 * diffuse)[:, None] + shine[:, None], 0, 1)


def _blockers(origin: Floats, direction: Floats) -> Floats:
    """(N,) below 1 where something stands between the surface and the lamp, else inf."""
    distance = cast(origin, direction).distance
    return np.where(distance < 1, distance, np.inf)


def _albedo(hits: Hits, at: Floats) -> Floats:
    """(N, 3) the surfaces' own colours: wood, tiles, a plain wall, and the things."""
    palette = np.array([(0.0, 0.0, 0.0), *(thing.colour for thing in THINGS)])
    colour = palette[hits.label]
    x, y, z = at.T
    on_table = (hits.label == BACKGROUND) & (np.abs(z) < TINY)
    ring = 0.5 + 0.5 * np.sin(60 * (y + 0.03 * np.sin(7 * x) + 0.012 * np.sin(23 * x + 40 * y)))
    plank = 0.05 * np.sin(np.floor(y / 0.14) * 12.9898)
    wood = np.array([0.62, 0.43, 0.27]) + (0.07 * ring + plank)[:, None] * np.array([1.0, 0.85, 0.6])
    on_floor = (hits.label == BACKGROUND) & (z < FLOOR_Z + TINY)
    tile = (np.floor(x / 0.35) + np.floor(y / 0.35)) % 2
    on_wall = (hits.label == BACKGROUND) & ~on_table & ~on_floor
    colour = np.where(on_table[:, None], wood, colour)
    colour = np.where(on_floor[:, None], (0.33 + 0.12 * tile)[:, None] * np.array([1.0, 0.98, 0.94]), colour)
    return np.where(on_wall[:, None], np.array([0.62, 0.67, 0.70]), colour)


def rays(pose: Floats, factor: int) -> tuple[Floats, Floats]:
    """(N, 3) origins and directions through `factor` x `factor` points of each pixel; along a direction z is 1."""
    u = (np.arange(WIDTH * factor) + 0.5) / factor - 0.5
    v = (np.arange(HEIGHT * factor) + 0.5) / factor - 0.5
    grid_u, grid_v = np.meshgrid(u, v)
    local = np.stack([(grid_u - CX) / FOCAL, (grid_v - CY) / FOCAL, np.ones_like(grid_u)], axis=-1).reshape(-1, 3)
    direction = local @ pose[:3, :3].T
    return np.broadcast_to(pose[:3, 3], direction.shape), direction


def render_colour(pose: Floats) -> NDArray[np.uint8]:
    """(H, W, 3) RGB."""
    origin, direction = rays(pose, SUPERSAMPLING)
    linear = shade(cast(origin, direction), origin, direction)
    fine = linear.reshape(HEIGHT, SUPERSAMPLING, WIDTH, SUPERSAMPLING, 3).mean(axis=(1, 3))
    return (fine ** (1 / 1.8) * 255 + 0.5).astype(np.uint8)


def render_depth(pose: Floats) -> tuple[Floats, NDArray[np.uint8]]:
    """(H, W) metres along the optical axis, exact, and (H, W) labels: i + 1 on thing i, 0 on the room."""
    hits = cast(*rays(pose, 1))
    return hits.distance.reshape(HEIGHT, WIDTH), hits.label.reshape(HEIGHT, WIDTH)


def measured(depth: Floats, seed: int) -> NDArray[np.uint16]:
    """Millimetres as a stereo camera gives them: none beside an edge, beyond its range, and at a few random pixels."""
    millimetres = np.round(depth * 1000)
    jump = np.abs(np.diff(depth, axis=1, prepend=depth[:, :1])) > DEPTH_JUMP
    shadow = cv2.dilate(jump.astype(np.uint8), np.ones((1, 3), np.uint8), anchor=(2, 0)) > 0
    dropped = np.random.default_rng(seed).random(depth.shape) < DEPTH_DROPPED
    millimetres[shadow | dropped | (depth > DEPTH_RANGE)] = 0
    return millimetres.astype(np.uint16)


def seen(depth: Floats, label: NDArray[np.uint8]) -> dict[str, Any]:
    """Of each thing its pixels, and position and size by exact depth, as `lisa_ros/msg/Segment` defines them."""
    v, u = np.mgrid[:HEIGHT, :WIDTH]
    points = np.stack([(u - CX) / FOCAL * depth, (v - CY) / FOCAL * depth, depth], axis=-1)
    result = {}
    for index, thing in enumerate(THINGS, start=1):
        mine = label == index
        inner = points[cv2.erode(mine.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0]
        deviation = np.abs(inner[:, 2] - np.median(inner[:, 2]))
        surface = inner[deviation <= 3 * np.median(deviation)]
        low, middle, high = np.percentile(surface, (2, 50, 98), axis=0)
        result[thing.name] = {
            "pixels": int(mine.sum()),
            "position": middle.round(4).tolist(),
            "size": (high - low).round(4).tolist(),
        }
    return result


class Recorder:
    """Puts frames into a bag as the messages of a camera driver."""

    def __init__(self, bag: BagWriter) -> None:
        self._bag = bag
        self._store = typestore()
        for topic, kind in (("image", "Image"), ("depth", "Image"), ("camera_info", "CameraInfo")):
            bag.add_topic(f"/camera/{topic}", f"sensor_msgs/msg/{kind}")

    def _make(self, name: str, *fields: Any) -> Any:
        package, kind = name.split("/")
        return self._store.types[f"{package}/msg/{kind}"](*fields)

    def _header(self, stamp: int) -> Any:
        time = self._make("builtin_interfaces/Time", *divmod(stamp, 1_000_000_000))
        return self._make("std_msgs/Header", time, FRAME_ID)

    def _write(self, topic: str, stamp: int, message: Any) -> None:
        data = bytes(self._store.serialize_cdr(message, message.__msgtype__))
        self._bag.write(f"/camera/{topic}", stamp + LATENCY_NS, data)

    def image(self, topic: str, stamp: int, encoding: str, pixels: NDArray[Any]) -> None:
        data = np.ascontiguousarray(pixels).view(np.uint8).ravel()
        fields = (HEIGHT, WIDTH, encoding, 0, data.size // HEIGHT, data)
        self._write(topic, stamp, self._make("sensor_msgs/Image", self._header(stamp), *fields))

    def camera_info(self, stamp: int) -> None:
        k = np.array([FOCAL, 0, CX, 0, FOCAL, CY, 0, 0, 1])
        p = np.array([FOCAL, 0, CX, 0, 0, FOCAL, CY, 0, 0, 0, 1, 0])
        whole = self._make("sensor_msgs/RegionOfInterest", 0, 0, 0, 0, False)
        lens = ("plumb_bob", np.zeros(5), k, np.eye(3).ravel(), p)
        self._write(
            "camera_info",
            stamp,
            self._make("sensor_msgs/CameraInfo", self._header(stamp), HEIGHT, WIDTH, *lens, 0, 0, whole),
        )


def make(folder: Path) -> None:
    """Renders everything and writes the bag, its truth and its labels to that folder."""
    frames, labels = [], []
    with write_bag(folder, typestore()) as bag:
        recorder = Recorder(bag)
        for index in range(FRAMES):
            stamp, pose = START_NS + index * PERIOD_NS, camera_pose(index)
            depth, label = render_depth(pose)
            recorder.image("image", stamp, "rgb8", render_colour(pose))
            recorder.camera_info(stamp)
            recorder.image("depth", stamp + DEPTH_LAG_NS, "16UC1", measured(depth, seed=index))
            frames.append({"stamp": stamp, "world_from_camera": pose.round(9).tolist(), "seen": seen(depth, label)})
            labels.append(label)
    truth = {"things": [asdict(thing) for thing in THINGS], "frames": frames}
    (folder / "truth.json").write_text(json.dumps(truth, indent=1) + "\n")
    np.savez_compressed(folder / "labels.npz", labels=np.stack(labels))


if __name__ == "__main__":
    make(Path(__file__).parent / "tabletop_bag")
