"""Sampled and stored scenes, without rendering."""

import json
import shutil
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lisa_core.errors import DatasetError
from lisa_core.tabletop.dataset import StoredScene, open_scenes
from lisa_core.tabletop.kinds import KIND_BY_NAME, KINDS, NEW_KINDS
from lisa_core.tabletop.models import model
from lisa_core.tabletop.sampling import HEIGHT, WIDTH, apart, footprint, sample_scene
from lisa_core.tabletop.scene import HELD_OUT_SEED, View

STORED = Path(__file__).parents[1] / "data" / "tabletop_scenes"


def projected(view: View, point: tuple[float, float, float]) -> np.ndarray:
    inside = np.linalg.inv(view.camera) @ (*point, 1)
    return (view.intrinsics @ inside[:3])[:2] / inside[2]


def test_the_same_seed_gives_the_same_scene_and_another_one_another():
    assert sample_scene(7) == sample_scene(7)
    assert sample_scene(7) != sample_scene(8)


@pytest.mark.parametrize("seed", range(30))
def test_things_of_a_scene_do_not_touch(seed):
    scene = sample_scene(seed)
    assert 3 <= len(scene.things) <= 9
    for first, second in combinations(scene.things, 2):
        assert apart(footprint(first), footprint(second))


def test_rectangles_that_cross_are_not_apart():
    upright = np.array([(1, 5), (-1, 5), (-1, -5), (1, -5)], float)
    assert not apart(upright, upright[:, ::-1])  # no corner of either lies in the other
    assert apart(upright, upright + np.array([2.5, 0]))
    assert not apart(upright, upright + np.array([2.5, 0]), gap=0.6)


def test_every_kind_and_colour_comes_up():
    seen = {(thing.kind, thing.colour) for seed in range(400) for thing in sample_scene(seed).things}
    assert seen == {(kind.name, colour) for kind in KINDS for colour in kind.colours}


def test_new_kinds_come_only_when_asked_for():
    assert {thing.kind for thing in sample_scene(3, NEW_KINDS).things} == {"teapot"}


@pytest.mark.parametrize("seed", range(8))
def test_a_guest_is_on_every_table_among_the_usual_things(seed):
    scene = sample_scene(seed, guest=KIND_BY_NAME["teapot"])
    assert scene == sample_scene(seed, guest=KIND_BY_NAME["teapot"])
    assert scene.things[0].kind == "teapot"
    assert 2 <= len([thing for thing in scene.things if thing.kind != "teapot"]) == len(scene.things) - 1 <= 8
    for first, second in combinations(scene.things, 2):
        assert apart(footprint(first), footprint(second))


@pytest.mark.parametrize("kind", [*KINDS, *NEW_KINDS], ids=lambda kind: kind.name)
def test_models_stand_on_the_table_in_its_middle_and_have_their_parts(kind):
    made = model(kind.name)
    low, high = made.points.min(axis=0), made.points.max(axis=0)
    np.testing.assert_allclose([*(low + high)[:2], low[2]], 0, atol=1e-9)
    assert {piece.part for piece in made.pieces} - {""} == set(kind.parts)
    for piece in made.pieces:
        a, b, c = (piece.mesh.vertices[piece.mesh.faces[:, corner]] for corner in range(3))
        assert np.einsum("ij,ij->", a, np.cross(b, c)) > 0, "its faces look inward"


def test_stored_scenes_are_held_out_and_are_what_their_seeds_give():
    assert [scene.index for scene in open_scenes(STORED)] == list(range(50))
    for index in range(50):
        scene = StoredScene(STORED, index).description()
        assert scene.seed == HELD_OUT_SEED + index
        # Trigonometry may differ by a bit between processors.
        again = sample_scene(scene.seed)
        assert [(thing.kind, thing.colour) for thing in again.things] == [(t.kind, t.colour) for t in scene.things]
        np.testing.assert_allclose(
            [thing.position for thing in again.things], [thing.position for thing in scene.things], atol=1e-6
        )


@pytest.mark.parametrize("index", range(50))
def test_stored_masks_are_where_the_poses_say(index):
    view = StoredScene(STORED, index).read()
    assert view.rgb.shape == (HEIGHT, WIDTH, 3)
    assert set(np.unique(view.owner)) == set(range(len(view.things) + 1)), "something is not in sight"
    for number, thing in enumerate(view.things):
        x, y, _ = thing.position
        middle = projected(view, (x, y, model(thing.kind).size[2] * thing.scale * thing.stretch / 2))
        assert 80 <= middle[0] < 560, "the language model does not see it"
        rows, columns = np.nonzero(view.mask(number))
        reach = np.linalg.norm(model(thing.kind).size) * thing.scale / 2
        radius = reach * view.intrinsics[0, 0] / 0.45
        assert np.hypot(columns - middle[0], rows - middle[1]).max() < radius
        assert np.hypot(columns - middle[0], rows - middle[1]).min() < radius / 3


def test_a_damaged_scene_is_named(tmp_path):
    for content in ("{", "[" * 100_000):
        (tmp_path / "000000.json").write_text(content)
        with pytest.raises(
            DatasetError, match=r"000000 cannot be read .* delete 000000\.json, and the same `lisa tabletop render`"
        ):
            StoredScene(tmp_path, 0).read()


def broken_png(scene):
    path = scene.with_suffix(".png")
    content = bytearray(path.read_bytes())
    at = content.index(b"IDAT")
    content[at - 4 : at] = (10).to_bytes(4, "big")  # its length; Pillow calls that a SyntaxError
    path.write_bytes(content)


def of_another_scene(scene):
    record = json.loads(scene.with_suffix(".json").read_text())
    record["scene"]["things"] = record["scene"]["things"][:1]
    scene.with_suffix(".json").write_text(json.dumps(record))


def of_another_size(scene):
    Image.new("RGB", (8, 8)).save(scene.with_suffix(".png"))


def named(**names):
    def rename(scene):
        record = json.loads(scene.with_suffix(".json").read_text())
        record["scene"]["things"][0] |= names
        scene.with_suffix(".json").write_text(json.dumps(record))

    return rename


def no_camera(scene):
    record = json.loads(scene.with_suffix(".json").read_text())
    scene.with_suffix(".json").write_text(json.dumps(record | {"camera": [1, 2]}))


DAMAGES = {
    "png": broken_png,
    "other": of_another_scene,
    "size": of_another_size,
    "kind": named(kind="spaceship"),
    "colour": named(colour="invisible"),
    "place": named(position=[]),
    "camera": no_camera,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_whatever_is_wrong_with_a_scene_is_told_with_what_helps(tmp_path, damage):
    for file in STORED.glob("000000.*"):
        shutil.copy(file, tmp_path)
    DAMAGES[damage](tmp_path / "000000")
    with pytest.raises(DatasetError, match=r"000000 cannot be read .* delete 000000\.json, and the same"):
        StoredScene(tmp_path, 0).read()
