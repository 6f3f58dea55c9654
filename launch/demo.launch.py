"""Shows the node at work: `ros2 launch lisa_ros demo.launch.py checkpoint:=xinlai/LISA-7B-v1`.

Publishes a rendered tabletop (needs MuJoCo), or plays a bag in a loop if one is given; the node answers about every
frame, and RViz, if it is installed, shows the answers. Also takes all arguments of `lisa.launch.py`.
"""

import os

from ament_index_python.packages import PackageNotFoundError, get_package_prefix
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, LogInfo, OpaqueFunction
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity

SHARE = FindPackageShare("lisa_ros")
TOPICS = {"image": "/camera/image", "depth": "/camera/depth", "camera_info": "/camera/camera_info"}
"""Topics of the camera, unless the arguments say otherwise."""
SHOWN = ("overlay", "points", "target")
"""The node's topics that RViz shows."""


def generate_launch_description() -> LaunchDescription:
    """The camera, the node and RViz."""
    return LaunchDescription(
        [
            DeclareLaunchArgument("bag", default_value="", description="the bag to play; empty: a live tabletop"),
            DeclareLaunchArgument("seed", default_value="10000000", description="which scene the live tabletop shows"),
            DeclareLaunchArgument(
                "standing_instruction",
                default_value="Segment the mug.",
                description="asked of every new frame; empty: nothing",
            ),
            DeclareLaunchArgument(
                "rviz",
                default_value="auto",
                choices=["auto", "true", "false", "True", "False"],
                description="show it in RViz; auto: where RViz is installed",
            ),
            DeclareLaunchArgument(
                "fixed_frame",
                default_value="camera_color_optical_frame",
                description="RViz's fixed frame: that of the camera's images, or one that tf leads there from",
            ),
            *(
                DeclareLaunchArgument(name, default_value=topic, description=f"topic of the camera's {name}")
                for name, topic in TOPICS.items()
            ),
            OpaqueFunction(function=_world),
            OpaqueFunction(function=_rviz),
        ]
    )


def _world(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """The camera, and the node with the same clock."""
    bag = os.path.expanduser(context.launch_configurations["bag"])  # noqa: PTH111 - Path's raises for `~nobody`
    lisa = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(PathJoinSubstitution([SHARE, "launch", "lisa.launch.py"])),
        launch_arguments={"use_sim_time": str(bool(bag)).lower()}.items(),
    )
    if not bag:
        seed = ParameterValue(LaunchConfiguration("seed"), value_type=int)
        return [lisa, Node(package="lisa_ros", executable="tabletop", parameters=[{"seed": seed}], output="screen")]
    return [lisa, Node(package="lisa_ros", executable="play", arguments=[bag, "--loop"], output="screen")]


def _rviz(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    wanted = context.launch_configurations["rviz"].lower()
    if wanted == "false":
        return []
    if wanted == "auto" and not _installed("rviz2"):
        return [LogInfo(msg="RViz is not installed: see /lisa/overlay and /lisa/text with other tools")]
    given = context.launch_configurations
    shown = [(TOPICS["image"], given["image"])]
    if namespace := given.get("namespace", "").strip("/"):
        shown += [(f"/lisa/{topic}", f"/{namespace}/lisa/{topic}") for topic in SHOWN]
    return [
        Node(
            package="rviz2",
            executable="rviz2",
            arguments=["-d", PathJoinSubstitution([SHARE, "config", "lisa.rviz"]), "-f", given["fixed_frame"]],
            parameters=[{"use_sim_time": bool(given["bag"])}],
            remappings=[(here, there) for here, there in shown if here != there],
        )
    ]


def _installed(package: str) -> bool:
    try:
        get_package_prefix(package)
    except PackageNotFoundError:
        return False
    return True
