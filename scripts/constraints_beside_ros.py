"""Print constraints.txt as it holds beside a sourced ROS; run by the environment's Python.

What ROS's Python already has stays as it is wherever the ranges in pyproject.toml allow it. NumPy stays in any case,
because the compiled modules of ROS are built for it. A torch that is new enough stays, too: it may be the only one that
knows the GPU. So packages whose exact versions need a newer NumPy are left to pip, and setuptools' version holds though
there is one already: colcon takes no newer one.
"""

import re
from importlib.metadata import distributions
from pathlib import Path


def normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


OLDER_BESIDE_ROS = {"contourpy", "matplotlib", "pandas"}
ALWAYS = {"setuptools"}
STAY = {"numpy", "torch"}
OLDEST_TORCH = [2, 5]

installed = {normalized(found.name): found.version for found in distributions()}
if [int(number) for number in re.findall(r"\d+", installed.get("torch", ""))[:2]] < OLDEST_TORCH:
    installed.pop("torch", None)
for line in Path("constraints.txt").read_text().splitlines():
    name = normalized(line.partition("==")[0])
    if name in ALWAYS or name not in installed.keys() | OLDER_BESIDE_ROS:
        print(line)
for name in sorted(STAY & installed.keys()):
    print(f"{name}=={installed[name]}")
