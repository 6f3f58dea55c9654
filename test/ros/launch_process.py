"""Runs a launch file of this package, as `ros2 launch lisa_ros FILE name:=value...` does, without that command."""

import sys

from ament_index_python.packages import get_package_share_directory
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource

from launch import LaunchDescription, LaunchService


def main(file: str, *arguments: str) -> int:
    """Runs until everything has ended, or Ctrl-C."""
    path = f"{get_package_share_directory('lisa_ros')}/launch/{file}"
    values = [tuple(argument.split(":=", 1)) for argument in arguments]
    service = LaunchService()
    included = IncludeLaunchDescription(PythonLaunchDescriptionSource(path), launch_arguments=values)
    service.include_launch_description(LaunchDescription([included]))
    return service.run()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
