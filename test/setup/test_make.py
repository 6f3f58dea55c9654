"""`make` does what is left to do, says what is missing, and never takes a half set-up for a whole one.

Nothing is downloaded or compiled here: the set-ups are folders of stamps, and what would run is asked of make.
"""

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PARTS = ["Makefile", "CMakeLists.txt", "package.xml", "pyproject.toml", "setup.py", "constraints.txt"]
FOLDERS = ["scripts", "msg", "srv", "action", "launch", "config", "lisa_ros"]
TOOLS = ["sh", "make", "uname", "find", "mkdir", "touch", "cp", "date", "tail", "tr", "sleep", "cat"]


class Checkout:
    """A copy of the repository that may be changed, with a set-up that is whole as far as its stamps tell."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for part in PARTS:
            shutil.copy(ROOT / part, folder)
        for part in FOLDERS:
            shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        stamps = folder / ".venv" / "stamps"
        stamps.mkdir(parents=True)
        for stamp in ("environment-wheels", "packages", "installed"):
            (stamps / stamp).touch()

    def would_run(self, **environment: str) -> str:
        """What `make setup` would run now, nothing if all is done."""
        return self.make("--just-print", "setup", **environment).stdout

    def make(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        unsourced = {name: value for name, value in os.environ.items() if name not in ("ROS_DISTRO", "MAKEFLAGS")}
        return subprocess.run(
            ["make", "--no-print-directory", *arguments],
            cwd=self.folder,
            env=unsourced | environment,
            capture_output=True,
            text=True,
        )

    def change(self, path: str) -> None:
        time.sleep(0.02)  # for file systems with coarse time stamps
        (self.folder / path).touch()


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    folder = tmp_path / "a checkout"
    folder.mkdir()
    return Checkout(folder)


def test_a_whole_set_up_has_nothing_to_do(checkout: Checkout) -> None:
    assert "Nothing to be done" in checkout.would_run()


@pytest.mark.parametrize("path", ["srv/ReasonSegment.srv", "msg/Segment.msg", "action/ReasonSegment.action"])
def test_a_changed_interface_is_built_again_without_pip(checkout: Checkout, path: str) -> None:
    checkout.change(path)
    assert "bin/ninja" in checkout.would_run()
    assert "pip" not in checkout.would_run()


def test_an_edited_module_needs_nothing_and_a_new_one_an_install(checkout: Checkout) -> None:
    checkout.change("lisa_ros/__init__.py")
    assert "Nothing to be done" in checkout.would_run()
    checkout.change("lisa_ros/brand_new.py")
    assert "bin/ninja" in checkout.would_run()
    assert "pip" not in checkout.would_run()


@pytest.mark.parametrize("path", ["pyproject.toml", "constraints.txt"])
def test_other_requirements_are_installed(checkout: Checkout, path: str) -> None:
    checkout.change(path)
    assert "pip install" in checkout.would_run()
    assert "-m venv" not in checkout.would_run()


def test_another_ros_starts_again_with_its_own_packages(checkout: Checkout) -> None:
    sourced = checkout.would_run(ROS_DISTRO="kilted", AMENT_PREFIX_PATH="/opt/ros/kilted")
    assert "-m venv --clear --system-site-packages" in sourced
    assert "'.[ros," in sourced
    assert "jazzy" not in sourced.split("pip install")[1].splitlines()[0]
    assert "adopt_wheels" not in sourced


def test_a_ros_that_is_named_but_not_sourced_is_none(checkout: Checkout) -> None:
    assert "Nothing to be done" in checkout.would_run(ROS_DISTRO="kilted", AMENT_PREFIX_PATH="")


def test_a_step_that_fails_is_shown_and_done_again(checkout: Checkout) -> None:
    python = checkout.folder / ".venv" / "bin" / "python"
    python.parent.mkdir()
    python.write_text("#!/bin/sh\necho ERROR: no such package\nexit 3\n")
    python.chmod(0o755)
    checkout.change("constraints.txt")
    failed = checkout.make("setup")
    assert failed.returncode != 0
    assert "ERROR: no such package" in failed.stderr
    assert "Installing Python packages (the first time some minutes): failed" in failed.stderr
    assert "pip install" in checkout.would_run()


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """A folder of all the system tools that the set-up needs, to be the whole PATH."""
    folder = tmp_path / "tools"
    folder.mkdir()
    for tool in [*TOOLS, "cc", "c++"]:
        (folder / tool).symlink_to(shutil.which(tool) or tool)
    script(folder / "python3", 'case "$2" in *print*) echo python3.10 ;; esac')
    return folder


def script(path: Path, body: str) -> None:
    path.unlink(missing_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


def found(tools: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = ["sh", ROOT / "scripts" / "find_python.sh"]
    return subprocess.run(command, env={"PATH": str(tools), **environment}, capture_output=True, text=True)


def test_nothing_is_missing(tools: Path) -> None:
    assert found(tools).stdout == "python3\n"


def test_a_missing_compiler_is_named_before_anything_is_made(checkout: Checkout, tools: Path) -> None:
    shutil.rmtree(checkout.folder / ".venv")
    (tools / "c++").unlink()
    told = checkout.make("setup", PATH=str(tools))
    assert told.returncode != 0
    assert told.stderr.splitlines()[0] == "A C++ compiler (c++) is missing: sudo apt install g++"
    assert not (checkout.folder / ".venv").exists()


@pytest.mark.parametrize(
    ("python", "line"),
    [
        ("exit 1", "Python 3.10 to 3.13 is missing: sudo apt install python3 python3-venv python3-dev"),
        (
            'case "$2" in *ensurepip*) exit 1 ;; *print*) echo python3.10 ;; esac',
            "The venv module of python3.10 is missing: sudo apt install python3.10-venv",
        ),
        (
            'case "$2" in *Python.h*) exit 1 ;; *print*) echo python3.12 ;; esac',
            "The header Python.h of python3.12 is missing: sudo apt install python3.12-dev",
        ),
    ],
)
def test_what_python_lacks_is_named_with_the_command_that_installs_it(tools: Path, python: str, line: str) -> None:
    script(tools / "python3", python)
    told = found(tools)
    assert told.returncode != 0
    assert told.stderr.splitlines() == [line]


def test_no_wheels_for_this_machine(tools: Path) -> None:
    script(tools / "uname", "echo aarch64")
    assert found(tools).stderr == (
        "ROS 2 has no wheels for aarch64: install ROS 2, source its setup.bash, and make again\n"
    )


def test_a_sourced_ros_without_rclpy_is_named(tools: Path) -> None:
    script(tools / "python3", 'case "$2" in *rclpy*) exit 1 ;; esac')
    told = found(tools, ROS_DISTRO="jazzy", AMENT_PREFIX_PATH="/nowhere")
    assert told.stderr == (
        "A Python that can import the rclpy of ROS 2 jazzy is missing: sudo apt install ros-jazzy-ros-base\n"
    )
