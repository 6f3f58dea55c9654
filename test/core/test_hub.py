"""Hub ids: what is cached whole is used without a network, and offline it is said what is missing and where."""

import json
import shutil
from fnmatch import fnmatch

import huggingface_hub
import pytest
from checkpoints import copy_of
from goldens import TOWER, V0, V1
from huggingface_hub import constants
from huggingface_hub.errors import LocalEntryNotFoundError

from lisa_core import CheckpointError
from lisa_core.checkpoint_files import V0_PARTS, is_whole, weight_files
from lisa_core.hub import folder_of, state_of

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
    told = []
    assert folder_of(NAME, told.append) == whole
    assert told == []


def test_what_is_cached_in_part_is_no_checkpoint(cache):
    part = snapshot(cache)
    (part / "pytorch_model-00003-of-00004.bin").unlink()
    with pytest.raises(CheckpointError, match=r"only in part .*Connect to the network|is not in the hub cache"):
        folder_of(NAME)


def test_what_is_cached_in_part_is_downloaded(cache, monkeypatch):
    part = snapshot(cache)
    name = "pytorch_model-00003-of-00004.bin"
    (part / name).unlink()

    def download(_name, allow_patterns, local_files_only=False):
        if not local_files_only and "*.bin" in allow_patterns:
            shutil.copyfile(V1 / name, part / name)
        return str(part)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    told = []
    assert folder_of(NAME, told.append) == part
    assert told == [NAME]
    assert (part / name).is_file()


def test_a_shard_whose_name_no_disk_can_hold_is_not_there(tmp_path):
    part = copy_of(V1, tmp_path / "lisa")
    index = {"weight_map": {"lm_head.weight": "x" * 300 + ".bin"}}
    (part / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    assert not is_whole(part)


@pytest.mark.parametrize("linked", [False, True])
def test_another_vision_tower_is_another_state(tmp_path, linked):
    lisa = copy_of(V1, tmp_path / "lisa")
    tower = copy_of(TOWER, tmp_path / "clip" if linked else lisa / "vision_tower")
    if linked:
        (lisa / "vision_tower").symlink_to(tower)
        (tower / "back").symlink_to(lisa)
    before = state_of(str(lisa))
    assert state_of(str(lisa)) == before
    assert "vision_tower/config.json" in [file[0] for file in before[1:]]
    with (tower / "config.json").open("a") as config:
        config.write(" ")
    assert state_of(str(lisa)) != before


SHARDED = ["model.safetensors.index.json", "model-00001-of-00001.safetensors"]
SHARDED_BIN = ["pytorch_model.bin.index.json", "pytorch_model-00001-of-00001.bin"]


@pytest.mark.parametrize(
    ("there", "taken"),
    [
        (["model.safetensors", "pytorch_model.bin"], ["config.json", "model.safetensors"]),
        ([*SHARDED, *SHARDED_BIN], sorted(["config.json", *SHARDED, SHARDED_BIN[0]])),
        (SHARDED_BIN, sorted(["config.json", *SHARDED_BIN])),
        (["model.safetensors"], ["config.json", "model.safetensors"]),
        (["pytorch_model.bin"], ["config.json", "pytorch_model.bin"]),
    ],
)
def test_weights_in_two_formats_are_downloaded_once(tmp_path, monkeypatch, there, taken):
    def download(_name, allow_patterns, local_files_only=False):
        if local_files_only:
            raise LocalEntryNotFoundError("not there")
        for name in ("config.json", *there):
            if any(fnmatch(name, pattern) for pattern in allow_patterns):
                shard = dict((SHARDED, SHARDED_BIN)).get(name, "")
                (tmp_path / name).write_text(json.dumps({"weight_map": {"some.weight": shard}}))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert folder_of("openai/clip-vit-large-patch14") == tmp_path
    assert sorted(path.name for path in tmp_path.iterdir()) == taken


@pytest.mark.parametrize("folder", [V1, V0, TOWER], ids=lambda folder: folder.name)
def test_whole(folder):
    assert is_whole(folder)


@pytest.mark.parametrize("name", ["config.json", "pytorch_model-00003-of-00004.bin", "pytorch_model.bin.index.json"])
def test_incomplete(tmp_path, name):
    folder = copy_of(V1, tmp_path / "lisa")
    (folder / name).unlink()
    assert not is_whole(folder)


@pytest.mark.parametrize("name", ["tokenizer.model", "added_tokens.json"])
def test_a_lisa_without_its_words(tmp_path, name):
    folder = copy_of(V1, tmp_path / "lisa")
    (folder / name).unlink()
    assert not is_whole(folder)


@pytest.mark.parametrize("name", ["pytorch_model-visual_model.bin", "pytorch_model-text_hidden_fcs.bin"])
def test_a_v0_without_one_of_its_parts(tmp_path, name):
    folder = copy_of(V0, tmp_path / "lisa")
    (folder / "pytorch_model.bin").rename(folder / "pytorch_model-00001-of-00001.bin")
    index = {"weight_map": {"model.embed_tokens.weight": "pytorch_model-00001-of-00001.bin"}}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    assert is_whole(folder)
    (folder / name).unlink()
    assert not is_whole(folder)


@pytest.mark.parametrize("name", ["runs/lisa--v2", "models/LISA-7B.", "a/" + "b" * 200, "x" * 300, "~nosuchuser/lisa"])
def test_what_is_neither_a_folder_nor_an_id(cache, name):
    with pytest.raises(CheckpointError) as caught:
        folder_of(name)
    assert name.partition("/")[0] in str(caught.value)


@pytest.mark.parametrize("index", ["[" * 100_000, '{"weight_map": {"a": []}}', '{"weight_map": 1}', "[]", "\xff"])
def test_an_index_that_is_none(tmp_path, index):
    folder = copy_of(V1, tmp_path / "lisa")
    (folder / "pytorch_model.bin.index.json").write_text(index, encoding="latin-1")
    assert not is_whole(folder)


def test_empty(tmp_path):
    shutil.copyfile(V1 / "config.json", tmp_path / "config.json")
    assert not is_whole(tmp_path)


def test_only_what_a_checkpoint_is_read_from_tells_it_from_another(tmp_path):
    for number, golden in enumerate((V0, V1)):
        folder = copy_of(golden, tmp_path / str(number))
        shutil.copytree(TOWER, folder / "vision_tower")
        before = state_of(str(folder))
        for other in ("val.json", "val.json.journal", "README.md", "vision_tower/notes.txt", "runs/1/state.pt"):
            (folder / other).parent.mkdir(parents=True, exist_ok=True)
            (folder / other).write_text("{}")
        assert state_of(str(folder)) == before
        needed = ["config.json", "tokenizer.model", "added_tokens.json", "tokenizer_config.json"]
        needed += [file.name for file in weight_files(folder)] + list(V0_PARTS) * (golden is V0)
        needed += [f"vision_tower/{name}" for name in ("config.json", weight_files(TOWER)[0].name)]
        for name in needed:
            (folder / name).touch()
            assert state_of(str(folder)) != before, name
            before = state_of(str(folder))


def test_a_vision_tower_behind_a_link_counts(tmp_path):
    folder = copy_of(V1, tmp_path / "lisa")
    tower = shutil.copytree(TOWER, tmp_path / "tower")
    (folder / "vision_tower").symlink_to(tower)
    before = state_of(str(folder))
    weight_files(tower)[0].touch()
    assert state_of(str(folder)) != before


def test_a_damaged_checkpoint_has_a_state(tmp_path):
    folder = copy_of(V1, tmp_path / "lisa")
    next(folder.glob("*.index.json")).write_text("{")
    assert state_of(str(folder))[0] == str(folder)
