"""The node's own costs: the image callback, and everything about a question except the engine, in ms and as shares.

    .venv/bin/python benchmarks/node.py [--questions 50]

The engine is the fake of the tests, so its time does not count; the stages are those of `/diagnostics`. All numbers are
medians.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import Image, PointCloud2
from std_msgs.msg import Header

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "test" / "ros"))

from harness import Robot, camera, eventually, lisa, own_graph
from scenes import scene

from lisa_ros.cameras import Camera
from lisa_ros.conversions import image_message, to_rgb
from lisa_ros.parameters import CameraParameters

SIZES = {"640x480": (480, 640), "1080p": (1080, 1920)}
CALLBACK_LIMIT = 0.2
"""ms, for a 1080p image."""

QUESTION_LIMITS = {"640x480": 10.0, "1080p": 25.0}
"""ms, without the engine."""

PICTURES = {"mask": Image, "labels": Image, "overlay": Image, "points": PointCloud2}


def milliseconds(call: Callable[[], Any], repeats: int = 200) -> float:
    """The median time of a call."""
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)
    return float(np.median(seconds) * 1e3)


def measure_callback() -> None:
    """Times the callback of a 1080p image, and for comparison copying, deserialising and converting it."""
    rclpy.init(args=[])
    node = rclpy.create_node("benchmark")
    view = Camera(node, "camera", CameraParameters(image="image"), on_image=lambda: None)
    serialized = serialize_message(image_message(scene(1, SIZES["1080p"]), "rgb8", Header()))
    callback = milliseconds(lambda: view._keep_image(serialized))
    print(f"image callback at 1080p   {callback:8.4f} ms (limit {CALLBACK_LIMIT})")
    print(f"  copying its bytes       {milliseconds(lambda: bytearray(serialized), 50):8.4f} ms, what taking it costs")
    decode = milliseconds(lambda: deserialize_message(serialized, Image), 50)
    print(f"  as a message object     {decode:8.4f} ms, left to when somebody asks")
    message = deserialize_message(serialized, Image)
    print(f"  as RGB                  {milliseconds(lambda: to_rgb(message), 50):8.4f} ms, left to when somebody asks")
    rclpy.shutdown()
    assert callback < CALLBACK_LIMIT, "the image callback is too slow"


def measure_questions(name: str, questions: int, folder: Path, subscribed: bool) -> None:
    """Times the parts of a question about a new frame of that size, with or without subscribers to all pictures."""
    height, width = SIZES[name]
    depth = {"camera__depth": "depth", "camera__camera_info": "info", "camera__depth_max_dt": 10.0}
    node = lisa(folder / "node.log", frame_timeout=30.0, **depth)
    arguments = ["--rate", "5", "--size", str(height), str(width), "--depth", "depth", "--info", "info"]
    view = camera(folder / "camera.log", *arguments)
    robot = Robot()
    try:
        robot.until_active()
        statuses = robot.listen("/diagnostics", DiagnosticArray)
        for topic, kind in PICTURES.items() if subscribed else ():
            robot.listen(f"/lisa/{topic}", kind, depth=1, raw=True)
        eventually(lambda: robot.ask("red").success, "the first frame")
        around = [_time_outside(robot) for _ in range(questions)]
        statuses.clear()
        newest = eventually(lambda: statuses and statuses[-1])
    finally:
        robot.close()
        node.stop()
        view.stop()
    report(name, stages_of(newest), float(np.median(around)), subscribed)


def _time_outside(robot: Robot) -> float:
    """Milliseconds of a question about the next frame outside of the answer's duration: transport and publishing."""
    began = time.perf_counter()
    response = robot.ask("red blue", max_age=0.001)
    assert response.success, response.message
    return (time.perf_counter() - began - response.answer.duration) * 1e3


def stages_of(array: DiagnosticArray) -> dict[str, float]:
    """Median ms by stage."""
    status = next(status for status in array.status if status.name == "lisa: questions")
    suffix = ", p50, s"
    return {v.key.removesuffix(suffix): float(v.value) * 1e3 for v in status.values if v.key.endswith(suffix)}


def report(name: str, stages: dict[str, float], around: float, subscribed: bool) -> None:
    """Print the parts with their shares, and check their sum against the limit."""
    parts = {stage: stages[stage] for stage in ("image", "position", "messages", "publishing")}
    parts["on the way"] = around - parts["messages"] - parts["publishing"]
    total = sum(parts.values())
    listening = "all topics heard" if subscribed else "nobody listens"
    print(f"question at {name}, {listening}: {total:.1f} ms but for the engine (limit {QUESTION_LIMITS[name]:g})")
    for part, ms in parts.items():
        print(f"  {part:<22}  {ms:8.1f} ms {ms / total:5.0%}")
    assert total < QUESTION_LIMITS[name], "too slow"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=50)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, own_graph():
        measure_callback()
        for name in SIZES:
            for subscribed in (False, True):
                measure_questions(name, options.questions, Path(folder), subscribed)


if __name__ == "__main__":
    main()
