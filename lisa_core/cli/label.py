"""`lisa label`: makes a data set from masks; one command for each source of masks."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from lisa_core.cli import ros_bridge, terminal
from lisa_core.cli.progress import over_pictures
from lisa_core.cli.tabletop import kind_named
from lisa_core.cli.terminal import plain
from lisa_core.errors import DatasetError
from lisa_core.tabletop.kinds import Kind

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from lisa_core.labelling.sources import Label

app = terminal.group(
    "Make a data set for finetune and evaluate from masks.\n\nIt is in ReasonSeg's format: DIR/train and DIR/val"
    " with pictures, and beside each a JSON file with the query and polygons."
)

_VAL = 0.1

Out = Annotated[Path, typer.Option(metavar="DIR", help="Folder to make.")]
Val = Annotated[float, typer.Option(metavar="SHARE", min=0, max=0.9, help="Of the pictures, for validation.")]


@app.command()
def png(
    pictures: Annotated[Path, typer.Argument(metavar="PICTURES", help="Folder of pictures.")],
    masks: Annotated[Path, typer.Argument(metavar="MASKS", help="Folder with a folder for each query.")],
    out: Out,
    val: Val = _VAL,
) -> None:
    """Masks as PNG files, one for each object and picture.

    MASKS/red cup/0001.png marks the red cup on PICTURES/0001.jpg: 0 is the
    ground, and so is what is transparent, 128 counts for nothing, all else is
    the red cup. A folder's name that ends in . ? or ! is a question, any other
    the name of something.

    $ lisa label png pictures masks --out my_pictures
    $ lisa finetune my_pictures --checkpoint xinlai/LISA-7B-v1 --out my_lisa

    [b]Exit codes[/b]: 0; 1 a file will not do, and the rest was written; 2
    wrong usage; 130 stopped, and nothing was written.
    """
    from lisa_core.labelling.sources import from_png

    _write(lambda: from_png(pictures, masks), out, val)


@app.command()
def coco(
    instances: Annotated[Path, typer.Argument(metavar="JSON", help="COCO's instances file.")],
    pictures: Annotated[Path, typer.Argument(metavar="PICTURES", help="Folder that its file names are in.")],
    out: Out,
    val: Val = _VAL,
) -> None:
    """Masks as COCO JSON, as most labelling tools write it.

    Polygons and run lengths are read. All instances of a category on a picture
    are one label, whose query is the category's name; crowds count for nothing.

    $ lisa label coco instances.json pictures --out my_pictures

    [b]Exit codes[/b]: 0; 1 a file will not do, and the rest was written; 2
    wrong usage; 130 stopped, and nothing was written.
    """
    from lisa_core.labelling.sources import from_coco

    _write(lambda: from_coco(instances, pictures), out, val)


@app.command()
def answers(
    answers_file: Annotated[Path, typer.Argument(metavar="OUT.json", help="Of ros2 run lisa_ros replay.")],
    frames: Annotated[
        Path, typer.Argument(metavar="FRAMES", help="The bag, or a folder of pictures that end in the frame's number.")
    ],
    out: Out,
    camera: Annotated[
        str, typer.Option(metavar="TOPIC", help="Of the bag's pictures; not needed if it has one camera.")
    ] = "",
    min_score: Annotated[
        float,
        typer.Option(
            metavar="X",
            help="Answers with a segment below this score are left out. Scores are not calibrated: look at overlays to"
            " find X for your model.",
            show_default="none are",
        ),
    ] = float("-inf"),
    val: Val = _VAL,
) -> None:
    """What a model found in a recorded bag, and you accept, becomes what is to be found.

    Look at the overlays of the replay and delete from OUT.json what is wrong;
    each answer left that has segments becomes a label. Its question is the
    query. Validation has the last pictures of the recording. A bag needs a
    sourced ROS, a folder of pictures does not.

    $ ros2 run lisa_ros replay drive1 --ask "segment the cup"
        --checkpoint xinlai/LISA-13B-llama2-v1 --out cups
    $ lisa label answers cups.json drive1 --out my_pictures

    [b]Exit codes[/b]: 0; 1 a file will not do, and the rest was written; 2
    wrong usage; 130 stopped, and nothing was written.
    """
    from lisa_core.labelling.sources import from_answers

    with ExitStack() as opened:
        with terminal.told(frames):
            frame = opened.enter_context(_opened(frames, camera))
        _write(lambda: from_answers(answers_file, frame, min_score), out, val, of_a_recording=True)


@app.command()
def tabletop(
    scenes: Annotated[Path, typer.Argument(metavar="SCENES", help="As `lisa tabletop render` writes them.")],
    out: Out,
    kind: Annotated[
        Kind | None,
        typer.Option(metavar="KIND", parser=kind_named, help="Of what is to be found.", show_default="only the others"),
    ] = None,
    question: Annotated[
        list[str] | None,
        typer.Option(metavar="TEXT", help="That it is the answer to; may be given several times.", show_default="none"),
    ] = None,
    others: Annotated[
        int, typer.Option(metavar="N", min=0, help="Questions about anything in each picture, too: what was known.")
    ] = 0,
    val: Val = _VAL,
) -> None:
    """Rendered tabletops, whose masks are known: as if somebody had labelled them.

    Where one thing of the kind is clearly seen, it is a label by its name, and
    another one by instructions with it (Where is the teapot?) and --question,
    with answers as the bundled model gives them. --others keeps it from
    forgetting the rest: colours, places, uses, and to say that something is
    not there; alone, it makes a set of reminders, for a second folder of
    [b]lisa finetune[/b].

    $ lisa tabletop render scenes --scenes 40 --with teapot
    $ lisa label tabletop scenes --kind teapot --out teapots
        --question "What can tea be poured from?" --others 6
    $ lisa tabletop render old --scenes 200 --seed 1000
    $ lisa label tabletop old --others 8 --val 0 --out reminders

    [b]Exit codes[/b]: 0; 1 a file will not do, and the rest was written; 2
    wrong usage; 130 stopped, and nothing was written.
    """
    from lisa_core.labelling.tabletop import from_scenes

    if not kind and (question or not others):
        raise typer.BadParameter("name the --kind that is to be found, or ask for --others alone")
    _write(lambda: from_scenes(scenes, kind, question or (), others), out, val)


def _write(
    read: Callable[[], tuple[Sequence["Label"], Sequence[str]]], out: Path, val: float, *, of_a_recording: bool = False
) -> NoReturn:
    """Reads the labels, writes the data set, prints a summary, and ends the command."""
    from lisa_core.labelling import dataset

    faults: list[str] = []
    with terminal.told(out, stopped=lambda: "stopped; nothing was written.", more="; nothing was written."):
        labels, early = read()
        with over_pictures(len(labels)) as progress:

            def complain(sentence: str) -> None:
                faults.append(sentence)
                with progress.paused():
                    terminal.complain(sentence)

            for fault in early:
                complain(fault)

            def done(name: str) -> None:
                progress.current(name)
                progress.advance()

            counts = dataset.write(labels, out, val, done, complain, of_a_recording=of_a_recording)
    learnt = f"{counts['train']} label{'s' if counts['train'] != 1 else ''} to learn"
    terminal.stdout().print(plain(f"{out}: {learnt}, {counts['val']} to validate"))
    if val and not counts["val"]:
        terminal.say("one picture cannot be divided: label another, for `lisa finetune` needs some to validate with")
    raise typer.Exit(1 if faults else 0)


@contextmanager
def _opened(frames: Path, camera: str) -> Iterator[Callable[[int, int], "Path | NDArray[np.uint8]"]]:
    """Yields what returns the picture of a frame by its number and stamp; raises LisaError if there are no frames."""
    if frames.is_dir() and not (frames / "metadata.yaml").exists():
        from lisa_core.labelling.sources import numbered

        yield numbered(frames)
        return
    purpose = f"{frames} is no folder of pictures, and a bag"
    bags, bag_frames = ros_bridge.module("bags", purpose), ros_bridge.module("bag_frames", purpose)
    with bags.BagReader(frames) as bag:
        recorded = bag_frames.Frames(bag, camera, "", "", 0)
        by_number = {frame.number: frame for frame in recorded}

        def rgb(number: int, stamp: int) -> "NDArray[np.uint8]":
            if number not in by_number:
                raise DatasetError(f"{frames} has no frame {number}; give the bag that was replayed.")
            if by_number[number].stamp != stamp:  # a damaged bag lacks frames, and counts the others anew
                raise DatasetError(
                    f"Frame {number} of {frames} is not the one that was asked about, by its stamp;"
                    " give the bag that was replayed, undamaged."
                )
            image: NDArray[np.uint8] = recorded.rgb(by_number[number])
            return image

        yield rgb
