"""Loads the model that the options name."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from lisa_core.cli import terminal
from lisa_core.cli.progress import over_a_share
from lisa_core.errors import LisaError

Load = Callable[..., Any]
"""`LisaEngine.from_pretrained`, or a test's replacement."""


def load_engine(*args: Any, **options: Any) -> Any:
    """`LisaEngine.from_pretrained`, imported late: torch takes seconds."""
    from lisa_core import LisaEngine

    return LisaEngine.from_pretrained(*args, **options)


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
