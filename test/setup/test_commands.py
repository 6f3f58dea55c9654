"""Everything that users call is there once the package is installed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PREFIX = Path(sys.prefix)
BENCHMARKS = sorted((Path(__file__).resolve().parents[2] / "benchmarks").glob("*.py"))


@pytest.mark.parametrize("name", ["lisa_node", "replay", "play", "tabletop", "demo"])
def test_executable_of_ros2_run(name: str) -> None:
    executable = PREFIX / "lib" / "lisa_ros" / name
    assert os.access(executable, os.X_OK)
    python = executable.read_text().partition("\n")[0].removeprefix("#!")
    assert Path(python).parent == PREFIX / "bin", "not the Python that has torch"
    assert os.access(python, os.X_OK)


@pytest.mark.parametrize("name", ["lisa", "lisa_node", "lisa_replay", "lisa_play", "lisa_tabletop", "lisa_demo"])
def test_command_without_sourcing(name: str) -> None:
    assert os.access(PREFIX / "bin" / name, os.X_OK)


@pytest.mark.parametrize("script", BENCHMARKS, ids=lambda script: script.name)
def test_benchmarks_start(script: Path) -> None:
    told = subprocess.run([sys.executable, script, "--help"], capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
    assert f"usage: {script.name}" in told.stdout


@pytest.mark.parametrize("command", ["lisa", "lisa_replay", "lisa_play"])
def test_commands_explain_themselves_from_any_folder(command: str, tmp_path: Path) -> None:
    bare = {"HOME": os.environ["HOME"], "PATH": "/usr/bin:/bin", "LD_LIBRARY_PATH": os.environ["LD_LIBRARY_PATH"]}
    told = subprocess.run([PREFIX / "bin" / command, "--help"], cwd=tmp_path, env=bare, capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
    assert "Usage" in told.stdout


def test_the_tests_say_what_they_need() -> None:
    """As for `colcon test` where only what a robot needs is installed."""
    run = "import sys; sys.modules['gradio_client'] = None; import pytest; sys.exit(pytest.main(['--collect-only']))"
    tests = Path(__file__).resolve().parents[1]
    told = subprocess.run([sys.executable, "-c", run], cwd=tests, capture_output=True, text=True)
    assert told.returncode == pytest.ExitCode.USAGE_ERROR
    assert "the tests need gradio_client: pip install '.[ros,tabletop,train,web,dev]'" in told.stdout + told.stderr


@pytest.mark.parametrize("folder", ["launch", "config"])
def test_shared_files(folder: str) -> None:
    source = Path(__file__).resolve().parents[2] / folder
    installed = PREFIX / "share" / "lisa_ros" / folder
    assert {file.name for file in installed.iterdir()} >= {file.name for file in source.iterdir() if file.is_file()}


@pytest.mark.parametrize("folder", [Path(__file__).resolve().parents[2], Path("/")], ids=["checkout", "elsewhere"])
def test_python_finds_the_interfaces(folder: Path) -> None:
    """In the checkout too, where Python finds the folder lisa_ros before the installed package."""
    subprocess.run([sys.executable, "-c", "from lisa_ros.srv import ReasonSegment"], cwd=folder, check=True)
