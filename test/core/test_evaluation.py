"""Evaluation: equal to the authors' validation, cases counted by hand, and damaged data."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from goldens import GOLDENS, case
from PIL import Image

from lisa_core import overlay
from lisa_core.datasets.reasonseg import (
    IGNORED,
    TARGET,
    Polygon,
    open_split,
    question,
    rasterize,
    read_annotation,
    read_explanations,
)
from lisa_core.errors import DatasetError, ImageError
from lisa_core.evaluation import masks_report
from lisa_core.evaluation.journal import Journal
from lisa_core.evaluation.masks import Result, evaluate, evaluate_together, unpacked
from lisa_core.evaluation.metrics import Overlap, overlap, score
from lisa_core.files import mask_png

REASONSEG = GOLDENS / "reasonseg"
EXPECTED = json.loads((REASONSEG / "expected_val.json").read_text())
SHARE_OF_PIXELS = 1e-4
"""Accepted share of differing pixels; outlines of ground truths differ by less between versions of OpenCV."""

SQUARE = [[1, 1], [4, 1], [4, 4], [1, 4]]


def annotation(label="target", points=SQUARE, **changes):
    shapes = [{"label": label, "points": points}]
    return {"text": ["a cup"], "is_sentence": False, "shapes": shapes, **changes}


def of_kind(kind, points):
    return annotation(shapes=[{"label": "target", "points": points, "shape_type": kind}])


@pytest.fixture
def split(tmp_path):
    """`split(**{"cup.json": content})`: a folder val with one good picture, and these files."""

    def made(**contents):
        folder = tmp_path / "data" / "val"
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 6)).save(folder / "cup.jpg")
        for name, content in {"cup.json": annotation(), **contents}.items():
            path = folder / name
            if content is None:
                path.unlink(missing_ok=True)
            else:
                path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        return folder

    return made


def polygon(points, value=TARGET, number=1):
    return Polygon(number, value, np.array(points, np.int32))


# what the authors' validation gives


@pytest.fixture(scope="module")
def results(v1):
    return [evaluate(v1, entry) for entry in open_split(REASONSEG, "val").entries]


def test_overlaps_are_those_of_the_authors(results):
    for result, expected in zip(results, EXPECTED["images"], strict=True):
        slack = SHARE_OF_PIXELS * result.mask.size
        assert (result.image, result.query) == (expected["image"], expected["query"])
        assert result.length == ("long" if expected["is_sentence"] else "short")
        assert abs(result.overlap.intersection - expected["intersection"]) <= slack
        assert abs(result.overlap.union - expected["union"]) <= slack
        assert result.overlap.iou == pytest.approx(expected["iou"], abs=2e-4)


def test_scores_are_those_of_the_authors(results):
    total = score([result.overlap for result in results])
    assert total.giou == pytest.approx(EXPECTED["giou"], abs=1e-4)
    assert total.ciou == pytest.approx(EXPECTED["ciou"], abs=1e-4)


def test_scores_of_the_recorded_overlaps_are_exact():
    overlaps = [Overlap(image["intersection"], image["union"]) for image in EXPECTED["images"]]
    assert [each.iou for each in overlaps] == pytest.approx([image["iou"] for image in EXPECTED["images"]], rel=1e-6)
    assert score(overlaps).giou == pytest.approx(EXPECTED["giou"], rel=1e-6)
    assert score(overlaps).ciou == pytest.approx(EXPECTED["ciou"], rel=1e-6)


def test_prompts_are_those_of_the_authors(small):
    for entry, expected in zip(open_split(REASONSEG).entries, EXPECTED["images"], strict=True):
        sample = entry.read()
        answer = small.ask(small.encode(sample.image), sample.question, mask_only=True)
        assert [*answer.prompt_ids, *answer.token_ids] == expected["input_ids"]


def test_the_mask_kept_is_the_mask_counted(small):
    entry = open_split(REASONSEG).entries[1]
    result = evaluate(small, entry)
    assert overlap(result.mask, entry.read().truth) == result.overlap


def test_generated_takes_the_union_of_all_masks(small, split):
    asked = case("v1-two_masks")
    folder = split(**{"cup.json": annotation(text=[asked.instruction], answers=["It is [SEG]."])})
    Image.fromarray(asked.rgb).save(folder / "cup.jpg")
    (entry,) = open_split(folder).entries
    answer = small.ask(small.encode(entry.read().image), asked.instruction)
    result = evaluate(small, entry, "generated")
    first, second = (segment.mask for segment in answer.segments)
    assert result.answer == answer.text
    assert np.array_equal(result.mask, first | second)
    assert not np.array_equal(first, second)


def test_what_has_answers_is_asked_as_it_stands_and_nobody_is_led_to_a_mask(small, tmp_path):
    entry = open_split(REASONSEG).entries[0]
    for name, more in (("a", {}), ("b", {"answers": ["It is [SEG]."]})):
        content = {**json.loads(entry.annotation.read_bytes()), "text": ["Where is it?"], **more}
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
        shutil.copy(entry.picture, tmp_path / f"{name}{entry.picture.suffix}")
    led, free = open_split(tmp_path).entries
    assert read_annotation(free.annotation).answers == ("It is [SEG].",)
    assert (free.read().question, free.read().answered) == ("Where is it?", True)
    assert not led.read().answered
    frame = small.encode(free.read().image)
    said = small.ask(frame, "Where is it?", max_new_tokens=8).text
    assert evaluate(small, free, max_new_tokens=8).answer == said != evaluate(small, led, max_new_tokens=8).answer
    together = evaluate_together(small, (free, led), "teacher-forced", 8)
    assert [result.answer for result in together] == [said, evaluate(small, led).answer]


# counted by hand


def test_ignored_pixels_count_for_neither():
    truth = np.array([[TARGET, TARGET, 0, IGNORED, IGNORED]], np.uint8)
    assert overlap(np.array([[True, False, True, True, False]]), truth) == Overlap(1, 3)


def test_nothing_to_find_and_nothing_found_is_one():
    truth = np.full((2, 2), IGNORED, np.uint8)
    assert overlap(np.ones((2, 2), bool), truth).iou == 1.0


def test_something_found_where_nothing_is_is_zero():
    assert overlap(np.ones((2, 2), bool), np.zeros((2, 2), np.uint8)).iou == 0.0


def test_giou_is_the_mean_and_ciou_the_share_of_all_pixels():
    total = score([Overlap(1, 2), Overlap(0, 6)])
    assert total.giou == pytest.approx(0.25, abs=1e-5)
    assert total.ciou == pytest.approx(1 / 8, abs=1e-9)


def test_no_images_have_no_score():
    assert (score([]).giou, score([]).ciou) == (None, None)


def test_masks_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r"\(2, 2\).*\(3, 3\)"):
        overlap(np.ones((2, 2), bool), np.zeros((3, 3), np.uint8))


# ground truth


def test_a_polygon_is_filled_with_its_outline():
    truth = rasterize([polygon(SQUARE)], (6, 8))
    assert truth[1:5, 1:5].min() == TARGET
    assert np.count_nonzero(truth) == 16


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_smaller_polygons_are_on_top(order):
    polygons = [polygon([[0, 0], [7, 0], [7, 5], [0, 5]], IGNORED), polygon(SQUARE, TARGET)]
    truth = rasterize([polygons[index] for index in order], (6, 8))
    assert (truth == TARGET).sum() == 16
    assert (truth == IGNORED).sum() == 32


def test_of_equal_polygons_the_first_is_on_top():
    truth = rasterize([polygon(SQUARE, IGNORED), polygon(SQUARE, TARGET)], (6, 8))
    assert (truth == IGNORED).sum() == 16


def test_polygons_are_cut_off_at_the_edge():
    truth = rasterize([polygon([[-5, -5], [3, -5], [3, 3], [-5, 3]])], (6, 8))
    assert np.count_nonzero(truth) == 16


def test_what_is_no_area_is_drawn_as_a_line_or_a_point_and_nothing_outside():
    outside = polygon([[100, 100], [110, 100], [105, 110]])
    line, point = polygon([[1, 2], [5, 2]]), polygon([[6, 4]], IGNORED)
    truth = rasterize([outside, line, point], (6, 8))
    assert truth.nonzero()[0].tolist() == [2] * 5 + [4]
    assert (truth[2, 1:6] == TARGET).all()
    assert truth[4, 6] == IGNORED


def test_what_is_ignored_may_lie_outside_of_what_nobody_asks_for(split):
    shapes = [
        {"label": "target", "points": SQUARE},
        {"label": "ignore", "points": [[100, 100], [110, 100], [105, 110]]},
    ]
    content = annotation(shapes=shapes, text=["dragon", "cup"], answers=["There is none.", "[SEG]."])
    assert not open_split(split(**{"cup.json": content})).entries[0].read().truth.any()


def test_coordinates_are_truncated(split):
    folder = split(**{"cup.json": annotation(points=[[1.9, 1.9], [4.9, 1.9], [4.9, 4.9], [1.9, 4.9]])})
    assert np.array_equal(read_annotation(folder / "cup.json").polygons[0].points, SQUARE)


def test_flags_are_left_out(split):
    assert not open_split(split(**{"cup.json": annotation("Flag")})).entries[0].read().truth.any()


@pytest.mark.parametrize("points", [[[4, 1], [1, 4]], [[1, 1], [4, 4]], SQUARE], ids=["two", "two others", "all"])
def test_a_rectangle_has_the_area_between_its_corners(split, points):
    truth = open_split(split(**{"cup.json": of_kind("rectangle", points)})).entries[0].read().truth
    assert np.array_equal(truth, rasterize([polygon(SQUARE)], (6, 8)))


@pytest.mark.parametrize("stated", [(8, 6), (8.0, 6.0), (None, None), (8, None), (True, True)])
def test_the_size_that_was_labelled_may_be_stated(split, stated):
    folder = split(**{"cup.json": annotation(imageWidth=stated[0], imageHeight=stated[1])})
    assert open_split(folder).entries[0].read().truth.any()


@pytest.mark.parametrize("orientation", [1, 3, 5, 6, 7, 8])
def test_a_picture_on_its_side_may_have_its_size_stated_either_way(split, orientation):
    folder = split()
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (8, 6)).save(folder / "cup.jpg", exif=exif)
    for width, height in ((8, 6), (6, 8), (8, 8)):
        (folder / "cup.json").write_text(json.dumps(annotation(imageWidth=width, imageHeight=height)))
        entry = open_split(folder).entries[0]
        if (width, height) == (8, 6) or (width != height and orientation > 4):
            assert np.array_equal(entry.read().truth, rasterize([polygon(SQUARE)], entry.read().image.shape[:2]))
        else:
            with pytest.raises(DatasetError, match=r"cup\.json: it was labelled at"):
                entry.read()


# files


def test_questions():
    assert question("Why?", True) == " Why? Please output segmentation mask."
    assert question("the cup", False) == " What is the cup in this image? Please output segmentation mask."


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252"])
def test_encodings(split, encoding):
    content = json.dumps(annotation(text=["café"]), ensure_ascii=False).encode(encoding)
    assert open_split(split(**{"cup.json": content})).entries[0].read().query == "café"


def test_a_split_or_the_folder_itself(split):
    folder = split()
    entries = open_split(folder.parent).entries
    assert [entry.name for entry in entries] == ["cup.jpg"]
    assert open_split(folder).entries == entries == open_split(folder.parent, "val").entries


def test_explanations(split):
    folder = split()
    path = folder.parent / "explanatory" / "val.json"
    path.parent.mkdir()
    path.write_text(json.dumps([{"image": "cup.jpg", "query": "a cup", "outputs": "It is round."}]))
    opened = open_split(folder)
    assert opened.explanations == {("cup.jpg", "a cup"): "It is round."}
    assert opened.explanation("cup.jpg", "a cup") == opened.explanation("cup.jpg", "what holds tea") == "It is round."
    assert opened.explanation("mug.jpg", "a cup") == ""
    item = {"image": "cup.jpg", "query": "a cup", "outputs": "It is red."}
    path.write_text(json.dumps([item, item]))
    assert len(read_explanations(path)) == 1
    path.write_text(json.dumps([item, {**item, "outputs": "It is blue."}]))
    with pytest.raises(DatasetError, match=r"item 2 answers .* again"):
        read_explanations(path)
    path.write_text("{}]")
    assert "val.json is damaged" in open_split(folder).faults[0]


def test_polygons_belong_to_the_mark_of_their_group(split):
    ids = ((0, "target"), (1, "target"), (1, "target"), (None, "ignore"))
    shapes = [{"label": label, "points": SQUARE, "group_id": group} for group, label in ids]
    content = annotation(shapes=shapes, text=["both", "all", "none"])
    content["answers"] = ["[SEG] and [SEG].", "All [SEG].", "None."]
    read = read_annotation(open_split(split(**{"cup.json": content})).entries[0].annotation)
    first, second = read.targets_of(read.answers[0])
    assert ([each.number for each in first], [each.number for each in second]) == ([1, 4], [2, 3, 4])
    assert read.targets_of(read.answers[1]) == [read.polygons]
    assert read.targets_of(read.answers[2]) == []
    assert read.first == read.polygons
    denied = replace(read, answers=tuple(reversed(read.answers)))
    assert [each.number for each in denied.first] == [4]


def test_the_truth_is_that_of_the_first_answer(split):
    shapes = [{"label": "target", "points": SQUARE}]
    content = annotation(shapes=shapes, text=["the mug", "the banana"])
    truths = {}
    for first, second in (("There is no mug.", "The banana is [SEG]."), ("The mug is [SEG].", "There is none.")):
        content["answers"] = [first, second]
        truths[first] = open_split(split(**{"cup.json": content})).entries[0].read().truth
    assert not truths["There is no mug."].any()
    assert (truths["The mug is [SEG]."] == TARGET).any()
    shapes[0]["points"] = [[100, 100], [110, 100], [105, 110]]  # checked nevertheless
    content["answers"] = ["There is no mug.", "The banana is [SEG]."]
    with pytest.raises(DatasetError, match="no polygon lies in the picture"):
        open_split(split(**{"cup.json": content})).entries[0].read()


BAD = {
    "cut off": (b'{"text": ["a', "is damaged, or no JSON: Unterminated string .* line 1, column 11"),
    "neither encoding": (b'"\x81\xff"', "neither UTF-8 nor cp1252"),
    "deep": (b"[" * 100_000, "nested too deeply"),
    "a list": ([], "no object with"),
    "no text": (annotation(text=[]), "`text` must be a list"),
    "text that is no list": (annotation(text="a cup"), "`text` must be a list"),
    "is_sentence": (annotation(is_sentence="no"), "`is_sentence` must be"),
    "is_sentence, a number": (annotation(is_sentence=2), "`is_sentence` must be"),
    "shapes": (annotation(shapes={}), "`shapes` must be"),
    "answers": (annotation(answers="no"), "`answers` must be"),
    "an answer too many": (annotation(answers=["[SEG]."] * 2), "`answers` has 2, but there are 1 texts"),
    "two masks in a file": (annotation(answers=["[SEG] and [SEG]."]), "2 .SEG., so each target needs the `group_id`"),
    "a mask without a polygon": (
        annotation(
            answers=["[SEG] and [SEG]."],
            shapes=[{"label": "target", "points": SQUARE, "group_id": group} for group in (0, 2)],
        ),
        "`group_id` of its own, 0 to 1",
    ),
    "no label": (annotation(shapes=[{"points": SQUARE}]), "polygon 1 has no label"),
    "text that begins with nothing": (annotation(text=[" ", "a cup"]), "`text` must be a list"),
    "a blank text that is answered": (annotation(text=["a cup", " "], answers=["[SEG]."] * 2), "`text` must be a list"),
    "no points": (annotation(points=[]), "polygon 1 must have `points`"),
    "points that are none": (annotation(points=[["a", 1]] * 3), "polygon 1 must have `points`"),
    "points of another kind": (annotation(points={"x": 1}), "polygon 1 must have `points`"),
    "beyond all numbers": (annotation(points=[[10**400, 1]] * 3), "polygon 1 must have `points`"),
    "not a number": (annotation(points=[[float("nan"), 1]] * 3), "polygon 1 must have `points`"),
    "far away": (annotation(points=[[2**31 - 1, 1]] * 3), "polygon 1 must have `points`"),
    "endless": (annotation(points=[[-(10**5), 0], [10**5, 1]] * 100), "polygon 1 has an outline of more than"),
    "a circle": (of_kind("circle", SQUARE[:2]), "shape 1 is a circle; draw it as a polygon"),
    "a mask": (of_kind("mask", SQUARE[::2]), "shape 1 is a mask; draw it as a polygon"),
    "a point": (of_kind("point", SQUARE[:1]), "shape 1 is a point; draw it as a polygon"),
    "a line": (of_kind("linestrip", SQUARE), "shape 1 is a linestrip; draw it as a polygon"),
    "three corners": (of_kind("rectangle", SQUARE[:3]), "shape 1 is a rectangle of 3 points; draw it as a polygon"),
    "another size": (
        annotation(imageWidth=640, imageHeight=480),
        "it was labelled at 640x480 px, but the picture is of 8x6; give the picture that was labelled",
    ),
    "on its side": (annotation(imageWidth=6, imageHeight=8), "it was labelled at 6x8 px, but the picture is of 8x6"),
    "outside": (annotation(points=[[100, 100], [110, 100], [105, 110]]), "no polygon lies in the picture, .* 8x6"),
}


@pytest.mark.parametrize(("content", "sentence"), BAD.values(), ids=BAD)
def test_a_bad_annotation_is_named(split, content, sentence):
    entry = open_split(split(**{"cup.json": content})).entries[0]
    with pytest.raises(DatasetError, match=rf"cup\.json.*{sentence}"):
        entry.read()


def test_what_the_authors_read_is_read(split):
    content = annotation(text=["the mug", " ", "a cup"], is_sentence=1)
    read = read_annotation(open_split(split(**{"cup.json": content})).entries[0].annotation)
    assert (read.texts, read.is_sentence) == (("the mug", "a cup"), True)


def test_a_bad_picture_is_named(split):
    with pytest.raises(ImageError, match=r"cup\.jpg is no picture"):
        open_split(split(**{"cup.jpg": b"no"})).entries[0].read()


def test_pictures_of_cameras_that_write_capitals_are_found(split):
    picture = (split() / "cup.jpg").read_bytes()
    found = open_split(split(**{"DSC_1.JPG": picture, "DSC_1.json": annotation()}))
    assert ([entry.name for entry in found.entries], found.faults) == (["DSC_1.JPG", "cup.jpg"], ())


def test_duplicates_and_singles_are_faults(split):
    split_ = open_split(split(**{"cup.png": b"", "alone.jpg": b"", "orphan.json": annotation()}))
    assert not split_.entries
    assert [sentence.split("/")[-1] for sentence in split_.faults] == [
        "alone.jpg has no alone.json beside it; label the picture, or move it away.",
        "val: cup.jpg and cup.png share cup.json; give each a name of its own.",
        "orphan.json has no picture beside it; put the one of its name there, or move it away.",
    ]


def test_nothing_there(tmp_path, split):
    with pytest.raises(DatasetError, match="not there"):
        open_split(tmp_path / "none")
    with pytest.raises(DatasetError, match="has no split test; it has val"):
        open_split(split().parent, "test")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match="is empty"):
        open_split(tmp_path / "empty")


def test_lines_of_a_journal_that_are_no_results_do_no_harm(split, tmp_path):
    (entry,) = open_split(split()).entries
    result = Result("cup.jpg", "a cup", "short", "[SEG].", Overlap(1, 2), b"")
    path = tmp_path / "out.journal"
    with Journal(path, {}, Result.packed, unpacked) as journal:
        journal.add(entry, result)
    path.write_bytes(b'5\n[1]\n"words"\n{}\n{"key": "a"}\nwords\n' + b"[" * 100_000 + b"\n" + path.read_bytes())
    with Journal(path, {}, Result.packed, unpacked) as journal:
        assert journal.find(entry) == result


def nothing_found():
    return Result("cup.jpg", "a cup", "short", "[SEG].", Overlap(0, 16), mask_png(np.zeros((6, 8), bool)))


def test_the_sheet_has_the_answer_on_the_left_and_the_truth_with_what_is_ignored_on_the_right(split):
    shapes = [{"label": "target", "points": SQUARE}, {"label": "ignore", "points": [[6, 1], [7, 1], [7, 4]]}]
    (entry,) = open_split(split(**{"cup.json": annotation(shapes=shapes)})).entries
    sample = entry.read()
    left, right = masks_report._panels(entry, nothing_found())
    assert np.array_equal(left.picture, sample.image)
    truth = overlay.regions([sample.truth == TARGET, sample.truth == IGNORED])
    assert np.array_equal(right.picture, overlay.draw(sample.image, truth))
    assert right.text == "target [SEG], ignored [SEG]"


def test_an_explanation_stands_with_its_image():
    for explanations in ({}, {("cup.jpg", "a cup"): "It holds tea."}):
        (image,) = masks_report.summary({}, [nothing_found()], [], [], explanations)["images"]
        assert image.get("explanation") == explanations.get(("cup.jpg", "a cup"))
