"""The settings of a training in its folder, so that a stopped training only goes on with the same ones."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lisa_core import files
from lisa_core.errors import CheckpointError
from lisa_core.json_lines import decoded

NAME = "settings.json"


def check(folder: Path, settings: Mapping[str, Any]) -> None:
    """Refuses a folder that is no training's, or that of a training with other settings.

    Raises:
        CheckpointError: it has other files; the settings differ, or only one of both has them; the file is damaged.
    """
    path = folder / NAME
    if not path.is_file():
        # a kill while the settings are written leaves a hidden file
        if folder.is_dir() and any(not other.name.startswith(".") for other in folder.iterdir()):
            raise CheckpointError(
                f"{folder} has files, but no {NAME}, so it is no training's: name another --out, or move it away."
            )
        return
    before, now = read_json(path), json.loads(json.dumps(settings))
    absent = object()  # of another version's training
    if changed := [name for name in now | before if now.get(name, absent) != before.get(name, absent)]:
        raise CheckpointError(
            f"{folder} holds a training that differs in {', '.join(changed)};"
            " give the same options, data and weights to finish it, or delete that folder."
        )


def keep(folder: Path, settings: Mapping[str, Any]) -> None:
    """Writes the settings of a new training; for one that was stopped, does `check`.

    Raises:
        CheckpointError: as `check` does.
    """
    check(folder, settings)
    path = folder / NAME
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        files.write_whole({path: json.dumps(settings, indent=1).encode()})


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
