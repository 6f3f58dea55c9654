"""Engines of the goldens, loaded once."""

import functools
import os

import pytest
import torch
from checkpoints import tensors_of, with_small_sam, write
from goldens import TOWER, V0, V1

from lisa_core import LisaEngine

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # before anything imports Triton


@pytest.fixture(scope="session")
def load():
    """`load(folder, precision)`: an engine on the CPU with the goldens' vision tower; the same one each time."""

    @functools.cache
    def loaded(folder, precision="fp32"):
        return LisaEngine.from_pretrained(folder, precision, "cpu", vision_tower=TOWER)

    return loaded


@pytest.fixture(scope="session")
def v1(load):
    return load(V1)


@pytest.fixture(scope="session")
def v0(load):
    return load(V0)


@pytest.fixture(scope="session")
def small_checkpoint(tmp_path_factory):
    """The v1 golden with a SAM on 256 px: it says the same, and a mask takes milliseconds."""
    return write(tmp_path_factory.mktemp("small") / "lisa", with_small_sam(tensors_of(V1)))


@pytest.fixture(scope="session")
def small(load, small_checkpoint):
    return load(small_checkpoint)
