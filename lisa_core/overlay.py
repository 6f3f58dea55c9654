"""Pictures for people: segments over the image, the words below it, several of them on a sheet.

All pictures are (H, W, 3) uint8 RGB. Line widths and letters grow with the picture. Each segment has the number that
its [SEG] has in the words, for there are fewer colours that everyone can tell apart than there can be segments.
"""

import functools
import math
import unicodedata
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol, cast

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from lisa_core.answer import Box, tight_box
from lisa_core.errors import ImageError
from lisa_core.template import SEG, split_answer

Picture = NDArray[np.uint8]
Colour = tuple[int, int, int]

PALETTE: tuple[Colour, ...] = (
    (230, 75, 0),
    (86, 180, 233),
    (240, 228, 66),
    (0, 158, 115),
    (204, 121, 167),
    (0, 90, 181),
    (243, 165, 20),
)
"""After Okabe and Ito, who chose colours that stay apart for every kind of colour vision."""

OPACITY = 0.4
BACKGROUND: Colour = (24, 26, 31)
OUTLINE: Colour = (16, 16, 16)
QUESTION: Colour = (160, 168, 180)
ANSWER: Colour = (245, 246, 248)

MAX_LINES = 12
"""Of a question or of an answer in a caption; what is longer ends in an ellipsis."""

MIN_CAPTION_WIDTH = 240
"""Pictures narrower than this, px, get a caption of this width."""

SYSTEM_FONTS = ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "NotoSansCJK-Regular.ttc", "DroidSansFallbackFull.ttf")
"""Looked for on the machine when a text has letters that Pillow's own font lacks: it knows little beyond ASCII."""


class Region(Protocol):
    """What can be drawn: a `Segment`, or any other mask with its tight box."""

    @property
    def mask(self) -> NDArray[np.bool_]: ...  # noqa: D102
    @property
    def box(self) -> Box: ...  # noqa: D102


class _Outlined(NamedTuple):
    mask: NDArray[np.bool_]
    box: Box


class Panel(NamedTuple):
    """One picture of a contact sheet: what was asked, what was seen, what was answered, and a line more about it."""

    question: str
    picture: Picture
    text: str
    note: str = ""


def colour(index: int) -> Colour:
    """The RGB colour of the segment with that index."""
    return PALETTE[index % len(PALETTE)]


def regions(masks: Iterable[NDArray[np.bool_]]) -> list[Region]:
    """What `draw` takes, of (H, W) masks alone."""
    return [_Outlined(mask, tight_box(mask)) for mask in masks]


def draw(rgb: Picture, segments: Sequence[Region]) -> Picture:
    """A copy of the picture with each segment tinted, outlined and numbered; of two in one place the lower is on top.

    Raises:
        ImageError: the picture is not (H, W, 3) uint8, or a mask is of another size.
    """
    _check(rgb, segments)
    picture = rgb.copy()
    width = max(2, round(_scale(rgb) / 9))
    shown = [(index, segment) for index, segment in enumerate(segments) if segment.box[2]]
    for index, segment in reversed(shown):
        _tint(picture, segment, colour(index))
        _outline(picture, segment, colour(index), width)
    covered = np.zeros(rgb.shape[:2], bool)
    for index, segment in shown:
        badge = _badge(str(index + 1), _scale(rgb), colour(index))
        _paste(picture, badge, _place_of_badge(segment, covered, badge))
    return picture


def caption(picture: Picture, question: str, text: str) -> Picture:
    """The picture above a band with the question and the answer, each [SEG] as the number of its segment.

    Raises:
        ImageError: the picture is not (H, W, 3) uint8.
    """
    _check(picture)
    size = _scale(picture)
    margin = size
    width = max(picture.shape[1], MIN_CAPTION_WIDTH)
    font = _font_for(question + text, size)
    lines = [
        (line, ink)
        for words, ink in ((question, QUESTION), (text, ANSWER))
        for line in _wrap(_pieces(words, font, size), width - 2 * margin, font)
    ]
    pitch = round(1.5 * size)
    band = np.full((len(lines) * pitch + margin if lines else 0, width, 3), BACKGROUND, np.uint8)
    for number, (line, ink) in enumerate(lines):
        _write(band, line, (margin, margin // 2 + number * pitch), pitch, ink, font)
    left = (width - picture.shape[1]) // 2
    above = np.full((picture.shape[0], width, 3), BACKGROUND, np.uint8)
    above[:, left : left + picture.shape[1]] = picture
    return np.concatenate((above, band))


def contact_sheet(panels: Sequence[Panel], columns: int | None = None, width: int = 640) -> Picture:
    """The panels in rows on one picture: each picture in a field of 4:3, question, answer and note below it.

    Args:
        panels: at least one; their pictures may be of different sizes.
        columns: None: as many as make the sheet about square.
        width: of one panel, px, at least `MIN_CAPTION_WIDTH`.

    Raises:
        ImageError: there is no panel, or a picture is not (H, W, 3) uint8.
    """
    if not panels:
        raise ImageError("There is no picture for the contact sheet; give at least one.")
    columns = columns or math.ceil(math.sqrt(len(panels)))
    width = max(width, MIN_CAPTION_WIDTH)
    gap = width // 40
    cells = [_cell(panel, width) for panel in panels]
    rows = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    heights = [max(len(cell) for cell in row) for row in rows]
    size = sum(heights) + gap * (len(rows) + 1), len(rows[0]) * (width + gap) + gap
    sheet = np.full((*size, 3), BACKGROUND, np.uint8)
    top = gap
    for row, height in zip(rows, heights, strict=True):
        for column, cell in enumerate(row):
            left = gap + column * (width + gap)
            sheet[top : top + len(cell), left : left + width] = cell
        top += height + gap
    return sheet


def _cell(panel: Panel, width: int) -> Picture:
    picture = _fit(panel.picture, width, 3 * width // 4)
    note = caption(picture, panel.note, "")[len(picture) :]  # by itself, for its [SEG]s are numbered anew
    return np.concatenate((caption(picture, panel.question, panel.text), note))


def _check(rgb: Picture, segments: Iterable[Region] = ()) -> None:
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3 or 0 in rgb.shape:
        raise ImageError(f"The picture is {rgb.dtype} of shape {rgb.shape}; give (height, width, 3) uint8.")
    for segment in segments:
        if segment.mask.shape != rgb.shape[:2]:
            raise ImageError(
                f"A mask is of {segment.mask.shape}, but the picture of {rgb.shape[:2]}; give masks of its size."
            )


def _scale(picture: Picture) -> int:
    """The size of letters, px: 18 on 640x480, and no less than Pillow's font needs to be spaced well."""
    return max(13, round(0.032 * math.sqrt(picture.shape[0] * picture.shape[1])))


def _fit(picture: Picture, width: int, height: int) -> Picture:
    """The picture as large as it fits, centred on a ground of that size."""
    _check(picture)
    factor = min(width / picture.shape[1], height / picture.shape[0])
    size = max(1, round(picture.shape[1] * factor)), max(1, round(picture.shape[0] * factor))
    fitted = cv2.resize(picture, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC)
    ground = np.full((height, width, 3), BACKGROUND, np.uint8)
    left, top = (width - size[0]) // 2, (height - size[1]) // 2
    ground[top : top + size[1], left : left + size[0]] = fitted
    return ground


def _tint(picture: Picture, segment: Region, tint: Colour) -> None:
    x, y, width, height = segment.box
    part = picture[y : y + height, x : x + width]
    mask = segment.mask[y : y + height, x : x + width].view(np.uint8)
    cv2.copyTo(cv2.LUT(part, _tinted(tint)), mask, part)


@functools.cache
def _tinted(tint: Colour) -> NDArray[np.uint8]:
    """(1, 256, 3): what each value of each channel becomes below that colour."""
    values = np.arange(256)[:, None]
    return ((1 - OPACITY) * values + OPACITY * np.array(tint)).round().astype(np.uint8)[None]


def _outline(picture: Picture, segment: Region, ink: Colour, width: int) -> None:
    """A line in that colour between darker ones, so that it shows on a ground of any colour."""
    x, y, box_width, box_height = segment.box
    mask = segment.mask[y : y + box_height, x : x + box_width].astype(np.uint8)
    contours, _ = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE, offset=(x, y))
    lines = [cv2.approxPolyDP(contour, 0.7, True) for contour in contours]  # px; no stairs, and half of the time
    cv2.polylines(picture, lines, True, OUTLINE, width + 2 * max(1, width // 3), cv2.LINE_AA)
    cv2.polylines(picture, lines, True, ink, width, cv2.LINE_AA)


def _place_of_badge(segment: Region, covered: NDArray[np.bool_], badge: Picture) -> tuple[int, int]:
    """Centre (x, y) of the badge: deep in what is not covered of the segment, or beside it if it is small.

    The segment is added to what is covered.
    """
    x, y, width, height = segment.box
    box = slice(y, y + height), slice(x, x + width)
    step = max(1, max(width, height) // 128)
    visible = (segment.mask[box] & ~covered[box])[::step, ::step].astype(np.uint8)
    covered[box] |= segment.mask[box]
    depth = cv2.distanceTransform(cv2.copyMakeBorder(visible, 1, 1, 1, 1, cv2.BORDER_CONSTANT), cv2.DIST_L2, 3)
    _, deepest, _, (column, row) = cv2.minMaxLoc(depth)
    if deepest * step > 0.55 * max(badge.shape[:2]):
        return x + (column - 1) * step, y + (row - 1) * step
    away = round(0.7 * badge.shape[0])
    above, below = y - away, y + height + away
    return x + width // 2, above if above >= badge.shape[0] // 2 else below


def _paste(picture: Picture, tile: Picture, centre: tuple[int, int]) -> None:
    """Blend an (h, w, 4) RGBA tile in, moved inside the picture; one larger than the picture is left out."""
    height, width = tile.shape[:2]
    if height > picture.shape[0] or width > picture.shape[1]:
        return
    left = min(max(centre[0] - width // 2, 0), picture.shape[1] - width)
    top = min(max(centre[1] - height // 2, 0), picture.shape[0] - height)
    part = picture[top : top + height, left : left + width]
    alpha = tile[:, :, 3:] / np.float32(255)
    part[:] = (part + alpha * (tile[:, :, :3] - part.astype(np.float32))).round()


@functools.lru_cache(maxsize=256)
def _badge(label: str, size: int, ground: Colour) -> Picture:
    """(h, w, 4) RGBA: the label on a rounded ground of that colour."""
    font = _font(size)
    height = round(1.35 * size)
    width = max(height, round(font.getlength(label) + 0.7 * size))
    fine = 4  # Pillow draws shapes without antialiasing
    tile = Image.new("RGBA", (fine * width, fine * height))
    border = fine * max(1, size // 14)
    ImageDraw.Draw(tile).rounded_rectangle(
        (0, 0, fine * width - 1, fine * height - 1), fine * height // 2, ground, OUTLINE, border
    )
    tile = tile.resize((width, height), Image.Resampling.LANCZOS)
    bright = np.dot(ground, (0.299, 0.587, 0.114)) > 140
    ImageDraw.Draw(tile).text((width / 2, height / 2), label, OUTLINE if bright else ANSWER, font, anchor="mm")
    return np.array(tile)


Piece = str | Picture
"""A word, or the badge that stands for a [SEG]."""


def _pieces(words: str, font: ImageFont.FreeTypeFont, size: int) -> list[list[Piece]]:
    """Words, each of the pieces that are not to be torn apart: a [SEG] stays with its full stop."""
    pieces: list[list[Piece]] = []
    segments = 0
    for word in words.split():
        word_pieces: list[Piece] = []
        for part in split_answer(word):
            if part == SEG:
                segments += 1
                word_pieces.append(_badge(str(segments), round(0.85 * size), colour(segments - 1)))
            elif part:
                word_pieces.append(_drawable(part, font))
        pieces.append(word_pieces)
    return pieces


def _width(piece: Piece, font: ImageFont.FreeTypeFont) -> float:
    return font.getlength(piece) if isinstance(piece, str) else piece.shape[1]


def _wrap(words: list[list[Piece]], width: float, font: ImageFont.FreeTypeFont) -> list[list[Piece]]:
    """Lines of pieces that fit the width; a word wider than a line is broken anywhere."""
    lines: list[list[Piece]] = [[]]
    used = 0.0
    for word in words:
        pieces: list[Piece] = [" ", *word] if lines[-1] else [*word]
        if used + sum(_width(piece, font) for piece in pieces) > width and lines[-1]:
            lines.append([])
            used, pieces = 0.0, [*word]
        for piece in pieces:
            parts = [piece] if not isinstance(piece, str) or _width(piece, font) <= width else list(piece)
            for part in parts:
                if used + _width(part, font) > width and lines[-1]:
                    lines.append([])
                    used = 0.0
                lines[-1].append(part)
                used += _width(part, font)
    if len(lines) > MAX_LINES:
        lines[MAX_LINES - 1 :] = [[*lines[MAX_LINES - 1][:-1], "…"]]
    return [_merged(line) for line in lines if line]


def _merged(line: list[Piece]) -> list[Piece]:
    """The line with neighbouring words as one, so that the font spaces them."""
    merged: list[Piece] = []
    for piece in line:
        if isinstance(piece, str) and merged and isinstance(merged[-1], str):
            merged[-1] += piece
        else:
            merged.append(piece)
    return merged


def _write(
    picture: Picture,
    line: list[Piece],
    corner: tuple[int, int],
    height: int,
    ink: Colour,
    font: ImageFont.FreeTypeFont,
) -> None:
    """One line of pieces, centred in a row of that height."""
    x, y = float(corner[0]), corner[1] + height // 2
    for piece in line:
        width = _width(piece, font)
        if isinstance(piece, str):
            tile = Image.new("L", (math.ceil(width) + 4, height))
            ImageDraw.Draw(tile).text((2, height / 2), piece, 255, font, anchor="lm")
            alpha = np.array(tile)
            _paste(picture, np.dstack((np.full((*alpha.shape, 3), ink, np.uint8), alpha)), (round(x + width / 2), y))
        else:
            _paste(picture, piece, (round(x + width / 2), y))
        x += width


@functools.lru_cache(maxsize=64)
def _font(size: int, name: str | None = None) -> ImageFont.FreeTypeFont:
    """A font of this machine; None: the one that comes with Pillow."""
    return ImageFont.truetype(name, size) if name else cast(ImageFont.FreeTypeFont, ImageFont.load_default(size))


def _font_for(text: str, size: int) -> ImageFont.FreeTypeFont:
    """Pillow's own font if it has all letters of the text, else the one on this machine that has most of them."""
    letters = {letter for letter in text if letter.isprintable() and not letter.isspace()}
    fonts = [_font(size)]
    for name in () if text.isascii() else SYSTEM_FONTS:
        try:
            fonts.append(_font(size, name))
        except OSError:
            continue  # not on this machine
    return max(fonts, key=lambda font: sum(_has(font, letter) for letter in letters))


def _has(font: ImageFont.FreeTypeFont, letter: str) -> bool:
    """Whether the letter has a shape of its own in the font."""
    missing = font.getmask("\U0010ffff")
    shape = font.getmask(letter)
    return shape.size != missing.size or bytes(shape) != bytes(missing)


def _drawable(word: str, font: ImageFont.FreeTypeFont) -> str:
    """The word without what cannot be printed, and without accents where the font lacks them."""
    if word.isascii() and word.isprintable():
        return word
    letters = (letter for letter in word if letter.isprintable())
    return "".join(letter if _has(font, letter) else unicodedata.normalize("NFKD", letter)[0] for letter in letters)
