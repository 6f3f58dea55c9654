"""Reads and writes the pixels of image messages, with the API of ROS's `cv_bridge`.

There is no wheel of `cv_bridge`, and one that ROS installed may have been built for another NumPy: it can be imported
then, but crashes the process at the first conversion. So `CvBridge` here has the same methods and needs only NumPy and
OpenCV. It calls ROS's own where that is installed, works in a trial, and reads the message correctly: ROS's Python side
shears images whose row padding is no whole number of pixels, and refuses half of the encodings below.

Encodings are those of sensor_msgs/image_encodings.hpp. What ROS's own does not do: `8UC1` and `8UC3` are converted, as
`mono8` and `bgr8`; so are `uyvy`, `yuyv`, `nv21` and `nv24`; mono16 becomes 8 bit by its high byte; compressed Bayer
images get their colours; compressed images that are cut off or too large are refused.
"""

import array
import contextlib
import functools
import importlib
import importlib.util
import logging
import os
import struct
import subprocess
import sys
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

MAX_COMPRESSED_PIXELS = 1 << 26
"""Compressed images with more pixels are refused before they are decoded: a few kB can claim all of the memory."""

PASSTHROUGH = "passthrough"

_LAYOUTS = {
    **dict.fromkeys(("rgb8", "bgr8"), ("u1", 3)),
    **dict.fromkeys(("rgba8", "bgra8"), ("u1", 4)),
    **dict.fromkeys(("yuv422", "uyvy", "yuv422_yuy2", "yuyv"), ("u1", 2)),
    **dict.fromkeys(("mono8", "bayer_rggb8", "bayer_bggr8", "bayer_gbrg8", "bayer_grbg8"), ("u1", 1)),
    "mono16": ("u2", 1),
}
"""NumPy type and number of channels, for encodings whose names do not say them as `8UC3` does."""

_GENERIC_TYPES = {"8U": "u1", "8S": "i1", "16U": "u2", "16S": "i2", "32S": "i4", "32F": "f4", "64F": "f8"}
_GENERIC_NAMES = {numpy_name: name for name, numpy_name in _GENERIC_TYPES.items()}

_DIGITS = 3
"""Most digits in a number of channels; OpenCV allows 512 channels."""

_PLANAR_ROWS = {"nv21": 1.5, "nv24": 3}
"""Rows of `width` bytes per row of pixels, over all planes."""

# OpenCV names a Bayer pattern by its second row, ROS by its first row.
_TO_RGB = {
    **dict.fromkeys(("bgr8", "8UC3"), cv2.COLOR_BGR2RGB),
    **dict.fromkeys(("mono8", "8UC1", "mono16"), cv2.COLOR_GRAY2RGB),
    **dict.fromkeys(("yuv422", "uyvy"), cv2.COLOR_YUV2RGB_UYVY),
    **dict.fromkeys(("yuv422_yuy2", "yuyv"), cv2.COLOR_YUV2RGB_YUY2),
    "rgba8": cv2.COLOR_RGBA2RGB,
    "bgra8": cv2.COLOR_BGRA2RGB,
    "bayer_rggb8": cv2.COLOR_BayerBG2RGB,
    "bayer_bggr8": cv2.COLOR_BayerRG2RGB,
    "bayer_gbrg8": cv2.COLOR_BayerGR2RGB,
    "bayer_grbg8": cv2.COLOR_BayerGB2RGB,
    "nv21": cv2.COLOR_YUV2RGB_NV21,
}
_FROM_RGB = {
    "bgr8": cv2.COLOR_RGB2BGR,
    "rgba8": cv2.COLOR_RGB2RGBA,
    "bgra8": cv2.COLOR_RGB2BGRA,
    "mono8": cv2.COLOR_RGB2GRAY,
}
COLOUR_ENCODINGS = ("rgb8", *_TO_RGB, "nv24")
"""Encodings that can be converted to rgb8."""

_READ_BY_ROS = frozenset(COLOUR_ENCODINGS) - {"8UC1", "8UC3", "mono16", "uyvy", "yuyv", "nv21", "nv24"}


class CvBridgeError(TypeError):
    """The message or array cannot be converted; the sentence names the wrong numbers or names."""


class CvBridge:
    """Converts between messages and OpenCV's arrays, with the methods of ROS's `cv_bridge.CvBridge`.

    If ROS's own is installed, its trial makes the first conversion of a process take a second longer.
    """

    def imgmsg_to_cv2(self, img_msg: Image, desired_encoding: str = PASSTHROUGH) -> NDArray[Any]:
        """The message's pixels, (H, W) or (H, W, channels), in this machine's byte order.

        Args:
            img_msg: in any encoding for "passthrough", else in one of `COLOUR_ENCODINGS`.
            desired_encoding: rgb8, bgr8, rgba8, bgra8, mono8, or "passthrough": not converted, and in the message's own
                memory where possible; nv21 and nv24 are (1.5 H, W) and (3 H, W) then, one plane below the other.

        Raises:
            CvBridgeError: the encoding is unknown, or width, height, step and length of the data do not agree.
        """
        pixels = _pixels(img_msg)
        if desired_encoding in (PASSTHROUGH, img_msg.encoding):
            return np.ascontiguousarray(pixels)
        if img_msg.encoding in _READ_BY_ROS and pixels.flags.c_contiguous and (ros := _cv_bridge_of_ros()):
            with contextlib.suppress(TypeError):  # its CvBridgeError: what it refuses may be converted below
                return ros.imgmsg_to_cv2(img_msg, desired_encoding)
        return _recode(_rgb(pixels, img_msg.encoding), desired_encoding)

    def compressed_imgmsg_to_cv2(
        self, cmprs_img_msg: CompressedImage, desired_encoding: str = PASSTHROUGH
    ) -> NDArray[Any]:
        """The pixels of a JPEG or PNG as stored in the file; a rotation in a JPEG's EXIF is ignored.

        Args:
            cmprs_img_msg: its `format` says whether a Bayer pattern was compressed, or depth, as in `16UC1; png ...`;
                all else in it is ignored, for drivers differ in what they write there.
            desired_encoding: rgb8, bgr8, rgba8, bgra8, mono8 (16 bit become 8 by the high byte; an alpha channel is
                dropped), or "passthrough": not converted, colours in the order of bgr8 and bgra8.

        Raises:
            CvBridgeError: neither JPEG nor PNG, not to be decoded, cut off, or more than `MAX_COMPRESSED_PIXELS`; or
                not the Bayer pattern that `format` says.
        """
        data = bytes(cmprs_img_msg.data)
        _check_compressed(data)
        passthrough, kept = desired_encoding == PASSTHROUGH, _kept_encoding(cmprs_img_msg.format)
        as_it_is = passthrough or kept
        flags = cv2.IMREAD_UNCHANGED if as_it_is else cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
        if image is None:
            raise CvBridgeError(f"the {len(data)} bytes of compressed image are damaged")
        if passthrough:
            return image
        rgb = _rgb_of_kept(image, kept) if kept else cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image)
        return _recode(rgb, desired_encoding)

    def cv2_to_imgmsg(self, cvim: NDArray[Any], encoding: str = PASSTHROUGH, header: Header | None = None) -> Image:
        """A message of the (H, W) or (H, W, channels) array, copied once.

        Raises:
            CvBridgeError: the encoding has another type or number of channels than the array.
        """
        height, width, channels = cvim.shape if cvim.ndim == 3 else (*cvim.shape, 1)
        byte_order, numpy_name = cvim.dtype.str[0], cvim.dtype.str[1:]
        name = f"{_GENERIC_NAMES.get(numpy_name, numpy_name)}C{channels}"
        if _layout(name if encoding == PASSTHROUGH else encoding) != (numpy_name, channels):
            raise CvBridgeError(f"an array of {name} cannot be an image of encoding '{encoding}'")
        return Image(
            header=Header() if header is None else header,
            height=height,
            width=width,
            encoding=name if encoding == PASSTHROUGH else encoding,
            is_bigendian=int(byte_order == ">"),
            step=width * channels * cvim.dtype.itemsize,
            data=_buffer(cvim),
        )

    def cv2_to_compressed_imgmsg(self, cvim: NDArray[Any], dst_format: str = "jpg") -> CompressedImage:
        """A message of the array, encoded by OpenCV in that format (jpg, png...); colours in the order bgr8 or bgra8.

        Raises:
            CvBridgeError: OpenCV cannot encode such an array in that format.
        """
        try:
            done, data = cv2.imencode(f".{dst_format}", cvim)
        except cv2.error as error:
            raise CvBridgeError(f"cannot write {cvim.dtype} of shape {cvim.shape} as {dst_format}: {error}") from error
        if not done:
            raise CvBridgeError(f"cannot write {cvim.dtype} of shape {cvim.shape} as {dst_format}")
        return CompressedImage(format=dst_format, data=_buffer(data))


def _layout(encoding: str) -> tuple[str, int]:
    """NumPy's name of the type, without byte order, and the number of channels."""
    if encoding in _LAYOUTS:
        return _LAYOUTS[encoding]
    name, _, channels = encoding.partition("C")
    if name in _GENERIC_TYPES and len(channels) <= _DIGITS and channels.isdecimal() and int(channels):
        return _GENERIC_TYPES[name], int(channels)
    raise CvBridgeError(f"encoding '{encoding}' is unknown; for colours use one of {', '.join(COLOUR_ENCODINGS)}")


def _pixels(message: Image) -> NDArray[Any]:
    """(H, W) or (H, W, channels) in native byte order; where possible a view of the message, with its step."""
    if not message.width or not message.height:
        raise CvBridgeError(f"the image is empty: {message.width}x{message.height} px")
    if message.encoding in _PLANAR_ROWS:
        return _planes(message)
    name, channels = _layout(message.encoding)
    dtype = np.dtype(name).newbyteorder(">" if message.is_bigendian else "<")
    _check_rows(message, message.height, message.step, row=message.width * channels * dtype.itemsize)
    pixels: NDArray[Any] = np.ndarray(
        (message.height, message.width, channels),
        dtype,
        buffer=message.data,
        strides=(message.step, channels * dtype.itemsize, dtype.itemsize),
    )
    pixels = pixels if dtype.isnative else pixels.astype(dtype.newbyteorder("="))
    return pixels if channels > 1 else pixels[:, :, 0]


def _planes(message: Image) -> NDArray[np.uint8]:
    """(1.5 H, W) of nv21 or (3 H, W) of nv24: luma, and below it the interleaved chroma.

    `step` may be of a row of luma alone, as drivers fill it in, or of luma and chroma together, as in Image.msg.
    """
    width, height = message.width, message.height
    if message.encoding == "nv21" and (width % 2 or height % 2):
        raise CvBridgeError(f"nv21 shares its colours among 2x2 px, which {width}x{height} px is no multiple of")
    rows = int(height * _PLANAR_ROWS[message.encoding])
    step = message.step if len(message.data) != message.step * height else len(message.data) // rows
    _check_rows(message, rows, step, row=width)
    planes = np.frombuffer(message.data, np.uint8).reshape(rows, step)
    if message.encoding == "nv21" or step == width:
        return planes[:, :width]
    chroma = planes[height:].reshape(height, 2 * step)[:, : 2 * width]
    return np.concatenate((planes[:height, :width], chroma.reshape(2 * height, width)))


def _check_rows(message: Image, rows: int, step: int, row: int) -> None:
    if step < row:
        raise CvBridgeError(f"a row of {message.width} px of {message.encoding} is {row} bytes, but step is {step}")
    if len(message.data) != rows * step:
        raise CvBridgeError(
            f"{message.width}x{message.height} px of {message.encoding} in rows of {step} bytes "
            f"are {rows * step} bytes, but data has {len(message.data)}"
        )


def _rgb(pixels: NDArray[Any], encoding: str) -> NDArray[Any]:
    """(H, W, 3) uint8 RGB of the result of `_pixels`."""
    if encoding == "rgb8":
        return pixels
    if encoding == "nv24":
        return _rgb_of_nv24(pixels)
    if encoding not in _TO_RGB:
        raise CvBridgeError(
            f"'{encoding}' holds measurements, such as depth or labels, not colours: "
            f"give one of {', '.join(COLOUR_ENCODINGS)}"
        )
    if encoding == "mono16":
        pixels = (pixels >> 8).astype(np.uint8)
    if pixels.shape[1] % 2 and pixels.shape[2:] == (2,):
        raise CvBridgeError(f"{encoding} shares its colours between two pixels, but is {pixels.shape[1]} px wide")
    return cv2.cvtColor(pixels, _TO_RGB[encoding])


def _rgb_of_nv24(planes: NDArray[np.uint8]) -> NDArray[Any]:
    """OpenCV cannot convert nv24, but formats in which two pixels share their colour: so each pixel is doubled."""
    height, width = len(planes) // 3, planes.shape[1]
    luma = planes[:height]
    blue, red = cv2.split(planes[height:].reshape(height, width, 2))
    uyvy = cv2.merge((blue, luma, red, luma)).reshape(height, 2 * width, 2)
    twice = cv2.cvtColor(uyvy, cv2.COLOR_YUV2RGB_UYVY)
    return cv2.resize(twice, (width, height), interpolation=cv2.INTER_NEAREST)


def _recode(rgb: NDArray[Any], encoding: str) -> NDArray[Any]:
    if encoding == "rgb8":
        return rgb
    if encoding not in _FROM_RGB:
        raise CvBridgeError(f"cannot convert to '{encoding}', only to rgb8, {', '.join(_FROM_RGB)}")
    return cv2.cvtColor(rgb, _FROM_RGB[encoding])


def _buffer(pixels: NDArray[Any]) -> "array.array[int]":
    """The bytes of the array, in the only type that a message accepts without checking every element."""
    buffer = array.array("B")
    buffer.frombytes(np.ascontiguousarray(pixels).reshape(-1).view(np.uint8).data)
    return buffer


def _kept_encoding(compressed_format: str) -> str:
    """The encoding of pixels that image_transport compressed as they were, or ''; colours it makes bgr8 before."""
    encoding, semicolon, _ = compressed_format.partition(";")
    kept = encoding.startswith("bayer_") or (encoding.partition("C")[0] in _GENERIC_TYPES.keys() - {"8U"})
    return encoding if semicolon and kept else ""


def _rgb_of_kept(pixels: NDArray[Any], encoding: str) -> NDArray[Any]:
    """(H, W, 3) uint8 RGB of pixels as they were compressed."""
    name, _ = _layout(encoding)
    if encoding in _TO_RGB and (pixels.dtype != np.dtype(name) or pixels.ndim != 2):
        raise CvBridgeError(f"the compressed image is said to be {encoding}, but is {pixels.dtype}{pixels.shape}")
    return _rgb(pixels, encoding)


def _check_compressed(data: bytes) -> None:
    """Refuse images of huge size, which OpenCV would allocate, and cut off ones, which it would fill with grey."""
    width, height = _size_of_png(data) or _size_of_jpeg(data) or (0, 0)
    if not width or not height:
        raise CvBridgeError(f"the {len(data)} bytes of compressed image are neither JPEG nor PNG")
    if width * height > MAX_COMPRESSED_PIXELS:
        raise CvBridgeError(f"a compressed image of {width}x{height} px is more than {MAX_COMPRESSED_PIXELS} px")
    if not (_jpeg_is_whole(data) if data[0] == 0xFF else _png_is_whole(data)):
        raise CvBridgeError(f"the compressed image of {width}x{height} px is cut off after {len(data)} bytes")


def _jpeg_is_whole(data: bytes) -> bool:
    """Whether the end marker comes after the last scan; an embedded thumbnail has an end marker of its own."""
    return data.rfind(b"\xff\xd9") > data.rfind(b"\xff\xda")


def _png_is_whole(data: bytes) -> bool:
    """Whether the chunks are complete up to IEND: OpenCV allocates whatever length a chunk claims."""
    at = 8
    while at + 12 <= len(data):
        length, name = struct.unpack(">I4s", data[at : at + 8])
        at += 12 + length
        if name == b"IEND":
            return at <= len(data)
    return False


def _size_of_png(data: bytes) -> tuple[int, int] | None:
    """Width and height; None if it is no PNG."""
    if len(data) < 24 or not data.startswith(b"\x89PNG\r\n\x1a\n"):
        return None
    return struct.unpack(">II", data[16:24])


def _size_of_jpeg(data: bytes) -> tuple[int, int] | None:
    """Width and height from the frame header; None if it is no JPEG."""
    at = 2 if data.startswith(b"\xff\xd8") else len(data)
    while at + 9 <= len(data) and data[at] == 0xFF:
        if data[at + 1] == 0xFF:  # fill bytes: any number may precede a marker (T.81, B.1.1.2)
            at += 1
            continue
        marker, length = struct.unpack(">BH", data[at + 1 : at + 4])
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack(">HH", data[at + 5 : at + 9])
            return width, height
        at += 2 + length
    return None


@functools.cache
def _cv_bridge_of_ros() -> Any:
    """An instance of ROS's own `CvBridge`; None if it is not installed or does not work."""
    if importlib.util.find_spec("cv_bridge") is None:
        return None
    # In a process of its own: if it was built for another NumPy, it does not raise but crashes.
    trial = subprocess.run(
        [sys.executable, "-c", _TRIAL],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    if trial.returncode == 0:
        return importlib.import_module("cv_bridge").CvBridge()
    reason = (trial.stderr.strip().splitlines() or ["it crashed"])[-1]
    logging.getLogger(__name__).warning("ROS's cv_bridge is installed but does not work (%s); doing without it", reason)
    return None


_TRIAL = """
import cv_bridge, numpy, sensor_msgs.msg
message = sensor_msgs.msg.Image(height=1, width=2, encoding="bgr8", step=6, data=bytes(range(6)))
rgb = cv_bridge.CvBridge().imgmsg_to_cv2(message, "rgb8")
numpy.testing.assert_array_equal(rgb, [[[2, 1, 0], [5, 4, 3]]])
"""
