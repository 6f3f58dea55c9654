"""RefCOCO-style sets: each sentence is asked, masks are drawn as COCO does, and pickles are never read."""

import json
import pickle

import cli
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco
from test_cli_evaluate import FakeEngine

from lisa_core.datasets.coco import layers_of
from lisa_core.datasets.reasonseg import TARGET
from lisa_core.datasets.refcoco import RefCoco
from lisa_core.errors import DatasetError, OutOfMemoryError
from lisa_core.evaluation.masks import evaluate

WIDTH, HEIGHT = 64, 48


def right_of(x):
    return [[x, 0, WIDTH, 0, WIDTH, HEIGHT, x, HEIGHT]]


def reference(number, image, instance, split, *sentences):
    return {
        "ref_id": number,
        "image_id": image,
        "ann_id": instance,
        "split": split,
        "sentences": [{"sent": each} for each in sentences],
    }


@pytest.fixture
def folder(tmp_path):
    """Two pictures with an instance each: the left half of the first, the right quarter of the second."""
    data = tmp_path / "refcoco"
    (data / "images").mkdir(parents=True)
    for number in (1, 2):
        Image.new("RGB", (WIDTH, HEIGHT), (90 * number, 50, 20)).save(data / "images" / f"{number}.jpg")
    left = [[0, 0, 32, 0, 32, HEIGHT, 0, HEIGHT]]
    content = {
        "images": [{"id": number, "file_name": f"{number}.jpg"} for number in (1, 2)],
        "annotations": [
            {"id": 11, "image_id": 1, "segmentation": left},
            {"id": 12, "image_id": 2, "segmentation": right_of(48)},
        ],
    }
    (data / "instances.json").write_text(json.dumps(content))
    references = [
        reference(7, 2, 12, "val", "the right part"),
        reference(5, 1, 11, "val", "left half", "the half on the left"),
        reference(6, 1, 11, "testA", "left"),
    ]
    (data / "refs(unc).json").write_text(json.dumps(references))
    return data


def run(folder, engine, *arguments):
    out = folder.parent / "out.json"
    result = cli.run("evaluate", "refcoco", folder, "--json", out, "--checkpoint", "some", *arguments, load=engine.load)
    return result, json.loads(out.read_text()) if out.exists() else None


class Counting(FakeEngine):
    encoded = 0

    def encode(self, rgb):
        self.encoded += 1
        return rgb


def test_each_sentence_is_asked_and_each_picture_encoded_once(folder):
    engine = Counting()
    table, sheet = folder.parent / "out.csv", folder.parent / "worst.png"
    result, written = run(folder, engine, "--csv", table, "--sheet", sheet)
    assert result.code == 0, result.errors
    asked = [
        f" What is {words} in this image? Please output segmentation mask."
        for words in ("left half", "the half on the left", "the right part")
    ]
    assert engine.asked == [(words, True) for words in asked]
    assert engine.encoded == 2
    assert written["giou"] == pytest.approx(2 / 3, abs=1e-4)
    assert written["ciou"] == pytest.approx(2 * 32 / (3 * 32 + 16), abs=1e-4)
    assert [each["query"] for each in written["images"]] == ["left half", "the half on the left", "the right part"]
    assert len(table.read_text().splitlines()) == 4
    assert Image.open(sheet).width > 1000


def test_questions_about_a_picture_are_asked_at_once_and_alone_if_that_fails(folder):
    class Batches(Counting):
        batches = ()

        def ask_many(self, frame, instructions, **options):
            self.batches += (len(instructions),)
            if len(self.batches) == 1:
                raise OutOfMemoryError("No memory for two.")
            return super().ask_many(frame, instructions, **options)

    result, written = run(folder, engine := Batches())
    assert (result.code, result.errors) == (0, "")
    assert [each["query"] for each in written["images"]] == ["left half", "the half on the left", "the right part"]
    assert engine.batches == (2,)
    assert len(engine.asked) == 3


def test_a_real_engine_is_asked_as_it_would_be_one_by_one(folder, small, small_checkpoint):
    out = folder.parent / "out.json"
    for protocol in ("teacher-forced", "generated"):
        arguments = ("--protocol", protocol, "--max-new-tokens", 12, *cli.model(small_checkpoint))
        assert cli.run("evaluate", "refcoco", folder, "--json", out, *arguments).code == 0
        entries = RefCoco(folder).split("val").entries
        alone = [evaluate(small, entry, protocol, 12) for entry in entries]
        written = json.loads(out.read_text())["images"]
        assert [each["answer"] for each in written] == [each.answer for each in alone]
        assert [each["iou"] for each in written] == pytest.approx([each.overlap.iou for each in alone], abs=1e-3)


def test_generated_and_another_split(folder):
    engine = Counting()
    _, written = run(folder, engine, "--split", "testA", "--protocol", "generated")
    assert [mask_only for _, mask_only in engine.asked] == [False]
    assert (written["split"], written["protocol"], len(written["images"])) == ("testA", "generated", 1)


@pytest.mark.parametrize("seed", range(40))
def test_polygons_are_filled_as_by_cocos_own_code(seed):
    rng = np.random.default_rng(seed)
    polygons = [rng.uniform(-15, 75, 2 * rng.integers(3, 30)).round(rng.integers(0, 3)).tolist() for _ in range(3)]
    polygons[0] += polygons[0][-2:]  # a point twice
    polygons.append(rng.uniform(0, 60, 4).tolist())  # two points enclose nothing
    shapes = coco.frPyObjects(polygons, HEIGHT, WIDTH)
    assert np.array_equal(layers_of(polygons, (HEIGHT, WIDTH)), coco.decode(shapes).sum(axis=2))


def test_run_lengths_are_read_plain_and_packed():
    plain = {"size": [HEIGHT, WIDTH], "counts": [0, 48, 48 * 63]}
    packed = coco.frPyObjects(plain, HEIGHT, WIDTH)
    expected = np.arange(WIDTH) == np.zeros((HEIGHT, 1))
    for counts in (plain, packed | {"counts": packed["counts"].decode()}):
        assert np.array_equal(layers_of(counts, (HEIGHT, WIDTH)), expected)
    second = {"size": [HEIGHT, WIDTH], "counts": [48, 48, 48 * 62]}
    assert np.array_equal(
        layers_of([plain, second], (HEIGHT, WIDTH)), np.arange(WIDTH) <= np.ones((HEIGHT, 1))
    )  # RefCLEF


def test_a_pickle_is_not_read_and_the_way_to_json_works(folder, tmp_path):
    (folder / "refs(unc).json").rename(tmp_path / "kept.json")
    references = json.loads((tmp_path / "kept.json").read_text())
    (folder / "refs(unc).p").write_bytes(pickle.dumps(references))
    with pytest.raises(DatasetError, match="is a pickle, which runs code") as told:
        RefCoco(folder).split("val")
    code = str(told.value).split('python -c "')[1].rstrip('"')
    exec(code)
    assert len(RefCoco(folder).split("val").entries) == 3


def test_a_folder_without_references(folder):
    (folder / "refs(unc).json").unlink()
    with pytest.raises(DatasetError, match=r"has no refs\*\.json; give .* by --refs"):
        RefCoco(folder).split("val")


def test_several_files_of_references(folder):
    (folder / "refs(google).json").write_text("[]")
    with pytest.raises(DatasetError, match=r"choose one with --refs"):
        RefCoco(folder).split("val")
    assert len(RefCoco(folder, folder / "refs(unc).json").split("val").entries) == 3


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("refs(unc).json", "[{]", "damaged, or no JSON"),
        ("refs(unc).json", '[{"ref_id": 1}]', "is no list of references (KeyError"),
        ("instances.json", '{"images": 3}', "is no COCO file of instances"),
        ("refs(unc).json", "[]", "has no split val; it has none"),
    ],
)
def test_damaged_files(folder, name, content, sentence):
    (folder / name).write_text(content)
    result, written = run(folder, Counting())
    assert (result.code, written) == (1, None)
    assert sentence in " ".join(result.errors.split())


@pytest.mark.parametrize(("image", "instance"), [(3, 11), (1, 13)])
def test_what_is_missing_is_told_and_the_rest_goes_on(folder, image, instance):
    references = json.loads((folder / "refs(unc).json").read_text())
    lacking = reference(9, image, instance, "val", "nothing")
    (folder / "refs(unc).json").write_text(json.dumps([*references, lacking]))
    (folder / "images" / "1.jpg").write_bytes(b"no picture")
    result, written = run(folder, Counting())
    assert result.code == 1
    assert "reference 9 is about a picture or an instance" in " ".join(result.errors.split())
    assert [each["query"] for each in written["images"]] == ["the right part"]
    assert len(written["failed"]) == 2


def test_what_lacks_a_part_is_told_and_the_rest_goes_on(folder):
    references = json.loads((folder / "refs(unc).json").read_text())
    broken = [{"ref_id": 9, "split": "val", "sentences": []}, {"split": "val"}]
    (folder / "refs(unc).json").write_text(json.dumps([*broken, *references]))
    instances = json.loads((folder / "instances.json").read_text())
    del instances["images"][0]["file_name"]
    (folder / "instances.json").write_text(json.dumps(instances))
    result, written = run(folder, Counting())
    errors = " ".join(result.errors.split())
    assert result.code == 1
    assert "refs(unc).json: reference 9 has no ann_id, image_id." in errors
    assert "refs(unc).json: reference ? has no ann_id, image_id, ref_id, sentences." in errors
    assert "instances.json: picture 1 has no file_name." in errors
    assert [each["query"] for each in written["images"]] == ["the right part"]


def test_a_split_of_which_nothing_can_be_used_is_told_why(folder):
    (folder / "refs(unc).json").write_text(json.dumps([reference(9, 3, 11, "val", "nothing")]))
    split = RefCoco(folder).split("val")
    assert split.entries == ()
    assert ["reference 9 is about a picture or an instance" in fault for fault in split.faults] == [True]


def test_pictures_may_lie_elsewhere(folder, tmp_path):
    (folder / "images").rename(tmp_path / "elsewhere")
    _, written = run(folder, Counting(), "--images", tmp_path / "elsewhere")
    assert [each["query"] for each in written["images"]] == ["left half", "the half on the left", "the right part"]


def test_a_reference_is_another_once_its_picture_its_sentence_or_its_mask_changes(folder):
    def digest():
        return RefCoco(folder).split("testA").entries[0].digest()

    digests = [digest()]
    assert digest() == digests[0]
    instances = json.loads((folder / "instances.json").read_text())
    instances["annotations"][0]["segmentation"] = right_of(40)
    (folder / "instances.json").write_text(json.dumps(instances))
    digests.append(digest())
    (folder / "refs(unc).json").write_text(json.dumps([reference(6, 1, 11, "testA", "right")]))
    digests.append(digest())
    (folder / "images" / "2.jpg").replace(folder / "images" / "1.jpg")
    digests.append(digest())
    assert len(set(digests)) == 4


def test_a_picture_that_is_not_there_and_a_number_twice(folder):
    references = json.loads((folder / "refs(unc).json").read_text())
    (folder / "refs(unc).json").write_text(json.dumps([*references, reference(7, 2, 12, "val", "the right again")]))
    (folder / "images" / "1.jpg").unlink()
    result, written = run(folder, Counting())
    assert result.code == 1
    assert "the reference 7.1 is there twice; 'the right again' is left out" in result.errors
    assert [each["query"] for each in written["images"]] == ["the right part"]
    assert [each["image"] for each in written["failed"]] == ["1.jpg 5.1", "1.jpg 5.2"]


def test_sentences_are_asked_in_lower_case(folder):
    (folder / "refs(unc).json").write_text(json.dumps([reference(7, 2, 12, "val", " The RIGHT part ")]))
    _, written = run(folder, Counting())
    assert [each["query"] for each in written["images"]] == ["the right part"]


def test_overlapping_parts_are_no_target_and_no_parts_an_empty_one(folder):
    content = json.loads((folder / "instances.json").read_text())
    content["annotations"][1]["segmentation"] = [[4, 4, 24, 4, 24, 24, 4, 24], [14, 4, 34, 4, 34, 24, 14, 24]]
    (folder / "instances.json").write_text(json.dumps(content))
    truth = RefCoco(folder).split("val").entries[-1].read().truth
    assert [truth[10, x] for x in (2, 8, 18, 30)] == [0, TARGET, 2, TARGET]
    content["annotations"][1]["segmentation"] = []
    (folder / "instances.json").write_text(json.dumps(content))
    assert not RefCoco(folder).split("val").entries[-1].read().truth.any()


def test_names_of_splits_are_read_as_the_sets_own_code_reads_them(folder):
    splits = ("train", "val", "testA", "testB", "testAB", "test")
    references = [reference(number, 1, 11, split, split) for number, split in enumerate(splits)]
    (folder / "refs(unc).json").write_text(json.dumps(references))

    def found(name):
        return {entry.sentence for entry in RefCoco(folder).split(name).entries}

    assert found("testA") == {"testa", "testab"}
    assert found("testB") == {"testb", "testab"}
    assert found("testAB") == {"testab"}
    assert found("test") == {"test", "testa", "testb", "testab"}
    assert found("val") == {"val"}


def test_a_split_without_sentences(folder):
    (folder / "refs(unc).json").write_text(json.dumps([reference(5, 1, 11, "val")]))
    result, written = run(folder, Counting())
    assert (result.code, written) == (1, None)
    assert "has no sentences in its split val" in result.errors


@pytest.mark.parametrize(
    "segmentation",
    [
        None,
        "none",
        [[1, 2]],
        [[10**400, 0, 9, 0, 9, 9]],
        [[float("nan"), 0, 9, 0, 9, 9]],
        {"size": [48, 1], "counts": [0, 48]},
        {"size": [9, 9], "counts": [81]},
        {"size": [48, 64], "counts": [9]},
    ],
)
def test_damaged_masks(folder, segmentation):
    content = json.loads((folder / "instances.json").read_text())
    content["annotations"][1]["segmentation"] = segmentation
    (folder / "instances.json").write_text(json.dumps(content))
    result, written = run(folder, Counting())
    assert result.code == 1
    assert "the mask of reference 7.1 is damaged" in " ".join(result.errors.split())
    assert len(written["images"]) == 2
