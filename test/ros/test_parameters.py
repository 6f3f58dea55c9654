"""Parameters: what may be set, when, and the reason if not; and the files that document them."""

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from harness import Process, Robot, eventually, lisa
from lifecycle_msgs.msg import Transition
from rcl_interfaces.msg import ParameterType
from rcl_interfaces.srv import SetParameters, SetParametersAtomically
from rclpy.parameter import Parameter

from lisa_core.options import MAX_NEW_TOKENS, MAX_SEGMENTS
from lisa_ros.arguments import rcl_says
from lisa_ros.parameter_docs import as_markdown, as_text, as_yaml
from lisa_ros.parameters import ParameterError, all_rules, validated

ROOT = Path(__file__).resolve().parents[2]


def test_defaults() -> None:
    parameters = validated({})
    assert parameters.cameras == ("camera",)
    assert parameters.views["camera"].image == "image"
    assert (parameters.max_new_tokens, parameters.max_segments) == (MAX_NEW_TOKENS, MAX_SEGMENTS)
    assert (parameters.max_frame_age, parameters.frame_timeout, parameters.question_timeout) == (1.0, 2.0, 60.0)
    assert (parameters.queue_size, parameters.max_conversations, parameters.conversation_ttl) == (8, 16, 600.0)


def test_several_cameras_have_topics_of_their_own() -> None:
    parameters = validated({"cameras": ["left", "right"], "right.image": "/eye"})
    assert [view.image for view in parameters.views.values()] == ["left/image", "/eye"]
    assert parameters.standing_view == "left"


def test_a_whole_number_will_do_for_a_float() -> None:
    value = validated({"max_frame_age": 2}).max_frame_age
    assert (value, type(value)) == (2.0, float)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"cameras": None}, 'cameras must be a list of at least one name, such as ["camera"]'),
        ({"cameras": []}, 'cameras must be a list of at least one name, such as ["camera"]'),
        ({"cameras": "front"}, "cameras must be a list of at least one name"),
        ({"cameras": ["Front"]}, "cameras has 'Front': a camera's name starts with a lower-case letter"),
        ({"cameras": ["a", "a"]}, "cameras names one camera twice: a, a"),
        ({"precision": "fp8"}, "precision must be one of auto, nf4, int8, bf16, fp16, fp32, not 'fp8'"),
        ({"precision": 8}, "precision must be a text, not 8: put it in quotes"),
        ({"template": "x"}, "template must be one of nothing, llava_v1"),
        ({"queue_size": 0}, "queue_size must be a whole number from 1 to 1024, not 0"),
        ({"queue_size": 2.5}, "queue_size must be a whole number from 1 to 1024, not 2.5"),
        ({"queue_size": True}, "queue_size must be a whole number from 1 to 1024, not True"),
        ({"frame_timeout": -1.0}, "frame_timeout must be a number from 0 to 86400, not -1"),
        ({"question_timeout": math.nan}, "question_timeout must be a number from 0.001 to 86400, not nan"),
        ({"standing_rate": math.inf}, "standing_rate must be a number from 0 to 1000, not inf"),
        ({"autostart": "yes"}, "autostart must be true or false, not 'yes'"),
        ({"standing_camera": "rear"}, "standing_camera is 'rear', which is none of the cameras camera"),
        ({"camera.image": ""}, "camera.image is empty: name the topic of the camera's colour image"),
        ({"camera.image": "a b"}, "camera.image is 'a b', which is no topic's name"),
        ({"camera.depth": "/a//b"}, "camera.depth is '/a//b', which is no topic's name"),
        ({"camera.image": "a{b}"}, "camera.image is 'a{b}', which is no topic's name"),
        ({"camera.transport": "zip"}, "camera.transport must be one of raw, compressed, not 'zip'"),
        ({"camera.qos": "best"}, "camera.qos must be one of sensor_data, reliable, not 'best'"),
        ({"camera.depth_max_dt": -0.1}, "camera.depth_max_dt must be a number from 0 to 10, not -0.1"),
    ],
)
def test_a_wrong_value_is_refused_with_a_sentence(values: dict[str, object], sentence: str) -> None:
    with pytest.raises(ParameterError) as raised:
        validated(values)
    assert str(raised.value).startswith(sentence)


@pytest.mark.parametrize(
    "places", ["", ", at /project/src/rcl/lexer.c:239, at /project/src/b.c:380", ", at ./src/b.c:1"]
)
def test_the_places_in_the_source_of_rcl_are_left_out(places: str) -> None:
    assert rcl_says(ValueError(f"no such file, at least here: '/a b'{places}")) == "no such file, at least here: '/a b'"


def test_the_yaml_file_is_what_the_code_says() -> None:
    assert (ROOT / "config" / "lisa.yaml").read_text() == as_yaml(), "python -m lisa_ros.parameter_docs yaml"
    assert all(name.removeprefix("camera.") in as_text() for name in all_rules(["camera"]))


def test_the_readme_is_what_the_code_says() -> None:
    assert as_markdown() in (ROOT / "README.md").read_text(), "python -m lisa_ros.parameter_docs markdown"


def test_the_yaml_file_holds_the_defaults() -> None:
    values = yaml.safe_load(as_yaml())["/**"]["ros__parameters"]
    values |= {f"camera.{name}": value for name, value in values.pop("camera").items()}
    assert validated(values) == validated({})


@pytest.fixture(scope="module")
def robot(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Robot]:
    log = tmp_path_factory.mktemp("parameters") / "node.log"
    file = ROOT / "config" / "lisa.yaml"
    arguments = ["--params-file", str(file), "-p", "max_frame_age:=3", "-p", "chekpoint:=x", "-p", "rear.image:=x"]
    process = lisa(log, *arguments)
    robot = Robot()
    robot.log = lambda: process.output  # type: ignore[attr-defined]
    yield robot.until_active()
    robot.close()
    process.stop()


def test_all_parameters_are_declared_described_and_bounded(robot: Robot) -> None:
    rules = all_rules(["camera"])
    assert set(rules) <= set(robot.parameters())
    for name, descriptor in zip(rules, robot.describe(list(rules)), strict=True):
        assert descriptor.description == rules[name][1].text
        assert descriptor.type != ParameterType.PARAMETER_NOT_SET
    queue_size = robot.describe(["queue_size"])[0].integer_range[0]
    assert (queue_size.from_value, queue_size.to_value) == (1, 1024)
    assert robot.describe(["standing_rate"])[0].floating_point_range[0].to_value == 1000.0


def test_a_whole_number_will_do_for_a_float_and_is_one_for_who_asks(robot: Robot) -> None:
    """Who reads `double_value` would see 0.0 of a parameter that is an integer."""
    given_at_start = robot.get("max_frame_age")
    assert (given_at_start, type(given_at_start)) == (3.0, float)
    for call, kind in (("set_parameters", SetParameters), ("set_parameters_atomically", SetParametersAtomically)):
        for value in (4, 3):
            request = kind.Request(parameters=[Parameter("max_frame_age", value=value).to_parameter_msg()])
            assert "successful=True" in str(robot.call(call, kind, request))
            assert (robot.get("max_frame_age"), type(robot.get("max_frame_age"))) == (float(value), float)


def test_unknown_parameters_are_warned_about(robot: Robot) -> None:
    log = eventually(lambda: robot.log() if "rear.image" in robot.log() else "")  # type: ignore[attr-defined]
    assert "chekpoint is not a parameter of this node" in log
    assert "rear.image is not a parameter of this node, which has the cameras camera" in log


def test_live_parameters_are_set_at_once_and_checked(robot: Robot) -> None:
    assert robot.set("queue_size", 3).successful
    assert robot.set("frame_timeout", 1).successful
    result = robot.set("standing_camera", "rear")
    assert (result.successful, result.reason) == (
        False,
        "standing_camera is 'rear', which is none of the cameras camera",
    )
    assert not robot.set("queue_size", 0).successful
    assert not robot.set("queue_size", "many").successful
    assert robot.get("queue_size") == 3
    assert not robot.set("no_such_parameter", 1).successful


def test_the_others_are_settable_while_unconfigured_only(robot: Robot) -> None:
    result = robot.set("checkpoint", "another")
    assert not result.successful
    assert result.reason == "checkpoint can be set while the node is unconfigured only: deactivate and clean up first"
    assert robot.change_state(Transition.TRANSITION_DEACTIVATE)
    assert not robot.set("checkpoint", "another").successful
    assert robot.change_state(Transition.TRANSITION_CLEANUP)
    assert robot.set("checkpoint", "another").successful
    assert not robot.set("precision", "fp8").successful


def test_the_parameters_of_a_camera_come_and_go_with_it(robot: Robot) -> None:
    if robot.state() != "unconfigured":
        robot.change_state(Transition.TRANSITION_DEACTIVATE)
        robot.change_state(Transition.TRANSITION_CLEANUP)
    assert robot.set("cameras", ["camera", "rear"]).successful
    assert (robot.get("camera.image"), robot.get("rear.image")) == ("image", "x")  # as they were given at start
    assert robot.set("rear.depth", "/depth").successful
    assert robot.set("cameras", ["rear"]).successful
    assert (robot.get("rear.image"), robot.get("rear.depth")) == ("x", "/depth")
    assert "camera.image" not in robot.parameters()
    assert not robot.set("cameras", ["Rear"]).successful
    assert robot.set("cameras", ["left", "right"]).successful
    assert (robot.get("left.image"), robot.get("right.image")) == ("left/image", "right/image")
    assert robot.set("cameras", ["left"]).successful
    assert robot.get("left.image") == "image"
    both = [Parameter("cameras", value=["camera"]), Parameter("left.depth", value="/depth")]
    request = SetParametersAtomically.Request(parameters=[each.to_parameter_msg() for each in both])
    refused = robot.call("set_parameters_atomically", SetParametersAtomically, request).result
    assert (refused.successful, "left.depth cannot be set" in refused.reason) == (False, True)
    assert robot.set("cameras", ["camera"]).successful
    assert robot.set("cameras", ["left"]).successful


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["-p", "cameras:=[]"], "cameras must be a list of at least one name"),
        (["-p", "queue_size:=many"], "queue_size must be a whole number from 1 to 1024, not 'many'"),
        (["-p", "use_sim_time:=banana"], "'use_sim_time' to 'banana'"),
        (["-p", "nothing"], "Couldn't parse parameter override rule: '-p nothing'"),
        (["--params-file", "/nowhere.yaml"], "Couldn't parse params file: '--params-file /nowhere.yaml'"),
        (["--no-such-option"], "--no-such-option"),
    ],
)
def test_what_cannot_be_at_start_ends_the_node_with_a_sentence(
    arguments: list[str], sentence: str, tmp_path: Path
) -> None:
    process = lisa(tmp_path / "node.log", *arguments)
    assert process.wait() == 2
    assert sentence in process.output
    assert "Traceback" not in process.output


@pytest.mark.parametrize("script", ["node_process.py", "tabletop_process.py"])
def test_arguments_that_ros_would_pass_over_are_refused(script: str, tmp_path: Path) -> None:
    process = Process(script, ["-p", "queue_size", "--ros-args", "-p", "queue_size:=3"], tmp_path / "node.log")
    assert process.wait() == 2
    assert "error: -p queue_size: there is no such argument; parameters are given as" in process.output


@pytest.mark.parametrize("script", ["node_process.py", "tabletop_process.py"])
def test_help_on_demand(script: str, tmp_path: Path) -> None:
    process = Process(script, ["--help"], tmp_path / "node.log")
    assert process.wait() == 0
    assert "--ros-args" in process.output
