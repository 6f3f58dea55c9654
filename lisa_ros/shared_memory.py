"""Room for pictures in the shared memory of Fast DDS, ROS 2's default middleware."""

import os
from pathlib import Path

from ament_index_python.packages import get_package_share_directory

_PROFILES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")
"""Name the XML file that Fast DDS reads; the first up to Jazzy, the second from Kilted on."""
_OF_THE_USER = (*_PROFILES, "FASTDDS_BUILTIN_TRANSPORTS")


def make_room() -> None:
    """Has Fast DDS set up this process by `config/fastdds.xml`. Call before `rclpy.init`.

    By itself Fast DDS takes half a MB. A picture of 900 kB then pushes out what was published just before it, and
    reliable topics too lose messages, or have them 3 s late.

    Where the user has set up Fast DDS, nothing is done, and neither for ROS_LOCALHOST_ONLY, in whose place the file
    would be on Humble. Other middlewares look at none of it.
    """
    own = any(os.environ.get(name) for name in _OF_THE_USER) or os.environ.get("ROS_LOCALHOST_ONLY") == "1"
    if not own and not any(Path(f"DEFAULT_{name}_PROFILES.xml").exists() for name in ("FASTRTPS", "FASTDDS")):
        file = Path(get_package_share_directory("lisa_ros"), "config", "fastdds.xml")
        os.environ.update(dict.fromkeys(_PROFILES, str(file)))
