"""Bags are read as they were recorded, in both formats; a written bag is complete or does not exist."""

import json
import re
import shutil
import sqlite3
import struct
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from lisa_ros.msg import Answer, Segment
from rclpy.serialization import serialize_message
from rosbags.rosbag2 import StoragePlugin, Writer
from tabletop import BAG, DEPTH, IMAGE, INFO, changed, labels, messages, save, truth

from lisa_core.geometry import locate
from lisa_ros import conversions
from lisa_ros.bags import BagError, BagReader, Message, TopicError, discard_unfinished, typestore, write_bag
from lisa_ros.pairing import stamp_of


def as_sqlite3(path: Path, source: Path = BAG) -> Path:
    """The bag in `test/data`, or another one, in the other format."""
    with BagReader(source) as bag, Writer(path, version=8, storage_plugin=StoragePlugin.SQLITE3) as writer:
        connections = {
            name: writer.add_connection(name, topic.type, typestore=typestore()) for name, topic in bag.topics.items()
        }
        for message in bag.messages(bag.topics):
            writer.write(connections[message.topic], message.time, message.data)
    return path


def test_the_topics_are_those_recorded() -> None:
    with BagReader(BAG) as bag:
        kinds = {name: (topic.type, topic.messages) for name, topic in bag.topics.items()}
    assert kinds == {
        IMAGE: ("sensor_msgs/msg/Image", 14),
        DEPTH: ("sensor_msgs/msg/Image", 14),
        INFO: ("sensor_msgs/msg/CameraInfo", 14),
    }


def test_messages_come_in_the_order_of_their_recording_with_their_stamps() -> None:
    with BagReader(BAG) as bag:
        everything = list(bag.messages(bag.topics))
        for message in everything:
            stamp = bag.decode(message).header.stamp
            assert message.stamp == stamp.sec * 10**9 + stamp.nanosec
        assert bag.span.start == everything[0].time
        assert bag.span.end == everything[-1].time
    assert [m.time for m in everything] == sorted(m.time for m in everything)
    assert [m.stamp for m in everything if m.topic == IMAGE] == [frame["stamp"] for frame in truth()["frames"]]


@pytest.mark.parametrize(("order", "flag"), [("<", 1), (">", 0)])
def test_a_stamp_is_read_in_either_byte_order_and_is_0_if_cut_off(order: str, flag: int) -> None:
    cdr = bytes([0, flag, 0, 0]) + struct.pack(f"{order}iI", 1_750_000_000, 999_999_999)
    assert stamp_of(cdr) == 1_750_000_000_999_999_999
    assert {stamp_of(cdr[:size]) for size in range(len(cdr))} == {0}


def test_both_formats_give_the_same_messages(tmp_path: Path) -> None:
    assert messages(as_sqlite3(tmp_path / "other")) == messages()


def test_a_single_file_is_a_bag_too() -> None:
    assert messages(BAG / "tabletop_bag.mcap") == messages()


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_messages_are_found_again_though_some_have_the_same_time(tmp_path: Path, storage: str) -> None:
    path = save(tmp_path / "bag", [m._replace(time=1 + index // 9) for index, m in enumerate(messages())])
    with BagReader(path if storage == "mcap" else as_sqlite3(tmp_path / "other", path)) as bag:
        found = list(bag.messages(bag.topics))
        assert sum(m.place > 0 for m in found) > len(found) / 3
        assert [bag.at(m.topic, m.time, m.place) for m in found] == found
        for topic in bag.topics:
            assert [m.stamp for m in found if m.topic == topic] == [m.stamp for m in messages() if m.topic == topic]


def test_no_topics_are_no_messages() -> None:
    with BagReader(BAG) as bag:
        assert list(bag.messages([])) == []


def test_a_written_bag_gives_back_what_was_put_in(tmp_path: Path) -> None:
    answer = Answer(instruction="where?", text="[SEG].", segments=[Segment(area=7, score=1.25)], duration=0.5)
    with write_bag(tmp_path / "bag", typestore()) as bag:
        bag.add_topic("/lisa/answer", "lisa_ros/msg/Answer")
        bag.write("/lisa/answer", 12, serialize_message(answer))
    with BagReader(tmp_path / "bag") as bag:
        [message] = bag.messages(["/lisa/answer"])
        read = bag.decode(message)
    assert (message.time, read.instruction, read.text, read.duration) == (12, "where?", "[SEG].", 0.5)
    assert [(segment.area, segment.score) for segment in read.segments] == [(7, 1.25)]


def test_our_types_are_those_of_the_interfaces_that_were_built() -> None:
    store = typestore()
    for built in (Answer, Segment):
        _, recorded = store.fielddefs[f"lisa_ros/msg/{built.__name__}"]
        assert [name for name, _ in recorded] == list(built.get_fields_and_field_types())


def test_a_bag_is_not_there_before_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "bag"

    def write_half_of_it() -> None:
        with write_bag(path, typestore()) as bag:
            bag.add_topic("/lisa/answer", "lisa_ros/msg/Answer")
            bag.write("/lisa/answer", 0, serialize_message(Answer()))
            assert not path.exists()
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        write_half_of_it()
    assert list(tmp_path.iterdir()) == []


def test_a_new_bag_takes_the_place_of_an_old_one(tmp_path: Path) -> None:
    save(tmp_path / "bag", messages()[:3])
    save(tmp_path / "bag", messages()[:5])
    assert messages(tmp_path / "bag") == messages()[:5]


def test_no_bag(tmp_path: Path) -> None:
    with pytest.raises(BagError, match="There is no bag at"), BagReader(tmp_path / "nothing"):
        pass


@pytest.mark.parametrize("encoding", ["", "unknown"])
def test_a_topic_whose_definition_was_not_recorded_is_no_damage(tmp_path: Path, encoding: str) -> None:
    path = as_sqlite3(tmp_path / "bag")
    with closing(sqlite3.connect(path / "bag.db3")) as file, file:
        file.execute(
            "UPDATE message_definitions SET encoding = ?, encoded_message_definition = '' WHERE topic_type LIKE ?",
            (encoding, "%Info"),
        )
    with pytest.raises(BagError, match=r"by rosbags .*has no message definition.*: `ros2 bag convert`") as error:
        messages(path)
    assert "damaged" not in str(error.value)


def test_a_bag_of_a_later_version_is_no_damage(tmp_path: Path) -> None:
    shutil.copytree(BAG, tmp_path / "bag")
    metadata = tmp_path / "bag" / "metadata.yaml"
    metadata.write_text(re.sub(r"version: \d+", "version: 99", metadata.read_text(), count=1))
    with pytest.raises(BagError, match=r"by rosbags .*version 99 not supported"):
        messages(tmp_path / "bag")


@pytest.mark.parametrize("name", ["drive#2", "which?", "%41"])
def test_sqlite3_in_a_path_that_is_a_uri_in_part(tmp_path: Path, name: str) -> None:
    part = "%41" if name == "%41" else name[-2] if name.endswith("2") else name[-1]
    save(tmp_path / "mcap" / name, messages()[:5])
    assert messages(tmp_path / "mcap" / name) == messages()[:5]
    as_sqlite3(tmp_path / "bag")
    (tmp_path / "bag").rename(tmp_path / name)
    for path in (tmp_path / name, tmp_path / name / "bag.db3"):
        with pytest.raises(BagError, match=re.escape(f"by rosbags, for there is a {part} in its path: rename")):
            messages(path)
    as_sqlite3(tmp_path / "100%")
    assert messages(tmp_path / "100%") == messages()


def test_a_link_to_a_bag_stays_one(tmp_path: Path) -> None:
    save(tmp_path / "disk" / "bag", messages()[:3])
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "bag")
    save(tmp_path / "link", messages()[:5])
    assert (tmp_path / "link").is_symlink()
    assert messages(tmp_path / "disk" / "bag") == messages()[:5]


def test_only_what_is_left_of_the_same_bag_is_discarded(tmp_path: Path) -> None:
    for name in (".bag.12345678.partial", ".bag.2.12345678.partial", ".bag[1].12345678.partial"):
        (tmp_path / name).mkdir()
    discard_unfinished(tmp_path / "bag")
    discard_unfinished(tmp_path / "bag[1]")
    assert [path.name for path in tmp_path.iterdir()] == [".bag.2.12345678.partial"]


def test_a_recording_that_was_never_closed(tmp_path: Path) -> None:
    shutil.copytree(BAG, tmp_path / "bag")
    (tmp_path / "bag" / "metadata.yaml").unlink()
    with pytest.raises(BagError, match="reindex"), BagReader(tmp_path / "bag"):
        pass


@pytest.mark.parametrize("kept", [0, 5, 4000, 300_000, -1])
@pytest.mark.parametrize("kind", ["mcap", "db3"])
def test_a_bag_that_is_cut_off(tmp_path: Path, kind: str, kept: int) -> None:
    bag = tmp_path / "bag"
    if kind == "mcap":
        shutil.copytree(BAG, bag)
    else:
        as_sqlite3(bag)
    [file] = bag.glob(f"*.{kind}")
    file.write_bytes(file.read_bytes()[: kept or None] if kept else b"")
    with pytest.raises(BagError, match="cut off or damaged"):
        messages(bag)


def test_bytes_that_changed_in_the_middle(tmp_path: Path) -> None:
    shutil.copytree(BAG, tmp_path / "bag")
    file = tmp_path / "bag" / "tabletop_bag.mcap"
    content = bytearray(file.read_bytes())
    content[200_000:200_050] = bytes(50)
    file.write_bytes(content)
    with pytest.raises(BagError, match="cut off or damaged"):
        messages(tmp_path / "bag")


def test_a_message_that_is_too_short() -> None:
    with BagReader(BAG) as bag, pytest.raises(BagError, match="damaged"):
        bag.decode(Message(IMAGE, 0, next(bag.messages([IMAGE])).data[:40]))


def test_metadata_that_is_none(tmp_path: Path) -> None:
    shutil.copytree(BAG, tmp_path / "bag")
    (tmp_path / "bag" / "metadata.yaml").write_text("just words")
    with pytest.raises(BagError, match="damaged"), BagReader(tmp_path / "bag"):
        pass


def test_a_bag_of_ros_1(tmp_path: Path) -> None:
    (tmp_path / "old.bag").write_bytes(b"#ROSBAG V2.0\n")
    with pytest.raises(BagError, match="rosbags-convert"), BagReader(tmp_path / "old.bag"):
        pass


def test_a_topic_that_is_not_there_is_answered_with_those_that_are() -> None:
    with BagReader(BAG) as bag:
        with pytest.raises(TopicError, match=r"no topic /image\.(.|\n)*/camera/image  sensor_msgs/msg/Image  \(14\)"):
            bag.require("/image", "sensor_msgs/msg/Image")
        with pytest.raises(TopicError, match="/camera/camera_info is of type sensor_msgs/msg/CameraInfo, not"):
            bag.require(INFO, "sensor_msgs/msg/Image")
        assert bag.require("camera/image").name == IMAGE


def test_the_bag_shows_known_geometry() -> None:
    """Masks, depth and intrinsics of the bag give the positions in its truth, within a centimetre."""
    with BagReader(BAG) as bag:
        depths = [conversions.to_depth(bag.decode(message)) for message in bag.messages([DEPTH])]
        info = bag.decode(next(bag.messages([INFO])))
    lens = conversions.intrinsics(info, depths[0].shape)
    assert lens is not None
    for number, frame in enumerate(truth()["frames"]):
        for index, thing in enumerate(truth()["things"], start=1):
            placement = locate(labels()[number] == index, depths[number], lens)
            assert placement is not None
            seen = frame["seen"][thing["name"]]
            assert np.linalg.norm(np.subtract(placement.position, seen["position"])) < 0.01
            assert np.allclose(placement.size, seen["size"], atol=0.02)


def test_the_bag_is_what_its_generator_makes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BAG.parent)
    import make_bag

    depth, label = make_bag.render_depth(make_bag.camera_pose(3))
    with BagReader(BAG) as bag:
        recorded = [bag.decode(message) for message in bag.messages([DEPTH])][3].data.view("<u2")
    # Not to the last bit: machines differ in the last digit of a sine.
    assert np.mean(label != labels()[3]) < 1e-4
    assert np.mean(make_bag.measured(depth, seed=3).ravel() != recorded) < 1e-3
    assert make_bag.seen(depth, label).keys() == truth()["frames"][3]["seen"].keys()


def test_the_bag_is_small() -> None:
    assert sum(file.stat().st_size for file in BAG.iterdir()) < 3e6
    assert json.loads((BAG / "truth.json").read_text())["frames"]


def test_a_changed_message_still_decodes() -> None:
    first = next(message for message in messages() if message.topic == IMAGE)
    with BagReader(BAG) as bag:
        assert bag.decode(changed(first, encoding="odd")).encoding == "odd"
