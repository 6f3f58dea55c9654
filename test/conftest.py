"""What every test gets: the installed packages rather than the checkout's."""

import signal
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import hypothesis
import pytest

ROOT = Path(__file__).resolve().parent.parent

# `python -m pytest` puts the checkout in front, whose lisa_ros has no messages.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT]

hypothesis.settings.register_profile("any machine", deadline=None)
hypothesis.settings.load_profile("any machine")

# A shell's background jobs ignore Ctrl-C, and so would all that the tests start from there and mean to stop by it.
signal.signal(signal.SIGINT, signal.default_int_handler)


NEEDED = ("gradio_client", "matplotlib", "playwright", "pycocotools")
"""What modules of tests import besides what a robot needs."""


def pytest_sessionstart() -> None:
    """Say in one sentence what is missing, as for `colcon test` where only what a robot needs is installed."""
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        extras = "pip install '.[ros,tabletop,train,web,dev]'"
        pytest.exit(f"the tests need {', '.join(missing)}: {extras}", returncode=pytest.ExitCode.USAGE_ERROR)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tests that draw need OpenGL, which wheels cannot bring; the stored scenes test the rest without it."""
    if item.get_closest_marker("render") and (why_not := _cannot_draw()):
        pytest.skip(why_not)


@cache
def _cannot_draw() -> str:
    from lisa_core import LisaError
    from lisa_core.tabletop import offscreen

    try:
        offscreen.context(640, 480)
    except LisaError as error:
        return str(error)
    return ""
