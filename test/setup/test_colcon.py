"""`colcon build` of the repository as one package of a workspace, in all layouts, used from a fresh shell."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BUILT = ["msg", "srv", "action", "lisa_core", "lisa_ros", "launch", "config", "test", "CMakeLists.txt", "package.xml"]
LAYOUTS = {
    "plain": ([], "lisa_ros"),
    "merged": (["--merge-install"], "."),
    "linked": (["--symlink-install"], "lisa_ros"),
}
USE = """
from lisa_ros.srv import ReasonSegment
import json, lisa_core, lisa_ros, rclpy
rclpy.init()
node = rclpy.create_node("user")
node.create_client(ReasonSegment, "ask")
print(json.dumps([lisa_core.__file__, lisa_ros.__file__, list(ReasonSegment.Request.get_fields_and_field_types())]))
"""


def shell(script: str, folder: Path) -> str:
    """Run a script in a new bash with this environment activated, as beside a sourced ROS."""
    prefix = Path(sys.prefix)
    environment = {
        **os.environ,
        "PATH": f"{prefix / 'bin'}:/usr/bin:/bin",
        "AMENT_PREFIX_PATH": os.environ.get("AMENT_PREFIX_PATH", str(prefix)),
        "CMAKE_PREFIX_PATH": os.environ.get("CMAKE_PREFIX_PATH", str(prefix)),
    }
    done = subprocess.run(["bash", "-e"], input=script, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace whose layouts share one build folder, so that the interfaces are compiled once."""
    folder = tmp_path_factory.mktemp("workspace")
    package = folder / "src" / "lisa_ros"
    package.mkdir(parents=True)
    for name in BUILT:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, package / name, ignore=shutil.ignore_patterns("__pycache__", "goldens"))
        else:
            shutil.copy(ROOT / name, package)
    return folder


def build(workspace: Path, layout: str) -> Path:
    flags, prefix = LAYOUTS[layout]
    # What ament keeps there is a folder in one layout and a link in another; all else can be built upon.
    shutil.rmtree(workspace / "build" / "lisa_ros" / "ament_cmake_python", ignore_errors=True)
    shell(f"python3 -m colcon build --cmake-force-configure --install-base {layout} {' '.join(flags)}", workspace)
    return workspace / layout / prefix


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layout(workspace: Path, layout: str) -> None:
    prefix = build(workspace, layout)
    for name in ("lisa_node", "replay", "play", "tabletop", "demo"):
        assert os.access(prefix / "lib" / "lisa_ros" / name, os.X_OK)
    for folder in ("launch", "config"):
        expected = {file.name for file in (ROOT / folder).iterdir() if file.is_file()}
        assert {file.name for file in (prefix / "share" / "lisa_ros" / folder).iterdir()} >= expected
    used = shell(f". {layout}/setup.bash\ncd /\npython3 -c '{USE}'", workspace)
    assert used.count(str(prefix / "lib")) == 2


@pytest.mark.slow
def test_a_changed_service_is_built_again(workspace: Path) -> None:
    service = workspace / "src" / "lisa_ros" / "srv" / "ReasonSegment.srv"
    service.write_text("string mood\n" + service.read_text())
    build(workspace, "linked")
    assert '["mood", "instruction"' in shell(f". linked/setup.bash\ncd /\npython3 -c '{USE}'", workspace)
