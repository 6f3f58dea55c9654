"""Checks the command lines of the nodes, which take parameters only, behind `--ros-args`."""

import sys
from collections.abc import Sequence
from typing import NoReturn

from rclpy.utilities import remove_ros_args


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


def refuse(why: object) -> NoReturn:
    """Ends the process with 2 and a sentence; of rcl's errors only the part for people."""
    sys.stderr.write(f"error: {str(why).partition(', at /')[0]}\n")
    sys.exit(2)
