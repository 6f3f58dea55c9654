"""Files that people give and get: pictures read upright, results written whole or not at all."""

import errno
import fcntl
import glob
import io
import os
import secrets
import shutil
import tempfile
import threading
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from lisa_core.errors import ImageError, LisaError

MAX_PIXELS = 128 * 1024 * 1024
"""Larger images are refused: their masks alone would fill a robot's memory."""
_PARTIAL = ".partial"
_OPENING = threading.Lock()
"""Held while Pillow's limit, which holds for the whole process, is away: only for as long as a header is read."""
_HOLDING: set[int] = set()
"""Descriptors of the folders that this process has locked."""
_DEEP_GREY = ("I", "I;16", "I;16L", "I;16B", "I;16N")
"""Pillow's modes of grey pictures with more than 8 bit; it knows 16-bit colours by their high bytes only."""


def not_a_file(path: Path) -> str:
    """Why there is no file; empty if there is."""
    try:
        if path.is_file():
            return ""
        return f"{path} is {'a folder' if path.is_dir() else 'no file' if path.exists() else 'not there'}"
    except OSError as error:
        return f"{path} cannot be looked at ({error.strerror})"


def read_rgb(path: Path, most_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """The picture in a file as (H, W, 3) uint8 RGB, upright as EXIF says.

    Of 16 bit the high byte counts, alpha is dropped, of an animation the first frame is taken.

    Raises:
        ImageError: there is no such file, or no picture in it that can be read, or too large a one; names it.
    """
    if why := not_a_file(path):
        raise ImageError(f"{why}; give a picture's file.")
    try:
        with _open(path) as opened:
            _check_size(opened, most_pixels)
            return _upright(_to_rgb(opened), _orientation(opened))
    except ImageError as error:
        raise ImageError(f"{path} {error}") from error
    except PermissionError as error:
        raise ImageError(f"{path} may not be read ({error.strerror}).") from error
    except MemoryError as error:
        raise ImageError(f"{path} takes more memory than is free; scale it down, or end other programs.") from error
    except Exception as error:  # whatever a damaged file makes a decoder raise means the same
        raise ImageError(f"{path} is no picture that can be read, or damaged ({error}).") from error


def is_turned(path: Path) -> bool:
    """Whether EXIF has a quarter turn, by which `read_rgb` swaps width and height; the picture can be read."""
    with _open(path) as opened:
        return _orientation(opened) > 4


def write_whole(contents: Mapping[Path, bytes]) -> None:
    """Writes files whole, and all of them or none; the last one named appears last.

    A link stays one, and what it leads to is written; a device or pipe is written to.

    Raises:
        OSError: with the path of the file that could not be written, and nothing left of any.
    """
    staged: dict[Path, Path] = {}
    path = Path()
    try:
        for path, content in contents.items():
            # asked of the path itself: /dev/stdout in a pipe resolves to a name that is nowhere
            if path.exists() and not path.is_file() and not path.is_dir():
                path.write_bytes(content)
                continue
            if path.is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            target = path.resolve()
            temporary = target.with_name(f"{_temporary(target)}{secrets.token_hex(8)}.part")
            staged[temporary] = target
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        for temporary, path in staged.items():
            temporary.replace(path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        for temporary in staged:
            temporary.unlink(missing_ok=True)


def prepare(path: Path) -> None:
    """Makes the folder of a file that long work will end in, and tries to write there; raises OSError if that fails."""
    if path.exists() and not path.is_file():  # a device or pipe
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def discard_unfinished(path: Path) -> None:
    """Removes what killed processes left of `write_whole` of that file; none may be running on it."""
    target = path.resolve()
    for leftover in target.parent.glob(f"{glob.escape(_temporary(target))}{'?' * 16}.part"):
        leftover.unlink(missing_ok=True)


def _temporary(target: Path) -> str:
    """How the names of a file begin while it is written: like its own, and no longer than a name may be."""
    return f".{target.name[:40]}.{zlib.crc32(os.fsencode(target.name)):08x}."


def check_free(out: Path) -> None:
    """Raises LisaError if there is something where a new folder shall be."""
    if os.path.lexists(out):  # a link that leads nowhere is something, too
        raise LisaError(f"{out} is there already; name a folder that is not.")


@contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """A folder to fill, which appears as `out` once it is whole, and not at all if anything fails.

    Raises:
        LisaError: there is something at `out`.
        OSError: the disk is full or broken.
    """
    check_free(out)
    with workshop(out) as partial:
        yield partial
        for path in (partial, *partial.rglob("*")):  # others may read it, such as the user that a node runs as
            path.chmod(0o755 if path.is_dir() else 0o644)
        partial.rename(out)


@contextmanager
def workshop(out: Path) -> Iterator[Path]:
    """A hidden folder beside `out` to make it in; it is deleted, and what killed processes left of such for `out`."""
    out.parent.mkdir(parents=True, exist_ok=True)
    _discard_abandoned(out)
    folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=_PARTIAL, dir=out.parent))
    with locked(folder):
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _discard_abandoned(out: Path) -> None:
    """Deletes the unfinished folders that no process fills any more.

    A process holds the lock on its folder before there is anything in it, and the system lets go of it when the process
    ends, however it ends: so what is locked or empty stays.
    """
    for partial in out.parent.glob(f".{glob.escape(out.name)}.{'?' * 8}{_PARTIAL}"):  # mkdtemp adds so many characters
        with locked(partial, wait=False) as alone:
            if alone and any(partial.iterdir()):
                shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def locked(folder: Path, *, wait: bool = True) -> Iterator[bool | None]:
    """Holds the lock on a folder, which goes with this process, however it ends, whatever it has forked.

    Yields whether it is held: False if another holds it and `wait` is false, None if there is nothing to hold, as on a
    file system without locks.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        yield None
        return
    _HOLDING.add(descriptor)
    try:
        held: bool | None = True
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            held = False
        except OSError:
            held = None
        yield held
    finally:
        if descriptor in _HOLDING:  # not in a fork, where the number may be another file's by now
            _HOLDING.remove(descriptor)
            os.close(descriptor)


def _let_go() -> None:
    """Closes what a fork has inherited: it would hold the locks for as long as it lives."""
    while _HOLDING:
        os.close(_HOLDING.pop())


os.register_at_fork(after_in_child=_let_go)


def png(pixels: NDArray[np.uint8]) -> bytes:
    """A PNG file of (H, W) grey or (H, W, 3) RGB pixels."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=3)
    return file.getvalue()


def mask_png(mask: NDArray[np.bool_]) -> bytes:
    """A PNG file of a (H, W) mask: 255 on it, 0 elsewhere."""
    return png(np.multiply(mask, 255, dtype=np.uint8))


def mask_from_png(content: bytes) -> NDArray[np.bool_]:
    """The (H, W) mask in a file that `mask_png` made."""
    return np.array(Image.open(io.BytesIO(content))) > 0


def _open(path: Path) -> Image.Image:
    """The picture of whatever size, not decoded yet; see `_check_size`."""
    with _OPENING:
        theirs, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(path)
        finally:
            Image.MAX_IMAGE_PIXELS = theirs


def _check_size(image: Image.Image, most_pixels: int) -> None:
    if image.width * image.height > most_pixels:
        raise ImageError(f"has {image.width}x{image.height} px, more than {most_pixels} in all; scale it down.")


def _orientation(image: Image.Image) -> int:
    """As EXIF has it, 1 to 8, and 1 if it has none; whatever else is wrong in there does not matter."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:
        return 1
    return orientation if orientation in range(1, 9) else 1


def _upright(rgb: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Turned so that what EXIF calls row 0 and column 0 are above and left."""
    if orientation > 4:
        rgb = rgb.transpose(1, 0, 2)
    flip_rows, flip_columns = orientation in (3, 4, 7, 8), orientation in (2, 3, 6, 7)
    return np.ascontiguousarray(rgb[:: -1 if flip_rows else 1, :: -1 if flip_columns else 1])


def _to_rgb(image: Image.Image) -> NDArray[np.uint8]:
    if image.mode == "F":
        raise ImageError("holds floating-point numbers; scale them to 8 bit.")
    if image.mode in _DEEP_GREY:
        grey = np.asarray(image)
        if grey.min(initial=0) < 0 or grey.max(initial=0) > 0xFFFF:
            raise ImageError("holds more than 16 bit per pixel; scale them to 8 bit.")
        return np.repeat((grey >> 8).astype(np.uint8)[..., None], 3, axis=2)
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA")  # a palette may hold alpha, which Pillow complains about on the direct way
    return np.array(image.convert("RGB"))
