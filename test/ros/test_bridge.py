"""One table of encodings, for `CvBridge` with ROS's own if this machine has it, and for ours alone."""

import logging
import sys
import textwrap

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from lisa_ros import bridge
from lisa_ros.bridge import COLOUR_ENCODINGS, CvBridge, CvBridgeError


@pytest.fixture(params=["as installed", "without ROS's own"])
def converter(request, monkeypatch):
    if request.param == "without ROS's own":
        monkeypatch.setattr(bridge, "_cv_bridge_of_ros", lambda: None)
    return CvBridge()


def picture(height=6, width=8):
    """(H, W, 3) random colours, equal in blocks of 2x2 px so that shared chroma loses nothing."""
    quarters = np.random.default_rng(height * width).integers(16, 240, ((height + 1) // 2, (width + 1) // 2, 3))
    return quarters.repeat(2, 0).repeat(2, 1)[:height, :width].astype(np.uint8)


def yuv(rgb):
    """Y, U and V of BT.601 with headroom, as cameras send them."""
    r, g, b = np.moveaxis(rgb.astype(float), -1, 0)
    y = 16 + (65.481 * r + 128.553 * g + 24.966 * b) / 255
    u = 128 + (-37.797 * r - 74.203 * g + 112.0 * b) / 255
    v = 128 + (112.0 * r - 93.786 * g - 18.214 * b) / 255
    return [plane.round().astype(np.uint8) for plane in (y, u, v)]


def packed(*planes):
    return np.stack(planes, axis=-1)


def grey(rgb):
    return rgb[..., 1]


def uyvy(rgb):
    y, u, v = yuv(rgb)
    return packed(u[:, ::2], y[:, ::2], v[:, ::2], y[:, 1::2]).reshape(*y.shape, 2)


def yuyv(rgb):
    return uyvy(rgb)[..., ::-1]


def mosaic(rgb, pattern):
    """The raw image of a sensor with that pattern of 2x2 filters, given row by row."""
    raw = np.empty(rgb.shape[:2], np.uint8)
    for place, colour in enumerate(pattern):
        row, column = divmod(place, 2)
        raw[row::2, column::2] = rgb[row::2, column::2, "rgb".index(colour)]
    return raw


ENCODERS = {
    "rgb8": lambda rgb: rgb,
    "bgr8": lambda rgb: rgb[..., ::-1],
    "8UC3": lambda rgb: rgb[..., ::-1],
    "rgba8": lambda rgb: packed(*np.moveaxis(rgb, -1, 0), grey(rgb) // 2),
    "bgra8": lambda rgb: packed(*np.moveaxis(rgb[..., ::-1], -1, 0), grey(rgb) // 2),
    "mono8": grey,
    "8UC1": grey,
    "mono16": lambda rgb: grey(rgb).astype(np.uint16) << 8 | 0xFF,
    "yuv422": uyvy,
    "uyvy": uyvy,
    "yuv422_yuy2": yuyv,
    "yuyv": yuyv,
    **{f"bayer_{p}8": lambda rgb, p=p: mosaic(rgb, p) for p in ("rggb", "bggr", "gbrg", "grbg")},
}
PLANAR = {
    "nv21": lambda y, u, v: [y, packed(v, u)[::2, ::2].reshape(-1, y.shape[1])],
    "nv24": lambda y, u, v: [y, packed(u, v).reshape(-1, 2 * y.shape[1])],
}
GREY = {"mono8", "8UC1", "mono16"}
ROUNDED = {"yuv422", "uyvy", "yuv422_yuy2", "yuyv", "nv21", "nv24"}


def rows_of_bytes(pixels, padding):
    """The bytes of each row, followed by that many bytes of padding."""
    rows = np.ascontiguousarray(pixels).reshape(len(pixels), -1).view(np.uint8)
    return np.pad(rows, ((0, 0), (0, padding)), constant_values=0xA5)


def message(rgb, encoding, padding=0, big_endian=False):
    """The picture in that encoding, by other means than those under test."""
    height, width = rgb.shape[:2]
    if encoding in PLANAR:
        luma, chroma = PLANAR[encoding](*yuv(rgb))
        step = width + padding
        chroma_padding = padding * chroma.shape[1] // width
        data = rows_of_bytes(luma, padding).tobytes() + rows_of_bytes(chroma, chroma_padding).tobytes()
    else:
        pixels = ENCODERS[encoding](rgb)
        pixels = pixels.astype(pixels.dtype.newbyteorder(">" if big_endian else "<"))
        rows = rows_of_bytes(pixels, padding)
        step, data = rows.shape[1], rows.tobytes()
    return Image(height=height, width=width, encoding=encoding, step=step, is_bigendian=int(big_endian), data=data)


def assert_shows(image, rgb, encoding):
    expected = grey(rgb)[..., None].repeat(3, -1) if encoding in GREY else rgb
    assert (image.dtype, image.shape) == (np.uint8, expected.shape)
    assert image.flags.c_contiguous
    assert np.abs(image.astype(int) - expected).max() <= (2 if encoding in ROUNDED else 0)


def test_the_table_is_of_all_encodings():
    assert set(ENCODERS) | set(PLANAR) == set(COLOUR_ENCODINGS)


@pytest.mark.parametrize("big_endian", [False, True], ids=["little", "big"])
@pytest.mark.parametrize("padding", [0, 1, 3, 64])
@pytest.mark.parametrize("encoding", COLOUR_ENCODINGS)
def test_every_encoding_in_rows_of_any_step_and_either_byte_order(converter, encoding, padding, big_endian):
    rgb = picture()
    if encoding.startswith("bayer"):
        rgb[:] = (200, 120, 40)  # demosaicing is exact only where the colour is uniform
    assert_shows(converter.imgmsg_to_cv2(message(rgb, encoding, padding, big_endian), "rgb8"), rgb, encoding)


@pytest.mark.parametrize("pattern", ["rggb", "bggr", "gbrg", "grbg"])
def test_a_mosaic_gives_each_half_of_the_picture_its_colour(converter, pattern):
    rgb = np.empty((16, 32, 3), np.uint8)
    rgb[:, :16], rgb[:, 16:] = (250, 20, 60), (10, 200, 120)
    image = converter.imgmsg_to_cv2(message(rgb, f"bayer_{pattern}8", padding=5), "rgb8")
    assert np.array_equal(image[:, :14], rgb[:, :14])
    assert np.array_equal(image[:, 18:], rgb[:, 18:])


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from([encoding for encoding in COLOUR_ENCODINGS if not encoding.startswith("bayer")]),
    st.integers(1, 9),
    st.integers(1, 9),
    st.integers(0, 9),
    st.booleans(),
)
def test_pictures_of_any_size(encoding, height, width, padding, big_endian):
    if encoding in ROUNDED - {"nv24"}:
        height, width = 2 * height, 2 * width
    rgb = picture(height, width)
    image = CvBridge().imgmsg_to_cv2(message(rgb, encoding, padding, big_endian), "rgb8")
    assert_shows(image, rgb, encoding)


@pytest.mark.parametrize("encoding", ["nv21", "nv24"])
def test_a_step_that_counts_the_planes_together_as_image_msg_has_it(converter, encoding):
    rgb = picture()
    apart = message(rgb, encoding)
    together = Image(height=6, width=8, encoding=encoding, step=len(apart.data) // 6, data=apart.data)
    assert_shows(converter.imgmsg_to_cv2(together, "rgb8"), rgb, encoding)


@pytest.mark.parametrize("desired", ["rgb8", "bgr8", "rgba8", "bgra8", "mono8"])
@pytest.mark.parametrize("encoding", ["rgb8", "bgr8", "rgba8", "mono8", "yuyv"])
def test_other_encodings_than_rgb8_can_be_asked_for(converter, encoding, desired):
    image = converter.imgmsg_to_cv2(message(picture(), encoding), desired)
    rgb = converter.imgmsg_to_cv2(message(picture(), encoding), "rgb8")
    if desired == "mono8":
        assert np.abs(image - rgb @ [0.299, 0.587, 0.114]).max() <= 1
    else:
        order = ["rgba".index(channel) for channel in desired[:-1]]
        opaque = np.dstack((rgb, np.full(rgb.shape[:2], 255, np.uint8)))
        if encoding == desired:  # nothing is converted, so the alpha is the picture's own
            opaque[..., 3] = image[..., 3] if image.shape[2] == 4 else 255
        assert np.array_equal(image, opaque[..., order])


GENERIC = ["8UC1", "8SC2", "16UC1", "16SC3", "32SC1", "32FC1", "32FC3", "64FC4", "8UC7"]


@pytest.mark.parametrize("byte_order", ["<", ">"])
@pytest.mark.parametrize("encoding", GENERIC)
def test_measurements_go_there_and_back(converter, encoding, byte_order):
    bits, kind, channels = encoding[: -len("UC1")], encoding[-3].lower().replace("s", "i"), int(encoding[-1])
    dtype = np.dtype(f"{byte_order}{kind}{int(bits) // 8}")
    pixels = np.random.default_rng(1).uniform(0, 100, (5, 3, channels)).astype(dtype)
    pixels = pixels[..., 0] if channels == 1 else pixels
    sent = converter.cv2_to_imgmsg(pixels)
    assert sent.encoding == encoding
    received = converter.imgmsg_to_cv2(sent)
    assert np.array_equal(received, pixels)
    assert received.dtype == dtype.newbyteorder("=")


def test_a_message_from_an_array_has_the_header_and_the_bytes(converter):
    header = Header(frame_id="camera")
    header.stamp.sec = 7
    rgb = picture()
    sent = converter.cv2_to_imgmsg(rgb[:, ::2], "rgb8", header)
    assert (sent.header, sent.height, sent.width, sent.step, sent.is_bigendian) == (header, 6, 4, 12, 0)
    assert bytes(sent.data) == rgb[:, ::2].tobytes()
    assert np.array_equal(converter.imgmsg_to_cv2(sent, "bgr8"), rgb[:, ::2, ::-1])


@pytest.mark.parametrize(
    ("pixels", "encoding"),
    [
        (np.zeros((2, 2), np.uint8), "rgb8"),
        (np.zeros((2, 2, 3), np.uint16), "rgb8"),
        (np.zeros((2, 2), bool), "mono8"),
        (np.zeros((2, 2), bool), "passthrough"),
        (np.zeros((2, 2), np.uint8), "nonsense"),
    ],
)
def test_an_array_that_is_not_of_the_encoding_is_refused(converter, pixels, encoding):
    with pytest.raises(CvBridgeError, match="encoding"):
        converter.cv2_to_imgmsg(pixels, encoding)


@pytest.mark.parametrize("encoding", ["rgb16", "nv12", "8UC", "8UC0", "9UC1", "8UCx", "8UC" + "9" * 5000, "", "jpeg"])
def test_an_unknown_encoding_is_named(converter, encoding):
    with pytest.raises(CvBridgeError, match=f"'{encoding}'.*rgb8"):
        converter.imgmsg_to_cv2(Image(height=1, width=1, step=8, encoding=encoding, data=bytes(8)), "rgb8")


@pytest.mark.parametrize("encoding", ["16UC1", "32FC1", "8UC2", "32SC1"])
def test_measurements_are_no_colours(converter, encoding):
    pixels = Image(height=1, width=1, step=4, encoding=encoding, data=bytes(4))
    with pytest.raises(CvBridgeError, match=f"'{encoding}' holds measurements"):
        converter.imgmsg_to_cv2(pixels, "rgb8")


def test_an_encoding_that_cannot_be_made_is_named(converter):
    with pytest.raises(CvBridgeError, match="'yuv422'"):
        converter.imgmsg_to_cv2(message(picture(), "mono8"), "yuv422")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"width": 0}, "empty: 0x6"),
        ({"height": 0}, "empty: 8x0"),
        ({"width": 0, "height": 0, "step": 0, "data": b""}, "empty: 0x0"),
        ({"step": 23}, "8 px of rgb8 is 24 bytes, but step is 23"),
        ({"step": 0}, "24 bytes, but step is 0"),
        ({"data": bytes(143)}, "144 bytes, but data has 143"),
        ({"data": bytes(145)}, "144 bytes, but data has 145"),
        ({"data": b""}, "144 bytes, but data has 0"),
        ({"height": 4_000_000_000}, "but data has 144"),
        ({"encoding": "nv21", "data": bytes(100)}, "but data has 100"),
        ({"encoding": "nv24", "step": 7}, "8 bytes, but step is 7"),
        ({"encoding": "nv21", "height": 5}, "8x5 px is no multiple"),
    ],
)
def test_sizes_that_do_not_fit_together_are_told(converter, changes, sentence):
    broken = message(picture(), "rgb8")
    for field, value in changes.items():
        setattr(broken, field, value)
    with pytest.raises(CvBridgeError, match=sentence):
        converter.imgmsg_to_cv2(broken, "rgb8")


@pytest.mark.parametrize("encoding", ["yuv422", "yuyv"])
def test_half_a_pair_of_pixels_is_refused(converter, encoding):
    with pytest.raises(CvBridgeError, match="3 px wide"):
        converter.imgmsg_to_cv2(Image(height=1, width=3, step=6, encoding=encoding, data=bytes(6)), "rgb8")


@pytest.mark.parametrize("dst_format", ["png", "jpg"])
def test_compressed_there_and_back(converter, dst_format):
    smooth = cv2.resize(picture(), (64, 48), interpolation=cv2.INTER_CUBIC)
    sent = converter.cv2_to_compressed_imgmsg(smooth, dst_format)
    assert sent.format == dst_format
    received = converter.compressed_imgmsg_to_cv2(sent)
    assert np.abs(received.astype(int) - smooth).max() <= (0 if dst_format == "png" else 32)
    assert np.array_equal(converter.compressed_imgmsg_to_cv2(sent, "rgb8"), received[..., ::-1])
    assert converter.compressed_imgmsg_to_cv2(sent, "mono8").shape == (48, 64)


def test_markers_of_a_jpeg_may_have_more_ones_before_them(converter):
    sent = converter.cv2_to_compressed_imgmsg(picture(), "jpg")
    received = converter.compressed_imgmsg_to_cv2(sent)
    data = bytes(sent.data)
    sent.data = data[:2] + b"\xff\xff" + data[2:]
    assert np.array_equal(converter.compressed_imgmsg_to_cv2(sent), received)


def test_what_opencv_cannot_write_is_refused(converter):
    with pytest.raises(CvBridgeError, match="nonsense"):
        converter.cv2_to_compressed_imgmsg(picture(), "nonsense")
    with pytest.raises(CvBridgeError, match="png"):
        converter.cv2_to_compressed_imgmsg(np.zeros((2, 2, 7), np.uint8), "png")


WORKING = """
    import numpy

    class CvBridge:
        def imgmsg_to_cv2(self, message, desired_encoding):
            print("asked", end="")
            pixels = numpy.frombuffer(message.data, numpy.uint8).reshape(message.height, message.width, 3)
            return pixels if message.encoding == desired_encoding else pixels[:, :, ::-1].copy()
"""
BROKEN = {
    "it does not import": ("raise ImportError('numpy.core.multiarray failed to import')", "multiarray"),
    "it raises late": (
        "class CvBridge:\n    def imgmsg_to_cv2(self, *args): raise AttributeError('_ARRAY_API')",
        "_ARRAY",
    ),
    "it crashes": ("import os\nclass CvBridge:\n    def imgmsg_to_cv2(self, *args): os.abort()", "does not work"),
    "it is wrong": (WORKING.replace("::-1", ":"), "does not work"),
}


@pytest.fixture
def install_cv_bridge(tmp_path, monkeypatch):
    """A stand-in for ROS's own package in front of any real one; the choice is forgotten before and after."""

    def install(source):
        (tmp_path / "cv_bridge.py").write_text(textwrap.dedent(source))
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "cv_bridge", raising=False)
        bridge._cv_bridge_of_ros.cache_clear()

    yield install
    bridge._cv_bridge_of_ros.cache_clear()
    sys.modules.pop("cv_bridge", None)


def test_ros_own_reads_what_it_reads_right(install_cv_bridge, capsys):
    install_cv_bridge(WORKING)
    rgb = picture()
    assert np.array_equal(CvBridge().imgmsg_to_cv2(message(rgb, "bgr8"), "rgb8"), rgb)
    assert capsys.readouterr().out == "asked"


@pytest.mark.parametrize(("encoding", "padding"), [("bgr8", 1), ("mono16", 0), ("8UC3", 0), ("nv21", 0), ("yuyv", 0)])
def test_ros_own_is_spared_what_it_reads_wrong(install_cv_bridge, capsys, encoding, padding):
    install_cv_bridge(WORKING)
    rgb = picture()
    assert_shows(CvBridge().imgmsg_to_cv2(message(rgb, encoding, padding), "rgb8"), rgb, encoding)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("fault", BROKEN)
def test_ros_own_is_left_alone_where_it_does_not_work(install_cv_bridge, caplog, fault):
    source, reason = BROKEN[fault]
    install_cv_bridge(source)
    rgb = picture()
    with caplog.at_level(logging.WARNING):
        assert np.array_equal(CvBridge().imgmsg_to_cv2(message(rgb, "bgr8"), "rgb8"), rgb)
    assert reason in caplog.text


def test_what_ros_own_refuses_is_converted_all_the_same(install_cv_bridge):
    refusal = "if message.encoding != 'bgr8': raise TypeError('that is what its CvBridgeError is')\n            print"
    install_cv_bridge(WORKING.replace("print", refusal))
    rgb = picture()
    assert_shows(CvBridge().imgmsg_to_cv2(message(rgb, "rgba8"), "rgb8"), rgb, "rgba8")


def test_a_compressed_image_that_is_none(converter):
    with pytest.raises(CvBridgeError, match="neither JPEG nor PNG"):
        converter.compressed_imgmsg_to_cv2(CompressedImage(format="jpeg", data=b"not a picture"))
