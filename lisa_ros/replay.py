"""`replay`: asks about the frames of a bag, without a ROS graph; also a regression test of answers."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NoReturn

import numpy as np
import typer
from numpy.typing import NDArray
from rclpy.serialization import serialize_message
from rich.table import Table
from rich.text import Text
from std_msgs.msg import Header

from lisa_core import files
from lisa_core.cli import options, terminal
from lisa_core.cli.progress import over_pictures
from lisa_core.cli.terminal import plain, readable
from lisa_core.errors import LisaError
from lisa_core.hub import state_of
from lisa_core.late import Load, load_engine
from lisa_core.options import CHECKPOINT, MAX_NEW_TOKENS
from lisa_core.overlay import draw
from lisa_ros import conversions
from lisa_ros.bag_frames import IMAGE, FrameOfBag, Frames
from lisa_ros.bags import LONGEST, BagReader, TopicError, typestore, write_bag
from lisa_ros.parameters import CameraParameters
from lisa_ros.records import (
    RELATIVE_SHIFT,
    SHIFT,
    Difference,
    Journal,
    Record,
    RecordError,
    compare,
    has_answers,
    read_records,
    write_records,
)

OUTPUTS = {"/lisa/answer": "lisa_ros/msg/Answer", "/lisa/mask": IMAGE, "/lisa/overlay": IMAGE}
"""Topics of the bag that is written, with their types; named like those of a node with the default name."""

app = terminal.program()


def main(argv: Sequence[str] | None = None, load: Load = load_engine) -> NoReturn:
    """Runs the command and exits, as `terminal.run` says; 1 also if answers differ from those expected."""
    terminal.run(app, argv, "replay", load)


@app.command()
def replay(
    context: typer.Context,
    bag: Annotated[
        Path,
        typer.Argument(
            metavar="BAG", exists=True, help="The bag: a folder, or one .mcap or .db3 file.", show_default=False
        ),
    ],
    ask: Annotated[
        list[str],
        typer.Option(
            metavar="TEXT", help="What to ask about each frame; may be given several times.", show_default=False
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            metavar="OUT", help="The bag of answers to write; OUT.json is written beside it.", show_default=False
        ),
    ],
    checkpoint: options.Checkpoint = CHECKPOINT,
    camera: Annotated[
        str, typer.Option(metavar="TOPIC", help="Topic of the colour images; not needed if the bag has only one.")
    ] = "",
    depth: Annotated[
        str, typer.Option(metavar="TOPIC", help="Topic of depth aligned to them, for positions and sizes.")
    ] = "",
    camera_info: Annotated[str, typer.Option(metavar="TOPIC", help="Topic of the CameraInfo that depth needs.")] = "",
    depth_max_dt: Annotated[
        float,
        typer.Option(
            metavar="SECONDS", min=0, max=10, help="How far apart the stamps of depth and colour image may be."
        ),
    ] = CameraParameters.depth_max_dt,
    every: Annotated[
        float,
        typer.Option(
            metavar="SECONDS", min=0, max=LONGEST, help="Seconds of the recording between frames; 0: every frame."
        ),
    ] = 1.0,
    expect: Annotated[
        Path | None,
        typer.Option(
            metavar="OLD.json",
            exists=True,
            dir_okay=False,
            help="OUT.json of an earlier run: fail if answers differ from it. Positions may move by "
            f"{SHIFT * 1000:g} mm + {RELATIVE_SHIFT:.0%} of their distance.",
        ),
    ] = None,
    min_iou: Annotated[
        float, typer.Option(metavar="IOU", min=0, max=1, help="What masks must reach to be those expected.")
    ] = 0.95,
    precision: options.Precision = "auto",
    device: options.Device = "",
    vision_tower: options.VisionTower = "",
    template: options.Template = None,
    max_new_tokens: options.MaxNewTokens = MAX_NEW_TOKENS,
    mask_only: Annotated[bool, typer.Option("--mask-only", help="No words, one mask: faster.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the OUT of an earlier run.")] = False,
) -> None:
    """Ask about the frames of a bag and keep the answers; no ROS graph, no node.

    OUT is a bag with [b]/lisa/answer /lisa/mask /lisa/overlay[/b] at the stamps of the images.
    [b]OUT.json[/b] has text, boxes and masks (COCO RLE).
    The same bag, questions and model give the same files.
    Stopped, or killed: the same command goes on where it was.

    [b]One answer a second about a recording[/b]

    $ ros2 run lisa_ros replay drive1 --ask "segment the cup"
        --checkpoint xinlai/LISA-7B-v1 --out cups

    [b]A regression test: exit code 1, and a table, if answers are not what they were[/b]

    $ ros2 run lisa_ros replay drive1 --ask "segment the cup"
        --checkpoint NEW_MODEL --out new --expect cups.json

    [b]Positions in metres, from depth[/b]

    $ ros2 run lisa_ros replay drive1 --ask "segment the cup"
        --checkpoint xinlai/LISA-7B-v1 --out cups
        --depth /camera/depth --camera-info /camera/camera_info

    [b]Exit codes[/b]: 0 all answered, and as expected; 1 a question or file failed, or differs, or the
    bag lacks messages; 2 wrong usage, or OUT is there already; 130 stopped, 143 terminated.
    """
    if not out.name:
        raise typer.BadParameter("--out has no name of its own: give the name of a bag to write")
    for name, seconds in (("--every", every), ("--depth-max-dt", depth_max_dt)):
        if not math.isfinite(seconds):
            raise typer.BadParameter(f"{name} is no number of seconds")
    if bool(depth) != bool(camera_info):
        raise typer.BadParameter("positions need both --depth and --camera-info")
    model = {
        "checkpoint": checkpoint,
        "precision": precision,
        "device": device or None,
        "vision_tower": vision_tower or None,
        "template": template,
    }
    asking = Asking(tuple(dict.fromkeys(map(readable, ask))), max_new_tokens, mask_only)
    with terminal.told(
        out,
        stopped=lambda: "Stopped; the same command goes on from here.",
        more=terminal.GOES_ON,
        misuse=(TopicError, RecordError),
    ):
        expected = None if expect is None else read_records(expect)
        with BagReader(bag) as reader:
            frames = Frames(reader, camera, depth, camera_info, every, depth_max_dt)
            run = _describe(reader, frames, every, depth_max_dt, model, asking)
            _check_free(out, overwrite, reader)
            with closing(Journal(_journal(out), run | _state_of(model))) as journal:
                failed = _answer_all(frames, asking, journal, partial(context.obj, **model))
                records = [
                    failed.get((frame.number, question)) or journal.records[frame.number, question]
                    for frame in frames
                    for question in asking.questions
                ]
                if journal.resumed:
                    files.discard_unfinished(_json(out))
                _write_bag(out, frames, records)
                write_records(_json(out), run, records)
                journal.delete()
    differences = [] if expected is None else list(compare(expected, records, min_iou))
    _report_unplaced(frames)
    for topic, lost in frames.lost.items():
        terminal.complain(
            f"{lost} of {reader.topics[topic].messages} messages on {topic} are lost: {bag} is damaged; take another"
            " copy, or have what is left counted by `ros2 bag reindex`."
        )
    _report(out, records, differences, compared=expected is not None)
    raise typer.Exit(1 if failed or differences or frames.lost else 0)


@dataclass(frozen=True)
class Asking:
    """The questions about each frame, and the options for the engine."""

    questions: tuple[str, ...]
    max_new_tokens: int
    mask_only: bool


def _describe(
    bag: BagReader,
    frames: Frames,
    every: float,
    depth_max_dt: float,
    model: Mapping[str, str | None],
    asking: Asking,
) -> dict[str, Any]:
    """What the answers depend on; kept in OUT.json, and in the journal to recognise one of another run."""
    return {
        "bag": bag.path.name,
        "start": bag.span.start,
        "end": bag.span.end,
        "camera": frames.camera,
        "depth": frames.depth,
        "camera_info": frames.camera_info,
        "depth_max_dt": depth_max_dt,
        "every": every,
        "ask": list(asking.questions),
        **model,
        "max_new_tokens": asking.max_new_tokens,
        "mask_only": asking.mask_only,
    }


def _state_of(model: Mapping[str, str | None]) -> dict[str, Any]:
    """Fingerprints of the model's files, for names may stay when files change, and the device it runs on."""
    from lisa_core.devices import resolve_device

    weights, tower = (state_of(model[name] or "") for name in ("checkpoint", "vision_tower"))
    return {"weights": weights, "tower": tower, "runs_on": model["device"] or str(resolve_device(None))}


def _journal(out: Path) -> Path:
    return out.with_name(out.name + ".journal")


def _json(out: Path) -> Path:
    return out.with_name(out.name + ".json")


def _check_free(out: Path, overwrite: bool, bag: BagReader) -> None:
    """Raises RecordError if OUT or OUT.json exists, unless this command may replace it."""
    if bag.path.resolve().is_relative_to(out.resolve()):
        raise RecordError(f"{out} is the recording: choose another --out for its answers.")
    json_file = _json(out)
    if out.exists() and not (out / "metadata.yaml").is_file():
        raise RecordError(f"{out} exists and is no bag: choose another --out.")
    if out.exists() and not ((json_file.exists() or _journal(out).exists()) and _are_answers(out)):
        raise RecordError(f"{out} exists and is no bag of answers, but a recording: choose another --out.")
    if json_file.exists():
        read_records(json_file)
    if has_answers(_journal(out)):  # they are of a run that was killed while it wrote them
        return
    for path in (out, json_file):
        if path.exists() and not overwrite:
            raise RecordError(f"{path} exists: choose another --out, or replace it with --overwrite.")


def _are_answers(bag: Path) -> bool:
    """Whether this command wrote the bag."""
    with BagReader(bag) as reader:
        return reader.topics.keys() == OUTPUTS.keys()


def _answer_all(frames: Frames, asking: Asking, journal: Journal, load: Load) -> dict[tuple[int, str], Record]:
    """Adds all missing answers to the journal; returns the records of the questions that failed."""
    failed: dict[tuple[int, str], Record] = {}
    total = len(frames) * len(asking.questions)
    if journal.records:
        terminal.say(f"going on after {len(journal.records)} of {total} answers of an earlier run")
    if len(journal.records) == total:
        return failed
    with over_pictures(total, len(journal.records)) as progress:

        def say(words: Text) -> None:
            with progress.paused():
                terminal.stderr().print(words)

        progress.current("loading the model")
        engine = load(on_progress=lambda _, what: progress.current(what))
        progress.current("answering")
        try:
            for frame in frames:
                missing = [q for q in asking.questions if (frame.number, q) not in journal.records]
                for record in _answer_frame(engine, frames, frame, missing, asking, say):
                    say(_line(record))
                    progress.advance()
                    if record.error:
                        failed[record.key] = record
                    else:
                        journal.add(record)
        finally:
            engine.close()
    return failed


def _answer_frame(
    engine: Any,
    frames: Frames,
    frame: FrameOfBag,
    questions: Sequence[str],
    asking: Asking,
    say: Callable[[Text], None],
) -> Iterator[Record]:
    """The records of these questions about one frame; if the frame or a question fails, they have the error."""
    if not questions:
        return
    try:
        encoded = engine.encode(frames.rgb(frame))
    except LisaError as error:
        yield from (Record(frame.number, frame.stamp, question, error=str(error)) for question in questions)
        return
    for question in questions:
        try:
            answer = engine.ask(encoded, question, max_new_tokens=asking.max_new_tokens, mask_only=asking.mask_only)
        except LisaError as error:
            yield Record(frame.number, frame.stamp, question, error=str(error))
            continue
        try:
            placements = frames.placements(frame, answer)
        except LisaError as error:
            say(plain(f"frame {frame.number}: no positions: {error}"))
            placements = [None] * len(answer.segments)
        yield Record.of(frame.number, frame.stamp, question, answer, placements)


def _write_bag(out: Path, frames: Frames, records: Sequence[Record]) -> None:
    """Writes all answers to a bag; each has the recording time of its image."""
    by_frame: dict[int, list[Record]] = {}
    for record in records:
        if not record.error:
            by_frame.setdefault(record.frame, []).append(record)
    store = typestore()
    with write_bag(out, store) as bag:
        for name, kind in OUTPUTS.items():
            bag.add_topic(name, kind)
        for frame in frames:
            if frame.number not in by_frame:
                continue
            rgb, header = frames.image(frame)
            for record in by_frame[frame.number]:
                for name, message in _messages(record, rgb, header).items():
                    # ROS pads fields with whatever was in memory, rosbags with zeros: equal answers give equal files.
                    content = store.deserialize_cdr(serialize_message(message), OUTPUTS[name])
                    bag.write(name, frame.time, bytes(store.serialize_cdr(content, OUTPUTS[name])))


def _messages(record: Record, rgb: NDArray[np.uint8], header: Header) -> Mapping[str, Any]:
    """The messages of one answer by topic; without its duration, which differs from run to run."""
    answer = record.answer
    placements = [segment.placement for segment in record.segments]
    return {
        "/lisa/answer": conversions.answer_message(answer, header, instruction=record.question, placements=placements),
        "/lisa/mask": conversions.mask_message(answer.segments, rgb.shape[:2], header),
        "/lisa/overlay": conversions.image_message(draw(rgb, answer.segments), "rgb8", header),
    }


def _line(record: Record) -> Text:
    line = plain(f"{record.stamp / 1e9:.3f}  {record.question}  ")
    if record.error:
        return line.append(plain(record.error, "red"))
    masks = len(record.segments)
    return line.append(plain(record.text, "bold")).append(f"  {masks} mask{'' if masks == 1 else 's'}")


def _report_unplaced(frames: Frames) -> None:
    """Says why some frames have no positions, once per topic."""
    for reasons in frames.unplaced.values():
        number, reason = next(iter(reasons.items()))
        terminal.say(f"no positions in {len(reasons)} of {len(frames)} frames, such as {number}: {reason}")


def _report(out: Path, records: Sequence[Record], differences: Sequence[Difference], compared: bool) -> None:
    failed = sum(bool(record.error) for record in records)
    terminal.say(f"{len(records) - failed} answered, {failed} failed: {out}, {out}.json")
    if not compared:
        return
    if not differences:
        terminal.say("all answers are as expected")
        return
    table = Table("frame", "stamp", "question", "what", "expected", "got", title="Not as expected")
    for change in differences:
        cells = (change.question, change.what, change.expected, change.got)
        table.add_row(str(change.frame), f"{change.stamp / 1e9:.3f}", *map(plain, cells))
    terminal.stdout().print(table)
