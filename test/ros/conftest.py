"""Tests with ROS use the installed lisa_ros, in a ROS graph of their own."""

import os
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import pytest

# Ahead of the first rclpy.init(), and inherited by the processes that tests start.
os.environ.setdefault("AMENT_PREFIX_PATH", sys.prefix)
os.environ.setdefault("RMW_IMPLEMENTATION", "rmw_fastrtps_cpp")
# Ahead of the first message's import: fields are checked as on Humble, where a whole number is no float.
os.environ["ROS_PYTHON_CHECK_FIELDS"] = "1"


def pytest_sessionstart() -> None:
    """Refuse to test a lisa_ros without interfaces, as in a checkout that is not installed."""
    if find_spec("lisa_ros") is None or find_spec("lisa_ros.srv") is None:
        pytest.exit("lisa_ros is not installed: run the tests by `make test`", returncode=pytest.ExitCode.USAGE_ERROR)


@pytest.hookimpl(hookwrapper=True)  # as the pytest of Humble's Ubuntu has it
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Add the output of the processes of a failed test to its report."""
    outcome: Any = yield
    report = outcome.get_result()
    if report.failed:
        from harness import Process  # not before it is known that lisa_ros is installed

        for process in Process.running:
            report.sections.append((f"{process.log.name} of {process.pid}", process.output[-4000:]))


@pytest.fixture(scope="session", autouse=True)
def graph(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A ROS graph for this test session only, and a temporary folder for logs."""
    from harness import own_graph

    os.environ["ROS_LOG_DIR"] = str(tmp_path_factory.mktemp("ros_log"))
    with own_graph():
        yield
