"""Converts messages to what `lisa_core` takes, and its answers to messages; free functions, for any thread.

Each message gets the header that is passed in: that of the source image.
"""

import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from geometry_msgs.msg import Point, Pose, PoseStamped, Quaternion, Vector3
from numpy.typing import NDArray
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2, PointField, RegionOfInterest
from std_msgs.msg import Header

import lisa_core
from lisa_core.answer import union
from lisa_core.errors import ImageError
from lisa_core.geometry import Intrinsics, Placement, SurfacePoints, metres
from lisa_ros.bridge import CvBridge, CvBridgeError
from lisa_ros.msg import Answer, Segment

DEPTH_ENCODINGS = ("32FC1", "16UC1", "mono16")
"""By REP 118, 32FC1 is in metres and 16UC1 in millimetres; older drivers call the latter mono16."""

_bridge = CvBridge()


def to_rgb(image: Image) -> NDArray[np.uint8]:
    """(H, W, 3) RGB, contiguous; shares the message's memory if that is rgb8 without padding.

    Raises ImageError if the encoding is unknown or holds no colours, or width, height, step and data do not agree.
    """
    with _image_errors():
        return _bridge.imgmsg_to_cv2(image, "rgb8")


def to_rgb_compressed(image: CompressedImage) -> NDArray[np.uint8]:
    """(H, W, 3) RGB, contiguous.

    Raises ImageError if the data is neither JPEG nor PNG, is cut off or too large, or holds depth.
    """
    with _image_errors():
        return _bridge.compressed_imgmsg_to_cv2(image, "rgb8")


def to_depth(image: Image) -> NDArray[np.float32]:
    """(H, W) metres; unknown depth stays as it is in the message: 0, NaN or infinite.

    Raises ImageError if the encoding is not in `DEPTH_ENCODINGS`, or width, height, step and data do not agree.
    """
    if image.encoding not in DEPTH_ENCODINGS:
        raise ImageError(f"'{image.encoding}' is no depth: give one of {', '.join(DEPTH_ENCODINGS)}")
    with _image_errors():
        return metres(_bridge.imgmsg_to_cv2(image))


def intrinsics(info: CameraInfo, size: tuple[int, int]) -> Intrinsics | None:
    """The pinhole camera of images of size (H, W); None if the message does not describe it.

    None for an uncalibrated camera, whose numbers are all zero, and for images that have not the calibrated size after
    binning and region of interest. The numbers are those of rectified images (P, or K if the driver leaves P empty);
    distortion is ignored: use rectified images, or a camera with little distortion.
    """
    binning_x, binning_y = max(info.binning_x, 1), max(info.binning_y, 1)
    roi = info.roi
    height, width = roi.height or info.height, roi.width or info.width
    if height and width and (height // binning_y, width // binning_x) != tuple(size):
        return None
    fx, _, cx, _, _, fy, cy, *_ = (float(number) for number in info.p)
    if fx == 0:  # the driver fills in K only
        fx, _, cx, _, fy, cy, *_ = (float(number) for number in info.k)
    cx, cy = cx - roi.x_offset, cy - roi.y_offset
    try:
        return Intrinsics(fx / binning_x, fy / binning_y, cx / binning_x, cy / binning_y)
    except ValueError:
        return None


def image_message(pixels: NDArray[np.uint8] | NDArray[np.uint16], encoding: str, header: Header) -> Image:
    """A message of the (H, W) or (H, W, channels) array; raises ImageError if encoding and type do not agree."""
    with _image_errors():
        return _bridge.cv2_to_imgmsg(pixels, encoding, header)


def mask_message(segments: Sequence[lisa_core.Segment], size: tuple[int, int], header: Header) -> Image:
    """mono8 of size (H, W): 255 where any segment is, 0 elsewhere."""
    return _mask_image(union(segments, size), header)


def labels_message(segments: Sequence[lisa_core.Segment], size: tuple[int, int], header: Header) -> Image:
    """16UC1 of size (H, W): i + 1 on segment i, the lower index where two overlap, 0 elsewhere."""
    labels = np.zeros(size, np.uint16)
    for index, segment in reversed(list(enumerate(segments))):
        labels[segment.mask] = index + 1
    return image_message(labels, "16UC1", header)


def answer_message(
    answer: lisa_core.Answer,
    header: Header,
    *,
    camera: str = "",
    conversation: str = "",
    instruction: str = "",
    duration: float = 0.0,
    placements: Sequence[Placement | None] = (),
    include_masks: bool = False,
) -> Answer:
    """The whole answer; `placements` has one entry per segment, in order, or is empty."""
    placements = placements or [None] * len(answer.segments)
    return Answer(
        header=header,
        camera=camera,
        conversation=conversation,
        instruction=instruction,
        text=answer.text,
        segments=[
            segment_message(segment, header, placement, include_mask=include_masks)
            for segment, placement in zip(answer.segments, placements, strict=True)
        ],
        duration=float(duration),
    )


def segment_message(
    segment: lisa_core.Segment, header: Header, placement: Placement | None = None, *, include_mask: bool = False
) -> Segment:
    """One segment, with its position if `placement` is given, and its mask if `include_mask` is set."""
    x, y, width, height = segment.box
    message = Segment(
        roi=RegionOfInterest(x_offset=x, y_offset=y, width=width, height=height),
        area=segment.area,
        score=float(segment.score),
    )
    if include_mask:
        message.mask = _mask_image(segment.mask, header)
    if placement is not None:
        message.has_position = True
        message.position = Point(**_xyz(placement.position))
        message.size = Vector3(**_xyz(placement.size))
    return message


def points_message(surfaces: Sequence[SurfacePoints], rgb: NDArray[np.uint8], header: Header) -> PointCloud2:
    """The points of all segments, with their colours in the (H, W, 3) image, in the fields x, y, z, rgb of RViz."""
    cloud = np.empty(
        sum(len(surface.xyz) for surface in surfaces),
        [("xyz", np.float32, 3), ("bgra", np.uint8, 4)],  # a packed rgb is 0x00rrggbb, little-endian
    )
    cloud["xyz"] = np.concatenate([surface.xyz for surface in surfaces] or [np.empty((0, 3), np.float32)])
    pixels = np.concatenate([surface.pixels for surface in surfaces] or [np.empty(0, np.intp)])
    cloud["bgra"][:, :3] = rgb.reshape(-1, 3)[pixels, ::-1]
    cloud["bgra"][:, 3] = 0
    return PointCloud2(
        header=header,
        height=1,
        width=len(cloud),
        fields=[
            PointField(name=name, offset=4 * index, datatype=PointField.FLOAT32, count=1)
            for index, name in enumerate(("x", "y", "z", "rgb"))
        ],
        point_step=cloud.itemsize,
        row_step=cloud.nbytes,
        data=array.array("B", cloud.tobytes()),
        is_dense=True,
    )


def target_message(placement: Placement, header: Header) -> PoseStamped:
    """The position of a segment in the camera's frame, with identity orientation."""
    pose = Pose(position=Point(**_xyz(placement.position)), orientation=Quaternion(w=1.0))
    return PoseStamped(header=header, pose=pose)


@contextmanager
def _image_errors() -> Iterator[None]:
    try:
        yield
    except CvBridgeError as error:
        raise ImageError(str(error)) from error


def _mask_image(mask: NDArray[np.bool_], header: Header) -> Image:
    return image_message(np.multiply(mask, 255, dtype=np.uint8), "mono8", header)


def _xyz(vector: Sequence[float]) -> dict[str, float]:
    return dict(zip("xyz", vector, strict=True))
