"""The progress bars of the commands: on stderr, and only where that is a terminal."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

from lisa_core.cli import terminal
from lisa_core.cli.terminal import plain


@contextmanager
def progress(*columns: ProgressColumn) -> Iterator[Progress]:
    """A bar for each task that is added: its description without markup, the bar, and these columns."""
    console = terminal.stderr()
    shown = (TextColumn("{task.description}", markup=False), BarColumn(), *columns)
    with Progress(*shown, console=console, transient=True, disable=not console.is_terminal) as bars:
        yield bars


@contextmanager
def over_a_share(description: str) -> Iterator[Callable[[float, str], None]]:
    """A bar from 0 to 1; yields a function to call with the share that is done (the second argument is not shown)."""
    with progress(TaskProgressColumn()) as bars:
        task = bars.add_task(plain(description).plain, total=1.0)
        yield lambda share, _: bars.update(task, completed=share)


@contextmanager
def over_steps(description: str, total: int, done: int = 0) -> Iterator[Callable[[int, str], None]]:
    """A bar over steps; yields a function to call with the number of steps done and the new description."""
    with progress(MofNCompleteColumn(), TimeRemainingColumn()) as bars:
        task = bars.add_task(description, total=total, completed=done)
        yield lambda completed, words: bars.update(task, completed=completed, description=words)


class PictureProgress:
    """A bar over pictures; made by `over_pictures`."""

    def __init__(self, bars: Progress, total: int, finished: int) -> None:
        self._bars = bars
        self._task = bars.add_task("", total=total, completed=finished)

    def current(self, name: str) -> None:
        """Shows the name of the picture in work."""
        self._bars.update(self._task, description=plain(name).plain)

    def advance(self) -> None:
        """Counts one more picture as finished."""
        self._bars.advance(self._task)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Hides the bar, so that something else can be printed."""
        if self._bars.disable:  # older versions of rich would print an empty line
            yield
            return
        self._bars.stop()
        yield
        self._bars.start()


@contextmanager
def over_pictures(total: int, finished: int = 0) -> Iterator[PictureProgress]:
    """A bar for `total` pictures, of which `finished` were done before."""
    with progress(MofNCompleteColumn(), TimeRemainingColumn()) as bars:
        yield PictureProgress(bars, total, finished)
