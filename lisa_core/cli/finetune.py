"""`lisa finetune` and `lisa import-lora`: make checkpoints by fine-tuning, here or by the authors' code."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lisa_core.cli import options, terminal
from lisa_core.cli.progress import over_a_share, over_steps
from lisa_core.cli.terminal import plain
from lisa_core.options import CHECKPOINT
from lisa_core.training.recipe import Lora, Plan, Recipe

if TYPE_CHECKING:
    from lisa_core.training.finetune import Finetuning

OutModel = Annotated[Path, typer.Option(metavar="OUT", help="Folder to make: a checkpoint in the official v1 layout.")]


def finetune(
    folders: Annotated[
        list[Path], typer.Argument(metavar="DIR...", help="Data in ReasonSeg's format, with train and val; see label.")
    ],
    out: OutModel,
    checkpoint: options.Checkpoint = CHECKPOINT,
    steps: Annotated[int, typer.Option(metavar="N", min=1, help="Steps of training.")] = 500,
    learning_rate: Annotated[float, typer.Option(metavar="X", min=0, help="At its highest.")] = Plan.learning_rate,
    batch: Annotated[
        int, typer.Option(metavar="N", min=1, help="Pictures that are learnt from at once.")
    ] = Recipe.batch,
    accumulate: Annotated[
        int,
        typer.Option(
            metavar="N", min=1, help="Batches of a step, one after the other; the authors' has 10 of 2 on each GPU."
        ),
    ] = Plan.batches,
    validate_every: Annotated[
        int, typer.Option(metavar="N", min=1, help="Steps between validations.")
    ] = Recipe.validate_every,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Of everything that is random.")] = Plan.seed,
    precision: options.LearnerPrecision = "auto",
    device: options.Device = "",
    vision_tower: options.VisionTower = "",
    template: options.Template = None,
) -> None:
    """Teach a model your own pictures and words.

    By the official recipe: LoRA on the language model's attention (QLoRA in
    nf4), embeddings, lm_head, projection and mask decoder in full. The model is
    validated on val of the first DIR, and the best state becomes OUT, which
    every command and the node take as --checkpoint. In nf4 it learns, and is
    validated, in 4 bit; OUT has the whole weights with what was learnt.

    A picture that cannot be used is told and left out, as one with nothing to
    find and no answers that say so.

    More than one DIR: each is drawn from as often. Old pictures beside the new
    ones keep the model from forgetting what it knew.

    $ lisa finetune my_pictures --checkpoint xinlai/LISA-7B-v1 --out my_lisa

    Stopped, or killed: the same command goes on, by OUT.training, where the
    curves of the losses are, too, and in the end in OUT: losses.png.

    [b]Exit codes[/b]: 0; 1 a file or the model will not do; 2 wrong usage; 130
    stopped.
    """
    with terminal.told(out, stopped=lambda: _stopped(out), more=terminal.GOES_ON):
        from lisa_core.checkpoint import Checkpoint
        from lisa_core.saving import check_new
        from lisa_core.training.alone import alone, work_of
        from lisa_core.training.finetune import Finetuning, tidied

        if tidied(out):
            terminal.stdout().print(plain(f"{out}: whole already, by a training that was stopped at its very end."))
            return
        check_new(out)
        plan = Plan(steps, learning_rate, min(Plan.warmup, steps // 10), batches=accumulate, seed=seed, save_every=30.0)
        recipe = Recipe(plan, batch, validate_every)
        opened = Checkpoint.open(checkpoint, vision_tower or None, template)
        with alone(work_of(out)):
            with over_a_share(f"loading {checkpoint}") as on_progress:
                training = Finetuning(opened, folders, out, precision, device or None, recipe, on_progress)
            for fault in training.faults:
                terminal.complain(fault)
            _learn(training, steps)
            with over_a_share(f"writing {out}") as on_progress:
                step, giou = training.finish(on_progress)
    terminal.stdout().print(
        plain(f"{out}: the state after step {step}, gIoU {giou:.4f} on {folders[0]}; give it as the checkpoint.")
    )


def _learn(training: "Finetuning", steps: int) -> None:
    """Trains with a progress bar, and prints a line for each validation."""
    if training.step:
        terminal.say(f"going on after step {training.step} of {steps}")
    with over_steps("learning", steps, training.step) as show:

        def on_step(step: int, losses: Mapping[str, float], giou: float | None) -> None:
            if losses:
                show(step, f"loss {losses['loss']:.3f}")
            if giou is not None:
                parts = ", ".join(f"{name} {value:.3f}" for name, value in losses.items())
                terminal.say(f"step {step}: {parts or 'nothing learnt yet'}; gIoU {giou:.4f} in validation")

        training.run(on_step)


def import_lora(
    weights: Annotated[
        list[Path], typer.Argument(metavar="BIN...", help="pytorch_model*.bin, as the authors' zero_to_fp32.py writes.")
    ],
    out: OutModel,
    checkpoint: options.Checkpoint = CHECKPOINT,
    vision_tower: options.VisionTower = "",
    template: options.Template = None,
    alpha: Annotated[float, typer.Option(metavar="X", min=0, help="lora_alpha of the training.")] = Lora.alpha,
) -> None:
    """Merge what the authors' training code has learnt into a checkpoint.

    As their merge_lora_weights_and_save_hf_model.py does: LoRA is added to the
    weights, and what was learnt in full takes the place of what was there.
    --checkpoint gives everything else: tokenizer, vision tower, frozen weights.

    $ lisa import-lora pytorch_model.bin --checkpoint xinlai/LISA-7B-v1 --out mine

    [b]Exit codes[/b]: 0; 1 a file will not do; 2 wrong usage; 130 stopped.
    """

    def stopped() -> str:
        return f"stopped; {out} is {'whole' if out.exists() else 'not made'}."

    with terminal.told(out, stopped=stopped, more=terminal.GOES_ON):
        from lisa_core.checkpoint import Checkpoint
        from lisa_core.training import adapters

        opened = Checkpoint.open(checkpoint, vision_tower or None, template)
        taught, rank = adapters.read_official(weights, opened)
        with over_a_share(f"writing {out}") as on_progress:
            adapters.write_merged(opened, taught, alpha / rank, out, on_progress)
    terminal.stdout().print(plain(f"{out}: {len(taught)} tensors of rank {rank} merged; give it as the checkpoint."))


def _stopped(out: Path) -> str:
    from lisa_core.training.alone import work_of

    work = work_of(out)
    if out.exists():
        return f"stopped, when {out} was whole; the same command deletes {work}, which is of no more use."
    if not work.exists():
        return "stopped before anything was learnt."
    return f"stopped; the same command goes on from here, by {work}."
