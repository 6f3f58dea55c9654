"""`lisa tabletop`: renders tabletops, for training and evaluation."""

import multiprocessing
import queue
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from lisa_core.cli import terminal
from lisa_core.cli.progress import over_pictures
from lisa_core.errors import LisaError
from lisa_core.tabletop.kinds import KIND_BY_NAME, Kind

app = terminal.group("Rendered tabletops, with the truth about them.")


def kind_named(name: str) -> Kind:
    """The kind of that name; raises BadParameter if there is none."""
    if name not in KIND_BY_NAME:
        raise typer.BadParameter(f"there is no kind {name!r}; there are {', '.join(KIND_BY_NAME)}.")
    return KIND_BY_NAME[name]


@app.callback()
def tabletop() -> None:
    """Rendered tabletops, with the truth about them."""


@app.command()
def render(
    out: Annotated[
        Path, typer.Argument(metavar="OUT", file_okay=False, help="Folder for the scenes; those in it stay.")
    ],
    scenes: Annotated[int, typer.Option(min=1, help="How many the folder shall have.")] = 50,
    seed: Annotated[int, typer.Option(min=0, help="Of the first scene; the next has the next.")] = 0,
    guest: Annotated[
        Kind | None,
        typer.Option(
            "--with",
            metavar="KIND",
            parser=kind_named,
            help="Of which each scene has one among the rest; a teapot is on no other table.",
            show_default="as it comes",
        ),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes that draw.")] = 1,
    depth: Annotated[bool, typer.Option("--depth", help="Store depth too, in millimetres.")] = False,
) -> None:
    """Render scenes: pictures, whose each pixel is, and what is where.

    Interrupted, the same command goes on where it stopped. Training
    takes seeds below 10,000,000, evaluation and tests those from there on.

    Without --depth a scene has none, and a later run does not add it.

    $ lisa tabletop render scenes --scenes 1000 --workers 2
    $ lisa tabletop render teapots --scenes 40 --with teapot

    [b]Exit codes[/b]: 0; 1 a scene cannot be drawn or written; 2 wrong usage;
    130 stopped.
    """
    with terminal.told(out, stopped=lambda: "stopped; the same command goes on from here.", more=terminal.GOES_ON):
        from lisa_core.tabletop.dataset import StoredScene

        out.mkdir(parents=True, exist_ok=True)
        _refuse_others(out, seed, guest)
        finished = sum(StoredScene(out, index).is_whole for index in range(scenes))
        with over_pictures(scenes, finished) as bar:
            for index in _rendered(out, scenes, seed, guest, workers, depth):
                bar.current(StoredScene(out, index).stem)
                bar.advance()
    terminal.stdout().print(terminal.plain(f"{out}: {scenes} scenes, seeds {seed} to {seed + scenes - 1}"))


def _refuse_others(out: Path, seed: int, guest: Kind | None) -> None:
    from lisa_core.tabletop.dataset import scenes_in
    from lisa_core.tabletop.sampling import sample_scene

    if not (scenes := scenes_in(out)):
        return
    there = scenes[0].description()
    if there.seed != seed + scenes[0].index:
        raise LisaError(f"{out} has scenes of another seed; name another folder, or the same --seed.")
    wanted = sample_scene(there.seed, guest=guest)
    if [thing.kind for thing in there.things] != [thing.kind for thing in wanted.things]:
        raise LisaError(f"{out} has scenes with other things; name another folder, or the same --with.")


def _rendered(out: Path, scenes: int, seed: int, guest: Kind | None, workers: int, depth: bool) -> Iterator[int]:
    """Yields the numbers of scenes as they are finished; OpenGL needs a process for each worker."""
    spawn = multiprocessing.get_context("spawn")
    reports: Any = spawn.Queue()
    processes = [
        spawn.Process(target=_work, args=(out, scenes, seed, guest, (share, workers), depth, reports), daemon=True)
        for share in range(workers)
    ]
    for process in processes:
        process.start()
    try:
        working = workers
        while working:
            try:
                report = reports.get(timeout=1)
            except queue.Empty:
                if any(process.exitcode for process in processes):
                    raise LisaError("A process that draws has died; run the command again to go on.") from None
                continue
            if isinstance(report, Exception):
                raise report
            if report is None:
                working -= 1
            else:
                yield report
    finally:
        for process in processes:
            process.terminate()


def _work(
    out: Path, scenes: int, seed: int, guest: Kind | None, share: tuple[int, int], depth: bool, reports: Any
) -> None:
    from lisa_core.tabletop.dataset import render_missing

    try:
        render_missing(out, scenes, seed, guest, share, depth, reports.put)
        reports.put(None)
    except (LisaError, OSError) as error:
        reports.put(error)
