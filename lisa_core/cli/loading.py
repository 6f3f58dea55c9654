"""Loads the model that the options name."""

from dataclasses import asdict, dataclass
from typing import Any

from lisa_core.cli import terminal
from lisa_core.cli.progress import over_a_share
from lisa_core.errors import LisaError
from lisa_core.late import Load


@dataclass(frozen=True)
class ModelOptions:
    """The options about the model; an empty string means the default."""

    checkpoint: str
    precision: str
    device: str
    vision_tower: str
    template: str | None
    memory_limit: float


def loaded(load: Load, model: ModelOptions) -> Any:
    """Loads the engine with a progress bar; ends the command with a sentence if that fails."""
    arguments = {name: value if value != "" or name == "checkpoint" else None for name, value in asdict(model).items()}
    try:
        with over_a_share(f"loading {model.checkpoint}") as on_progress:
            return load(**arguments, on_progress=on_progress)
    except LisaError as error:
        terminal.fail(str(error))
