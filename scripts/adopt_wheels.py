"""Point the .cmake files of the ROS wheels at this environment; run by its Python.

The wheels name the include folders of the machine that they were built on, and interfaces that build on theirs
would look for Python.h and NumPy there.
"""

import re
import sys
import sysconfig
from pathlib import Path

import numpy

BUILD_MACHINE = re.compile(r"/opt/python/[^;\"<>]*?/(?:(?P<numpy>numpy/_core/include)|include/python3\.\d+)")


def here(found: re.Match[str]) -> str:
    return numpy.get_include() if found["numpy"] else sysconfig.get_path("include")


for file in Path(sys.prefix, "share").rglob("*.cmake"):
    text = file.read_text()
    adopted = BUILD_MACHINE.sub(here, text)
    if adopted != text:
        file.write_text(adopted)
