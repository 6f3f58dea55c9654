"""`lisa segment`: asks one question about each picture, and writes the answers as files."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Group
from rich.table import Table

from lisa_core.cli import options, terminal
from lisa_core.cli.loading import ModelOptions, loaded
from lisa_core.cli.progress import over_pictures
from lisa_core.cli.terminal import answer_text, plain, readable, segment_table
from lisa_core.errors import ImageError, LisaError
from lisa_core.options import CHECKPOINT, MAX_NEW_TOKENS, MAX_SEGMENTS

if TYPE_CHECKING:
    from lisa_core.answer_files import Names


def segment(
    context: typer.Context,
    images: Annotated[
        list[Path], typer.Argument(metavar="IMAGE", help="Picture files, of any kind that Pillow reads.")
    ],
    question: Annotated[
        str, typer.Option("--question", "-q", metavar="TEXT", help="What to find or answer, in words.")
    ],
    checkpoint: options.Checkpoint = CHECKPOINT,
    precision: options.Precision = "auto",
    device: options.Device = "",
    vision_tower: options.VisionTower = "",
    template: options.Template = None,
    memory_limit: options.MemoryLimit = 0.0,
    max_new_tokens: options.MaxNewTokens = MAX_NEW_TOKENS,
    max_segments: options.MaxSegments = MAX_SEGMENTS,
    mask_only: Annotated[bool, typer.Option("--mask-only", help="No words, one mask: faster.")] = False,
    out: options.Out = options.DEFAULT_OUT,
) -> None:
    """Ask one question about each picture, and write masks, overlays and JSON.

    Into the folder --out go, for each picture:

    - [b]<image>_mask_<i>.png[/b]: 255 on segment i, counted from 0, else 0;

    - [b]<image>_overlay.png[/b]: the picture with all segments;

    - [b]<image>.json[/b]: question, text, segments (box, area, score, mask) and
      timings in seconds.

    All of a picture's files are there, or none. Of pictures with one name the
    second's files begin with <image>_2.

    Pictures are turned upright as their EXIF orientation says, and so are the
    masks. Of 16 bit the high byte counts, and alpha is dropped.

    [b]One picture, in 4 bit on a GPU[/b]

    $ lisa segment table.jpg -q "What could open the bottle?"
        --checkpoint xinlai/LISA-7B-v1 --precision nf4 --out found

    [b]Exit codes[/b]: 0 answered; 1 a question or file failed, and the rest
    was answered; 2 wrong usage; 130 stopped.
    """
    model = ModelOptions(checkpoint, precision, device, vision_tower, template, memory_limit)
    asking = Asking(
        readable(question), {"max_new_tokens": max_new_tokens, "max_segments": max_segments, "mask_only": mask_only}
    )
    from lisa_core import files

    absent = [why for image in images if (why := files.not_a_file(image))]
    if len(absent) == len(images):
        for why in absent:
            terminal.complain(f"{why}; give a picture's file.")
        raise typer.Exit(1)
    with terminal.told(out):
        out.mkdir(parents=True, exist_ok=True)
    with closing(loaded(context.obj, model)) as engine:
        failed = _segment_all(engine, images, asking, out)
    raise typer.Exit(1 if failed else 0)


@dataclass(frozen=True)
class Asking:
    """The question about each picture, and the options of `LisaEngine.ask`."""

    question: str
    options: dict[str, Any]


def _segment_all(engine: Any, images: Sequence[Path], asking: Asking, out: Path) -> int:
    """Asks about all pictures; returns how many failed."""
    from lisa_core.answer_files import Names, stems

    sources = {image.resolve() for image in images}
    console, failed = terminal.stdout(), 0
    with over_pictures(len(images)) as progress:
        for image, stem in stems(images).items():
            progress.current(image.name)
            try:
                shown = _segment_one(engine, image, asking, Names(out, stem), sources)
            except LisaError as error:
                failed += 1
                with progress.paused():
                    terminal.complain(f"{image}: {error}" if not str(error).startswith(str(image)) else str(error))
            except OSError as error:
                failed += 1
                with progress.paused():
                    terminal.complain(f"{image}: {terminal.cause(error, out)}")
            else:
                with progress.paused():
                    console.print(shown)
            progress.advance()
    return failed


def _segment_one(engine: Any, image: Path, asking: Asking, names: "Names", sources: set[Path]) -> Group:
    """Answers, writes the files, and returns what to print."""
    from lisa_core import answer_files, files

    rgb = files.read_rgb(image)
    frame = engine.encode(rgb)
    answer = engine.ask(frame, asking.question, **asking.options)
    contents = answer_files.contents(names, rgb, asking.question, answer, {**frame.timings, **answer.timings})
    for path in contents:
        if path.resolve() in sources:
            raise ImageError(f"its result {path} would replace a picture that was given; choose another --out.")
    answer_files.replace(names, contents)
    words = Table.grid(padding=(0, 2, 0, 0))
    words.add_row(plain("question", "dim"), plain(asking.question))
    words.add_row(plain("answer", "dim"), answer_text(answer.text))
    parts = [segment_table(answer, names.masks(answer))] if answer.segments else []
    return Group(plain(str(image), "bold"), words, *parts, plain(f"{names.overlay}\n", "dim"))
