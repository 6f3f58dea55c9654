"""`lisa segment`: the files hold the engine's answer, and are written all or none, whatever fails."""

import errno
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cli
import numpy as np
import pytest
from goldens import GOLDENS, V1, picture
from PIL import Image

from lisa_core import ImageError, OutOfMemoryError, answer_files, overlay
from lisa_core.answer import Answer, Segment
from lisa_core.answer_files import stems
from lisa_core.cli import main

QUESTION = "Please segment the two cups on the table."
IMAGES = GOLDENS / "images"
PORTRAIT, ODD, WIDE = IMAGES / "portrait_360x640.png", IMAGES / "odd_333x217.png", IMAGES / "wide_1280x720.jpg"


@pytest.fixture
def segment(small_checkpoint, tmp_path):
    """Runs the command on these pictures; what it writes goes to `tmp_path / "out"`."""

    def run(*arguments, question=QUESTION, **options):
        model = cli.model(small_checkpoint)
        return cli.run("segment", *arguments, "-q", question, *model, "--out", tmp_path / "out", **options)

    return run


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def pixels(path):
    return np.asarray(Image.open(path))


def record(path):
    return json.loads(path.read_text(encoding="utf-8"))


def test_the_files_hold_the_answer_of_the_engine(segment, out, small):
    result = segment(PORTRAIT)
    assert result.code == 0
    frame = small.encode(picture(PORTRAIT.name))
    answer = small.ask(frame, QUESTION)
    assert len(answer.segments) == 2
    masks = [f"portrait_360x640_mask_{index}.png" for index in range(2)]
    assert names(out) == ["portrait_360x640.json", *masks, "portrait_360x640_overlay.png"]
    found = record(out / "portrait_360x640.json")
    assert found["question"] == QUESTION
    assert found["text"] == answer.text
    assert found["segments"] == [
        {"box": list(segment.box), "area": segment.area, "score": segment.score, "mask": mask}
        for segment, mask in zip(answer.segments, masks, strict=True)
    ]
    assert set(found["timings"]) == set(frame.timings) | set(answer.timings)
    assert all(seconds >= 0 for seconds in found["timings"].values())
    for segment_, mask in zip(answer.segments, masks, strict=True):
        assert pixels(out / mask).dtype == np.uint8
        assert np.array_equal(pixels(out / mask), segment_.mask * 255)
    drawn = overlay.draw(frame.image, answer.segments)
    assert np.array_equal(pixels(out / "portrait_360x640_overlay.png"), drawn)


def test_question_answer_boxes_and_scores_are_printed(segment, small):
    result = segment(PORTRAIT)
    answer = small.ask(small.encode(picture(PORTRAIT.name)), QUESTION)
    assert QUESTION in result.out
    assert answer.text in result.out
    for segment_ in answer.segments:
        assert ", ".join(map(str, segment_.box)) in result.out
        assert f"{segment_.score:.3f}" in result.out
    assert result.errors == ""  # progress is for terminals


def test_a_score_that_is_no_number_leaves_valid_json():
    nothing = np.zeros(0, np.float32)
    answer = Answer("[SEG]", (Segment(np.ones((2, 2), bool), float("nan"), (0, 0, 2, 2), nothing, nothing),))
    written = answer_files.as_json(answer_files.record(answer_files.Names(Path(), "a"), "What?", answer, {}))
    assert b"NaN" not in written
    assert json.loads(written)["segments"][0]["score"] is None


def test_an_answer_without_masks_is_an_answer(segment, out):
    result = segment(WIDE, question="What is in this image?")
    assert result.code == 0
    assert names(out) == ["wide_1280x720.json", "wide_1280x720_overlay.png"]
    assert record(out / "wide_1280x720.json")["segments"] == []
    assert np.array_equal(pixels(out / "wide_1280x720_overlay.png"), picture(WIDE.name))


def test_options_come_to_the_engine(segment, out):
    assert segment(PORTRAIT, "--mask-only").code == 0
    assert record(out / "portrait_360x640.json")["text"] == "[SEG]."
    assert segment(PORTRAIT, "--max-segments", 1).code == 0
    assert len(record(out / "portrait_360x640.json")["segments"]) == 1
    assert segment(PORTRAIT, "--max-new-tokens", 2).code == 0
    assert len(record(out / "portrait_360x640.json")["segments"]) == 0


def test_options_of_the_model_come_to_the_engine(tmp_path, small):
    asked = {}

    def load(**options):
        asked.update(options)
        return Lent(small)

    arguments = ["--checkpoint", "them", "--precision", "nf4", "--device", "cuda:1", "--vision-tower", "it"]
    more = ["--template", "llava_llama_2", "--memory-limit", "7.5", "--out", tmp_path / "out"]
    assert cli.run("segment", PORTRAIT, "-q", "what", *arguments, *more, load=load).code == 0
    asked.pop("on_progress")
    assert asked == {
        "checkpoint": "them",
        "precision": "nf4",
        "device": "cuda:1",
        "vision_tower": "it",
        "template": "llava_llama_2",
        "memory_limit": 7.5,
    }
    cli.run("segment", PORTRAIT, "-q", "what", "--checkpoint", "them", "--out", tmp_path / "out", load=load)
    assert (asked["precision"], asked["device"], asked["vision_tower"], asked["template"]) == ("auto", None, None, None)


class Lent:
    """An engine that ignores `close()`, and can fail for some pictures."""

    def __init__(self, engine, fail=None):
        self._engine, self._fail = engine, fail

    def encode(self, rgb):
        if self._fail:
            self._fail(rgb)
        return self._engine.encode(rgb)

    def ask(self, *arguments, **options):
        return self._engine.ask(*arguments, **options)

    def close(self):
        pass


def test_bad_pictures_among_good_ones(segment, out, tmp_path):
    (tmp_path / "words.png").write_text("no picture")
    (tmp_path / "cut.png").write_bytes(PORTRAIT.read_bytes()[:5000])
    (tmp_path / "folder").mkdir()
    bad = [tmp_path / name for name in ("words.png", "cut.png", "folder", "nowhere.png")]
    result = segment(bad[0], PORTRAIT, *bad[1:], ODD)
    assert result.code == 1
    for path in bad:
        assert result.errors.count(f"error: {path} is ") == 1
    assert "Traceback" not in result.errors
    assert [name for name in names(out) if name.endswith(".json")] == ["odd_333x217.json", "portrait_360x640.json"]


def test_without_any_picture_no_model_is_loaded(tmp_path):
    def load(**_):
        raise AssertionError

    result = cli.run("segment", tmp_path / "a.png", tmp_path, "-q", "what", "--checkpoint", "x", load=load)
    assert result.code == 1
    assert "a.png is not there" in result.errors
    assert f"{tmp_path} is a folder" in result.errors


def test_one_that_is_too_large_for_the_memory(tmp_path, small):
    def fail(rgb):
        if rgb.shape[0] == 217:
            raise OutOfMemoryError("cuda:0 ran out of memory on this question.")

    options = ["-q", QUESTION, "--checkpoint", "x", "--out", tmp_path]
    result = cli.run("segment", ODD, PORTRAIT, *options, load=lambda **_: Lent(small, fail))
    assert result.code == 1
    assert f"{ODD}: cuda:0 ran out of memory" in result.errors
    assert (tmp_path / "portrait_360x640.json").is_file()


def test_pictures_of_one_name_do_not_overwrite_each_other(segment, out, tmp_path):
    for folder, source in (("left", PORTRAIT), ("right", ODD)):
        (tmp_path / folder).mkdir()
        shutil.copyfile(source, tmp_path / folder / "000.png")
    assert segment(tmp_path / "left" / "000.png", tmp_path / "right" / "000.png").code == 0
    assert pixels(out / "000_overlay.png").shape[:2] == (640, 360)
    assert pixels(out / "000_2_overlay.png").shape[:2] == (217, 333)
    assert record(out / "000_2.json")["segments"][0]["mask"] == "000_2_mask_0.png"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["a/x.png", "b/x.jpg", "x.gif"], ["x", "x_2", "x_3"]),
        (["a/x.png", "b/x.png", "x_2.png"], ["x", "x_3", "x_2"]),
        (["x_2.png", "a/x.png", "b/x.png"], ["x_2", "x", "x_3"]),
        (["a/x.png", "b/X.png"], ["x", "X_2"]),
        (["x.png", "x.png"], ["x"]),
        ([".hidden", "two.dots.png"], [".hidden", "two.dots"]),
    ],
)
def test_names_of_results(given, expected):
    assert list(stems([Path(path) for path in given]).values()) == expected


@pytest.mark.parametrize("content", [{"text": ["a cup"], "shapes": []}, [], {"segments": []}])
def test_labels_beside_a_picture_are_never_replaced(segment, out, content):
    """ReasonSeg and LabelMe name them like the picture."""
    out.mkdir()
    source = out / "cup.png"
    shutil.copyfile(PORTRAIT, source)
    labels = source.with_suffix(".json")
    labels.write_text(json.dumps(content))
    result = segment(source)
    assert result.code == 1
    assert f"{source}: {labels} is there and is no answer of an earlier run; choose another --out." in result.errors
    assert json.loads(labels.read_text()) == content
    assert names(out) == ["cup.json", "cup.png"]


def test_a_picture_that_was_given_is_never_replaced(segment, out):
    out.mkdir()
    source, other = out / "cup.png", out / "cup_overlay.png"
    shutil.copyfile(PORTRAIT, source)
    shutil.copyfile(PORTRAIT, other)
    result = segment(source, other)
    assert result.code == 1
    assert f"{source}: its result {other} would replace a picture that was given" in result.errors
    assert other.read_bytes() == PORTRAIT.read_bytes()
    assert "cup_overlay.json" in names(out)
    assert "cup.json" not in names(out)


def test_masks_of_an_earlier_answer_go(segment, out):
    segment(PORTRAIT)
    (out / "portrait_360x640_mask_7.png").write_text("somebody's")
    segment(PORTRAIT, "--max-segments", 1)
    assert [name for name in names(out) if "mask" in name] == [
        "portrait_360x640_mask_0.png",
        "portrait_360x640_mask_7.png",
    ]


@pytest.mark.parametrize(
    "content",
    ["{}", "[]", "5", "a diary", '{"segments": [{}]}', '{"segments": 1}', pytest.param("[" * 100_000, id="deep")],
)
def test_what_is_no_earlier_answer_is_never_replaced(tmp_path, content):
    there = answer_files.Names(tmp_path, "cup")
    there.json.write_text(content)
    there.mask(0).write_text("somebody's")
    with pytest.raises(ImageError, match=r"cup\.json is there and is no answer"):
        answer_files.replace(there, {there.mask(0): b"new", there.json: b"new"})
    assert (there.json.read_text(), there.mask(0).read_text()) == (content, "somebody's")


def test_other_masks_than_an_earlier_answer_names_stay(tmp_path):
    there = answer_files.Names(tmp_path, "cup")
    segment = {"mask": "saucer_mask_0.png"}
    there.json.write_text(json.dumps({"question": "a cup", "text": "[SEG]", "segments": [segment]}))
    there.mask(0).write_text("somebody's")
    answer_files.replace(there, {there.json: b"new"})
    assert (there.json.read_text(), there.mask(0).read_text()) == ("new", "somebody's")


def test_masks_are_upright_like_the_picture(segment, out, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 8
    Image.open(PORTRAIT).save(tmp_path / "turned.png", exif=exif)
    assert segment(tmp_path / "turned.png").code == 0
    assert pixels(out / "turned_mask_0.png").shape == (360, 640)


def test_on_a_full_disk_a_picture_fails_and_nothing_half_stays(segment, out, monkeypatch):
    synchronise = os.fsync
    calls = []

    def full(file):
        calls.append(file)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        synchronise(file)

    monkeypatch.setattr(os, "fsync", full)
    result = segment(PORTRAIT, ODD)
    assert result.code == 1
    assert f"{PORTRAIT}: No space left on device: {out / 'portrait_360x640_overlay.png'}" in result.errors
    assert names(out) == ["odd_333x217.json", "odd_333x217_mask_0.png", "odd_333x217_overlay.png"]


def test_files_that_may_not_grow_fail_the_picture(small_checkpoint, out):
    """Acts like a full disk: the kernel refuses the overlay, which exceeds the largest file, but not the masks."""

    def limited():
        resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    command = "from lisa_core.cli import main; main()"
    words = ["segment", ODD, "-q", QUESTION, *cli.model(small_checkpoint), "--out", out]
    end = subprocess.run(
        [sys.executable, "-c", command, *map(str, words)],
        preexec_fn=limited,
        capture_output=True,
        text=True,
        check=False,
    )
    assert end.returncode == 1
    assert f"{ODD}: File too large: {out / 'odd_333x217_overlay.png'}" in " ".join(end.stderr.split())
    assert "Traceback" not in end.stderr
    assert names(out) == []


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    result = cli.run("segment", PORTRAIT, "-q", "what", "--checkpoint", "x", "--out", tmp_path / "file" / "out")
    assert result.code == 1
    assert f"Not a directory: {tmp_path / 'file'}" in result.errors


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([PORTRAIT, "--checkpoint", "x"], "Missing option '--question'"),
        (["-q", "what", "--checkpoint", "x"], "Missing argument 'IMAGE"),
        ([PORTRAIT, "-q", "what", "--checkpoint", "x", "--precision", "int4"], "'int4' is not one of 'auto', 'nf4'"),
        ([PORTRAIT, "-q", "what", "--checkpoint", "x", "--max-new-tokens", "0"], "--max-new-tokens"),
        ([PORTRAIT, "-q", "what", "--checkpoint", "x", "--nonsense"], "No such option: --nonsense"),
    ],
)
def test_wrong_usage(arguments, sentence):
    result = cli.run("segment", *arguments)
    assert result.code == 2
    assert sentence in result.errors


def test_a_checkpoint_that_is_none(tmp_path):
    result = cli.run("segment", PORTRAIT, "-q", "what", "--checkpoint", tmp_path, "--out", tmp_path)
    assert result.code == 1
    assert result.errors == (
        f"error: {tmp_path} is no checkpoint: it has no config.json. Give the folder that holds it."
    )


@pytest.mark.parametrize("question", ["", "   ", "word " * 10_000])
def test_questions_that_cannot_be_asked(segment, out, question):
    result = segment(PORTRAIT, ODD, question=question)
    assert result.code == 1
    assert result.errors.count("error: ") == 2
    assert "Traceback" not in result.errors
    assert names(out) == []


def test_a_question_with_anything_in_it_is_words(segment, out):
    question = "segment [bold]the[/bold] <image> [SEG] </s> \N{HOT BEVERAGE} \udcff\x1b[31m"
    result = segment(ODD, question=question)
    assert result.code == 0
    assert record(out / "odd_333x217.json")["question"] == question.replace("\udcff", "\ufffd")
    assert "[bold]the[/bold] <image> [SEG] </s>" in result.out
    assert "\x1b" not in result.out


def test_ctrl_c_ends_it_and_leaves_nothing_half(out, tmp_path):
    script = tmp_path / "slow.py"
    script.write_text(
        "import time\n"
        "from lisa_core.cli import main\n"
        "class Slow:\n"
        "    def encode(self, rgb):\n"
        "        print('encoding', flush=True)\n"
        "        time.sleep(60)\n"
        "    def close(self):\n"
        "        print('closed', flush=True)\n"
        "main(load=lambda **_: Slow())\n"
    )
    words = ["segment", ODD, "-q", QUESTION, "--checkpoint", "slow", "--out", out]
    with subprocess.Popen(
        [sys.executable, str(script), *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout.readline() == "encoding\n"
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=20)
    assert process.returncode == 130
    assert rest == "closed\n"
    assert names(out) == []


def test_a_library_that_is_missing_is_told_and_not_taken_for_standard_output(tmp_path, capsys):
    why = "libcublas.so.12: cannot open shared object file"

    def load(**_):
        raise OSError(why)

    with pytest.raises(OSError, match=re.escape(why)):
        main(["segment", str(ODD), "-q", QUESTION, "--out", str(tmp_path)], load)
    assert "Standard output" not in capsys.readouterr().err
    assert f"error: {why}" in cli.run("chat", ODD, "--out", tmp_path, load=load).errors


def test_help_comes_without_torch():
    command = "import sys; from lisa_core.cli import app; app(['--help'], standalone_mode=False);"
    command += "assert 'torch' not in sys.modules and 'cv2' not in sys.modules"
    shown = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True).stdout
    for name in ("segment", "chat", "info"):
        assert name in shown


@pytest.mark.parametrize("arguments", [[], ["nonsense"]])
def test_without_a_command_that_is_known(arguments):
    assert cli.run(*arguments).code == 2


def test_the_golden_as_released(tmp_path, v1):
    """Without any fake: the v1 golden through the installed command."""
    command = [
        sys.executable,
        "-c",
        "from lisa_core.cli import main; main()",
        "segment",
        ODD,
        "-q",
        "segment the handle",
    ]
    end = subprocess.run([*map(str, [*command, *cli.model(V1), "--out", tmp_path])], capture_output=True, check=False)
    assert end.returncode == 0, end.stderr
    answer = v1.ask(v1.encode(picture(ODD.name)), "segment the handle")
    assert record(tmp_path / "odd_333x217.json")["text"] == answer.text
    different = pixels(tmp_path / "odd_333x217_mask_0.png") != answer.segments[0].mask * 255
    assert different.mean() < 1e-4
