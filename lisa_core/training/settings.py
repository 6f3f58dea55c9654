"""The settings of a training in its folder, so that a stopped training only goes on with the same ones."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lisa_core import files
from lisa_core.errors import CheckpointError
from lisa_core.json_lines import decoded

_NAME = "settings.json"


def keep(folder: Path, settings: Mapping[str, Any]) -> None:
    """Writes the settings of a new training; compares them with those of one that was stopped.

    A setting that the stopped one did not write, as it was of an earlier version, is taken for the same.

    Raises:
        CheckpointError: they differ, or the file is damaged.
    """
    path = folder / _NAME
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        files.write_whole({path: json.dumps(settings, indent=1).encode()})
        return
    before, now = read_json(path), json.loads(json.dumps(settings))
    if changed := [name for name, value in now.items() if before.get(name, value) != value]:
        raise CheckpointError(
            f"{folder} holds a training that differs in {', '.join(changed)};"
            " give the same options, data and weights to finish it, or delete that folder."
        )


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file of a training, empty if there is no file; raises CheckpointError if it is damaged."""
    try:
        content = decoded(path.read_bytes())
    except FileNotFoundError:
        return {}
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is damaged; delete {path.parent} to start again.")
    return content
