"""Files: pictures of every kind come in upright and in 8 bit, results are written whole or not at all."""

import contextlib
import errno
import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest
from goldens import GOLDENS
from PIL import Image, ImageOps

from lisa_core import ImageError, LisaError, files
from lisa_core.files import discard_unfinished, png, read_rgb, whole_folder, write_whole

GRADIENT = np.arange(6 * 8, dtype=np.uint8).reshape(6, 8) * 5
COLOURS = np.dstack([GRADIENT, GRADIENT[::-1], GRADIENT[:, ::-1]])


def saved(folder, pixels, name="picture.png", **options):
    path = folder / name
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(path, **options)
    return path


def grey(values):
    return np.repeat(values[..., None], 3, axis=2)


def test_colours_come_as_they_are(tmp_path):
    rgb = read_rgb(saved(tmp_path, COLOURS))
    assert rgb.dtype == np.uint8
    assert np.array_equal(rgb, COLOURS)


@pytest.mark.parametrize(
    ("pixels", "expected"),
    [
        (Image.fromarray(GRADIENT), grey(GRADIENT)),
        (Image.fromarray(GRADIENT > 99), grey(np.uint8(255) * (GRADIENT > 99))),
        (Image.fromarray(np.dstack([COLOURS, GRADIENT])), COLOURS),
        (Image.fromarray(np.dstack([GRADIENT, GRADIENT[::-1]]), "LA"), grey(GRADIENT)),
    ],
    ids=["grey", "black and white", "alpha", "grey with alpha"],
)
@pytest.mark.filterwarnings("ignore:.*mode:DeprecationWarning")
def test_other_pixels_become_rgb(tmp_path, pixels, expected):
    assert np.array_equal(read_rgb(saved(tmp_path, pixels)), expected)


def test_a_palette_becomes_its_colours_without_complaints(tmp_path):
    picture = Image.fromarray(np.uint8([[0, 1], [1, 0]]), "P")
    picture.putpalette([10, 20, 30, 200, 100, 50])
    path = saved(tmp_path, picture, transparency=b"\x00\xff")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_rgb(path)[0].tolist() == [[10, 20, 30], [200, 100, 50]]


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_of_16_bit_the_high_byte_counts(tmp_path, channels):
    deep = np.random.default_rng(0).integers(0, 1 << 16, (5, 7, channels), np.uint16)
    cv2.imwrite(str(tmp_path / "deep.png"), deep)
    high = (deep >> 8).astype(np.uint8)
    expected = grey(high[..., 0]) if channels == 1 else high[..., 2::-1]
    assert np.array_equal(read_rgb(tmp_path / "deep.png"), expected)


def test_pictures_are_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held so that the picture has to be turned by 90 degrees clockwise
    path = saved(tmp_path, COLOURS, exif=exif)
    assert np.array_equal(read_rgb(path), np.rot90(COLOURS, -1))


@pytest.mark.parametrize("orientation", range(10))
def test_every_orientation_is_as_pillow_has_it(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path, COLOURS, exif=exif)
    with Image.open(path) as opened:
        assert np.array_equal(read_rgb(path), ImageOps.exif_transpose(opened))


def test_what_else_is_wrong_in_exif_does_not_matter(tmp_path):
    exif = Image.Exif()
    exif[0x0112], exif[0x010E], exif[0x011A] = 6, "words", (72, 1)
    wrong = bytearray(exif.tobytes())
    wrong[wrong.index(b"\x01\x1a") + 3] = 7  # a resolution of bytes, which Pillow cannot write again
    path = saved(tmp_path, COLOURS, exif=bytes(wrong))
    with Image.open(path) as opened, pytest.raises(TypeError):
        ImageOps.exif_transpose(opened)
    assert np.array_equal(read_rgb(path), np.rot90(COLOURS, -1))


def test_of_an_animation_the_first_frame_is_taken(tmp_path):
    frames = [Image.fromarray(np.full((4, 4), value, np.uint8)) for value in (10, 200)]
    path = saved(tmp_path, frames[0], "moving.gif", save_all=True, append_images=frames[1:])
    assert (read_rgb(path) == 10).all()


@pytest.mark.parametrize(
    "values", [np.float32([[0.5]]), np.int32([[1 << 16]]), np.int32([[1 << 20]]), np.int32([[-1]])]
)
def test_what_has_no_8_bit_is_refused(tmp_path, values):
    path = saved(tmp_path, values, "numbers.tiff")
    with pytest.raises(ImageError, match=r"numbers\.tiff holds .* scale them to 8 bit"):
        read_rgb(path)


def test_16_bit_may_be_stored_as_more(tmp_path):
    assert read_rgb(saved(tmp_path, np.int32([[0, 0xFFFF]]), "numbers.tiff"))[0].tolist() == [[0] * 3, [255] * 3]


def test_what_is_no_picture_is_named(tmp_path):
    with pytest.raises(ImageError, match=r"cannot be looked at \(File name too long\)"):
        read_rgb(tmp_path / ("x" * 300))
    with pytest.raises(ImageError, match=r"nowhere\.png is not there"):
        read_rgb(tmp_path / "nowhere.png")
    with pytest.raises(ImageError, match="is a folder"):
        read_rgb(tmp_path)
    (tmp_path / "words.png").write_text("no picture")
    with pytest.raises(ImageError, match=r"words\.png is no picture that can be read"):
        read_rgb(tmp_path / "words.png")


@pytest.mark.parametrize("name", ["large.png", "large.gif", "large.bmp"])
def test_pillows_limit_is_not_ours_and_stays_for_others(tmp_path, monkeypatch, name):
    large = np.full((50, 50, 3), 7, np.uint8)
    path = saved(tmp_path, large, name)
    for theirs in (2000, 1000):  # of which it would warn, and which it would refuse
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", theirs)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert np.array_equal(read_rgb(path), large)
        assert theirs == Image.MAX_IMAGE_PIXELS
    with pytest.raises(ImageError, match="is no picture"):
        read_rgb(Path(__file__))
    assert theirs == Image.MAX_IMAGE_PIXELS


def test_too_large_a_picture_is_told_in_our_words(tmp_path):
    path = saved(tmp_path, Image.new("1", (14_000, 14_000)))
    with pytest.raises(ImageError, match=r"has 14000x14000 px, more than \d+ in all; scale it down"):
        read_rgb(path)


def test_too_little_memory_is_no_damage(tmp_path, monkeypatch):
    def fail(*_):
        raise MemoryError

    path = saved(tmp_path, Image.new("RGB", (4, 4)))
    monkeypatch.setattr("PIL.Image.Image.convert", fail)
    with pytest.raises(ImageError, match=r"picture\.png takes more memory than is free; scale it down"):
        read_rgb(path)


@pytest.mark.parametrize("name", ["odd_333x217.png", "wide_1280x720.jpg"])
def test_a_truncated_picture_is_named(tmp_path, name):
    content = (GOLDENS / "images" / name).read_bytes()
    (tmp_path / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(ImageError, match=f"{name} is no picture that can be read, or damaged"):
        read_rgb(tmp_path / name)


@pytest.mark.parametrize("name", ["odd_333x217.png", "wide_1280x720.jpg"])
def test_whatever_is_damaged_it_is_read_or_named(tmp_path, name):
    content = (GOLDENS / "images" / name).read_bytes()
    random = np.random.default_rng(0)
    for _ in range(30):
        damaged = bytearray(content)
        for place in random.integers(0, 2000, 8):
            damaged[place] = random.integers(256)
        (tmp_path / name).write_bytes(damaged)
        with contextlib.suppress(ImageError):  # anything else fails the test
            assert read_rgb(tmp_path / name).ndim == 3


def test_all_files_are_written(tmp_path):
    write_whole({tmp_path / "a": b"1", tmp_path / "b": b"2"})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a": b"1", "b": b"2"}


def test_a_link_stays_and_what_it_leads_to_is_written(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "a")
    write_whole({tmp_path / "link": b"1"})
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "a").read_bytes() == b"1"


def test_a_device_stays_one():
    """A terminal of its own: where it went wrong as root, the machine would lose /dev/null."""
    screen, line = os.openpty()
    os.set_blocking(screen, False)
    path = Path(os.ttyname(line))
    try:
        write_whole({path: b"1"})
        assert os.read(screen, 1) == b"1"
        assert path.is_char_device()
    finally:
        os.close(line)
        os.close(screen)


@pytest.mark.parametrize("through_a_link", [False, True], ids=["its name", "a link"])
def test_a_pipe_gets_what_is_written(tmp_path, through_a_link):
    """As /dev/stdout is one; it leads to a name that is nowhere in the file system."""
    reading, writing = os.pipe()
    path = Path(f"/dev/fd/{writing}")
    if through_a_link:
        (tmp_path / "link").symlink_to(path)
        path = tmp_path / "link"
    write_whole({path: b"1"})
    os.close(writing)
    with os.fdopen(reading, "rb") as came:
        assert came.read() == b"1"


def test_files_can_be_read_by_whom_the_umask_lets(tmp_path):
    before = os.umask(0o022)
    try:
        write_whole({tmp_path / "a": b""})
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o644


def test_if_one_cannot_be_written_the_earlier_ones_stay(tmp_path):
    (tmp_path / "a").write_bytes(b"earlier")
    with pytest.raises(FileNotFoundError) as caught:
        write_whole({tmp_path / "a": b"new", tmp_path / "no folder" / "b": b"new"})
    assert Path(caught.value.filename) == tmp_path / "no folder" / "b"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_bytes() == b"earlier"


def test_a_folder_in_the_way_of_one_leaves_none(tmp_path):
    (tmp_path / "b").mkdir()
    with pytest.raises(IsADirectoryError) as caught:
        write_whole({tmp_path / "a": b"new", tmp_path / "b": b"new"})
    assert Path(caught.value.filename) == tmp_path / "b"
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_on_a_full_disk_nothing_is_left(tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device") as caught:
        write_whole({tmp_path / "a": b"new"})
    assert Path(caught.value.filename) == tmp_path / "a"
    assert list(tmp_path.iterdir()) == []


def test_a_link_that_leads_nowhere_is_no_place_for_a_folder(tmp_path):
    out = tmp_path / "out"
    out.symlink_to("nowhere")
    with pytest.raises(LisaError, match="is there already; name a folder that is not"), whole_folder(out):
        pytest.fail("it was noticed too late")
    assert list(tmp_path.iterdir()) == [out]


def killed_while_it_writes(path):
    """A process that writes that file is killed before it is whole."""
    pid = os.fork()
    if not pid:
        os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)
        write_whole({path: b"new"})
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


def test_what_a_kill_left_of_a_file_is_named_like_it_and_can_be_discarded(tmp_path):
    paths = [tmp_path / name for name in ("a", "a.json", "a[1].json", "ä" * 127, "ä" * 126 + "b")]
    for path in paths:
        killed_while_it_writes(path)
    assert len(list(tmp_path.glob(".a*.part"))) == 3
    for number, path in enumerate(paths):
        assert len(list(tmp_path.iterdir())) == len(paths) - number
        discard_unfinished(path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("pixels", [GRADIENT, COLOURS], ids=["grey", "colours"])
def test_a_png_has_the_pixels(tmp_path, pixels):
    (tmp_path / "picture.png").write_bytes(png(pixels))
    assert np.array_equal(np.asarray(Image.open(tmp_path / "picture.png")), pixels)


def stale(folder, name="out"):
    """What a process that was killed leaves of a folder."""
    program = f"""
import os, signal
from pathlib import Path
from lisa_core.files import whole_folder
with whole_folder(Path({str(folder / name)!r})) as partial:
    (partial / "weights").write_bytes(b"0" * 100)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", program]).returncode == -9


def test_what_a_killed_process_left_of_a_folder_is_deleted_and_nothing_else(tmp_path):
    stale(tmp_path)
    stale(tmp_path, "other")
    (left,) = tmp_path.glob(".out.*.partial")
    (others,) = tmp_path.glob(".other.*.partial")
    (tmp_path / ".out.notes.partial").mkdir()
    with files.whole_folder(tmp_path / "out") as mine:
        (mine / "weights").write_bytes(b"1")
        assert (left.exists(), others.exists()) == (False, True)
        with contextlib.suppress(KeyboardInterrupt), files.whole_folder(tmp_path / "out"):  # as another process would
            raise KeyboardInterrupt
        assert (mine / "weights").read_bytes() == b"1"
    assert {path.name for path in tmp_path.iterdir()} == {"out", ".out.notes.partial", others.name}


def test_a_folder_can_be_read_by_others(tmp_path):
    """Such as the user that a node runs as."""
    with files.whole_folder(tmp_path / "out") as partial:
        (partial / "tower").mkdir(mode=0o700)
        (partial / "tower" / "weights").touch(mode=0o600)
    paths = [tmp_path / "out", tmp_path / "out" / "tower", tmp_path / "out" / "tower" / "weights"]
    assert [path.stat().st_mode & 0o777 for path in paths] == [0o755, 0o755, 0o644]


def test_a_file_system_without_locks_will_do(tmp_path, monkeypatch):
    stale(tmp_path)

    def none(*_):
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr(files.fcntl, "flock", none)
    with files.whole_folder(tmp_path / "out") as partial:
        (partial / "weights").write_bytes(b"1")
    assert (tmp_path / "out" / "weights").read_bytes() == b"1"
    assert len(list(tmp_path.glob(".out.*.partial"))) == 1


def test_a_lock_goes_with_its_process_though_what_that_forked_lives_on(tmp_path):
    program = f"""
import os, time
from pathlib import Path
from lisa_core.files import locked
with locked(Path({str(tmp_path)!r})):
    if not os.fork():
        print(os.getpid(), flush=True)
    time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        fork = int(process.stdout.readline())
        try:
            with files.locked(tmp_path, wait=False) as held:
                assert held is False
            process.kill()
            process.wait()
            with files.locked(tmp_path, wait=False) as held:
                assert held is True
        finally:
            process.kill()
            os.kill(fork, signal.SIGKILL)
