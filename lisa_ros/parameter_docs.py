"""Documents the parameters: `config/lisa.yaml`, the table in the README, and the help in a terminal.

`python -m lisa_ros.parameter_docs yaml` (or `markdown`, `text`) prints them; tests compare the files with it.
"""

import json
import sys
from collections.abc import Iterator

from lisa_ros.parameters import Rule, Value, all_rules, node_rules

CAMERA = "camera"
"""The camera that stands for all cameras in the documentation."""


def as_yaml() -> str:
    """All parameters with their defaults, as a file for `--params-file`."""
    lines = ["/**:", "  ros__parameters:"]
    nested = False
    for name, default, rule in _rows():
        if name.startswith("<camera>.") and not nested:
            nested = True
            lines.append(
                f"    {CAMERA}:  # a block for each of `cameras`; of several, each without `image` has <camera>/image"
            )
        indent = "      " if nested else "    "
        lines += [f"{indent}# {_text(rule)}", f"{indent}{name.removeprefix('<camera>.')}: {_value(default)}"]
    return "\n".join(lines) + "\n"


def as_markdown() -> str:
    """All parameters as a Markdown table."""
    lines = ["| parameter | default | what it is | when settable |", "|---|---|---|---|"]
    for name, default, rule in _rows():
        shown = "empty" if default == "" else f"`{_value(default)}`"
        if name == "<camera>.image":
            shown = "`image` if there is one camera, else `<camera>/image`"
        when = "any time" if rule.live else "unconfigured"
        lines.append(f"| `{name}` | {shown} | {_text(rule)} | {when} |")
    return "\n".join(lines) + "\n"


def as_text() -> str:
    """All parameters for a terminal."""
    return "\n".join(f"  {name} = {_value(default)}\n      {_text(rule)}" for name, default, rule in _rows()) + "\n"


def _rows() -> Iterator[tuple[str, Value, Rule]]:
    """Name, default and rule of each parameter; those of a camera last, as `<camera>.name`."""
    rules = all_rules([CAMERA])
    for name, (default, rule) in rules.items():
        yield name if name in node_rules() else name.replace(CAMERA, "<camera>", 1), default, rule


def _text(rule: Rule) -> str:
    extra = [f"one of {', '.join(choice or 'empty' for choice in rule.choices)}"] if rule.choices else []
    if rule.high < float("inf"):
        extra.append(f"from {rule.low:g} to {rule.high:g}")
    return "; ".join([rule.text, *extra])


def _value(default: Value) -> str:
    return json.dumps(list(default) if isinstance(default, tuple) else default)


if __name__ == "__main__":
    sys.stdout.write({"yaml": as_yaml, "markdown": as_markdown, "text": as_text}[sys.argv[1]]())
