"""The exact versions beside a ROS: its NumPy stays, and nothing is asked for that needs a newer one."""

import os
import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]


BESIDE_ROS = {"numpy": "1.26.4", "setuptools": "68.1.2", "pillow": "10.2.0"}


def versions_beside(tmp_path: Path, there: dict[str, str]) -> dict[str, str]:
    """What the script pins where these are installed."""
    for name, version in there.items():
        folder = tmp_path / f"{name}-{version}.dist-info"
        folder.mkdir(exist_ok=True)
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    command = [sys.executable, "-S", str(ROOT / "scripts" / "constraints_beside_ros.py")]
    variables = {**os.environ, "PYTHONPATH": str(tmp_path)}
    printed = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, check=True).stdout
    pinned = [line.partition("==") for line in printed.splitlines() if not line.startswith("#")]
    return {name: version for name, _, version in pinned}


def test_ros_keeps_its_numpy_and_colcon_its_setuptools(tmp_path: Path) -> None:
    versions = versions_beside(tmp_path, BESIDE_ROS)
    assert versions["numpy"] == "1.26.4"
    assert versions["setuptools"] == "79.0.1"
    assert "torch" in versions
    assert not {"pillow", "matplotlib", "contourpy", "pandas"} & versions.keys()


def test_a_torch_that_is_there_stays(tmp_path: Path) -> None:
    """On a Jetson it is the only one that knows the GPU, and pip would fetch another."""
    jetson = "2.5.0a0+872d972e41.nv24.8"
    assert versions_beside(tmp_path, BESIDE_ROS | {"torch": jetson})["torch"] == jetson
    needed = {requirement.name: requirement.specifier for requirement in map(Requirement, requires("lisa-core") or [])}
    assert needed["torch"].contains(jetson, prereleases=True)


def test_a_torch_that_is_too_old_is_replaced_by_the_exact_one(tmp_path: Path) -> None:
    assert versions_beside(tmp_path, BESIDE_ROS | {"torch": "1.8.1"})["torch"] == "2.13.0"
