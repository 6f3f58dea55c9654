"""Checks the command lines of the nodes, which take parameters only, behind `--ros-args`; and words rcl's errors."""

import re
import sys
from collections.abc import Sequence
from typing import NoReturn

from rclpy.utilities import remove_ros_args

_PLACE = re.compile(r", at \S+:\d+")
"""A line of rcl's source, which comes after what happened there."""


def check(argv: Sequence[str], usage: str) -> None:
    """Ends the process with 0 after printing the help, or with 2 for arguments that ROS rejects or would ignore."""
    if {"-h", "--help"} & set(argv):
        sys.stdout.write(usage)
        sys.exit(0)
    try:
        program, *rest = remove_ros_args(list(argv))
    except RuntimeError as error:  # rcl's
        refuse(error)
    if rest:
        refuse(
            f"{' '.join(rest)}: there is no such argument; parameters are given as"
            f" {program.rpartition('/')[2]} --ros-args -p NAME:=VALUE, and --help says which there are"
        )


def rcl_says(error: object) -> str:
    """What an error says; of rcl's, only the part for people."""
    return _PLACE.split(str(error))[0]


def refuse(why: object) -> NoReturn:
    """Ends the process with 2 and a sentence; of rcl's errors only the part for people."""
    sys.stderr.write(f"error: {rcl_says(why)}\n")
    sys.exit(2)
