"""A bar over pictures, with the time that is left."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from lisa_core.cli import terminal
from lisa_core.cli.terminal import plain


class PictureProgress:
    """A bar over pictures, on a terminal only; made by `over_pictures`."""

    def __init__(self, bar: Progress, total: int, finished: int) -> None:
        self._bar = bar
        self._task = bar.add_task("", total=total, completed=finished)

    def current(self, name: str) -> None:
        """Names the picture that is being worked on."""
        self._bar.update(self._task, description=plain(name).plain)

    def advance(self) -> None:
        """Counts one more as finished."""
        self._bar.advance(self._task)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Takes the bar away, for what is printed meanwhile."""
        self._bar.stop()
        yield
        self._bar.start()


@contextmanager
def over_pictures(total: int, finished: int = 0) -> Iterator[PictureProgress]:
    """A bar for that many pictures, of which some were finished before."""
    console = terminal.stderr()
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        yield PictureProgress(bar, total, finished)
