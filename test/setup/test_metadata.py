"""What pip, rosdep and readers are told about this package agrees, and nothing is imported that nobody declares."""

import ast
import re
import sys
from importlib.metadata import requires, version
from pathlib import Path

import pytest
from catkin_pkg.package import parse_package

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = parse_package(ROOT)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

# Where the name to import, the name for pip and rosdep's key differ.
PIP_NAMES = {"PIL": "pillow", "cv2": "opencv-python-headless", "tf2_ros": "tf2_ros_py", "yaml": "pyyaml"}
ROSDEP_KEYS = {"python3-opencv": "opencv-python-headless", "python3-pil": "pillow"}


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[\[<>=!~; ]", requirement)[0].lower() for requirement in requirements}


def imports(folder: str) -> set[str]:
    """The top-level names of all modules that the Python files of a folder import."""
    found = set()
    for file in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found.add((node.module or "").partition(".")[0])
    return found - set(sys.stdlib_module_names)


def pip_names(modules: set[str]) -> set[str]:
    return {PIP_NAMES.get(module, module) for module in modules}


def test_version_is_the_same_everywhere() -> None:
    assert version("lisa-core") == version("lisa_ros") == PACKAGE.version


def test_licence_and_description_agree() -> None:
    assert [PROJECT["license"]] == PACKAGE.licenses
    assert PROJECT["description"] == PACKAGE.description
    assert "Apache License" in (ROOT / "LICENSE").read_text()


def test_package_xml_is_valid() -> None:
    PACKAGE.validate()
    assert PACKAGE.package_format == 3


def test_changelog_is_in_the_form_of_ros() -> None:
    lines = (ROOT / "CHANGELOG.rst").read_text().splitlines()
    assert lines[1] == f"Changelog for package {PACKAGE.name}"
    assert {"Forthcoming", PACKAGE.version} & {line.partition(" ")[0] for line in lines}


def test_lisa_core_imports_what_pip_installs_and_no_ros() -> None:
    extras = PROJECT["optional-dependencies"]
    declared = names(
        [*PROJECT["dependencies"], *extras["charts"], *extras["tabletop"], *extras["train"], *extras["web"]]
    )
    with_torch = {"triton"}  # a torch for CUDA requires it, of its own version; without it answers are slower
    assert pip_names(imports("lisa_core") - {"lisa_core"}) <= declared | with_torch


def test_lisa_core_reaches_for_lisa_ros_in_one_place_only() -> None:
    files = (ROOT / "lisa_core").rglob("*.py")
    assert [file.name for file in files if "lisa_ros." in file.read_text()] == ["ros_bridge.py"]


@pytest.mark.parametrize("folder", ["lisa_ros", "launch"])
def test_lisa_ros_imports_what_is_declared(folder: str) -> None:
    declared = names(PROJECT["dependencies"]) | names(PROJECT["optional-dependencies"]["ros"])
    declared |= {dependency.name for dependency in PACKAGE.exec_depends}
    assert pip_names(imports(folder) - {"lisa_core", "lisa_ros"}) <= declared


def test_rosdep_keys_are_dependencies_for_pip_as_well() -> None:
    keys = [d.name for d in PACKAGE.exec_depends if d.name.startswith("python3-")]
    assert {ROSDEP_KEYS.get(key, key.removeprefix("python3-")) for key in keys} <= names(PROJECT["dependencies"])


def test_every_requirement_has_an_exact_version() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+( ; .*)?", line) for line in lines)
    pinned = {re.sub(r"[-_.]+", "-", name) for name in names(lines)}
    assert {re.sub(r"[-_.]+", "-", name) for name in names(requires("lisa-core") or [])} <= pinned
