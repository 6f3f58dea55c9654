"""Messages made from arrays and arrays made from messages; the table of encodings is in test_bridge.py."""

import array
import contextlib
import struct
import zlib

import cv2
import numpy as np
import pytest
from geometry_msgs.msg import Point, Quaternion, Vector3
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header

from lisa_core import Answer, ImageError, Segment
from lisa_core.answer import tight_box
from lisa_core.geometry import Intrinsics, Placement, SurfacePoints, deproject
from lisa_ros import conversions
from lisa_ros.bridge import MAX_COMPRESSED_PIXELS

SIZE = (48, 64)


@pytest.fixture
def header():
    made = Header(frame_id="wrist_camera")
    made.stamp.sec, made.stamp.nanosec = 1234, 567
    return made


def random_rgb(size=SIZE):
    return np.random.default_rng(5).integers(0, 256, (*size, 3), np.uint8)


def segment(rows, columns, score=0.5):
    mask = np.zeros(SIZE, bool)
    mask[rows, columns] = True
    return Segment(mask, score, tight_box(mask), np.zeros(256, np.float32), np.zeros((256, 256), np.float32))


LEFT = segment(slice(10, 20), slice(5, 30), score=1.25)
RIGHT = segment(slice(15, 40), slice(20, 60), score=-0.5)
EMPTY = segment(slice(0), slice(0))


def pixels_of(message):
    """(H, W) or (H, W, channels) of a message without padding."""
    pixel = {"mono8": np.dtype("u1"), "rgb8": np.dtype("3u1"), "16UC1": np.dtype("<u2")}[message.encoding]
    assert message.step == message.width * pixel.itemsize
    return np.frombuffer(message.data, pixel).reshape(message.height, message.width, *pixel.shape)


class TestToRgb:
    def test_rgb8_shares_the_memory_of_the_message(self):
        message = Image(height=2, width=2, step=6, encoding="rgb8", data=bytes(12))
        message.data[0] = 77
        rgb = conversions.to_rgb(message)
        assert np.shares_memory(rgb, np.frombuffer(message.data, np.uint8))
        assert rgb[0, 0, 0] == 77

    @pytest.mark.parametrize("padding", [0, 1, 13])
    @pytest.mark.parametrize("encoding", ["rgb8", "bgr8"])
    def test_rows_may_be_padded(self, encoding, padding):
        rgb = random_rgb()
        rows = np.pad((rgb if encoding == "rgb8" else rgb[..., ::-1]).reshape(SIZE[0], -1), ((0, 0), (0, padding)))
        message = Image(height=48, width=64, encoding=encoding, step=rows.shape[1], data=rows.tobytes())
        converted = conversions.to_rgb(message)
        assert np.array_equal(converted, rgb)
        assert converted.flags.c_contiguous

    @pytest.mark.parametrize("big_endian", [0, 1])
    def test_mono16_becomes_8_bit_by_its_high_byte(self, big_endian):
        values = np.array([[0x00FF, 0x0100, 0xFFFF, 0x7F80]], ">u2" if big_endian else "<u2")
        message = Image(height=1, width=4, step=8, encoding="mono16", is_bigendian=big_endian, data=values.tobytes())
        assert conversions.to_rgb(message)[0].tolist() == [[n] * 3 for n in (0x00, 0x01, 0xFF, 0x7F)]

    def test_depth_is_refused_with_a_sentence(self):
        message = Image(height=1, width=1, step=2, encoding="16UC1", data=bytes(2))
        with pytest.raises(ImageError, match="'16UC1' holds measurements, such as depth or labels, not colours"):
            conversions.to_rgb(message)

    def test_an_unknown_encoding_is_named(self):
        with pytest.raises(ImageError, match="'h264' is unknown"):
            conversions.to_rgb(Image(height=1, width=1, step=1, encoding="h264", data=b"0"))

    def test_no_pixels(self):
        with pytest.raises(ImageError, match="empty: 0x0"):
            conversions.to_rgb(Image(encoding="rgb8"))

    def test_too_little_data(self):
        with pytest.raises(ImageError, match="rows of 6 bytes are 12 bytes, but data has 11"):
            conversions.to_rgb(Image(height=2, width=2, step=6, encoding="rgb8", data=bytes(11)))


def compressed(pixels, kind=".png", *options):
    return CompressedImage(format=kind[1:], data=cv2.imencode(kind, pixels, options)[1].tobytes())


def png_that_claims(width, height):
    """A valid PNG of a few bytes whose header asks for a large picture."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


class TestToRgbCompressed:
    def test_png_is_exact(self):
        rgb = random_rgb()
        converted = conversions.to_rgb_compressed(compressed(rgb[..., ::-1]))
        assert np.array_equal(converted, rgb)
        assert converted.flags.c_contiguous

    @pytest.mark.parametrize("options", [(), (cv2.IMWRITE_JPEG_PROGRESSIVE, 1), (cv2.IMWRITE_JPEG_RST_INTERVAL, 1)])
    def test_jpeg_is_close(self, options):
        rgb = cv2.resize(random_rgb((6, 8)), (64, 48), interpolation=cv2.INTER_CUBIC)
        converted = conversions.to_rgb_compressed(compressed(rgb[..., ::-1], ".jpg", *options))
        assert np.abs(converted.astype(int) - rgb).mean() < 4

    @pytest.mark.parametrize("kind", [".png", ".jpg"])
    def test_grey(self, kind):
        grey = np.full(SIZE, 93, np.uint8)
        assert np.all(conversions.to_rgb_compressed(compressed(grey, kind)) == 93)

    def test_alpha_is_dropped(self):
        bgra = np.dstack((random_rgb()[..., ::-1], np.zeros(SIZE, np.uint8)))
        assert np.array_equal(conversions.to_rgb_compressed(compressed(bgra)), random_rgb())

    @pytest.mark.parametrize("kind", [".png", ".jpg"])
    @pytest.mark.parametrize("encoding", ["bayer_rggb8", "bayer_bggr8", "bayer_gbrg8", "bayer_grbg8"])
    def test_a_bayer_pattern_gets_its_colours(self, encoding, kind):
        """As image_transport publishes it: the pattern is compressed, and named before the semicolon."""
        pattern = compressed(random_rgb()[..., 0], kind)
        pattern.format = f"{encoding}; {kind[1:]} compressed "
        stored = cv2.imdecode(np.array(pattern.data), cv2.IMREAD_UNCHANGED)
        raw = Image(height=48, width=64, encoding=encoding, step=64, data=stored.tobytes())
        assert np.array_equal(conversions.to_rgb_compressed(pattern), conversions.to_rgb(raw))

    @pytest.mark.parametrize(
        "told", ["rgb8; png compressed bgr8", "mono8; png compressed ", "bayer_rggb8", "8UC3; png"]
    )
    def test_any_other_format_changes_nothing(self, told):
        image = compressed(random_rgb()[..., ::-1])
        image.format = told
        assert np.array_equal(conversions.to_rgb_compressed(image), random_rgb())

    @pytest.mark.parametrize(
        ("told", "dtype", "because"),
        [
            ("16UC1; png compressed ", np.uint16, "'16UC1' holds measurements"),
            ("bayer_rggb16; png compressed ", np.uint16, "'bayer_rggb16' is unknown"),
            ("bayer_rggb8; png compressed ", np.uint16, r"said to be bayer_rggb8, but is uint16\(48, 64\)"),
        ],
    )
    def test_measurements_and_deep_patterns_are_refused(self, told, dtype, because):
        image = compressed(np.ones(SIZE, dtype))
        image.format = told
        with pytest.raises(ImageError, match=because):
            conversions.to_rgb_compressed(image)

    @pytest.mark.parametrize("channels", [1, 3, 4])
    def test_16_bit_become_8_by_the_high_byte(self, channels):
        deep = np.random.default_rng(2).integers(0, 1 << 16, (*SIZE, channels), np.uint16)
        high = (deep >> 8).astype(np.uint8)[..., (0, 0, 0) if channels == 1 else (2, 1, 0)]
        assert np.array_equal(conversions.to_rgb_compressed(compressed(deep)), high)

    def test_a_rotation_in_exif_is_not_done_for_the_intrinsics_are_those_of_the_sensor(self):
        jpeg = compressed(random_rgb(), ".jpg").data.tobytes()
        tags = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<HHHIHHI", 1, 0x0112, 3, 1, 6, 0, 0)
        turned = jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(tags) + 2) + tags + jpeg[2:]
        assert conversions.to_rgb_compressed(CompressedImage(format="jpeg", data=turned)).shape == (*SIZE, 3)

    @pytest.mark.parametrize(
        "data", [b"", b"\xff", b"\xff\xd8", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", bytes(5000), b"GIF89a"]
    )
    def test_garbage(self, data):
        with pytest.raises(ImageError, match=f"the {len(data)} bytes.*neither JPEG nor PNG"):
            conversions.to_rgb_compressed(CompressedImage(format="jpeg", data=data))

    @pytest.mark.parametrize("share", [0.05, 0.3, 0.7, 0.99])
    @pytest.mark.parametrize("kind", [".jpg", ".png"])
    def test_cut_off(self, kind, share):
        whole = compressed(random_rgb(), kind).data
        part = CompressedImage(format=kind[1:], data=whole[: int(share * len(whole))])
        with pytest.raises(ImageError, match=r"cut off|neither"):
            conversions.to_rgb_compressed(part)

    def test_a_camera_that_pads_its_jpegs_is_read(self):
        padded = compressed(random_rgb(), ".jpg").data.tobytes() + bytes(512)
        assert conversions.to_rgb_compressed(CompressedImage(data=padded)).shape == (*SIZE, 3)

    def test_every_byte_may_be_damaged(self):
        rng = np.random.default_rng(9)
        for kind in (".png", ".jpg"):
            whole = np.array(compressed(random_rgb((8, 8)), kind).data)
            for _ in range(150):
                damaged = whole.copy()
                damaged[rng.integers(len(whole), size=3)] = rng.integers(0, 256, 3)
                with contextlib.suppress(ImageError):
                    assert conversions.to_rgb_compressed(CompressedImage(data=damaged.tobytes())).shape[2] == 3

    @pytest.mark.parametrize(
        ("width", "height"), [(30_000, 30_000), (1 << 30, 1 << 30), (MAX_COMPRESSED_PIXELS + 1, 1)]
    )
    def test_a_bomb_is_not_unpacked(self, width, height):
        with pytest.raises(ImageError, match=f"{width}x{height} px is more than"):
            conversions.to_rgb_compressed(CompressedImage(format="png", data=png_that_claims(width, height)))

    def test_a_chunk_that_claims_gigabytes_is_not_made_room_for(self):
        claim = bytearray(png_that_claims(4, 4))
        claim[33:37] = struct.pack(">I", 0xFFFF0000)
        with pytest.raises(ImageError, match="cut off"):
            conversions.to_rgb_compressed(CompressedImage(format="png", data=bytes(claim)))

    def test_a_png_with_too_little_in_it(self):
        with pytest.raises(ImageError, match="damaged"):
            conversions.to_rgb_compressed(CompressedImage(format="png", data=png_that_claims(1000, 1000)))


class TestToDepth:
    @pytest.mark.parametrize("big_endian", [0, 1])
    @pytest.mark.parametrize("padding", [0, 3])
    @pytest.mark.parametrize("encoding", ["16UC1", "mono16"])
    def test_millimetres(self, encoding, padding, big_endian):
        values = np.array([[0, 1, 1500], [65535, 2, 3]], ">u2" if big_endian else "<u2")
        rows = np.pad(values.view(np.uint8), ((0, 0), (0, padding)))
        message = Image(
            height=2, width=3, step=6 + padding, encoding=encoding, is_bigendian=big_endian, data=rows.tobytes()
        )
        depth = conversions.to_depth(message)
        assert depth.dtype == np.float32
        assert depth == pytest.approx(np.array([[0, 0.001, 1.5], [65.535, 0.002, 0.003]]))

    @pytest.mark.parametrize("big_endian", [0, 1])
    @pytest.mark.parametrize("padding", [0, 3])
    def test_metres(self, padding, big_endian):
        values = np.array([[0.5, np.nan], [np.inf, -np.inf]], ">f4" if big_endian else "<f4")
        rows = np.pad(values.view(np.uint8), ((0, 0), (0, padding)))
        message = Image(
            height=2, width=2, step=8 + padding, encoding="32FC1", is_bigendian=big_endian, data=rows.tobytes()
        )
        depth = conversions.to_depth(message)
        assert depth.dtype == np.dtype(np.float32)
        assert np.array_equal(depth, values, equal_nan=True)

    @pytest.mark.parametrize("encoding", ["rgb8", "mono8", "32SC1", "64FC1", "zip"])
    def test_what_is_no_depth_is_named(self, encoding):
        with pytest.raises(ImageError, match=f"'{encoding}' is no depth.*32FC1, 16UC1"):
            conversions.to_depth(Image(height=1, width=1, step=8, encoding=encoding, data=bytes(8)))

    def test_too_little_data(self):
        with pytest.raises(ImageError, match="but data has 3"):
            conversions.to_depth(Image(height=1, width=1, step=4, encoding="32FC1", data=bytes(3)))


def camera_info(**fields):
    return CameraInfo(
        **{"height": 480, "width": 640, "k": [500.0, 0.0, 320.0, 0.0, 510.0, 240.0, 0.0, 0.0, 1.0], **fields}
    )


class TestIntrinsics:
    def test_of_a_calibrated_camera(self):
        assert conversions.intrinsics(camera_info(), (480, 640)) == Intrinsics(500, 510, 320, 240)

    def test_of_rectified_images(self):
        """P, which a driver may fill with other numbers than K's (sensor_msgs/CameraInfo)."""
        info = camera_info(p=[450.0, 0.0, 310.0, 0.0, 0.0, 460.0, 230.0, 0.0, 0.0, 0.0, 1.0, 0.0])
        assert conversions.intrinsics(info, (480, 640)) == Intrinsics(450, 460, 310, 230)

    def test_of_a_camera_that_does_not_tell_its_size(self):
        assert conversions.intrinsics(camera_info(height=0, width=0), (480, 640)) == Intrinsics(500, 510, 320, 240)

    @pytest.mark.parametrize(
        ("fx", "fy", "cx"),
        [
            (0.0, 0.0, 0.0),
            (np.nan, np.nan, np.nan),
            (-500.0, 510.0, 320.0),
            (500.0, 0.0, 320.0),
            (500.0, 510.0, np.nan),
        ],
    )
    def test_of_none(self, fx, fy, cx):
        k = [fx, 0.0, cx, 0.0, fy, 240.0, 0.0, 0.0, 1.0]
        assert conversions.intrinsics(camera_info(k=k), (480, 640)) is None

    def test_of_numbers_that_binning_makes_zero(self):
        k = [5e-324, 0.0, 320.0, 0.0, 510.0, 240.0, 0.0, 0.0, 1.0]
        assert conversions.intrinsics(camera_info(k=k, binning_x=2), (480, 320)) is None

    def test_of_another_size(self):
        assert conversions.intrinsics(camera_info(), (720, 1280)) is None

    def test_binning_and_region_of_interest(self):
        info = camera_info(binning_x=2, binning_y=4)
        assert conversions.intrinsics(info, (120, 320)) == Intrinsics(250, 127.5, 160, 60)
        info.roi.x_offset, info.roi.y_offset, info.roi.width, info.roi.height = 100, 40, 400, 200
        assert conversions.intrinsics(info, (50, 200)) == Intrinsics(250, 127.5, 110, 50)


class TestImages:
    def test_data_is_an_array_of_bytes_for_anything_else_costs_seconds(self, header):
        message = conversions.image_message(random_rgb(), "rgb8", header)
        assert isinstance(message.data, array.array)
        assert (message.header, message.encoding, message.step) == (header, "rgb8", 3 * 64)
        assert np.array_equal(pixels_of(message), random_rgb())
        assert np.array_equal(conversions.to_rgb(message), random_rgb())

    def test_a_wrong_encoding_is_refused(self, header):
        with pytest.raises(ImageError, match=r"8UC3.*'mono8'"):
            conversions.image_message(random_rgb(), "mono8", header)

    def test_the_mask_is_of_all_segments(self, header):
        message = conversions.mask_message([LEFT, EMPTY, RIGHT], SIZE, header)
        assert (message.encoding, message.header) == ("mono8", header)
        assert np.array_equal(pixels_of(message), 255 * (LEFT.mask | RIGHT.mask))

    def test_labels_count_from_one_and_the_lower_index_wins(self, header):
        message = conversions.labels_message([LEFT, EMPTY, RIGHT], SIZE, header)
        assert (message.encoding, message.header) == ("16UC1", header)
        assert np.array_equal(pixels_of(message), np.where(LEFT.mask, 1, np.where(RIGHT.mask, 3, 0)))

    def test_without_segments_both_are_zero_and_of_full_size(self, header):
        for build in (conversions.mask_message, conversions.labels_message):
            pixels = pixels_of(build([], SIZE, header))
            assert pixels.shape == SIZE
            assert not pixels.any()


PLACEMENT = Placement(position=(0.1, -0.2, 1.5), size=(0.3, 0.4, 0.05))


class TestAnswer:
    answer = Answer("It is [SEG] or [SEG].", (LEFT, RIGHT))

    def test_carries_everything(self, header):
        message = conversions.answer_message(
            self.answer,
            header,
            camera="wrist",
            conversation="c1",
            instruction="where?",
            duration=0.25,
            placements=[None, PLACEMENT],
        )
        assert (message.header, message.camera, message.conversation) == (header, "wrist", "c1")
        assert (message.instruction, message.text, message.duration) == ("where?", "It is [SEG] or [SEG].", 0.25)
        first, second = message.segments
        assert (first.roi.x_offset, first.roi.y_offset, first.roi.width, first.roi.height) == (5, 10, 25, 10)
        assert (first.area, first.score, second.score) == (250, 1.25, -0.5)
        assert (first.has_position, second.has_position) == (False, True)
        assert (second.position, second.size) == (Point(x=0.1, y=-0.2, z=1.5), Vector3(x=0.3, y=0.4, z=0.05))
        assert first.position == Point()

    def test_has_masks_only_if_asked(self, header):
        without = conversions.answer_message(self.answer, header)
        assert all(not entry.mask.data and entry.mask == Image() for entry in without.segments)
        masks = [entry.mask for entry in conversions.answer_message(self.answer, header, include_masks=True).segments]
        assert [(mask.encoding, mask.header) for mask in masks] == [("mono8", header)] * 2
        assert np.array_equal(pixels_of(masks[1]), 255 * RIGHT.mask)

    def test_without_segments(self, header):
        message = conversions.answer_message(Answer("No."), header)
        assert (message.text, message.segments) == ("No.", [])

    def test_an_empty_segment(self, header):
        entry = conversions.segment_message(EMPTY, header)
        assert (entry.area, entry.roi.width, entry.roi.height) == (0, 0, 0)

    def test_a_placement_too_few_is_an_error(self, header):
        with pytest.raises(ValueError, match="zip"):
            conversions.answer_message(self.answer, header, placements=[PLACEMENT])


class TestPoints:
    def test_have_the_colours_of_their_pixels(self, header):
        rgb = random_rgb()
        depth = np.full(SIZE, 2.0, np.float32)
        surfaces = [deproject(entry.mask, depth, Intrinsics(50, 50, 32, 24)) for entry in (LEFT, RIGHT)]
        message = conversions.points_message(surfaces, rgb, header)

        assert message.header == header
        assert [(field.name, field.offset, field.datatype) for field in message.fields] == [
            ("x", 0, 7),
            ("y", 4, 7),
            ("z", 8, 7),
            ("rgb", 12, 7),
        ]
        assert (message.height, message.point_step, message.is_bigendian, message.is_dense) == (1, 16, False, True)
        assert message.row_step == 16 * message.width == len(message.data)
        cloud = np.frombuffer(message.data, [("xyz", "<f4", 3), ("rgb", "<u4")])
        assert np.array_equal(cloud["xyz"], np.concatenate([surface.xyz for surface in surfaces]))
        packed = np.stack([cloud["rgb"] >> 16, cloud["rgb"] >> 8 & 0xFF, cloud["rgb"] & 0xFF], axis=-1)
        assert np.array_equal(packed, rgb.reshape(-1, 3)[np.concatenate([surface.pixels for surface in surfaces])])

    @pytest.mark.parametrize("surfaces", [[], [SurfacePoints(np.empty((0, 3), np.float32), np.empty(0, np.intp))]])
    def test_may_be_none(self, header, surfaces):
        message = conversions.points_message(surfaces, random_rgb(), header)
        assert (message.width, message.row_step, len(message.data)) == (0, 0, 0)


def test_the_target_is_the_position_with_identity_orientation(header):
    message = conversions.target_message(PLACEMENT, header)
    assert message.header == header
    assert message.pose.position == Point(x=0.1, y=-0.2, z=1.5)
    assert message.pose.orientation == Quaternion(x=0.0, y=0.0, z=0.0, w=1.0)
