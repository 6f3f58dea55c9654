"""Shows the node at work: `ros2 launch lisa_ros demo.launch.py checkpoint:=xinlai/LISA-7B-v1`.

A bag plays over and over, by default the small one of a table that comes with the package; the node answers on every
frame, and RViz shows it where it is installed. Takes all arguments of `lisa.launch.py` too.
"""

from ament_index_python.packages import PackageNotFoundError, get_package_prefix
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, LogInfo, OpaqueFunction
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.substitutions import FindPackageShare

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity

SHARE = FindPackageShare("lisa_ros")
TOPICS = {"image": "/camera/image", "depth": "/camera/depth", "camera_info": "/camera/camera_info"}
"""Where the camera is in the bag, unless the arguments say otherwise."""


def generate_launch_description() -> LaunchDescription:
    """The bag, the node and RViz."""
    return LaunchDescription(
        [
            DeclareLaunchArgument(
                "bag", default_value=PathJoinSubstitution([SHARE, "tabletop_bag"]), description="the bag to play"
            ),
            DeclareLaunchArgument(
                "standing_instruction",
                default_value="Segment the green ball.",
                description="asked of every new frame; empty: nothing",
            ),
            DeclareLaunchArgument(
                "rviz",
                default_value="auto",
                choices=["auto", "true", "false"],
                description="show it in RViz; auto: where RViz is installed",
            ),
            *(
                DeclareLaunchArgument(name, default_value=topic, description=f"topic in the bag of the camera's {name}")
                for name, topic in TOPICS.items()
            ),
            IncludeLaunchDescription(
                PythonLaunchDescriptionSource(PathJoinSubstitution([SHARE, "launch", "lisa.launch.py"])),
                launch_arguments={"use_sim_time": "true"}.items(),
            ),
            # Waits for the node's subscriptions, so that the model is loaded when the bag begins.
            Node(
                package="lisa_ros",
                executable="play",
                arguments=[LaunchConfiguration("bag"), "--loop", "--wait"],
                output="screen",
            ),
            OpaqueFunction(function=_rviz),
        ]
    )


def _rviz(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    wanted = context.launch_configurations["rviz"]
    if wanted == "false":
        return []
    if wanted == "auto" and not _installed("rviz2"):
        return [LogInfo(msg="RViz is not installed: see /lisa/overlay and /lisa/text with other tools")]
    config = PathJoinSubstitution([SHARE, "config", "lisa.rviz"])
    return [Node(package="rviz2", executable="rviz2", arguments=["-d", config], parameters=[{"use_sim_time": True}])]


def _installed(package: str) -> bool:
    try:
        get_package_prefix(package)
    except PackageNotFoundError:
        return False
    return True
