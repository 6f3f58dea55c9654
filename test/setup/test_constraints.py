"""The exact versions beside a ROS: its NumPy stays, and nothing is asked for that needs a newer one."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_ros_keeps_its_numpy_and_colcon_its_setuptools(tmp_path: Path) -> None:
    for name, version in (("numpy", "1.26.4"), ("setuptools", "68.1.2"), ("pillow", "10.2.0")):
        folder = tmp_path / f"{name}-{version}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    command = [sys.executable, "-S", str(ROOT / "scripts" / "constraints_beside_ros.py")]
    variables = {**os.environ, "PYTHONPATH": str(tmp_path)}
    printed = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, check=True).stdout
    pinned = [line.partition("==") for line in printed.splitlines() if not line.startswith("#")]
    versions = {name: version for name, _, version in pinned}
    assert versions["numpy"] == "1.26.4"
    assert versions["setuptools"] == "79.0.1"
    assert "torch" in versions
    assert not {"pillow", "matplotlib", "contourpy", "pandas"} & versions.keys()
