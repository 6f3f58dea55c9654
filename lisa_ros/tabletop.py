"""`tabletop`: publishes a rendered table, seen by a depth camera, to ask questions about.

    ros2 run lisa_ros tabletop --ros-args -p seed:=7
    ros2 service call /tabletop/new_scene std_srvs/srv/Trigger

Publishes `camera/image` (rgb8), `camera/depth` (16UC1, mm) and `camera/camera_info` 15 times a second, and the ground
truth: `~/poses` (PoseArray: where the middle of each thing stands on the table, in the camera's frame) and `~/things`
(String, latched: JSON with each thing's kind, colour and place in the table's frame, m, in the same order).
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import NoReturn

import numpy as np
import rclpy
from geometry_msgs.msg import Point, Pose, PoseArray, Quaternion
from numpy.typing import NDArray
from rcl_interfaces.msg import IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.exceptions import ParameterException
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header, String
from std_srvs.srv import Trigger

from lisa_core.errors import LisaError
from lisa_core.tabletop.render import Renderer
from lisa_core.tabletop.sampling import sample_scene
from lisa_core.tabletop.scene import HELD_OUT_SEED, View
from lisa_ros import arguments
from lisa_ros.conversions import image_message
from lisa_ros.shared_memory import make_room

RATE = 15.0
"""Pictures a second."""
FRAME_ID = "camera_color_optical_frame"
LAST_SEED = 2**31 - 1


class Tabletop(Node):
    """The node; renders a scene once and publishes it until it changes.

    The thread that created it has to spin it: OpenGL contexts belong to one thread.
    """

    def __init__(self) -> None:
        super().__init__("tabletop")
        self._renderer = Renderer()
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._images = self.create_publisher(Image, "camera/image", QoSProfile(depth=1))
        self._depths = self.create_publisher(Image, "camera/depth", QoSProfile(depth=1))
        self._infos = self.create_publisher(CameraInfo, "camera/camera_info", QoSProfile(depth=1))
        self._poses = self.create_publisher(PoseArray, "~/poses", QoSProfile(depth=1))
        self._things = self.create_publisher(String, "~/things", latched)
        seeds = [IntegerRange(from_value=0, to_value=LAST_SEED, step=1)]
        description = "which scene; training takes none from 10000000 on"
        self.declare_parameter("seed", HELD_OUT_SEED, ParameterDescriptor(description=description, integer_range=seeds))
        self._draw(self._seed())
        self.add_on_set_parameters_callback(self._on_parameters)
        self.create_service(Trigger, "~/new_scene", self._on_new_scene)
        self.create_timer(1 / RATE, self._publish)

    def _seed(self) -> int:
        return int(self.get_parameter("seed").value)

    def _draw(self, seed: int) -> None:
        view = self._renderer.render(sample_scene(seed))
        blank = Header(frame_id=FRAME_ID)
        self._image = image_message(view.rgb, "rgb8", blank)
        self._depth = image_message(np.round(view.depth * 1000).astype(np.uint16), "16UC1", blank)
        self._info = _camera_info(view)
        self._truth = PoseArray(poses=_poses(view))
        self._names = [f"{thing.colour} {thing.kind}" for thing in view.things]
        self._things.publish(String(data=json.dumps([asdict(thing) for thing in view.things])))

    def _publish(self) -> None:
        header = Header(stamp=self.get_clock().now().to_msg(), frame_id=FRAME_ID)
        for publisher, message in (
            (self._infos, self._info),
            (self._depths, self._depth),
            (self._images, self._image),
            (self._poses, self._truth),
        ):
            message.header = header
            publisher.publish(message)

    def _on_parameters(self, parameters: Sequence[Parameter]) -> SetParametersResult:
        for parameter in parameters:
            if parameter.name == "seed":
                self._draw(int(parameter.value))
        return SetParametersResult(successful=True)

    def _on_new_scene(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        seed = (self._seed() + 1) % (LAST_SEED + 1)
        self.set_parameters([Parameter("seed", value=seed)])
        response.success, response.message = True, f"seed {seed}: {', '.join(self._names)}"
        return response


def _camera_info(view: View) -> CameraInfo:
    height, width = view.depth.shape
    projection = np.column_stack([view.intrinsics, np.zeros(3)])
    return CameraInfo(
        height=height,
        width=width,
        distortion_model="plumb_bob",
        d=[0.0] * 5,
        k=view.intrinsics.ravel().tolist(),
        r=np.eye(3).ravel().tolist(),
        p=projection.ravel().tolist(),
    )


def _poses(view: View) -> list[Pose]:
    """The poses of the things in the camera's frame."""
    inward = np.linalg.inv(view.camera)
    poses = []
    for thing in view.things:
        c, s = np.cos(thing.yaw), np.sin(thing.yaw)
        x, y, z = (inward @ (*thing.position, 1))[:3].tolist()
        turned = inward[:3, :3] @ np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
        poses.append(Pose(position=Point(x=x, y=y, z=z), orientation=_quaternion(turned)))
    return poses


def _quaternion(turned: NDArray[np.float64]) -> Quaternion:
    """The quaternion of a (3, 3) rotation: the dominant eigenvector of Bar-Itzhack's symmetric matrix."""
    (a, b, c), (d, e, f), (g, h, i) = turned
    matrix = [
        [a - e - i, d + b, g + c, h - f],
        [d + b, e - a - i, h + f, c - g],
        [g + c, h + f, i - a - e, d - b],
        [h - f, c - g, d - b, a + e + i],
    ]
    x, y, z, w = np.linalg.eigh(matrix)[1][:, -1].tolist()
    return Quaternion(x=x, y=y, z=z, w=w)


def main() -> NoReturn:
    """Runs the node until Ctrl-C; exits with 1 if nothing can be rendered, with 2 for wrong arguments."""
    arguments.check(sys.argv, __doc__)
    make_room()
    try:
        rclpy.init(args=sys.argv)
    except RuntimeError as error:  # rcl's, of arguments and files
        arguments.refuse(error)
    try:
        rclpy.spin(Tabletop())
    except ParameterException as error:
        arguments.refuse(error)
    except LisaError as error:
        sys.exit(f"error: {error}")
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except RuntimeError:
        if rclpy.ok():  # else it was ended while it published
            raise
    sys.exit(0)


if __name__ == "__main__":
    main()
