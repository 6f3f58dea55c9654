"""An off-screen OpenGL context: EGL on a GPU, or else OSMesa on the CPU."""

import atexit
import importlib
import os
import sys
from functools import cache
from typing import Any

from lisa_core.errors import LisaError, installing

_BACKENDS = ("egl", "osmesa")


@cache
def context(width: int, height: int) -> Any:
    """Makes a context for pictures of that size and makes it current; cached, as making one takes a second.

    The environment variable MUJOCO_GL names the backend; without it both are tried.

    Raises:
        LisaError: MuJoCo is not installed, or no backend works on this machine.
    """
    reasons = []
    for backend in [os.environ["MUJOCO_GL"]] if "MUJOCO_GL" in os.environ else _BACKENDS:
        try:
            return _open(backend, width, height)
        except ModuleNotFoundError as error:
            if error.name == "mujoco":
                raise LisaError(f"Rendering needs MuJoCo: {installing('tabletop')}.") from error
            reasons.append(f"{backend}: {error}")
        except Exception as error:  # a missing driver raises a different error for each driver
            reasons.append(f"{backend}: {str(error).splitlines()[0] if str(error) else type(error).__name__}")
    raise LisaError(
        "This machine cannot draw without a screen: install a GPU driver with EGL (Debian: libegl1), "
        f"or libosmesa6 to draw on the CPU. Tried {'; '.join(reasons)}."
    )


def _open(backend: str, width: int, height: int) -> Any:
    """Opens a backend. MuJoCo and PyOpenGL read the environment at first import, and PyOpenGL keeps what it read."""
    before = {name: os.environ.get(name) for name in ("MUJOCO_GL", "PYOPENGL_PLATFORM")}
    os.environ.update(MUJOCO_GL=backend, PYOPENGL_PLATFORM=backend)
    try:
        made = importlib.import_module(f"mujoco.{backend}").GLContext(width, height)
        made.make_current()
        atexit.register(made.free)  # later the driver is unloaded, and freeing would raise
    except BaseException:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
        for name in [name for name in sys.modules if name.split(".")[0] == "OpenGL"]:
            del sys.modules[name]
        raise
    return made
