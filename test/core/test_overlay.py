"""What a picture for people has to show, and that none of what people type or cameras send breaks it."""

import itertools

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lisa_core import ImageError, Segment, overlay
from lisa_core.answer import tight_box
from lisa_core.overlay import BACKGROUND, MIN_CAPTION_WIDTH, OPACITY, PALETTE, Panel, caption, contact_sheet, draw


def segment(mask):
    return Segment(mask, 0.9, tight_box(mask), np.zeros(256, np.float32), np.zeros((256, 256), np.float32))


def rectangle(size, rows, columns):
    mask = np.zeros(size, bool)
    mask[rows, columns] = True
    return segment(mask)


def picture(size=(480, 640)):
    return np.random.default_rng(1).integers(60, 200, (*size, 3), np.uint8)


def tinted(rgb, index):
    return rgb * (1 - OPACITY) + np.array(overlay.colour(index)) * OPACITY


LARGE = rectangle((480, 640), slice(100, 400), slice(50, 300))
OTHER = rectangle((480, 640), slice(150, 350), slice(200, 600))
TINY = rectangle((480, 640), slice(20, 23), slice(600, 603))
EMPTY = rectangle((480, 640), slice(0), slice(0))


def test_segments_are_tinted_and_what_is_far_from_them_stays():
    rgb = picture()
    drawn = draw(rgb, [LARGE])
    assert np.abs(drawn[120:140, 70:90] - tinted(rgb, 0)[120:140, 70:90]).max() <= 0.5
    outside = np.ones((480, 640), bool)
    outside[90:410, 40:310] = False
    assert np.array_equal(drawn[outside], rgb[outside])


def test_the_picture_that_is_given_stays_as_it_is():
    rgb = picture()
    before = rgb.copy()
    draw(rgb, [LARGE, OTHER])
    caption(rgb, "Where?", "It is [SEG].")
    contact_sheet([Panel("Where?", rgb, "[SEG]")])
    assert np.array_equal(rgb, before)


def test_a_picture_that_cannot_be_written_to_can_be_drawn():
    rgb = picture()
    rgb.flags.writeable = False
    assert draw(rgb, [LARGE]).flags.writeable


@pytest.mark.parametrize("segments", [[], [EMPTY]])
def test_without_segments_there_is_nothing_to_draw(segments):
    rgb = picture()
    drawn = draw(rgb, segments)
    assert np.array_equal(drawn, rgb)
    assert not np.shares_memory(drawn, rgb)


def test_of_two_segments_in_one_place_the_lower_index_is_on_top():
    rgb = picture()
    both = draw(rgb, [LARGE, OTHER])[340:345, 230:260].astype(float)
    first = tinted(tinted(rgb, 1), 0)[340:345, 230:260]
    assert np.abs(both - first).max() <= 1


def test_an_empty_segment_keeps_its_number():
    drawn = draw(picture(), [EMPTY, LARGE])[120:140, 70:90]
    assert np.abs(drawn - tinted(picture(), 1)[120:140, 70:90]).max() <= 0.5


def test_every_segment_has_a_number_of_its_own():
    plain = [draw(picture(), [EMPTY] * index + [LARGE]) for index in (0, len(PALETTE))]
    assert overlay.colour(0) == overlay.colour(len(PALETTE))
    assert not np.array_equal(plain[0], plain[1])


@pytest.mark.parametrize(("row", "column"), [(200, 300), (0, 0), (477, 637), (3, 600), (470, 5)])
def test_the_number_of_a_small_segment_is_beside_it_and_inside_the_picture(row, column):
    rgb = picture()
    drawn = draw(rgb, [rectangle((480, 640), slice(row, row + 3), slice(column, column + 3))])
    number = np.any(drawn != rgb, axis=2)
    around = slice(max(row - 3, 0), row + 6), slice(max(column - 4, 0), column + 7)
    outline = number[around].sum()
    number[around] = False
    assert outline <= 81
    assert number.sum() > 350  # all of it: a disc of 24 px
    rows, columns = np.nonzero(number)
    assert abs(rows.mean() - row) < 30
    assert abs(columns.mean() - column) < 30


def test_the_number_on_a_segment_is_that_in_the_words():
    dark = np.full((480, 640, 3), BACKGROUND, np.uint8)
    wide = np.full((656, 656, 3), BACKGROUND, np.uint8)  # where letters are so large that badges in the words are alike
    on_it = draw(dark, [rectangle((480, 640), slice(200, 203), slice(300, 303))])[:196]
    assert np.array_equal(cut_out(on_it), cut_out(caption(wide, "", "[SEG]")))


def cut_out(rgb):
    """What there is on a dark ground."""
    x, y, width, height = tight_box(ink(rgb))
    return rgb[y : y + height, x : x + width]


def test_the_number_of_a_segment_below_another_is_where_it_can_be_seen():
    whole, right = LARGE, rectangle((480, 640), slice(100, 400), slice(175, 300))
    left = draw(picture(), [right, whole])[110:390, 60:160]
    _, columns = np.nonzero(np.all(left == overlay.colour(1), axis=2))
    assert len(columns) > 100
    assert abs(columns.mean() - 50) < 15


@pytest.mark.parametrize("size", [(480, 640), (2160, 3840)])
def test_the_number_of_a_large_segment_is_in_its_middle(size):
    height, width = size
    rgb, corner = np.full((*size, 3), 128, np.uint8), (slice(height // 2, height), slice(width - height // 2, width))
    drawn = draw(rgb, [rectangle(size, *corner)]).astype(float)
    number = np.any(abs(drawn - tinted(rgb, 0)) > 1, axis=2)[corner]
    rows, columns = np.nonzero(number[height // 20 : -height // 20, height // 20 : -height // 20])
    middle = height // 4 - height // 20
    assert rows.size > 350
    assert abs(rows.mean() - middle) < height / 40
    assert abs(columns.mean() - middle) < height / 40


@pytest.mark.parametrize(("size", "least", "most"), [((240, 320), 3, 8), ((480, 640), 3, 8), ((2160, 3840), 10, 30)])
def test_lines_grow_with_the_picture(size, least, most):
    rgb = np.full((*size, 3), 128, np.uint8)
    half = rectangle(size, slice(None), slice(size[1] // 2, None))
    row = draw(rgb, [half])[size[0] // 4]
    inside = row[-20]
    line = np.flatnonzero(np.any((row != 128) & (row != inside), axis=1))
    line = line[abs(line - size[1] // 2) < size[1] // 8]
    assert least <= len(line) <= most


def test_the_outline_is_a_line_in_the_segments_colour_between_dark_ones():
    half = rectangle((480, 640), slice(None), slice(320, None))
    edge = draw(np.full((480, 640, 3), 128, np.uint8), [half])[120, 312:328].astype(int)
    ink = np.flatnonzero((edge == overlay.colour(0)).all(axis=1))
    assert len(ink) >= 2
    dark = np.flatnonzero(edge.sum(axis=1) < 200)
    assert dark.min() < ink.min()
    assert dark.max() > ink.max()


@pytest.mark.parametrize("size", [(1, 1), (1, 4000), (4000, 1), (3, 3), (17, 400)])
def test_pictures_of_odd_sizes(size):
    drawn = draw(picture(size), [segment(np.ones(size, bool))])
    assert drawn.shape == (*size, 3)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(0, 20), st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_any_masks_can_be_drawn(height, width, count, seed, share):
    rng = np.random.default_rng(seed)
    segments = [segment(rng.random((height, width)) < share) for _ in range(count)]
    drawn = draw(picture((height, width)), segments)
    assert (drawn.shape, drawn.dtype) == ((height, width, 3), np.uint8)


@pytest.mark.parametrize(
    "rgb",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((0, 4, 3), np.uint8),
    ],
)
def test_what_is_no_picture_is_refused(rgb):
    for make in (lambda: draw(rgb, []), lambda: caption(rgb, "?", "!"), lambda: contact_sheet([Panel("?", rgb, "!")])):
        with pytest.raises(ImageError, match=r"give \(height, width, 3\) uint8\.$"):
            make()


def test_a_mask_of_another_size_is_refused():
    with pytest.raises(ImageError, match=r"\(480, 640\).*\(240, 320\).*\.$"):
        draw(picture((240, 320)), [LARGE])


# Machado, Oliveira, Fernandes 2009: what people without one kind of cone see, in linear RGB.
COLOUR_VISION = {
    "normal": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


@pytest.mark.parametrize("vision", COLOUR_VISION)
def test_colours_can_be_told_apart_by_everyone(vision):
    linear = (np.array(PALETTE) / 255) ** 2.2
    seen = np.clip(linear @ np.array(COLOUR_VISION[vision]).T, 0, 1) ** (1 / 2.2)
    lab = cv2.cvtColor(seen[None].astype(np.float32), cv2.COLOR_RGB2Lab)[0]
    differences = [np.linalg.norm(a - b) for a, b in itertools.combinations(lab, 2)]
    assert min(differences) > 10  # a difference of 2.3 can just be seen side by side


def band_of(rgb, question, text):
    made = caption(rgb, question, text)
    assert np.array_equal(made[: len(rgb), (made.shape[1] - rgb.shape[1]) // 2 :][:, : rgb.shape[1]], rgb)
    return made[len(rgb) :]


def ink(band):
    return np.any(band != BACKGROUND, axis=2)


def test_a_caption_is_below_the_picture_and_within_margins():
    band = band_of(picture(), "Which of these could I drink from? " * 8, "It is [SEG], and also [SEG]. " * 8)
    assert ink(band).any()
    assert not ink(band)[:, :15].any()
    assert not ink(band)[:, -15:].any()


def test_a_segment_in_the_words_has_its_colour():
    band = band_of(picture(), "Where?", "It is [SEG] or [SEG].")
    for index in (0, 1):
        assert np.any(np.all(band == overlay.colour(index), axis=2))
    assert not np.any(np.all(band == overlay.colour(2), axis=2))


def test_no_words_no_band():
    assert band_of(picture(), "", "").shape == (0, 640, 3)
    assert band_of(picture(), " \n", "\t").shape == (0, 640, 3)


def test_longer_words_take_more_lines_up_to_a_limit():
    heights = [len(band_of(picture(), "Where?", "word " * count)) for count in (1, 50, 100, 1000, 10_000)]
    assert heights[0] < heights[1] < heights[2] < heights[3] == heights[4] < 480


@pytest.mark.parametrize("word", ["x" * 500, "杯子" * 100, "[SEG]" * 100])
def test_a_word_wider_than_the_picture_is_broken(word):
    band = band_of(picture(), "", word)
    assert not ink(band)[:, -15:].any()
    assert len(band) > len(band_of(picture(), "", "word"))


@pytest.mark.parametrize(
    "words",
    [
        "Größe: 5 € … où?",
        "где кружка",
        "杯子在哪里",
        "☕🙂",
        "كوب",
        "a\x00b\x07\x1b[31m",
        "\n\n",
        "\ud800",
        "e\u0301",
        "</s>",
    ],
)
@pytest.mark.parametrize("fonts", [(), overlay.SYSTEM_FONTS, ("no-such-font.ttf",)])
def test_letters_of_any_script_leave_a_picture(words, fonts, monkeypatch):
    monkeypatch.setattr(overlay, "SYSTEM_FONTS", fonts)
    assert caption(picture(), words, words).shape[1] == 640


def test_accents_are_left_out_where_no_font_has_them(monkeypatch):
    monkeypatch.setattr(overlay, "SYSTEM_FONTS", ())
    assert np.array_equal(
        caption(picture(), "Où est la tasse à café ?", "Là."), caption(picture(), "Ou est la tasse a cafe ?", "La.")
    )


@pytest.mark.parametrize("size", [(1, 1), (20, 30), (4000, 1)])
def test_a_narrow_picture_gets_a_caption_that_can_be_read(size):
    made = caption(picture(size), "Where is it?", "It is [SEG].")
    assert made.shape[1] == MIN_CAPTION_WIDTH
    assert len(made) > size[0]


@pytest.mark.parametrize(("count", "rows", "columns"), [(1, 1, 1), (2, 1, 2), (3, 2, 2), (5, 2, 3), (10, 3, 4)])
def test_a_contact_sheet_has_a_place_for_each_panel(count, rows, columns):
    sizes = [(480, 640), (640, 360), (100, 1000), (1, 1), (333, 217)]
    panels = [Panel("Where?", np.full((*sizes[index % 5], 3), 200, np.uint8), "Here.") for index in range(count)]
    sheet = contact_sheet(panels, width=400)
    assert sheet.shape[1] == columns * 410 + 10
    bright = np.all(sheet == 200, axis=2).astype(np.uint8)
    areas = cv2.connectedComponentsWithStats(bright)[2][1:, cv2.CC_STAT_AREA]
    assert np.sum(areas > 10_000) == count
    assert len(sheet) > rows * 300


@pytest.mark.parametrize("size", [(1, 4000), (4000, 1)])
def test_a_line_of_pixels_is_seen_on_a_contact_sheet(size):
    sheet = contact_sheet([Panel("", np.full((*size, 3), 200, np.uint8), "")], width=400)
    assert np.all(sheet == 200, axis=2).sum() >= 300


def test_a_row_of_a_contact_sheet_is_as_high_as_its_highest_panel():
    low, high = (Panel("Where?", picture(), "word " * count) for count in (1, 100))
    heights = [len(contact_sheet(panels, columns=2)) for panels in ([low, low], [low, high], [high, low], [high, high])]
    assert heights[0] < heights[1] == heights[2] == heights[3]


def test_a_panel_is_never_too_narrow_for_its_words():
    panels = [Panel("Where?", picture(), "Here.")]
    assert np.array_equal(contact_sheet(panels, width=1), contact_sheet(panels, width=MIN_CAPTION_WIDTH))


def test_a_contact_sheet_of_so_many_columns():
    panels = [Panel("Where?", picture(), "Here.")] * 4
    assert contact_sheet(panels, columns=4, width=300).shape[1] == 4 * 307 + 7


def test_a_contact_sheet_of_nothing_is_refused():
    with pytest.raises(ImageError, match=r"at least one\.$"):
        contact_sheet([])
