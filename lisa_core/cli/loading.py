"""From the options about a model to the model."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from lisa_core.cli import terminal
from lisa_core.cli.terminal import plain
from lisa_core.errors import LisaError

Load = Callable[..., Any]
"""`LisaEngine.from_pretrained`, or what a test puts in its place."""


def load_engine(*args: Any, **options: Any) -> Any:
    """`LisaEngine.from_pretrained`, imported when it is called, for torch takes seconds."""
    from lisa_core import LisaEngine

    return LisaEngine.from_pretrained(*args, **options)


@dataclass(frozen=True)
class ModelOptions:
    """What the command line says about the model; empty: the default."""

    checkpoint: str
    precision: str
    device: str
    vision_tower: str
    template: str | None
    memory_limit: float


def loaded(load: Load, model: ModelOptions) -> Any:
    """The engine, with a progress bar while it loads; ends the command with a sentence if it does not."""
    arguments = {name: value if value != "" or name == "checkpoint" else None for name, value in asdict(model).items()}
    try:
        with progress_bar(f"loading {model.checkpoint}") as on_progress:
            return load(**arguments, on_progress=on_progress)
    except LisaError as error:
        terminal.fail(str(error))


@contextmanager
def progress_bar(description: str) -> Iterator[Callable[[float, str], None]]:
    """A progress bar on a terminal; what it gives is called with the share that is done, and what is being done."""
    console = terminal.stderr()
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(plain(description).plain, total=1.0)
        yield lambda share, _: progress.update(task, completed=share)
