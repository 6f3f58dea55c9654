"""The version stands once, in package.xml, where ROS's tools look for it; everything else is in pyproject.toml."""

from pathlib import Path
from xml.etree import ElementTree

from setuptools import setup

setup(version=ElementTree.parse(Path(__file__).with_name("package.xml")).findtext("version"))
