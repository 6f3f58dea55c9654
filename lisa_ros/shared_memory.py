"""Room for pictures in the shared memory of Fast DDS, ROS 2's default middleware."""

import os
from contextlib import suppress
from pathlib import Path

from ament_index_python.packages import get_package_share_directory

_PROFILES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")
"""Name the XML file that Fast DDS reads; the first up to Jazzy, the second from Kilted on."""
_OF_THE_USER = (*_PROFILES, "FASTDDS_BUILTIN_TRANSPORTS")
_IN_THIS_FOLDER = ("DEFAULT_FASTRTPS_PROFILES.xml", "DEFAULT_FASTDDS_PROFILES.xml")
"""Fast DDS reads them, too."""


def make_room() -> None:
    """Has Fast DDS set up this process by `config/fastdds.xml`. Call before `rclpy.init`.

    By itself Fast DDS takes half a MB. A picture of 900 kB then pushes out what was published just before it, and
    reliable topics too lose messages, or have them 3 s late.

    Where the user has set up Fast DDS, nothing is done, and neither for ROS_LOCALHOST_ONLY, in whose place the file
    would be on Humble. Other middlewares look at none of it.
    """
    if any(map(os.environ.get, _OF_THE_USER)) or os.environ.get("ROS_LOCALHOST_ONLY") == "1":
        return
    if any(os.path.exists(name) for name in _IN_THIS_FOLDER):  # noqa: PTH110 - Path's raises where one may not look
        return
    with suppress(LookupError, OSError):  # started without the ament index: it works, but for the room
        file = Path(get_package_share_directory("lisa_ros"), "config", "fastdds.xml")
        os.environ.update(dict.fromkeys(_PROFILES, str(file)))
