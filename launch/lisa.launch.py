"""Starts the node: `ros2 launch lisa_ros lisa.launch.py checkpoint:=xinlai/LISA-7B-v1 image:=/camera/image_raw`.

An empty argument is not passed on: the parameter file's value counts then, or the node's default.
"""

import os
from collections.abc import Mapping
from typing import Any

from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from lisa_ros.parameters import Rule, camera_rules, node_rules

CAMERA = "camera"
"""The node's only camera, unless a parameter file names others."""

PARAMETERS = (
    "checkpoint",
    "precision",
    "device",
    "vision_tower",
    "template",
    "standing_instruction",
    "target_frame",
    "autostart",
)
OF_CAMERA = ("image", "transport", "depth", "camera_info")
"""Parameters of the node, and of its camera, that are also arguments of this file."""

BOOLEANS = ["true", "false", "True", "False"]
"""Other launch files may pass on what Python prints."""
LOG_LEVELS = ["debug", "info", "warn", "error", "fatal"]


def generate_launch_description() -> LaunchDescription:
    """The node; the arguments have the descriptions and choices of its parameters."""
    return LaunchDescription(
        [
            *(
                _argument(name, rule.text, BOOLEANS if isinstance(default, bool) else rule.choices)
                for name, (_, default, rule) in _rules().items()
            ),
            _argument("params_file", "YAML file of parameters; the other arguments override it"),
            _argument("namespace", "of the node and its topics, for several robots"),
            _argument("use_sim_time", "take the time from /clock", BOOLEANS),
            _argument("log_level", "the least severe messages that are logged", LOG_LEVELS),
            DeclareLaunchArgument(
                "respawn", default_value="false", choices=BOOLEANS, description="start the node again when it ends"
            ),
            OpaqueFunction(function=_start),
        ]
    )


def _rules() -> dict[str, tuple[str, object, Rule]]:
    """Full name, default and rule of each parameter that is an argument, by the argument's name."""
    node, camera = node_rules(), camera_rules(CAMERA, [CAMERA])
    return {name: (name, *node[name]) for name in PARAMETERS} | {
        name: (f"{CAMERA}.{name}", *camera[f"{CAMERA}.{name}"]) for name in OF_CAMERA
    }


def _argument(name: str, text: str, choices: tuple[str, ...] | list[str] = ()) -> DeclareLaunchArgument:
    allowed = ["", *(choice for choice in choices if choice)] if choices else None
    return DeclareLaunchArgument(name, default_value="", description=text, choices=allowed)


def _start(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    given = {name: value for name, value in context.launch_configurations.items() if value}
    level = given.get("log_level")
    return [
        Node(
            package="lisa_ros",
            executable="lisa_node",
            name="lisa",
            namespace=given.get("namespace", ""),  # with None, a file's values for `lisa` would win over the arguments
            parameters=_parameters(given),
            ros_arguments=["--log-level", level] if level else [],
            respawn=LaunchConfiguration("respawn"),
            respawn_delay=2.0,
            output="screen",
            emulate_tty=True,
        )
    ]


def _parameters(given: Mapping[str, str]) -> list[Any]:
    """The file first, for later values win."""
    parameters: dict[str, Any] = {
        full_name: _is_true(given[name]) if isinstance(default, bool) else ParameterValue(given[name], value_type=str)
        for name, (full_name, default, _) in _rules().items()
        if name in given
    }
    if "use_sim_time" in given:
        parameters["use_sim_time"] = _is_true(given["use_sim_time"])
    file = [_existing(given["params_file"])] if "params_file" in given else []
    return [*file, parameters] if parameters else file


def _is_true(given: str) -> bool:
    return given.lower() == "true"


def _existing(file: str) -> str:
    """The file's path, with ~ expanded, which a shell does not do here; `launch_ros` would ignore a missing file."""
    path = os.path.expanduser(file)  # noqa: PTH111 - Path's raises for `~nobody`
    if not os.path.isfile(path):  # noqa: PTH113
        raise FileNotFoundError(f"params_file: there is no file {path}")
    return path
