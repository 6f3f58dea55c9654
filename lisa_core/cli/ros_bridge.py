"""The way to `lisa_ros` for those commands that can do more where there is a ROS; `lisa_core` itself needs none."""

from importlib import import_module
from typing import Any

from lisa_core.errors import LisaError


def module(name: str, purpose: str) -> Any:
    """A module of `lisa_ros` by its name there.

    Args:
        name: of the module.
        purpose: what it is needed for, as the sentence begins that says that there is none.

    Raises:
        LisaError: ROS or lisa_ros is missing.
    """
    try:
        return import_module(f"lisa_ros.{name}")
    except ImportError as error:
        raise LisaError(
            f"{purpose} needs ROS and lisa_ros, which do not import here ({error}); source ROS and this package."
        ) from error
