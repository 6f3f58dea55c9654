"""Imports `lisa_ros` for the commands that can use ROS; the rest of `lisa_core` needs none."""

from importlib import import_module
from typing import Any

from lisa_core.errors import LisaError


def module(name: str, purpose: str) -> Any:
    """Imports a module of `lisa_ros`.

    Args:
        name: of the module in `lisa_ros`.
        purpose: what needs it, for the start of the error's sentence.

    Raises:
        LisaError: ROS or lisa_ros cannot be imported.
    """
    try:
        return import_module(f"lisa_ros.{name}")
    except ImportError as error:
        raise LisaError(
            f"{purpose} needs ROS and lisa_ros, which do not import here ({error}); source ROS and this package."
        ) from error
