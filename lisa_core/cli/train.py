"""`lisa train`: a small LISA from scratch, on rendered tabletops."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from lisa_core.cli import options, terminal
from lisa_core.cli.progress import over_steps

_SEE, _SPEAK = "Learning to see", "Learning to speak"


def train(
    scenes: Annotated[Path, typer.Argument(metavar="DIR", help="Rendered scenes, by `lisa tabletop render`.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder to make, for the checkpoint.")],
    checkpoint: Annotated[
        str,
        typer.Option(
            metavar="MODEL", help="Go on with this model, such as bundled; it sees already, and learns to speak."
        ),
    ] = "",
    lora: Annotated[
        bool, typer.Option("--lora", help="With --checkpoint: learn what the official recipe does, not all.")
    ] = False,
    whole: Annotated[
        bool,
        typer.Option(
            "--whole",
            help="SAM's encoder learns to speak, too, not frozen; for a GPU: on a CPU a step takes several times as"
            " long.",
        ),
    ] = False,
    see_steps: Annotated[int, typer.Option(metavar="N", min=1, rich_help_panel=_SEE)] = 6000,
    see_pictures: Annotated[int, typer.Option(metavar="N", min=1, help="A step.", rich_help_panel=_SEE)] = 16,
    see_rate: Annotated[float, typer.Option(metavar="X", min=0, help="Learning rate.", rich_help_panel=_SEE)] = 1e-3,
    speak_steps: Annotated[int, typer.Option(metavar="N", min=1, rich_help_panel=_SPEAK)] = 12000,
    speak_pictures: Annotated[int, typer.Option(metavar="N", min=1, help="A step.", rich_help_panel=_SPEAK)] = 16,
    dialogues: Annotated[int, typer.Option(metavar="N", min=1, help="About a picture.", rich_help_panel=_SPEAK)] = 6,
    speak_rate: Annotated[
        float, typer.Option(metavar="X", min=0, help="Learning rate.", rich_help_panel=_SPEAK)
    ] = 1e-3,
    speak_scenes: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Only about the first N scenes.", rich_help_panel=_SPEAK)
    ] = None,
    validation: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Other scenes, to measure on while it learns to speak.")
    ] = None,
    validate_every: Annotated[int, typer.Option(metavar="N", min=1, help="Steps between two measurements.")] = 1000,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Of all that is random.")] = 0,
    device: options.Device = "",
    products: Annotated[
        Literal["auto", "bf16", "fp32"],
        typer.Option(help="What matrices are multiplied in; auto: bf16 on a GPU, fp32 on the CPU."),
    ] = "auto",
) -> None:
    """Train a small LISA, from scratch or on: first its eyes, then its words and masks.

    The encoders learn what is where in the pictures. Then SAM's is frozen, as in
    the official recipe, and the rest learns to answer: cross entropy, and
    2.0 BCE + 0.5 Dice for the masks; and, but for --lora, by hints: CLIP is
    still asked what is where, and each mask's word points at its target. Every
    other step is made in 4 bit, but for --lora, so that nf4 costs it nothing.

    Stopped, or killed: the same command goes on where it was, from OUT.run, which
    has the logs, the losses as pictures (losses.png), the measurements and
    pictures of the worst answers, too.

    On a CPU with AVX512-BF16, [b]--products bf16[/b] is several times faster.

    $ lisa tabletop render scenes --scenes 20000
    $ lisa tabletop render held_out --scenes 50 --seed 10000000
    $ lisa train scenes --out my_lisa --validation held_out

    [b]--checkpoint[/b] goes on with a model of this command, in full: all but SAM's
    encoder learns. With [b]--lora[/b] only what learns in the official recipe does:
    adapters on the language model's attention, merged in the end, embeddings,
    lm_head, text_hidden_fcs and mask decoder. With [b]--whole[/b] SAM's encoder
    learns, too, of a model gone on with or a new one. [b]lisa finetune[/b] teaches any
    other model, and from pictures of your own.

    $ lisa train scenes --checkpoint bundled --out better --speak-rate 5e-4
    $ lisa train scenes --checkpoint bundled --out better --lora --speak-rate 3e-4

    [b]Exit codes[/b]: 0; 1 a file or the model will not do; 2 wrong usage; 130
    stopped.
    """
    if lora and not checkpoint:
        raise typer.BadParameter("--lora goes on with a model: name it by --checkpoint, such as bundled")
    if lora and whole:
        raise typer.BadParameter("--lora and --whole exclude each other: the official recipe freezes SAM's encoder")
    from lisa_core import devices
    from lisa_core.saving import check_new
    from lisa_core.training import curves
    from lisa_core.training.alone import alone
    from lisa_core.training.exam import Exam
    from lisa_core.training.recipe import Plan
    from lisa_core.training.school import Course, School
    from lisa_core.training.scratch import Machine, Portion

    see = Plan(steps=see_steps, learning_rate=see_rate, muon=True, seed=seed)
    speak = Plan(steps=speak_steps, learning_rate=speak_rate, muon=not lora, seed=seed)
    portion = Portion(speak_pictures, dialogues)
    course = Course(scenes, see, see_pictures, speak, portion, speak_scenes, checkpoint, lora, whole)
    run = out.parent / f"{out.name}.run"
    stopped = f"stopped; the same command goes on from here, by {run}."
    with terminal.told(run, stopped=lambda: stopped, more=terminal.GOES_ON):
        check_new(out)
        curves.check_available()
        target = devices.resolve_device(device or None)
        mixed = target.type == "cuda" if products == "auto" else products == "bf16"
        exam = Exam(validation, run / "speak", validate_every) if validation else None
        with alone(run):
            school = School(course, run, Machine(target, mixed), over_steps)
            school.teach(out, exam, terminal.say)
    terminal.stdout().print(terminal.plain(f"{out}: give it as the checkpoint."))
