"""The launch files pass on their arguments, and nothing else.

What needs `launch` runs where ROS is installed; the rest holds the files against the node's parameters and topics.
"""

import ast
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock, Mock

import pytest
import yaml
from ament_index_python.packages import get_package_share_directory
from harness import PATIENCE, Robot, environment, eventually
from tabletop import IMAGE

from lisa_ros.parameters import camera_rules, node_rules

HERE = Path(__file__).parent
SHARE = Path(get_package_share_directory("lisa_ros"))
FILES = sorted((SHARE / "launch").glob("*.launch.py"))


def constants(file: str) -> dict[str, Any]:
    """The literal values that a launch file gives names to."""
    tree = ast.parse((SHARE / "launch" / file).read_text())
    assigned = [node for node in tree.body if isinstance(node, ast.Assign) and not isinstance(node.value, ast.Call)]
    return {node.targets[0].id: ast.literal_eval(node.value) for node in assigned}


def test_the_files_are_installed_and_python() -> None:
    assert [file.name for file in FILES] == ["demo.launch.py", "lisa.launch.py"]
    for file in FILES:
        compile(file.read_text(), file.name, "exec")


def test_arguments_are_parameters_of_the_node() -> None:
    names = constants("lisa.launch.py")
    assert set(names["PARAMETERS"]) <= node_rules().keys()
    assert {f"camera.{name}" for name in names["OF_CAMERA"]} <= camera_rules("camera", ["camera"]).keys()
    assert set(constants("demo.launch.py")["TOPICS"]) <= set(names["OF_CAMERA"])


def started(monkeypatch: pytest.MonkeyPatch, file: str, function: str, **given: str) -> Mapping[str, Any]:
    """The arguments of the last node that a launch file's function starts; needs no `launch`."""
    node = Mock()
    for name in ("launch", "launch.actions", "launch.launch_description_sources", "launch.substitutions"):
        monkeypatch.setitem(sys.modules, name, MagicMock())
    for name in ("launch_ros", "launch_ros.parameter_descriptions", "launch_ros.substitutions"):
        monkeypatch.setitem(sys.modules, name, MagicMock())
    monkeypatch.setitem(sys.modules, "launch_ros.actions", Mock(Node=node))
    run = runpy.run_path(str(SHARE / "launch" / file))[function]
    run(Mock(launch_configurations=given))
    return node.call_args.kwargs


def test_home_is_known_where_a_shell_leaves_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.yaml").touch()
    player = started(monkeypatch, "demo.launch.py", "_world", bag="~/drive1")
    assert player["arguments"] == [f"{tmp_path}/drive1", "--loop"]
    live = started(monkeypatch, "demo.launch.py", "_world", bag="")
    assert live["executable"] == "tabletop"
    node = started(monkeypatch, "lisa.launch.py", "_start", params_file="~/mine.yaml")
    assert node["parameters"] == [f"{tmp_path}/mine.yaml"]


def test_a_file_of_parameters_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"params_file: there is no file .*/typo\.yaml"):
        started(monkeypatch, "lisa.launch.py", "_start", params_file=str(tmp_path / "typo.yaml"))


@pytest.mark.parametrize(("given", "wanted"), [("true", True), ("True", True), ("false", False), ("False", False)])
def test_time_as_other_launch_files_hand_it_on(monkeypatch: pytest.MonkeyPatch, given: str, wanted: bool) -> None:
    node = started(monkeypatch, "lisa.launch.py", "_start", use_sim_time=given)
    assert node["parameters"] == [{"use_sim_time": wanted}]
    assert given in constants("lisa.launch.py")["BOOLEANS"]


def test_rviz_stands_in_the_frame_that_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"rviz": "true", "bag": "", "image": "/camera/image", "fixed_frame": "zed_left"}
    assert started(monkeypatch, "demo.launch.py", "_rviz", **given)["arguments"][-2:] == ["-f", "zed_left"]


def test_the_demos_bag_is_installed() -> None:
    assert (SHARE / "tabletop_bag" / "metadata.yaml").is_file()
    assert constants("demo.launch.py")["TOPICS"]["image"] == IMAGE


def test_rviz_shows_what_the_node_publishes() -> None:
    config = yaml.safe_load((SHARE / "config" / "lisa.rviz").read_text())
    displays = {entry["Class"].split("/")[1]: entry for entry in config["Visualization Manager"]["Displays"]}
    topics = {entry["Topic"]["Value"] for entry in config["Visualization Manager"]["Displays"]}
    assert topics == {IMAGE, "/lisa/overlay", "/lisa/points", "/lisa/target"}
    assert displays.keys() == {"Image", "PointCloud2", "Pose"}


class Launched:
    """A running launch file, with the processes that it started."""

    def __init__(self, log: Path, file: str, arguments: Mapping[str, object]) -> None:
        values = [f"{name}:={value}" for name, value in arguments.items()]
        command = [sys.executable, str(HERE / "launch_process.py"), file, *values]
        self._log = log
        with log.open("w") as output:
            self._process = subprocess.Popen(
                command, stdout=output, stderr=subprocess.STDOUT, env=environment(), start_new_session=True
            )

    @property
    def output(self) -> str:
        """What all of them have written so far."""
        return self._log.read_text()

    def wait(self) -> int:
        """Its exit code, once it ends by itself."""
        return self._process.wait(PATIENCE)

    def stop(self) -> None:
        """Ctrl-C, which a terminal sends to the whole process group: launch relies on that."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGINT)
        self.wait()


Launch = Callable[..., Launched]


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Launch]:
    """Runs a launch file with arguments until the test ends."""
    pytest.importorskip("launch_ros", reason="needs an installed ROS 2")
    started: list[Launched] = []

    def start(file: str, **arguments: object) -> Launched:
        started.append(Launched(tmp_path / f"launch{len(started)}.log", file, arguments))
        return started[-1]

    yield start
    for launched in started:
        launched.stop()


@pytest.fixture
def robot() -> Iterator[Robot]:
    robot = Robot("/arm/lisa")
    yield robot
    robot.close()


@pytest.mark.ros_install
def test_what_is_given_reaches_the_node_and_the_rest_keeps_its_defaults(
    launch: Launch, robot: Robot, tmp_path: Path
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("/**:\n  ros__parameters:\n    queue_size: 3\n    precision: bf16\n    autostart: true\n")
    given = {"precision": "fp32", "standing_instruction": "7", "image": "/a/image", "depth": "b/depth"}
    given |= {"autostart": "False", "transport": "compressed"}
    launch("lisa.launch.py", namespace="arm", params_file=file, use_sim_time="True", **given)
    assert robot.state() == "unconfigured"
    expected = {
        "precision": "fp32",
        "standing_instruction": "7",
        "camera.image": "/a/image",
        "camera.depth": "b/depth",
        "camera.transport": "compressed",
        "queue_size": 3,
        "autostart": False,
        "use_sim_time": True,
    }
    assert {name: robot.get(name) for name in expected} == expected
    rules = node_rules() | camera_rules("camera", ["camera"])
    for name in ("checkpoint", "template", "camera.camera_info", "max_segments"):
        assert robot.get(name) == rules[name][0]


@pytest.mark.ros_install
def test_what_is_given_overrides_a_file_that_speaks_of_the_node(launch: Launch, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    words = "ros__parameters: {autostart: false, precision"
    file.write_text(f"/**: {{{words}: bf16}}}}\nlisa: {{{words}: fp16, queue_size: 3}}}}\n")
    launch("lisa.launch.py", params_file=file, precision="fp32")
    robot = Robot()
    try:
        assert robot.state() == "unconfigured"
        assert (robot.get("precision"), robot.get("queue_size")) == ("fp32", 3)
    finally:
        robot.close()


@pytest.mark.ros_install
def test_a_node_that_dies_comes_back_on_demand(launch: Launch, robot: Robot) -> None:
    process = launch("lisa.launch.py", namespace="arm", respawn="true")
    robot.until_active()
    pid = eventually(lambda: _pid_of_node(process), "the node's pid")
    os.kill(int(pid), signal.SIGKILL)
    again = eventually(lambda: _pid_of_node(process) != pid and _pid_of_node(process), "another node")
    assert again
    robot.until_active()


def _pid_of_node(process: Launched) -> str:
    started = [line for line in process.output.splitlines() if "lisa_node" in line and "process started" in line]
    return started[-1].split("[")[-1].rstrip("]") if started else ""


@pytest.mark.ros_install
def test_a_choice_that_is_none_is_refused(launch: Launch) -> None:
    process = launch("lisa.launch.py", precision="fp4")
    assert process.wait() == 1
    assert "fp4" in process.output


@pytest.mark.ros_install
def test_every_argument_is_described() -> None:
    pytest.importorskip("launch_ros", reason="needs an installed ROS 2")
    from launch.launch_description_sources import get_launch_description_from_python_launch_file

    from launch import LaunchContext

    for file in FILES:
        description = get_launch_description_from_python_launch_file(str(file))
        for argument in description.get_launch_arguments():
            assert argument.description not in ("", "no description given"), argument.name
    arguments = {argument.name: argument for argument in description.get_launch_arguments()}
    assert arguments["precision"].choices == ["", *node_rules()["precision"][1].choices]
    assert LaunchContext().perform_substitution(arguments["precision"].default_value[0]) == ""


@pytest.mark.ros_install
@pytest.mark.slow
def test_the_demo_runs_under_launch_testing() -> None:
    pytest.importorskip("launch_testing", reason="needs an installed ROS 2")
    command = [sys.executable, "-m", "launch_testing.launch_test", str(HERE / "launch_demo.py")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE * 5, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
