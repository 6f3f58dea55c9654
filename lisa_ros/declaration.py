"""Declares the parameters in ROS, with descriptions and bounds, and validates every change."""

from collections.abc import Callable, Mapping, Sequence

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter

from lisa_ros.parameters import (
    ParameterError,
    Rule,
    Value,
    all_rules,
    checked_cameras,
    default_image,
    validated,
)


class DeclaredParameters:
    """Declares the parameters on a node and keeps `value` up to date.

    All are declared with dynamic types: otherwise rclpy would refuse `-p max_frame_age:=1`, an integer, for a double.
    `validated` alone decides what may be set.

    Raises:
        ParameterError: a value given at start is invalid.
    """

    def __init__(self, node: Node, is_unconfigured: Callable[[], bool], on_change: Callable[[], None]) -> None:
        self._node = node
        self._is_unconfigured = is_unconfigured
        self._on_change = on_change
        self._declaring = True
        # rclpy has no public attribute for the values from the command line and from files.
        self._overrides = {name: parameter.value for name, parameter in node._parameter_overrides.items()}
        self.value = validated(self._overrides)
        for name, (default, rule) in all_rules(self.value.cameras).items():
            self._declare_one(name, self._overrides.get(name, default), default, rule)
        self._declaring = False
        node.add_on_set_parameters_callback(self._on_set)

    def _declare_one(self, name: str, value: object, default: Value, rule: Rule) -> None:
        ros_value = list(value) if isinstance(value, tuple) else value
        declared = _as_declared(Parameter(name, value=ros_value), default)
        self._node.declare_parameter(name, declared.value, _descriptor(default, rule), ignore_override=True)

    def as_declared(self, parameters: Sequence[Parameter]) -> list[Parameter]:
        """The parameters, but whole numbers are doubles where the defaults are: clients read values by their types."""
        rules = all_rules(self.value.cameras)
        return [_as_declared(each, rules[each.name][0]) if each.name in rules else each for each in parameters]

    def warn_of_unknown(self) -> None:
        """Log a warning for each parameter that was given and that nothing of the node has declared."""
        for name in self._overrides:
            if self._node.has_parameter(name) or name.startswith("qos_overrides./clock."):  # declared when it is needed
                continue
            self._node.get_logger().warning(
                f"{name} is not a parameter of this node, which has the cameras {', '.join(self.value.cameras)}; "
                "it is ignored"
            )

    def _on_set(self, changed: Sequence[Parameter]) -> SetParametersResult:
        if self._declaring:  # our own change: the parameters of cameras come and go with `cameras`
            return SetParametersResult(successful=True)
        try:
            self._change({p.name: p for p in changed})
        except ParameterError as error:
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)

    def _change(self, changed: Mapping[str, Parameter]) -> None:
        rules = all_rules(self.value.cameras)
        ours = {name: parameter for name, parameter in changed.items() if name in rules}
        for name, parameter in ours.items():
            if parameter.type_ == Parameter.Type.NOT_SET and name != "cameras":
                raise ParameterError(f"{name} cannot be deleted")
            if not rules[name][1].live and not self._is_unconfigured():
                raise ParameterError(
                    f"{name} can be set while the node is unconfigured only: deactivate and clean up first"
                )
        values = {name: self._node.get_parameter(name).value for name in rules}
        values |= {name: parameter.value for name, parameter in ours.items()}
        cameras = checked_cameras(values["cameras"])
        if cameras != self.value.cameras:
            if gone := sorted(set(ours) - set(all_rules(cameras))):
                raise ParameterError(f"{gone[0]} cannot be set together with cameras that it is not of")
            values = self._follow_cameras(cameras, values)
        self.value = validated(values)
        if ours:
            self._on_change()

    def _follow_cameras(self, cameras: tuple[str, ...], values: Mapping[str, object]) -> dict[str, object]:
        """Declare the parameters of new cameras and undeclare those of old ones; returns all values."""
        former = self.value.cameras
        rules = all_rules(cameras)
        stale = {f"{camera}.image" for camera in former if values[f"{camera}.image"] == default_image(camera, former)}
        kept = {name: value for name, value in values.items() if name in rules and name not in stale}
        now = {name: kept.get(name, self._overrides.get(name, default)) for name, (default, _) in rules.items()}
        validated(now)  # raises before anything is changed
        self._declaring = True
        try:
            for name in set(values) - set(kept):
                self._node.undeclare_parameter(name)
            for name in set(rules) - set(kept):
                self._declare_one(name, now[name], *rules[name])
        finally:
            self._declaring = False
        return now


def _as_declared(parameter: Parameter, default: Value) -> Parameter:
    if isinstance(default, float) and parameter.type_ == Parameter.Type.INTEGER:
        return Parameter(parameter.name, Parameter.Type.DOUBLE, float(parameter.value))
    return parameter


def _descriptor(default: Value, rule: Rule) -> ParameterDescriptor:
    descriptor = ParameterDescriptor(
        description=rule.text,
        additional_constraints=_constraints(rule),
        dynamic_typing=True,
    )
    if isinstance(default, float):
        descriptor.floating_point_range = [FloatingPointRange(from_value=rule.low, to_value=rule.high)]
    elif isinstance(default, int) and not isinstance(default, bool):
        descriptor.integer_range = [IntegerRange(from_value=int(rule.low), to_value=int(rule.high), step=1)]
    return descriptor


def _constraints(rule: Rule) -> str:
    choices = f"one of {', '.join(choice or '(empty)' for choice in rule.choices)}; " if rule.choices else ""
    return choices + ("any time" if rule.live else "while unconfigured")
