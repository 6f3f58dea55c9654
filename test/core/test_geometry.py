"""Positions and sizes against scenes whose geometry is known in closed form, and against the definition spelled out."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.lib.stride_tricks import sliding_window_view

from lisa_core.errors import ImageError
from lisa_core.geometry import Intrinsics, Placement, deproject, locate, metres

HEIGHT, WIDTH = 480, 640
CAMERA = Intrinsics(fx=525.0, fy=520.0, cx=321.5, cy=238.0)
CENTIMETRE = 0.01


def rays(camera=CAMERA, height=HEIGHT, width=WIDTH):
    """(H, W, 3) directions with z = 1, so that a ray's length to a surface is its depth."""
    v, u = np.mgrid[:height, :width]
    return np.stack([(u - camera.cx) / camera.fx, (v - camera.cy) / camera.fy, np.ones(u.shape)], axis=-1)


def sphere(centre, radius):
    """Mask and depth of a sphere, by the nearer root of |t d - c| = r."""
    d = rays()
    a, b, c = (d * d).sum(-1), d @ np.asarray(centre), np.dot(centre, centre) - radius**2
    root = b * b - a * c
    hit = root > 0
    return hit, np.where(hit, (b - np.sqrt(np.maximum(root, 0))) / a, np.nan)


def box(low, high):
    """Mask and depth of an axis-aligned box, by slabs."""
    with np.errstate(divide="ignore"):
        near, far = np.asarray(low) / rays(), np.asarray(high) / rays()
    enter = np.minimum(near, far).max(-1)
    hit = enter < np.maximum(near, far).min(-1)
    return hit, np.where(hit, enter, np.nan)


def plane(point, normal):
    """Depth of an unbounded plane."""
    return np.dot(point, normal) / (rays() @ np.asarray(normal))


def over(mask, depth, background):
    return np.where(mask, depth, background).astype(np.float32)


def dilated(mask, margin):
    """The mask with `margin` px more all around."""
    windows = sliding_window_view(np.pad(mask, margin), (2 * margin + 1, 2 * margin + 1))
    return windows.any(axis=(2, 3))


def test_a_plane_facing_the_camera_is_where_and_as_large_as_it_is():
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[100:201, 300:501] = True
    placement = locate(mask, np.full(mask.shape, 1.0, np.float32), CAMERA)
    assert placement.position == pytest.approx(((400 - CAMERA.cx) / CAMERA.fx, (150 - CAMERA.cy) / CAMERA.fy, 1.0))
    # 201 x 101 px less 2 px each side span 196 x 96 px between the outer centres, of which 96 % are reported,
    # and percentiles of a grid fall on its columns.
    assert placement.size == pytest.approx((0.96 * 196 / CAMERA.fx, 0.96 * 96 / CAMERA.fy, 0.0), abs=2 / CAMERA.fx)


def test_a_tilted_plane():
    depth = plane(point=(0, 0, 1.0), normal=(0.6, 0.0, -0.8)).astype(np.float32)
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[140:341, 222:423] = True
    placement = locate(mask, depth, CAMERA)
    x = (322 - CAMERA.cx) / CAMERA.fx
    z = 0.8 / (0.8 - 0.6 * x)
    assert placement.position == pytest.approx((x * z, (240 - CAMERA.cy) / CAMERA.fy * z, z), abs=0.2 * CENTIMETRE)
    # On the plane z = 1 + 0.75 x, so it is three quarters as deep as it is wide.
    assert placement.size[2] == pytest.approx(0.75 * placement.size[0], rel=1e-3)


def test_a_box_is_placed_at_its_face():
    mask, depth = box(low=(-0.15, -0.1, 1.0), high=(0.05, 0.1, 1.2))
    placement = locate(mask, over(mask, depth, 2.5), CAMERA)
    assert placement.position == pytest.approx((-0.05, 0.0, 1.0), abs=0.2 * CENTIMETRE)
    assert placement.size == pytest.approx((0.96 * 0.2, 0.96 * 0.2, 0.0), abs=CENTIMETRE)


BALL = (0.12, -0.08, 1.0)
RADIUS = 0.09
# Seen from afar a sphere's points are even over a disc: half of them lie within r / sqrt(2) of its middle.
BALL_POSITION = (BALL[0], BALL[1], BALL[2] - RADIUS / np.sqrt(2))


def test_a_sphere():
    mask, depth = sphere(BALL, RADIUS)
    placement = locate(mask, over(mask, depth, 2.5), CAMERA)
    assert placement.position == pytest.approx(BALL_POSITION, abs=CENTIMETRE)
    # 96 % of a disc are 1.8 radii wide, less the eroded rim (4 mm) and what lies deepest behind it.
    assert all(1.5 * RADIUS < extent < 1.8 * RADIUS for extent in placement.size[:2])


def noise(depth, mask, rng):
    return depth + rng.normal(0, 0.004, depth.shape)


def holes_of_zero(depth, mask, rng):
    return np.where(rng.random(depth.shape) < 0.3, 0.0, depth)


def holes_of_nan_and_infinity(depth, mask, rng):
    return np.where(rng.random(depth.shape) < 0.3, rng.choice([np.nan, np.inf, -np.inf], depth.shape), depth)


def negative_depths(depth, mask, rng):
    return np.where(rng.random(depth.shape) < 0.3, -1.0, depth)


def a_large_hole(depth, mask, rng):
    return np.where(np.arange(depth.shape[0])[:, None] % 40 < 12, 0.0, depth)


def flying_pixels(depth, mask, rng):
    return np.where(rng.random(depth.shape) < 0.2, rng.uniform(0.3, 4.0, depth.shape), depth)


def rim_of_the_background(depth, mask, rng):
    core = ~dilated(~mask, 3)
    return np.where(core, depth, 2.5)


FAULTS = [
    noise,
    holes_of_zero,
    holes_of_nan_and_infinity,
    negative_depths,
    a_large_hole,
    flying_pixels,
    rim_of_the_background,
]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("millimetres", [False, True], ids=["metres", "millimetres"])
@pytest.mark.parametrize("fault", FAULTS)
def test_faults_of_depth_do_not_move_the_position(fault, millimetres):
    mask, depth = sphere(BALL, RADIUS)
    depth = fault(over(mask, depth, 2.5), mask, np.random.default_rng(7)).astype(np.float32)
    if millimetres:
        depth = np.nan_to_num(1000 * depth, posinf=0, neginf=0).clip(0, 65535).round().astype(np.uint16)
    assert locate(mask, depth, CAMERA).position == pytest.approx(BALL_POSITION, abs=CENTIMETRE)


@pytest.mark.parametrize("margin", [1, 2, 4])
def test_a_mask_that_bleeds_into_the_background_does_not_move_the_position(margin):
    mask, depth = sphere(BALL, RADIUS)
    placement = locate(dilated(mask, margin), over(mask, depth, 2.5), CAMERA)
    assert placement.position == pytest.approx(BALL_POSITION, abs=CENTIMETRE)
    assert max(placement.size) < 2.1 * RADIUS


def test_all_faults_at_once():
    rng = np.random.default_rng(11)
    mask, depth = sphere(BALL, RADIUS)
    depth = over(mask, depth, 2.5)
    for fault in (noise, flying_pixels, holes_of_zero):
        depth = fault(depth, mask, rng)
    assert locate(dilated(mask, 3), depth.astype(np.float32), CAMERA).position == pytest.approx(
        BALL_POSITION, abs=CENTIMETRE
    )


@pytest.mark.parametrize("thickness", [1, 2, 3, 4, 5])
def test_a_cable_too_thin_for_the_erosion_has_a_position(thickness):
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[240 : 240 + thickness, 100:500] = True
    depth = np.where(mask, 1.0, 2.5).astype(np.float32)
    assert locate(mask, depth, CAMERA).position[2] == pytest.approx(1.0)


def test_the_erosion_stops_at_the_border_of_the_image_where_the_object_goes_on():
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[:50, :60] = True
    rows, columns = np.divmod(deproject(mask, np.ones(mask.shape, np.float32), CAMERA).pixels, WIDTH)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (0, 47, 0, 57)


@pytest.mark.parametrize("outlier", [0.5, 1.01])
def test_constant_depth_has_no_deviation_and_still_drops_what_deviates(outlier):
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[100:200, 100:200] = True
    depth = np.ones(mask.shape, np.float32)
    depth[120:140, 120:140] = outlier
    points = deproject(mask, depth, CAMERA)
    assert np.all(points.xyz[:, 2] == 1.0)
    assert len(points.xyz) == 96 * 96 - 20 * 20


def test_a_flat_plane_in_millimetres_is_not_thinned_out_by_its_rounding():
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[100:200, 100:200] = True
    depth = np.full(mask.shape, 1000, np.uint16)
    depth[::3] = 1001  # fewer than half, so the MAD is 0
    assert len(deproject(mask, depth, CAMERA).xyz) == 96 * 96


@pytest.mark.parametrize("scale", [(0.5, 0.5), (2, 2), (0.25, 0.25)])
def test_depth_of_another_resolution_is_sampled(scale):
    mask, depth = sphere(BALL, RADIUS)
    rows = ((np.arange(HEIGHT * scale[0]) + 0.5) / scale[0]).astype(int)
    columns = ((np.arange(WIDTH * scale[1]) + 0.5) / scale[1]).astype(int)
    small = over(mask, depth, 2.5)[np.ix_(rows, columns)]
    placement = locate(mask, small, CAMERA)
    assert placement.position == pytest.approx(BALL_POSITION, abs=CENTIMETRE)
    assert placement.size == pytest.approx(locate(mask, over(mask, depth, 2.5), CAMERA).size, abs=CENTIMETRE)


@pytest.mark.parametrize("factor", [2, 4])
def test_each_pixel_has_the_nearest_depth_of_a_smaller_image(factor):
    mask = np.zeros((24, 32), bool)
    mask[:, 4:28] = True
    depth = np.random.default_rng(0).uniform(0.999, 1.001, (24 // factor, 32 // factor)).astype(np.float32)
    points = deproject(mask, depth, CAMERA)
    assert len(points.xyz) > 200
    assert np.array_equal(points.xyz[:, 2], depth.repeat(factor, 0).repeat(factor, 1).ravel()[points.pixels])


@pytest.mark.parametrize("factor", [3, 5])
def test_each_pixel_has_the_depth_at_its_centre_of_a_larger_image(factor):
    mask = np.ones((24, 32), bool)
    depth = np.random.default_rng(0).uniform(0.999, 1.001, (24 * factor, 32 * factor)).astype(np.float32)
    points = deproject(mask, depth, CAMERA)
    assert len(points.xyz) > 200
    assert np.array_equal(points.xyz[:, 2], depth[factor // 2 :: factor, factor // 2 :: factor].ravel()[points.pixels])


@pytest.mark.parametrize("thickness", [1, 3, 9])
def test_the_mask_stays_as_it_was_where_depth_is_unknown(thickness):
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[240 : 240 + thickness, 100:500] = True
    before = mask.copy()
    assert locate(mask, np.zeros(mask.shape, np.float32), CAMERA) is None
    assert np.array_equal(mask, before)


def test_depth_of_another_view_is_refused_with_the_sizes():
    mask = np.ones((HEIGHT, WIDTH), bool)
    with pytest.raises(ImageError, match=r"848x480.*640x480.*aligned.*\.$"):
        locate(mask, np.ones((480, 848), np.float32), CAMERA)


@pytest.mark.parametrize("turn", [0, 1], ids=["wide", "high"])
@pytest.mark.parametrize(("rounding", "shown"), [(-2, False), (-1, True), (0, True), (1, True), (2, False)])
def test_depth_of_half_the_size_may_be_rounded_by_a_pixel(rounding, shown, turn):
    mask = np.rot90(np.ones((HEIGHT, WIDTH), bool), turn)
    depth = np.rot90(np.ones((HEIGHT // 2 + rounding, WIDTH // 2), np.float32), turn)
    if shown:
        assert locate(mask, depth, CAMERA).position[2] == 1.0
    else:
        with pytest.raises(ImageError, match="does not show the view"):
            locate(mask, depth, CAMERA)


@pytest.mark.parametrize("shape", [(HEIGHT, WIDTH, 1), (WIDTH,), (0, 0)])
def test_what_is_no_depth_image_is_refused(shape):
    with pytest.raises(ImageError, match=r"depth image .*; give \(height, width\)\.$"):
        locate(np.ones((HEIGHT, WIDTH), bool), np.ones(shape, np.float32), CAMERA)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.uint32, bool])
def test_depth_of_unknown_unit_is_refused(dtype):
    with pytest.raises(ImageError, match=rf"{np.dtype(dtype)}.*metres.*millimetres\.$"):
        metres(np.ones((2, 2), dtype))


def test_metres_normalises_both_kinds_of_depth():
    millimetres = metres(np.array([0, 1, 65535], np.uint16))
    assert millimetres == pytest.approx([0, 0.001, 65.535])
    assert millimetres.dtype == metres(np.array([1.5], np.float64)).dtype == np.float32
    already = np.ones(3, np.float32)
    assert metres(already) is already


@pytest.mark.parametrize("hole", [0.0, np.nan, np.inf, -np.inf, -1.0])
@pytest.mark.filterwarnings("error")
def test_without_any_depth_there_is_no_placement(hole):
    mask = np.ones((HEIGHT, WIDTH), bool)
    depth = np.full(mask.shape, hole, np.float32)
    assert locate(mask, depth, CAMERA) is None
    assert deproject(mask, depth, CAMERA).xyz.shape == (0, 3)


@pytest.mark.filterwarnings("error")
def test_an_empty_mask_has_no_placement():
    mask = np.zeros((HEIGHT, WIDTH), bool)
    assert locate(mask, np.ones(mask.shape, np.float32), CAMERA) is None


@pytest.mark.parametrize(
    "numbers", [(0, 0, 0, 0), (-500, 500, 320, 240), (500, 0, 320, 240), (np.nan, 500, 1, 1), (500, 500, np.inf, 1)]
)
def test_numbers_that_are_no_camera_are_refused(numbers):
    with pytest.raises(ValueError, match=r"no camera.*\.$"):
        Intrinsics(*map(float, numbers))


def test_a_sample_of_a_large_surface_gives_the_placement_of_all_of_it():
    depth = plane(point=(0, 0, 1.0), normal=(0.3, 0.4, -0.8))
    depth = (depth + np.random.default_rng(3).normal(0, 0.005, depth.shape)).astype(np.float32)
    mask = np.ones(depth.shape, bool)
    sampled = locate(mask, depth, CAMERA)
    xyz = deproject(mask, depth, CAMERA).xyz
    low, middle, high = np.percentile(xyz, (2, 50, 98), axis=0)
    assert len(xyz) > 250_000
    assert sampled.position == pytest.approx(middle, abs=CENTIMETRE / 2)
    assert sampled.size == pytest.approx(high - low, abs=CENTIMETRE)


@pytest.mark.parametrize("most", [1, 100, 1287, 1288, 100_000])
def test_at_most_so_many_points_are_picked_evenly(most):
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[:30, 100:150] = True  # 28 x 46 px without its rim
    depth = np.random.default_rng(3).uniform(0.9995, 1.0005, mask.shape).astype(np.float32)
    whole, picked = deproject(mask, depth, CAMERA), deproject(mask, depth, CAMERA, most)
    step = -(-len(whole.pixels) // most)
    assert len(picked.pixels) <= most
    assert np.array_equal(picked.pixels, whole.pixels[::step])
    assert np.array_equal(picked.xyz, whole.xyz[::step])


def by_definition(mask, depth, camera):
    """Placement as `Segment.msg` words it, pixel by pixel."""
    for margin in (2, 1, 0):
        inner = ~dilated(~mask, margin)
        if inner.any():
            break
    z = np.where(inner & np.isfinite(depth) & (depth > 0), depth, np.nan).astype(float)
    if np.isnan(z).all():
        return None
    median = np.nanmedian(z)
    mad = max(np.nanmedian(abs(z - median)), 0.001)
    points = [
        ((u - camera.cx) * z[v, u] / camera.fx, (v - camera.cy) * z[v, u] / camera.fy, z[v, u])
        for v, u in np.ndindex(mask.shape)
        if abs(z[v, u] - median) <= 3 * mad + 1e-6
    ]
    low, middle, high = np.percentile(points, (2, 50, 98), axis=0)
    return Placement(tuple(middle), tuple(high - low))


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 24),
    st.integers(1, 24),
    st.floats(0.05, 1.0),
    st.floats(0.0, 0.9),
)
def test_any_small_scene_is_placed_as_the_definition_says(seed, height, width, filled, missing):
    rng = np.random.default_rng(seed)
    mask = np.zeros((height, width), bool)
    top, left = rng.integers(height), rng.integers(width)
    mask[top : top + rng.integers(1, height + 1), left : left + rng.integers(1, width + 1)] = True
    mask &= rng.random(mask.shape) <= max(filled, 0.3)
    if not mask.any():
        mask[top, left] = True
    depth = rng.uniform(0.9, 1.1, mask.shape) + rng.choice([0.0, 2.0], mask.shape, p=[0.8, 0.2])
    depth[rng.random(depth.shape) < missing] = rng.choice([0.0, np.nan, np.inf])
    depth = depth.astype(np.float32)
    camera = Intrinsics(20.0, 22.0, width / 2, height / 2)

    expected, placement = by_definition(mask, depth, camera), locate(mask, depth, camera)
    if expected is None:
        assert placement is None
    else:
        assert placement.position == pytest.approx(expected.position, abs=1e-4)
        assert placement.size == pytest.approx(expected.size, abs=1e-4)

    points = deproject(mask, depth, camera)
    rows, columns = np.divmod(points.pixels, width)
    assert mask[rows, columns].all()
    assert np.array_equal(points.xyz[:, 2], depth[rows, columns])
    assert points.xyz[:, 0] / points.xyz[:, 2] * camera.fx + camera.cx == pytest.approx(columns, abs=1e-3)
    assert points.xyz[:, 1] / points.xyz[:, 2] * camera.fy + camera.cy == pytest.approx(rows, abs=1e-3)
