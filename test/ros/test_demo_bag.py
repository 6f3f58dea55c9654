"""The bag that the demo plays: pictures, depth and the truth agree."""

import json
import math
import statistics
from pathlib import Path

import numpy as np
import pytest

from lisa_core import LisaEngine
from lisa_core.geometry import locate
from lisa_ros.bags import BagReader
from lisa_ros.conversions import intrinsics, to_depth, to_rgb_compressed

BAG = Path(__file__).parents[1] / "data" / "demo_bag"
TRUTH = json.loads((BAG / "truth.json").read_text())


def messages(topic: str) -> list:
    with BagReader(BAG) as bag:
        return [bag.decode(message) for message in bag.messages([topic])]


def test_its_stamps_are_those_of_the_truth_on_all_topics():
    stamps = [frame["stamp"] for frame in TRUTH["frames"]]
    for topic, lag in (("image/compressed", 0), ("camera_info", 0), ("depth", 7_000_000)):
        headers = [message.header for message in messages(f"/camera/{topic}")]
        assert [header.stamp.sec * 1_000_000_000 + header.stamp.nanosec - lag for header in headers] == stamps


@pytest.mark.parametrize("frame", range(len(TRUTH["frames"])))
def test_positions_lie_on_what_the_depth_shows(frame):
    depth = to_depth(messages("/camera/depth")[frame])
    lens = intrinsics(messages("/camera/camera_info")[frame], depth.shape)
    assert to_rgb_compressed(messages("/camera/image/compressed")[frame]).shape == (*depth.shape, 3)
    assert [thing["kind"] for thing in TRUTH["things"]] == [
        seen["name"].split()[-1] for seen in TRUTH["frames"][frame]["seen"]
    ]
    for seen in TRUTH["frames"][frame]["seen"]:
        x, y, z = seen["position"]
        column, row = round(lens.fx * x / z + lens.cx), round(lens.fy * y / z + lens.cy)
        around = depth[row - 12 : row + 13, column - 12 : column + 13]
        # What is seen of the mug is its outside and, over the rim, its inside; the middle of both lies in between.
        hollow = 0.045 if "mug" in seen["name"] else 0.01
        assert np.abs(around - z).min() < hollow, seen["name"]
        assert seen["pixels"] > 600


def test_the_bundled_model_knows_where_its_things_are():
    engine = LisaEngine.from_pretrained("bundled")
    images, depths, infos = (messages(f"/camera/{topic}") for topic in ("image/compressed", "depth", "camera_info"))
    errors = []
    for number in (0, 5, 11):
        depth = to_depth(depths[number])
        lens = intrinsics(infos[number], depth.shape)
        frame = engine.encode(to_rgb_compressed(images[number]))
        for seen in TRUTH["frames"][number]["seen"]:
            segments = engine.ask(frame, f"Segment the {seen['name']}.").segments
            placement = locate(segments[0].mask, depth, lens) if segments else None
            errors.append(math.dist(placement.position, seen["position"]) if placement else math.inf)
    assert len(errors) == 21
    assert statistics.median(errors) < 0.01
