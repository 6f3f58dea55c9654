"""Rendered tabletops: colours, depth, masks and poses agree."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from core.test_tabletop_scenes import STORED, projected

from lisa_core.tabletop.dataset import StoredScene, open_scenes
from lisa_core.tabletop.kinds import KINDS, NEW_KINDS
from lisa_core.tabletop.models import model
from lisa_core.tabletop.render import Renderer, without_mixtures
from lisa_core.tabletop.sampling import sample_scene
from lisa_core.tabletop.scene import Scene, Thing, Viewpoint

pytestmark = pytest.mark.render


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    return Renderer()


def alone(thing: Thing) -> Scene:
    return replace(sample_scene(1), things=(thing,), viewpoint=Viewpoint((0, 0, 0.04), 0.5, 0.7, 0.1, 0.8))


def test_the_same_scene_gives_the_same_bytes(renderer):
    first = renderer.render(sample_scene(5))
    renderer.render(sample_scene(6))
    again = renderer.render(sample_scene(5))
    for name in ("rgb", "depth", "owner", "part"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))


def test_it_draws_what_is_stored(renderer):
    stored, drawn = StoredScene(STORED, 0).read(), renderer.render(sample_scene(10_000_000))
    assert (stored.owner != drawn.owner).mean() < 0.002
    assert np.abs(stored.rgb.astype(int) - drawn.rgb).mean() < 4


@pytest.mark.parametrize("kind", [*KINDS, *NEW_KINDS], ids=lambda kind: kind.name)
def test_every_kind_and_part_is_seen(renderer, kind):
    view = renderer.render(alone(Thing(kind.name, kind.colours[0], (0, 0, 0), 0.6, 1.0)))
    assert view.mask(0).sum() > 1500
    for part in kind.parts:
        assert 100 < view.mask(0, part).sum() < view.mask(0).sum()


def test_depth_and_mask_of_a_box_are_those_of_its_geometry(renderer):
    view = renderer.render(alone(Thing("box", "red", (0.03, -0.02, 0), 0.0, 1.0)))
    column, row = np.round(projected(view, (0.0, -0.045, model("box").size[2]))).astype(int)
    seen = view.depth[row, column] * np.linalg.solve(view.intrinsics, (column, row, 1))
    world = view.camera @ (*seen, 1)
    assert view.mask(0)[row, column]
    np.testing.assert_allclose(world[:3], (0.0, -0.045, model("box").size[2]), atol=0.0015)


def test_all_that_is_seen_of_the_table_lies_at_height_zero_and_things_above(renderer):
    view = renderer.render(sample_scene(12))
    rows, columns = np.indices(view.depth.shape)
    rays = np.stack([columns, rows, np.ones_like(rows)], -1) @ np.linalg.inv(view.intrinsics).T
    height = (rays * view.depth[..., None]) @ view.camera[2, :3] + view.camera[2, 3]
    assert np.abs(height[400:, 80:560][view.owner[400:, 80:560] == 0]).max() < 0.002
    for number, thing in enumerate(view.things):
        top = model(thing.kind).size[2] * thing.scale * thing.stretch
        seen = height[view.mask(number)]
        assert seen.min() > -0.002
        assert seen.max() < top + 0.002


def test_a_red_thing_is_red_and_a_blue_one_blue(renderer):
    for colour, channel in (("red", 0), ("blue", 2)):
        view = renderer.render(alone(Thing("bowl", colour, (0, 0, 0), 0.0, 1.0)))
        assert view.rgb[view.mask(0)].mean(axis=0).argmax() == channel


def lisa(*arguments: str, **options) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from lisa_core.cli import main; main()", "tabletop", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)


def test_the_command_renders_what_is_missing_only(tmp_path):
    assert lisa("render", str(tmp_path), "--scenes", "3", "--depth", "--workers", "2").returncode == 0
    assert [scene.index for scene in open_scenes(tmp_path)] == list(range(3))
    assert 0.3 < StoredScene(tmp_path, 1).read().depth.min() < 1
    (tmp_path / "000001.json").unlink()
    (tmp_path / "000001.png").write_bytes(b"damaged")
    kept = (tmp_path / "000002.json").stat().st_mtime_ns
    assert lisa("render", str(tmp_path), "--scenes", "4").returncode == 0
    assert [scene.index for scene in open_scenes(tmp_path)] == list(range(4))
    assert StoredScene(tmp_path, 1).read().owner.any()
    assert (tmp_path / "000002.json").stat().st_mtime_ns == kept
    refused = lisa("render", str(tmp_path), "--scenes", "4", "--seed", "9")
    assert refused.returncode == 1
    assert "another seed" in refused.stderr


def test_the_command_renders_with_a_kind_that_is_on_no_other_table(tmp_path):
    with_teapot = ("render", str(tmp_path), "--scenes", "2", "--with", "teapot")
    assert lisa(*with_teapot).returncode == 0
    for index in range(2):
        view = StoredScene(tmp_path, index).read()
        assert [thing.kind for thing in view.things].count("teapot") == 1
        assert view.mask(0).sum() > 500
    assert lisa(*with_teapot).returncode == 0
    refused = lisa("render", str(tmp_path), "--scenes", "3")
    assert refused.returncode == 1
    assert "other things" in refused.stderr
    assert [scene.index for scene in open_scenes(tmp_path)] == list(range(2))
    unknown = lisa("render", str(tmp_path), "--with", "unicorn")
    assert unknown.returncode == 2
    assert "toy car, teapot" in " ".join(unknown.stderr.replace("│", " ").split())


def test_numbers_that_were_never_drawn_become_those_beside_them():
    numbers = np.array([[1, 9, 16, 16], [1, 1, 16, 17], [300, 1, 77, 17], [300, 301, 1, 1]], np.int32)
    cleaned = without_mixtures(numbers, np.array([0, 1, 16, 17], np.int32))
    assert cleaned.tolist() == [[1, 1, 16, 16], [1, 1, 16, 17], [1, 1, 1, 17], [1, 1, 1, 1]]
    assert np.array_equal(without_mixtures(numbers[:2, 2:], np.unique(numbers[:2, 2:])), numbers[:2, 2:])


def test_where_nothing_can_draw_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "nonsense")
    refused = lisa("render", str(tmp_path), "--scenes", "1")
    assert refused.returncode == 1
    assert "install" in refused.stderr
    assert "libosmesa6" in refused.stderr
