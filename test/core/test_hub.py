"""Hub ids: what is cached whole is used without a network, and offline it is said what is missing and where."""

import shutil

import pytest
from checkpoints import copy_of
from goldens import TOWER, V0, V1
from huggingface_hub import constants

from lisa_core import CheckpointError
from lisa_core.hub import folder_of, is_whole

NAME = "someone/LISA-tiny"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty hub cache, offline."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path


def snapshot(cache):
    """The v1 golden as the hub's client would have left it there."""
    repository = cache / "models--someone--LISA-tiny"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("a" * 40)
    return copy_of(V1, repository / "snapshots" / ("a" * 40))


def test_offline_says_what_is_missing_and_where_it_looked(cache):
    with pytest.raises(CheckpointError) as caught:
        folder_of(NAME)
    assert f"{NAME} is not in the hub cache ({cache})" in str(caught.value)
    assert "copy the folder here and give its path" in str(caught.value)


def test_a_cached_snapshot_is_used_without_network(cache):
    whole = snapshot(cache)
    assert folder_of(NAME) == whole


@pytest.mark.parametrize("folder", [V1, V0, TOWER], ids=lambda folder: folder.name)
def test_whole(folder):
    assert is_whole(folder)


@pytest.mark.parametrize("name", ["config.json", "pytorch_model-00003-of-00004.bin", "pytorch_model.bin.index.json"])
def test_incomplete(tmp_path, name):
    folder = copy_of(V1, tmp_path / "lisa")
    (folder / name).unlink()
    assert not is_whole(folder)


def test_empty(tmp_path):
    shutil.copyfile(V1 / "config.json", tmp_path / "config.json")
    assert not is_whole(tmp_path)
