"""The node's parameters: a frozen dataclass, and the function that validates a set of values.

Name, description, bounds and time of change of a parameter are defined here only, with its field; the declaration in
ROS is made from them, and tests keep `config/lisa.yaml` and the README's table equal.
"""

import math
import re
import types
from collections.abc import Mapping, Sequence
from dataclasses import Field, dataclass, field, fields
from typing import Any

from rclpy.exceptions import InvalidTopicNameException
from rclpy.expand_topic_name import expand_topic_name
from rclpy.validate_full_topic_name import validate_full_topic_name
from rclpy.validate_topic_name import validate_topic_name

from lisa_core.options import CHECKPOINT, MAX_NEW_TOKENS, MAX_SEGMENTS, PRECISIONS, TEMPLATES
from lisa_ros.arguments import rcl_says

CAMERA_NAME = re.compile(r"[a-z][a-z0-9_]*")

Value = bool | int | float | str | tuple[str, ...]


class ParameterError(ValueError):
    """A parameter's value is invalid; the message names the parameter and what it may be."""


@dataclass(frozen=True)
class Rule:
    """Description and constraints of a parameter.

    Attributes:
        text: description for people.
        low, high: bounds of a number, inclusive.
        choices: the allowed values; empty: any.
        live: whether it may change at any time; else only while the node is unconfigured.
        topic: whether it is the name of a topic.
    """

    text: str
    low: float = -math.inf
    high: float = math.inf
    choices: tuple[str, ...] = ()
    live: bool = False
    topic: bool = False


def _parameter(default: Any, text: str, **rule: Any) -> Any:
    return field(default=default, metadata={"rule": Rule(text, **rule)})


@dataclass(frozen=True)
class CameraParameters:
    """Where one camera is found; the parameters `<camera>.*`."""

    image: str = _parameter("", "topic of the colour image", topic=True)
    transport: str = _parameter(
        "raw",
        "compressed: CompressedImage on the image's topic + /compressed",
        choices=("raw", "compressed"),
    )
    qos: str = _parameter(
        "sensor_data", "sensor_data: best effort, which hears every publisher", choices=("sensor_data", "reliable")
    )
    depth: str = _parameter("", "topic of the depth image, aligned to the colour image; empty: no depth", topic=True)
    camera_info: str = _parameter("", "topic of the CameraInfo that depth needs; empty: none", topic=True)
    depth_max_dt: float = _parameter(
        0.05, "s, how far apart the stamps of depth and colour image may be", low=0.0, high=10.0
    )


@dataclass(frozen=True)
class Parameters:
    """All parameters of the node, validated; `views` has those of each camera, in the order of `cameras`."""

    checkpoint: str = _parameter(
        CHECKPOINT, "the LISA model: bundled (knows rendered tables only), a folder or a hub id"
    )
    precision: str = _parameter(
        "auto", "precision of the weights; auto: nf4 on a GPU and if stored so, else fp32", choices=PRECISIONS
    )
    device: str = _parameter("", "cuda, cuda:1, cpu; empty: cuda if there is one")
    vision_tower: str = _parameter("", "folder or hub id of CLIP; empty: what the checkpoint brings or names")
    template: str = _parameter(
        "",
        "the prompt's template; empty: the checkpoint's own (v1: llava_v1, v0: vicuna_v1_1)",
        choices=("", *TEMPLATES),
    )
    memory_limit: float = _parameter(
        0.0,
        "GiB of device memory for weights, KV caches and frames, the oldest of which give way; a model that needs more"
        " is not loaded; 0: no limit",
        low=0.0,
        high=10000.0,
    )
    cameras: tuple[str, ...] = _parameter(("camera",), "names of the cameras; the first is the default one")
    max_new_tokens: int = _parameter(MAX_NEW_TOKENS, "longest answer, in tokens", low=1, high=65536, live=True)
    max_segments: int = _parameter(MAX_SEGMENTS, "most masks in an answer", low=1, high=1024, live=True)
    max_frame_age: float = _parameter(
        1.0, "s since its receipt, oldest frame that is asked about", low=0.001, high=86400.0, live=True
    )
    frame_timeout: float = _parameter(
        2.0, "s that a question waits for a young enough frame", low=0.0, high=86400.0, live=True
    )
    question_timeout: float = _parameter(
        60.0, "s that a question may take, from request to answer", low=0.001, high=86400.0, live=True
    )
    queue_size: int = _parameter(8, "questions that may wait; the rest is refused as BUSY", low=1, high=1024, live=True)
    standing_instruction: str = _parameter(
        "", "asked of every new frame; empty: nothing; also ~/instruction", live=True
    )
    standing_camera: str = _parameter("", "the camera of the standing instruction; empty: the first", live=True)
    standing_rate: float = _parameter(
        0.0, "Hz, answers to the standing instruction; 0: as fast as possible", low=0.0, high=1000.0, live=True
    )
    standing_mask_only: bool = _parameter(
        False, "one mask and no words for the standing instruction, which is faster", live=True
    )
    max_conversations: int = _parameter(
        16, "conversations kept; the least recently used goes first", low=1, high=1024, live=True
    )
    conversation_ttl: float = _parameter(
        600.0, "s without a question after which a conversation is forgotten", low=0.001, high=604800.0, live=True
    )
    target_frame: str = _parameter("", "frame of ~/target, needs tf2; empty: the camera's")
    autostart: bool = _parameter(True, "configure and activate at start")
    views: Mapping[str, CameraParameters] = field(default_factory=dict)

    @property
    def standing_view(self) -> str:
        """The camera of the standing instruction."""
        return self.standing_camera or self.cameras[0]


def default_image(camera: str, cameras: Sequence[str]) -> str:
    """The topic of a camera's colour image unless `<camera>.image` says otherwise."""
    return "image" if len(cameras) == 1 else f"{camera}/image"


def node_rules() -> dict[str, tuple[Value, Rule]]:
    """Default and rule of every parameter that does not belong to a camera, by name."""
    return {f.name: _default_and_rule(f) for f in fields(Parameters) if f.name != "views"}


def camera_rules(camera: str, cameras: Sequence[str]) -> dict[str, tuple[Value, Rule]]:
    """Default and rule of every parameter of a camera, by its full name `<camera>.<name>`."""
    rules = {f"{camera}.{f.name}": _default_and_rule(f) for f in fields(CameraParameters)}
    rules[f"{camera}.image"] = (default_image(camera, cameras), rules[f"{camera}.image"][1])
    return rules


def all_rules(cameras: Sequence[str]) -> dict[str, tuple[Value, Rule]]:
    """Default and rule of every parameter of a node with these cameras."""
    rules = node_rules()
    for camera in cameras:
        rules |= camera_rules(camera, cameras)
    return rules


def validated(values: Mapping[str, object]) -> Parameters:
    """The parameters with these values, by full name, and defaults for the rest; an int is accepted for a float.

    Raises:
        ParameterError: a value is invalid, alone or together with the others.
    """
    cameras = checked_cameras(values.get("cameras", node_rules()["cameras"][0]))
    checked: dict[str, Any] = {
        name: _checked(name, values.get(name, default), default, rule)
        for name, (default, rule) in all_rules(cameras).items()
        if name != "cameras"
    }
    views = {
        camera: CameraParameters(**{f.name: checked.pop(f"{camera}.{f.name}") for f in fields(CameraParameters)})
        for camera in cameras
    }
    for camera, view in views.items():
        if not view.image:
            raise ParameterError(f"{camera}.image is empty: name the topic of the camera's colour image")
    if checked["standing_camera"] not in ("", *cameras):
        raise ParameterError(
            f"standing_camera is {checked['standing_camera']!r}, which is none of the cameras {', '.join(cameras)}"
        )
    return Parameters(cameras=cameras, views=types.MappingProxyType(views), **checked)


def checked_cameras(value: object) -> tuple[str, ...]:
    """The names of the cameras; raises ParameterError if the value is no list of valid names."""
    if not isinstance(value, Sequence) or isinstance(value, (str, bytes)) or not value:
        # ROS passes an empty list as None, so the two cannot be told apart.
        raise ParameterError('cameras must be a list of at least one name, such as ["camera"]')
    for name in value:
        if not isinstance(name, str) or not CAMERA_NAME.fullmatch(name):
            raise ParameterError(
                f"cameras has {name!r}: a camera's name starts with a lower-case letter, "
                "and goes on with lower-case letters, digits and _"
            )
    if len(set(value)) < len(value):
        raise ParameterError(f"cameras names one camera twice: {', '.join(value)}")
    return tuple(value)


def _checked(name: str, value: object, default: Value, rule: Rule) -> Value:
    if isinstance(default, bool):
        if not isinstance(value, bool):
            raise ParameterError(f"{name} must be true or false, not {value!r}")
        return value
    if isinstance(default, int | float):
        return _checked_number(name, value, default, rule)
    if not isinstance(value, str):
        raise ParameterError(f"{name} must be a text, not {value!r}: put it in quotes")
    if rule.choices and value not in rule.choices:
        choices = ", ".join(choice or "nothing" for choice in rule.choices)
        raise ParameterError(f"{name} must be one of {choices}, not {value!r}")
    if rule.topic and value:
        _check_topic(name, value)
    return value


def _check_topic(name: str, value: str) -> None:
    try:
        validate_topic_name(value)
        validate_full_topic_name(expand_topic_name(value, "lisa", "/"))
    except (InvalidTopicNameException, ValueError) as error:
        why = rcl_says(error).splitlines()[0]
        raise ParameterError(f"{name} is {value!r}, which is no topic's name: {why}") from None


def _checked_number(name: str, value: object, default: int | float, rule: Rule) -> int | float:
    whole = isinstance(default, int)
    kind = "a whole number" if whole else "a number"
    wanted = f"{name} must be {kind} from {rule.low:g} to {rule.high:g}"
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
        raise ParameterError(f"{wanted}, not {value!r}")
    if not rule.low <= value <= rule.high:  # false for NaN too
        raise ParameterError(f"{wanted}, not {value:g}")
    return int(value) if whole else float(value)


def _default_and_rule(f: "Field[Any]") -> tuple[Any, Rule]:
    return f.default, f.metadata["rule"]
