"""Makes `demo_bag/`: a depth camera moves past a rendered tabletop with everyday things on it.

    python test/data/make_demo_bag.py       # writes test/data/demo_bag; needs MuJoCo

The bag (MCAP) holds `/camera/image/compressed` (JPEG), `/camera/depth` (16UC1, mm) and `/camera/camera_info`. Beside
it lies `truth.json`: the things, and per frame the stamp, the camera's pose in the world (axes as in
`lisa_core.tabletop.scene`) and of each thing its pixels and the position of what is seen of it, in the camera's axes.
"""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from lisa_core.geometry import Intrinsics, locate
from lisa_core.tabletop.render import Renderer
from lisa_core.tabletop.scene import HELD_OUT_SEED, Light, Scene, Surroundings, Thing, View, Viewpoint
from lisa_ros.bags import BagWriter, typestore, write_bag

FRAMES, PERIOD_NS = 12, 300_000_000
START_NS = 1_750_000_000_000_000_000
DEPTH_LAG_NS, LATENCY_NS = 7_000_000, 15_000_000
DEPTH_STEP = 2  # mm; a camera resolves no finer, and the bag is half the size
FRAME_ID = "camera_color_optical_frame"
SCENE = Scene(
    HELD_OUT_SEED,
    (
        Thing("mug", "blue", (-0.16, 0.03, 0.0), -0.5, 1.05),
        Thing("banana", "yellow", (0.03, -0.13, 0.0), 0.35, 1.0),
        Thing("hammer", "red", (0.2, -0.01, 0.0), 1.1, 1.0),
        Thing("bottle", "green", (0.06, 0.12, 0.0), 0.0, 1.0),
        Thing("apple", "red", (-0.02, 0.0, 0.0), 0.0, 1.05, tone=0.8),
        Thing("knife", "black", (-0.16, -0.12, 0.0), 2.0, 1.0),
        Thing("book", "purple", (-0.07, 0.17, 0.0), 0.25, 1.0),
    ),
    Surroundings("oak", (0.97, 0.95, 0.92), 0.05, (0.74, 0.76, 0.76), (0.32, 0.30, 0.28)),
    Light((0.45, 0.35, -0.82), (0.68, 0.66, 0.62), (0.30, 0.31, 0.33), True),
    Viewpoint((0.0, 0.02, 0.03), 0.74, 0.75, 0.0, np.radians(45).item()),
)


def viewpoint(frame: int) -> Viewpoint:
    """Along a gentle arc, coming down and a little nearer."""
    along = frame / (FRAMES - 1)
    return replace(
        SCENE.viewpoint, azimuth=-0.35 + 0.7 * along, elevation=0.85 - 0.25 * along, distance=0.76 - 0.05 * along
    )


def seen(view: View) -> list[dict[str, Any]]:
    """Of each thing what is in sight of it: pixels, and position as `lisa_ros/msg/Segment` defines it."""
    matrix = view.intrinsics
    lens = Intrinsics(matrix[0, 0], matrix[1, 1], matrix[0, 2], matrix[1, 2])
    result = []
    for number, thing in enumerate(view.things):
        mask = view.mask(number)
        placement = locate(mask, view.depth, lens)
        assert placement is not None
        position = np.round(placement.position, 4).tolist()
        result.append({"name": f"{thing.colour} {thing.kind}", "pixels": int(mask.sum()), "position": position})
    return result


class Recorder:
    """Puts views into a bag as the messages of a camera driver."""

    def __init__(self, bag: BagWriter) -> None:
        self._bag = bag
        self._store = typestore()
        for topic, kind in (("image/compressed", "CompressedImage"), ("depth", "Image"), ("camera_info", "CameraInfo")):
            bag.add_topic(f"/camera/{topic}", f"sensor_msgs/msg/{kind}")

    def add(self, stamp: int, view: View) -> None:
        """The three messages of a view."""
        jpeg = cv2.imencode(".jpg", view.rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])[1].ravel()
        self._write("image/compressed", stamp, "CompressedImage", "rgb8; jpeg compressed bgr8", jpeg)
        self._write("camera_info", stamp, "CameraInfo", *self._lens(view))
        height, width = view.depth.shape
        depth = (np.round(view.depth * 1000 / DEPTH_STEP) * DEPTH_STEP).astype(np.uint16)
        self._write(
            "depth", stamp + DEPTH_LAG_NS, "Image", height, width, "16UC1", 0, 2 * width, depth.view(np.uint8).ravel()
        )

    def _lens(self, view: View) -> tuple[Any, ...]:
        k: NDArray[np.float64] = view.intrinsics
        p = np.column_stack([k, np.zeros(3)])
        whole = self._make("sensor_msgs/RegionOfInterest", 0, 0, 0, 0, False)
        return (*view.depth.shape, "plumb_bob", np.zeros(5), k.ravel(), np.eye(3).ravel(), p.ravel(), 0, 0, whole)

    def _make(self, name: str, *fields: Any) -> Any:
        package, kind = name.split("/")
        return self._store.types[f"{package}/msg/{kind}"](*fields)

    def _write(self, topic: str, stamp: int, kind: str, *fields: Any) -> None:
        time = self._make("builtin_interfaces/Time", *divmod(stamp, 1_000_000_000))
        message = self._make(f"sensor_msgs/{kind}", self._make("std_msgs/Header", time, FRAME_ID), *fields)
        data = bytes(self._store.serialize_cdr(message, message.__msgtype__))
        self._bag.write(f"/camera/{topic}", stamp + LATENCY_NS, data)


def make(folder: Path) -> None:
    """Renders everything and writes the bag and its truth to that folder."""
    renderer, frames = Renderer(), []
    with write_bag(folder, typestore()) as bag:
        recorder = Recorder(bag)
        for index in range(FRAMES):
            stamp = START_NS + index * PERIOD_NS
            view = renderer.render(replace(SCENE, viewpoint=viewpoint(index)))
            recorder.add(stamp, view)
            frames.append({"stamp": stamp, "world_from_camera": view.camera.round(9).tolist(), "seen": seen(view)})
    truth = {"things": [asdict(thing) for thing in SCENE.things], "frames": frames}
    (folder / "truth.json").write_text(json.dumps(truth, indent=1) + "\n")


if __name__ == "__main__":
    make(Path(__file__).parent / "demo_bag")
