"""Every process that publishes pictures has room for them in shared memory, unless the user has set up Fast DDS."""

import os
import re
from pathlib import Path

import pytest
from domain_coordinator import domain_id
from harness import Process, camera, eventually, lisa
from rclpy.utilities import get_rmw_implementation_identifier

from lisa_ros.shared_memory import make_room

FILES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")
ROOM, BY_ITSELF = 16 << 20, 1 << 19
"""Bytes, of `config/fastdds.xml` and of Fast DDS."""


@pytest.fixture(autouse=True)
def untouched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As for a user who has set up nothing, in an empty folder."""
    for name in (*FILES, "FASTDDS_BUILTIN_TRANSPORTS", "ROS_LOCALHOST_ONLY"):
        monkeypatch.setenv(name, "")  # so that what `make_room` sets is undone
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def test_fast_dds_finds_the_file() -> None:
    make_room()
    for name in FILES:
        assert f"<segment_size>{ROOM}<" in Path(os.environ[name]).read_text()


@pytest.mark.parametrize(
    ("name", "value"), [*((name, "mine.xml") for name in FILES), ("FASTDDS_BUILTIN_TRANSPORTS", "LARGE_DATA")]
)
def test_what_the_user_has_set_up_stays(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    before = dict(os.environ)
    make_room()
    assert dict(os.environ) == before


@pytest.mark.parametrize("name", ["DEFAULT_FASTRTPS_PROFILES.xml", "DEFAULT_FASTDDS_PROFILES.xml"])
def test_a_file_in_the_folder_stays_in_use(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    make_room()
    assert not os.environ.keys() & set(FILES)


def test_who_stays_on_this_machine_still_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROS_LOCALHOST_ONLY", "1")
    make_room()
    assert not os.environ.keys() & set(FILES)


def test_what_starts_without_the_ament_index_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    for prefix in (None, "/nowhere"):
        monkeypatch.delenv("AMENT_PREFIX_PATH", raising=False)
        if prefix:
            monkeypatch.setenv("AMENT_PREFIX_PATH", prefix)
        make_room()
        assert not os.environ.keys() & set(FILES)


@pytest.mark.skipif("fastrtps" not in get_rmw_implementation_identifier(), reason="another middleware than Fast DDS")
def test_the_node_takes_it_and_who_does_not_ask_has_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with domain_id() as one, domain_id() as other:  # for a process also maps the memory of those that it hears
        for domain, kind, least, most in ((one, camera, BY_ITSELF, ROOM), (other, lisa, ROOM, 2 * ROOM)):
            monkeypatch.setenv("ROS_DOMAIN_ID", str(domain))
            process = kind(tmp_path / "log")
            try:
                eventually(lambda: largest_segment(process) >= least, "its shared memory")  # noqa: B023
                assert largest_segment(process) < most
            finally:
                process.stop()


def largest_segment(process: Process) -> int:
    """Bytes of Fast DDS's largest piece of shared memory in the process."""
    pieces = re.findall(
        r"^(\w+)-(\w+) .*/dev/shm/fast\w+$", Path(f"/proc/{process.pid}/maps").read_text(), re.MULTILINE
    )
    return max((int(end, 16) - int(begin, 16) for begin, end in pieces), default=0)
