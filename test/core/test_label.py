"""`lisa label`: polygons reproduce the masks, and unusable input is reported."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import cli
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from pycocotools import mask as coco_api
from tabletops import view_of

from lisa_core.datasets import coco
from lisa_core.datasets.polygons import outline_of, polygons_of
from lisa_core.datasets.reasonseg import IGNORED, TARGET, Polygon, open_split, rasterize, read_annotation
from lisa_core.tabletop.dataset import StoredScene
from lisa_core.tabletop.sampling import sample_scene
from lisa_core.tabletop.scene import Scene


def drawn(mask):
    """The mask, converted to polygons and rasterised again."""
    polygons = [
        Polygon(number, TARGET, np.array(points, np.int32)) for number, points in enumerate(polygons_of(mask), 1)
    ]
    return rasterize(polygons, mask.shape) == TARGET


@settings(deadline=None, max_examples=200)
@given(arrays(bool, st.tuples(st.integers(1, 24), st.integers(1, 24))))
def test_polygons_give_every_mask_back(mask):
    assert all(len(polygon) >= 3 for polygon in polygons_of(mask))
    assert np.array_equal(drawn(mask), mask)


BARS = st.lists(
    st.tuples(st.integers(0, 158), st.integers(0, 118), st.integers(1, 60), st.integers(1, 3), st.booleans())
)


@settings(deadline=None)
@given(BARS)
def test_polygons_give_long_slits_back(bars):
    """Corners of an outline may be far apart, with a hole between them."""
    mask = np.ones((120, 160), bool)
    for x, y, length, width, upright in bars:
        rows, columns = (length, width) if upright else (width, length)
        mask[y : y + rows, x : x + columns] = False
    assert np.array_equal(drawn(mask), mask)


def test_shapes_come_back_to_the_pixel():
    rows, columns = np.mgrid[:120, :160]
    disc = (rows - 60) ** 2 + (columns - 80) ** 2 < 50**2
    holes = ((rows - 50) ** 2 + (columns - 60) ** 2 < 12**2) | ((rows - 80) ** 2 + (columns - 100) ** 2 < 9**2)
    island = (rows - 50) ** 2 + (columns - 60) ** 2 < 5**2
    ring = (disc & ~((rows - 60) ** 2 + (columns - 80) ** 2 < 20**2)) & ~((columns > 78) & (rows < 30))
    for mask in (disc, disc & ~holes, (disc & ~holes) | island, ring, np.ones((5, 7), bool), np.eye(9, dtype=bool)):
        assert np.array_equal(drawn(mask), mask)


def test_rings_in_a_ring_come_back_to_the_pixel():
    mask = np.zeros((33, 33), bool)
    for edge in range(1, 16, 3):
        mask[edge : 33 - edge, edge : 33 - edge] = not mask[16, 16]
    assert len(polygons_of(mask)) == 3
    assert np.array_equal(drawn(mask), mask)


def test_two_holes_beside_a_slit_come_back_to_the_pixel():
    mask = np.ones((260, 60), bool)
    mask[20:240, 30] = mask[128:131, 25:28] = mask[128:131, 33:36] = False
    assert np.array_equal(drawn(mask), mask)


def test_an_outline_is_as_long_as_it_is_drawn_wherever_it_lies():
    corners = np.array([[0, 0], [9, 0], [9, 5], [0, 5]], float)
    assert outline_of(corners) == outline_of(corners + 1000) == 28
    assert np.isnan(outline_of(corners * np.nan))


def test_hundreds_of_holes_are_joined():
    mask = np.zeros((480, 640), bool)
    mask[20:460, 20:620] = True
    random = np.random.default_rng(0)
    mask[random.integers(21, 459, 700), random.integers(21, 619, 700)] = False
    mask[200:260, 300:380] = False
    assert len(polygons_of(mask)) == 1
    assert np.array_equal(drawn(mask), mask)


def packed_by_coco(mask):
    encoded = coco_api.encode(np.asfortranarray(mask, np.uint8))
    return {"size": list(encoded["size"]), "counts": encoded["counts"].decode()}


@settings(deadline=None)
@given(arrays(bool, st.tuples(st.integers(1, 40), st.integers(1, 40))))
def test_run_lengths_are_those_of_coco(mask):
    assert np.array_equal(coco.decode(packed_by_coco(mask)), mask)
    if mask.any():
        flat = mask.T.ravel()
        bounds = np.flatnonzero(np.diff(flat.astype(int))) + 1
        runs = np.diff(np.r_[0, bounds, flat.size])
        counts = ([0] if flat[0] else []) + runs.tolist()
        assert np.array_equal(coco.decode({"size": mask.shape, "counts": counts}), mask)


@settings(deadline=None)
@given(arrays(bool, st.tuples(st.integers(1, 40), st.integers(1, 40))))
def test_masks_are_packed_as_by_cocos_own_code(mask):
    encoded = coco.encode(mask)
    assert json.loads(json.dumps(encoded)) == encoded == packed_by_coco(mask)
    assert np.array_equal(coco.decode(encoded), mask)


FILLED = [
    np.s_[:0],
    np.s_[:],
    np.s_[:1, :1],
    np.s_[-1:, -1:],
    np.s_[::2],
    np.s_[:, ::2],
    np.s_[1::3, ::2],
    np.s_[3:-9, 2:-2],
]


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (7, 1), (5, 7), (480, 640), (1080, 1920)])
@pytest.mark.parametrize("filled", FILLED, ids=str)
def test_masks_of_all_sizes_are_packed_as_by_cocos_own_code(size, filled):
    mask = np.zeros(size, bool)
    mask[filled] = True
    noise = np.random.default_rng(0).random(size) < 0.1
    for each in (mask, ~mask, mask ^ noise, np.asfortranarray(mask)):
        encoded = coco.encode(each)
        assert encoded == packed_by_coco(each)
        assert np.array_equal(coco.decode(encoded), each)


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for index in range(5):
        Image.new("RGB", (64, 48), (40 * index, 90, 40)).save(folder / f"{index}.jpg")
    return folder


def square(x, value=255):
    mask = np.zeros((48, 64), np.uint8)
    mask[10:20, x : x + 10] = value
    return mask


def samples(out):
    return {(split, entry.name): entry.read() for split in ("train", "val") for entry in open_split(out, split).entries}


def test_png_masks_become_a_data_set(pictures, tmp_path):
    for query, index, x in (("red cup", 0, 5), ("red cup", 1, 8), ("Where is tea?", 0, 30), ("red cup", 2, 9)):
        (tmp_path / "masks" / query).mkdir(parents=True, exist_ok=True)
        mask = square(x)
        mask[30:33] = 128
        Image.fromarray(mask).save(tmp_path / "masks" / query / f"{index}.png")
    result = cli.run("label", "png", pictures, tmp_path / "masks", "--out", tmp_path / "out", "--val", 0.3)
    assert result.code == 0, result.errors
    assert "3 labels to learn, 1 to validate" in result.out or "2 labels to learn, 2 to validate" in result.out
    found = samples(tmp_path / "out")
    assert len(found) == 4
    assert {sample.query for sample in found.values()} == {"red cup", "Where is tea?"}
    assert {sample.length for sample in found.values() if sample.query == "Where is tea?"} == {"long"}
    splits = {split for (split, name), _ in found.items() if name.startswith("0_")}
    assert len(splits) == 1  # no picture is in both splits
    for sample in found.values():
        assert (sample.truth == TARGET).sum() == 100
        assert (sample.truth == IGNORED).sum() == 3 * 64


def test_bad_masks_are_told_and_the_rest_is_written(pictures, tmp_path):
    folder = tmp_path / "masks" / "cup"
    folder.mkdir(parents=True)
    Image.fromarray(square(5)).save(folder / "0.png")
    Image.fromarray(np.zeros((48, 64), np.uint8)).save(folder / "1.png")
    Image.fromarray(np.full((5, 5), 255, np.uint8)).save(folder / "2.png")
    (folder / "3.png").write_bytes(b"no picture")
    (pictures / "5.jpg").write_bytes((pictures / "0.jpg").read_bytes())
    Image.new("1", (20_000, 10_000)).save(folder / "5.png")  # more than Pillow opens
    (pictures / "4.jpg").write_bytes(b"no picture")
    Image.fromarray(square(5)).save(folder / "4.png")
    Image.fromarray(square(5)).save(folder / "9.png")
    (tmp_path / "masks" / " ").mkdir()
    Image.fromarray(square(5)).save(tmp_path / "masks" / " " / "0.png")
    result = cli.run("label", "png", pictures, tmp_path / "masks", "--out", tmp_path / "out", "--val", 0)
    assert result.code == 1
    for sentence in (
        "the mask is empty",
        "the mask is 5x5, but the picture 64x48",
        "3.png is no picture",
        "5.png is no picture",
        "4.jpg is no picture",
        "; name it as its picture, or move it away",
        "9.png has no picture of its name",
        "it has no words",
    ):
        assert sentence in result.errors
    assert [path.suffix for path in sorted((tmp_path / "out").glob("*/*"))] == [".jpg", ".json"]


def test_masks_without_a_picture_are_told(pictures, tmp_path):
    (tmp_path / "masks" / "cup").mkdir(parents=True)
    Image.fromarray(square(5)).save(tmp_path / "masks" / "cup" / "9.png")
    result = cli.run("label", "png", pictures, tmp_path / "masks", "--out", tmp_path / "out")
    assert (result.code, "9.png has no picture of its name" in result.errors) == (1, True)
    assert not (tmp_path / "out").exists()


def test_names_may_end_like_those_that_several_labels_of_a_picture_get(pictures, tmp_path):
    (pictures / "1.jpg").rename(pictures / "0_2.jpg")
    for query, stem, x in (("cup", "0", 5), ("plate", "0", 20), ("cup", "0_2", 35)):
        (tmp_path / "masks" / query).mkdir(parents=True, exist_ok=True)
        Image.fromarray(square(x)).save(tmp_path / "masks" / query / f"{stem}.png")
    result = cli.run("label", "png", pictures, tmp_path / "masks", "--out", tmp_path / "out", "--val", 0.5)
    assert result.code == 0, result.errors
    found = {(sample.query, int(sample.truth.argmax()) % 64) for sample in samples(tmp_path / "out").values()}
    assert found == {("cup", 5), ("plate", 20), ("cup", 35)}


def test_names_may_be_no_text(pictures, tmp_path):
    """As a disk has them whose names are in another encoding than this system's."""
    for index in range(2):
        (pictures / f"{index}.jpg").rename(pictures / f"caf\udce9{index}.jpg")
        (tmp_path / "masks" / "th\udce9").mkdir(parents=True, exist_ok=True)
        Image.fromarray(square(5)).save(tmp_path / "masks" / "th\udce9" / f"caf\udce9{index}.png")
    result = cli.run("label", "png", pictures, tmp_path / "masks", "--out", tmp_path / "out", "--val", 0.5)
    assert result.code == 0, result.errors
    assert [(sample.truth == TARGET).sum() for sample in samples(tmp_path / "out").values()] == [100, 100]


def test_masks_may_have_colours_and_any_name_of_png(pictures, tmp_path):
    folder = tmp_path / "masks" / "cup"
    folder.mkdir(parents=True)
    colours = np.zeros((48, 64, 3), np.uint8)
    colours[:10, :10] = (1, 0, 128)
    colours[10:20, :10] = (0, 218, 0)  # as bright as 128
    colours[20:30, :10] = 128
    Image.fromarray(colours).save(folder / "0.PNG", "PNG")
    alpha = np.dstack([colours, np.full((48, 64), 255, np.uint8)])
    Image.fromarray(alpha).save(folder / "1.png")
    numbers = Image.fromarray(np.where(colours.any(2), colours[..., 0].clip(1), 0).astype(np.uint8)).convert("P")
    numbers.putpalette([255 - level for level in range(256) for _ in range(3)])
    numbers.save(folder / "2.png")
    (pictures / "2.jpg").rename(pictures / "2.JPG")
    Image.open(pictures / "1.jpg").save(pictures / "1.bmp")
    (pictures / "1.jpg").unlink()
    result = cli.run("label", "png", pictures, tmp_path / "masks", "--out", tmp_path / "out", "--val", 0.5)
    assert result.code == 0, result.errors
    assert len(samples(tmp_path / "out")) == 3
    for sample in samples(tmp_path / "out").values():
        assert (sample.truth == TARGET).sum() == 200
        assert (sample.truth == IGNORED).sum() == 100


def test_a_mask_whose_outline_is_too_long_to_be_read_is_told_and_the_rest_is_written(pictures, tmp_path):
    (folder := tmp_path / "masks" / "cup").mkdir(parents=True)
    Image.fromarray(square(5)).save(folder / "0.png")
    comb = np.zeros((1500, 1500), np.uint8)
    comb[0], comb[:, ::2] = 255, 255
    for index, value in ((1, 255), (2, 128)):
        Image.new("RGB", (1500, 1500)).save(pictures / f"{index}.jpg")
        mask = np.where(comb, np.uint8(value), np.uint8(0))
        mask[-1, -1] = 255
        Image.fromarray(mask).save(folder / f"{index}.png")
    result = cli.run("label", "png", pictures, tmp_path / "masks", "--out", tmp_path / "out", "--val", 0)
    assert result.code == 1
    for index in (1, 2):
        assert f"{index}, 'cup': a part of the mask has an outline of more than 2000000 px" in result.errors
    assert [entry.name for entry in open_split(tmp_path / "out", "train").entries] == ["0.jpg"]


@pytest.mark.parametrize(
    ("mode", "options"),
    [("RGBA", {}), ("LA", {}), ("P", {"transparency": 255}), ("P", {"transparency": bytes([255] * 255 + [0])})],
)
def test_what_is_transparent_in_a_mask_is_background(pictures, tmp_path, mode, options):
    (tmp_path / "masks" / "cup").mkdir(parents=True)
    grey, alpha = np.full((48, 64), 255, np.uint8), np.zeros((48, 64), np.uint8)
    grey[:10, :10], alpha[:10, :10] = 200, 1
    grey[10:15, :10], alpha[10:15, :10] = 128, 255
    if mode != "P":
        grey[20:30] = 128  # hidden, too
    layers = {"RGBA": [grey, grey, grey, alpha], "LA": [grey, alpha], "P": [grey]}[mode]
    mask = Image.fromarray(np.dstack(layers).squeeze()).convert(mode)
    mask.save(tmp_path / "masks" / "cup" / "0.png", **options)
    result = cli.run("label", "png", pictures, tmp_path / "masks", "--out", tmp_path / "out", "--val", 0)
    assert result.code == 0, result.errors
    truth = open_split(tmp_path / "out", "train").entries[0].read().truth
    assert ((truth == TARGET).sum(), (truth == IGNORED).sum()) == (100, 50)


def test_stopped_it_says_so_and_leaves_nothing(pictures, tmp_path, monkeypatch):
    (tmp_path / "masks" / "cup").mkdir(parents=True)
    Image.fromarray(square(5)).save(tmp_path / "masks" / "cup" / "0.png")
    monkeypatch.setattr("lisa_core.files.write_whole", lambda contents: (_ for _ in ()).throw(KeyboardInterrupt))
    result = cli.run("label", "png", pictures, tmp_path / "masks", "--out", tmp_path / "out")
    assert (result.code, "stopped; nothing was written" in result.errors) == (130, True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["masks", "pictures"]


def test_nothing_is_left_where_nothing_can_be_written(pictures, tmp_path, monkeypatch):
    (tmp_path / "masks" / "cup").mkdir(parents=True)
    Image.fromarray(np.zeros((48, 64), np.uint8)).save(tmp_path / "masks" / "cup" / "0.png")
    words = ("label", "png", pictures, tmp_path / "masks", "--out", tmp_path / "out")
    assert "No label can be used" in cli.run(*words).errors
    Image.fromarray(square(5)).save(tmp_path / "masks" / "cup" / "0.png")
    with monkeypatch.context() as patch:
        full = OSError(28, "No space left on device", "somewhere")
        patch.setattr("lisa_core.files.write_whole", lambda contents: (_ for _ in ()).throw(full))
        assert "No space left on device" in cli.run(*words).errors
    assert sorted(path.name for path in tmp_path.iterdir()) == ["masks", "pictures"]
    assert cli.run(*words).code == 0
    assert "is there already" in cli.run(*words).errors
    Image.new("RGB", (4, 4)).save(pictures / "0.png")
    assert "share a name" in cli.run("label", "png", pictures, tmp_path / "masks", "--out", tmp_path / "new").errors
    assert (
        "has no masks" in cli.run("label", "png", tmp_path / "out" / "train", pictures, "--out", tmp_path / "x").errors
    )
    nowhere = cli.run("label", "png", tmp_path / "nowhere", tmp_path / "masks", "--out", tmp_path / "x")
    assert "is no folder of pictures; give the one" in " ".join(nowhere.errors.split())


def instances(annotations):
    return {
        "images": [{"id": 7 + index, "file_name": f"{index}.jpg", "width": 64, "height": 48} for index in range(5)],
        "categories": [{"id": 1, "name": "cup"}, {"id": 2, "name": "plate"}],
        "annotations": [{"id": number, **annotation} for number, annotation in enumerate(annotations)],
    }


def test_an_instance_of_coco_that_covers_nothing_is_told_beside_one_that_does(pictures, tmp_path):
    nothing = {"image_id": 7, "category_id": 1, "segmentation": []}
    content = instances([{"image_id": 7, "category_id": 1, "segmentation": [[5, 10, 15, 10, 15, 20, 5, 20]]}, nothing])
    (tmp_path / "instances.json").write_text(json.dumps(content))
    result = cli.run("label", "coco", tmp_path / "instances.json", pictures, "--out", tmp_path / "out")
    assert result.code == 1
    assert "'cup': annotation" in result.errors
    assert "it covers no pixel" in result.errors


def test_coco_becomes_a_data_set(pictures, tmp_path):
    packed = packed_by_coco(square(30, 1))
    content = instances(
        [
            {"image_id": 7, "category_id": 1, "segmentation": [[5, 10, 15, 10, 15, 20, 5, 20]]},
            {"image_id": 7, "category_id": 1, "segmentation": packed},
            {"image_id": 7, "category_id": 2, "segmentation": packed},
            {"image_id": 8, "category_id": 2, "segmentation": packed},
            {
                "image_id": 8,
                "category_id": 2,
                "iscrowd": 1,
                "segmentation": {"size": [48, 64], "counts": [0, 48, 48 * 30, 48, 48 * 32]},  # partly on the plate
            },
            {"image_id": 9, "category_id": 1, "segmentation": [[1, 1, 2, 2]]},
            {"image_id": 10, "category_id": 1, "segmentation": {"size": [48, 64], "counts": "0"}},
            {"image_id": 99, "category_id": 1, "segmentation": packed},
            {"image_id": 11, "category_id": 3, "segmentation": packed},
            {"image_id": 11, "category_id": 1, "segmentation": packed},
            {"image_id": 11, "category_id": 2, "iscrowd": 1, "segmentation": packed},
        ]
    )
    content["images"][4]["height"] = None
    (tmp_path / "instances.json").write_text(json.dumps(content))
    out = tmp_path / "out"
    result = cli.run("label", "coco", tmp_path / "instances.json", pictures, "--out", out, "--val", 0.2)
    assert result.code == 1
    for sentence in ("it covers no pixel", "do not fill 64x48", "`height`"):
        assert sentence in result.errors
    assert result.errors.count("no picture or category that is listed") == 2
    assert "plate" not in result.errors  # a crowd alone is neither a label nor a fault
    found = {(name[0], sample.query): sample.truth for (_, name), sample in samples(out).items()}
    assert {key: (truth == TARGET).sum() for key, truth in found.items()} == {
        ("0", "cup"): 200,
        ("0", "plate"): 100,
        ("1", "plate"): 100,
    }
    assert (found["1", "plate"] == IGNORED).sum() == 48 + 38


@pytest.mark.parametrize(
    ("picture", "segmentation"),
    [
        ({"height": -1}, None),
        ({"height": 1e999}, None),
        ({"height": 10**6, "width": 10**6}, None),
        ({}, {"size": [48, 64], "counts": [1e999]}),
        ({}, {"size": [10**6, 10**6], "counts": [10**12]}),
        ({}, [[0, 0, 1e6, 1, 0, 2] * 100]),
        ({}, [[0, 0, 1e300, 1, 0, 2]]),
        ({}, [[0, 0, None, 1, 0, 2]]),
    ],
)
def test_sizes_that_no_picture_has_are_told_and_the_rest_is_written(pictures, tmp_path, picture, segmentation):
    square_of = [[5, 10, 15, 10, 15, 20, 5, 20]]
    content = instances([{"image_id": image, "category_id": 1, "segmentation": square_of} for image in (7, 8)])
    content["images"][0] |= picture
    if segmentation:
        content["annotations"][0]["segmentation"] = segmentation
    (tmp_path / "instances.json").write_text(json.dumps(content))
    out = tmp_path / "out"
    result = cli.run("label", "coco", tmp_path / "instances.json", pictures, "--out", out, "--val", 0)
    assert (result.code, result.errors.count("0, 'cup'")) == (1, 1), result.errors
    assert [path.name for path in out.glob("train/*.jpg")] == ["1.jpg"]


def test_a_recording_is_validated_by_its_end_and_other_pictures_by_their_names(pictures, tmp_path):
    frames = tmp_path / "frames"
    frames.mkdir()
    for index in range(20):
        shutil.copy(pictures / "1.jpg", frames / f"{index}.jpg")
    found = {"answers": [answered(index, "segment the cup", square(5)) for index in range(20)]}
    (tmp_path / "cups.json").write_text(json.dumps(found))
    out = tmp_path / "recorded"
    assert cli.run("label", "answers", tmp_path / "cups.json", frames, "--out", out, "--val", 0.2).code == 0
    assert sorted(path.stem for path in out.glob("val/*.jpg")) == [f"frame_{index:06}" for index in range(16, 20)]
    validated = {}
    for query, indices in (("cup", range(20)), ("plate", range(0, 20, 2))):
        for index in indices:
            (tmp_path / query / query).mkdir(parents=True, exist_ok=True)
            Image.fromarray(square(5)).save(tmp_path / query / query / f"{index}.png")
        out = tmp_path / f"{query} labels"
        assert cli.run("label", "png", frames, tmp_path / query, "--out", out, "--val", 0.4).code == 0
        validated[query] = {path.stem for path in out.glob("val/*.jpg")}
        assert 1 < len(validated[query]) < len(indices) - 1
    assert validated["plate"] == {name for name in validated["cup"] if not int(name) % 2}


def test_json_with_a_byte_order_mark_is_read(pictures, tmp_path):
    content = instances([{"image_id": 7, "category_id": 1, "segmentation": [[5, 10, 15, 10, 15, 20, 5, 20]]}])
    (tmp_path / "instances.json").write_text(json.dumps(content), encoding="utf-8-sig")
    result = cli.run("label", "coco", tmp_path / "instances.json", pictures, "--out", tmp_path / "out")
    assert result.code == 0, result.errors


def test_two_pictures_of_coco_with_one_name_are_told(pictures, tmp_path):
    content = instances([{"image_id": 7, "category_id": 1, "segmentation": [[5, 10, 15, 10, 15, 20, 5, 20]]}])
    content["images"][1]["file_name"] = "night/0.jpg"
    (tmp_path / "instances.json").write_text(json.dumps(content))
    result = cli.run("label", "coco", tmp_path / "instances.json", pictures, "--out", tmp_path / "out")
    assert (result.code, "has several pictures named 0; give each" in " ".join(result.errors.split())) == (1, True)


@pytest.mark.parametrize("content", ["{", "[]", '{"images": []}'])
def test_what_is_no_coco_is_told(pictures, tmp_path, content):
    (tmp_path / "instances.json").write_text(content)
    result = cli.run("label", "coco", tmp_path / "instances.json", pictures, "--out", tmp_path / "out")
    assert (result.code, "instances.json" in result.errors) == (1, True)


def answered(frame, question, mask, score=0.9, **more):
    segments = [{"box": [0, 0, 1, 1], "area": 1, "score": score, "mask": packed_by_coco(mask)}]
    return {"frame": frame, "stamp": {"sec": 1, "nanosec": 0}, "question": question, "segments": segments, **more}


def test_a_bag_without_ros_is_told(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "lisa_ros.bags", None)
    (tmp_path / "cups.json").write_text('{"answers": []}')
    result = cli.run("label", "answers", tmp_path / "cups.json", tmp_path / "drive1", "--out", tmp_path / "out")
    assert result.code == 1
    assert f"{tmp_path / 'drive1'} is no folder of pictures, and a bag needs ROS and lisa_ros" in result.errors


def two_of(frame, *scores):
    """An answer with two segments."""
    answers = [answered(frame, "segment the cup", square(30 * index), score) for index, score in enumerate(scores)]
    return answers[0] | {"segments": [segment for answer in answers for segment in answer["segments"]]}


def test_accepted_answers_become_a_data_set(pictures, tmp_path):
    content = {
        "run": {},
        "answers": [
            answered(0, "segment the cup", square(5)),
            answered(3, "segment the cup", square(30)),
            answered(4, "segment the cup", square(30), score=0.2),
            two_of(2, 0.9, 0.2),
            two_of(1, 0.9, 0.5),
            {"frame": 2, "stamp": {"sec": 1, "nanosec": 0}, "question": "segment the cup", "error": "no"},
            answered(1, "segment the cup", square(30), score=None),
        ],
    }
    (tmp_path / "cups.json").write_text(json.dumps(content))
    words = ("label", "answers", tmp_path / "cups.json", pictures, "--min-score", 0.5)
    result = cli.run(*words, "--out", tmp_path / "out", "--val", 0.5)
    assert (result.code, "has no score" in result.errors) == (1, True)
    found = samples(tmp_path / "out")
    assert {name: (sample.truth == TARGET).sum() for (_, name), sample in found.items()} == {
        "frame_000000.jpg": 100,
        "frame_000001.jpg": 200,
        "frame_000003.jpg": 100,
    }
    assert {sample.question for sample in found.values()} == {" segment the cup Please output segmentation mask."}
    (tmp_path / "cups.json").write_text('{"answers": [{"segments": [{}]}]}')
    assert "has no answers of a replay" in cli.run(*words, "--out", tmp_path / "other").errors


def test_frames_are_the_pictures_of_a_folder_whatever_else_is_beside_them(pictures, tmp_path):
    Image.new("RGB", (64, 48)).save(pictures / "0007.png")
    (pictures / "0007.json").write_text("{}")
    (tmp_path / "cups.json").write_text(json.dumps({"answers": [answered(7, "segment the cup", square(5))]}))
    result = cli.run("label", "answers", tmp_path / "cups.json", pictures, "--out", tmp_path / "out")
    assert result.code == 0, result.errors


def test_output_that_is_lost_is_told_and_the_labels_are_written(pictures, tmp_path):
    (tmp_path / "cups.json").write_text(json.dumps({"answers": [answered(0, "segment the cup", square(5))]}))
    words = ["label", "answers", str(tmp_path / "cups.json"), str(pictures), "--out", str(tmp_path / "out")]
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            [sys.executable, "-c", f"from lisa_core.cli import main; main({words})"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert (ended.returncode, "error: Standard output is full or closed" in ended.stderr) == (1, True), ended.stderr
    assert len(open_split(tmp_path / "out", "train").entries) == 1


def scenes_with_a_teapot(folder):
    """Three scenes: a teapot among other things, two teapots, and no teapot."""
    mug, can, ball = ("mug", "red", -0.1, 0.0), ("can", "blue", 0.1, 0.02), ("ball", "green", 0.0, -0.1)
    for index, things in enumerate(
        [
            (mug, ("teapot", "blue", 0.0, 0.05), can, ball, ("ball", "red", 0.1, -0.1)),
            (("teapot", "blue", -0.1, 0.0), ("teapot", "red", 0.1, 0.0)),
            (mug, can, ball),
        ]
    ):
        view = view_of(*things)
        StoredScene(folder, index).write(view, Scene(index, view.things, *_SCENERY))


_SCENERY = (sample_scene(0).surroundings, sample_scene(0).light, sample_scene(0).viewpoint)


def test_rendered_scenes_become_a_data_set(tmp_path):
    scenes_with_a_teapot(tmp_path)
    words = ("label", "tabletop", tmp_path, "--kind", "teapot", "--question", "What can tea be poured from?")
    result = cli.run(*words, "--out", tmp_path / "out", "--val", 0)
    assert result.code == 0, result.errors
    teapot = StoredScene(tmp_path, 0).read().mask(1)
    paths = sorted((tmp_path / "out").glob("train/*.json"))
    name, sentences = map(read_annotation, paths)
    assert (name.texts, name.is_sentence, name.answers) == (("teapot",), False, ())
    assert sentences.texts[0] == "What can tea be poured from?"
    assert all("teapot" in text.lower() for text in sentences.texts[1:])
    assert 4 <= len(set(sentences.texts)) == len(sentences.texts) <= 7
    assert set(sentences.answers) == {"The blue teapot is [SEG]."}
    for path in paths:
        assert np.array_equal(rasterize(read_annotation(path).polygons, teapot.shape) == TARGET, teapot)
        assert path.with_suffix(".jpg").read_bytes() == (tmp_path / "000000.jpg").read_bytes()


def test_what_was_known_is_asked_beside_it_with_true_answers(tmp_path):
    scenes_with_a_teapot(tmp_path)
    out = tmp_path / "out"
    words = ("label", "tabletop", tmp_path, "--kind", "teapot", "--others", 40, "--out", out, "--val", 0)
    assert cli.run(*words).code == 0
    view = StoredScene(tmp_path, 0).read()
    by_name = {"mug": 0, "can": 2}
    found = [each for each in map(read_annotation, out.glob("train/*.json")) if len(each.answers) == 1]
    assert len(found) == 40
    shown, silent, several = [], [], 0
    for annotation in found:
        (answer,) = annotation.answers
        truths = [rasterize(polygons, view.owner.shape) == TARGET for polygons in annotation.targets_of(answer)]
        (shown if "[SEG]" in answer else silent).append(answer)
        assert all(truth.any() for truth in truths)
        several += len(truths) > 1
        for kind, index in by_name.items():
            for place, clause in enumerate(answer.split("[SEG]")[:-1]):
                if clause.strip(" ,").lower().removeprefix("and ") in (f"the red {kind} is", f"the blue {kind} is"):
                    assert np.array_equal(truths[place], view.mask(index))
    assert several > 2
    assert any("There is no" in answer for answer in silent)
    assert len({answer.split("[SEG]")[0] for answer in shown}) > 3


def test_the_same_scenes_give_the_same_labels_and_none_of_others_unless_asked_for(tmp_path):
    scenes_with_a_teapot(tmp_path)
    contents = []
    for out in (tmp_path / "one", tmp_path / "two"):
        assert cli.run("label", "tabletop", tmp_path, "--kind", "teapot", "--out", out, "--val", 0).code == 0
        contents.append({path.name: path.read_bytes() for path in out.glob("train/*")})
    assert contents[0] == contents[1]
    assert len(contents[0]) == 4


def test_reminders_of_what_was_known_need_no_kind(tmp_path):
    scenes_with_a_teapot(tmp_path)
    out = tmp_path / "out"
    result = cli.run("label", "tabletop", tmp_path, "--others", 5, "--out", out, "--val", 0)
    assert result.code == 0, result.errors
    found = [read_annotation(path) for path in sorted(out.glob("train/*.json"))]
    scenes = len(list(tmp_path.glob("*.json")))
    assert scenes > 1  # one of them without a teapot
    assert len(found) == 5 * scenes
    assert all(len(each.answers) == 1 for each in found)
    for words in ((), ("--question", "What is tea poured from?", "--others", 5)):
        refused = cli.run("label", "tabletop", tmp_path, *words, "--out", tmp_path / "none", "--val", 0)
        assert (refused.code, "--kind" in refused.errors) == (2, True)


def test_scenes_that_will_not_do_are_told(tmp_path):
    scenes_with_a_teapot(tmp_path)
    (tmp_path / "000002.png").unlink()
    words = ("label", "tabletop", tmp_path, "--out", tmp_path / "out")
    damaged = cli.run(*words, "--kind", "teapot", "--val", 0)
    assert (damaged.code, "000002 cannot be read" in damaged.errors) == (1, True)
    assert len(list((tmp_path / "out").glob("train/*.json"))) == 2
    for index in (0, 2):
        (tmp_path / f"{index:06d}.json").unlink()
    lacking = cli.run("label", "tabletop", tmp_path, "--kind", "toy car", "--out", tmp_path / "none")
    assert (lacking.code, "render --with 'toy car'" in lacking.errors) == (1, True)
    assert not (tmp_path / "none").exists()
    assert cli.run(*words, "--kind", "unicorn").code == 2


def test_help_teaches():
    assert "lisa finetune" in cli.run("label", "png", "--help").out
    assert cli.run("label", "--help").code == 0


def test_two_pictures_of_one_number_are_told_apart_by_nobody(tmp_path):
    frames = tmp_path / "frames"
    frames.mkdir()
    for name in ("left_3.jpg", "right_3.jpg", "left_4.jpg"):
        Image.new("RGB", (64, 48)).save(frames / name)
    found = {"answers": [answered(number, "segment the cup", square(5)) for number in (3, 4)]}
    (tmp_path / "cups.json").write_text(json.dumps(found))
    words = ("label", "answers", tmp_path / "cups.json", frames, "--out", tmp_path / "out", "--val", 0)
    result = cli.run(*words)
    assert result.code == 1
    assert f"left_3.jpg and right_3.jpg in {frames} both end in 3" in " ".join(result.errors.split())
    assert [path.stem for path in (tmp_path / "out" / "train").glob("*.json")] == ["frame_000004"]


def test_a_single_picture_is_told_to_be_too_few(pictures, tmp_path):
    masks = tmp_path / "masks" / "cup"
    masks.mkdir(parents=True)
    Image.fromarray(square(5).astype(np.uint8) * 255).save(masks / "0.png")
    words = ("label", "png", pictures, tmp_path / "masks", "--out")
    result = cli.run(*words, tmp_path / "out")
    assert result.code == 0
    assert "1 label to learn, 0 to validate" in result.out
    assert "label another" in result.errors
    assert "label another" not in cli.run(*words, tmp_path / "reminders", "--val", 0).errors
