"""`lisa train`: a small LISA from scratch, on rendered tabletops."""

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from lisa_core.cli import options, terminal
from lisa_core.errors import CheckpointError, DatasetError, LisaError
from lisa_core.files import write_whole
from lisa_core.hub import state_of

if TYPE_CHECKING:
    from lisa_core.checkpoint import Checkpoint
    from lisa_core.model.lisa import Lisa
    from lisa_core.training.exam import Exam
    from lisa_core.training.scenes import Scenes
    from lisa_core.training.scratch import Looked, Machine, Portion
    from lisa_core.training.trainer import Plan, Trainer

_SEE, _SPEAK = "Learning to see", "Learning to speak"
_WORDS = "words"
"""Folder of the tokenizer of a new model, in that of the training."""
_PIECES = 1100
_READ_FOR_WORDS = 500
"""Scenes whose dialogues the tokenizer is made of."""
_DRAW_EVERY = 200
"""Steps between two pictures of the losses."""


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
    from lisa_core import loading
    from lisa_core.saving import check_new
    from lisa_core.training import curves, trouble
    from lisa_core.training.exam import Exam
    from lisa_core.training.scratch import Machine, Portion
    from lisa_core.training.trainer import Plan

    run = out.parent / f"{out.name}.run"
    try:
        check_new(out)
        curves.check_available()
        target = loading.resolve_device(device or None)
        mixed = target.type == "cuda" if products == "auto" else products == "bf16"
        exam = Exam(validation, run / "speak", validate_every) if validation else None
        lessons = {"see_pictures": see_pictures, "speak_pictures": speak_pictures, "dialogues": dialogues}
        origin = {
            "scenes": str(scenes.resolve()),
            "number_of_scenes": (there := _number_of(scenes)),
            "content_of_scenes": _digest(scenes, there),
        }
        how = {"checkpoint": checkpoint, "lora": lora, "whole": whole, "seed": seed, "mixed": mixed}
        before = _opened(checkpoint, lora) if checkpoint else None
        weights = {"weights": state_of(str(before.folder)) if before else []}
        _keep(run, {**origin, "speak_scenes": speak_scenes, **how, **weights, **lessons})
        school = _School(scenes, run, seed, Machine(target, mixed), before, lora, whole)
        with trouble.told(run):
            if not checkpoint:
                school.see(Plan(steps=see_steps, learning_rate=see_rate, muon=True, seed=seed), see_pictures)
            plan = Plan(steps=speak_steps, learning_rate=speak_rate, muon=not lora, seed=seed)
            school.speak(plan, Portion(speak_pictures, dialogues), speak_scenes, exam)
            school.export(out)
    except KeyboardInterrupt:
        terminal.fail(f"stopped; the same command goes on from here, by {run}.", 130)
    except LisaError as error:
        terminal.fail(str(error))
    except OSError as error:
        terminal.fail(f"{terminal.cause(error, run)}. The same command goes on once that is remedied.")
    terminal.stdout().print(terminal.plain(f"{out}: give it as the checkpoint."))


class _School:
    """A model, and what it learns from."""

    def __init__(
        self,
        folder: Path,
        run: Path,
        seed: int,
        machine: "Machine",
        before: "Checkpoint | None",
        lora: bool,
        whole: bool,
    ) -> None:
        """`before` is what to go on with, by `lora` or in full, or `whole` with SAM's encoder; None: a new model."""
        from lisa_core.tabletop.dataset import count, load_view
        from lisa_core.training import fresh
        from lisa_core.training.scenes import Scenes

        self._run, self._machine, self._seed = run, machine, seed
        self._before, self._lora, self._whole = before, lora, whole
        self._count = count(folder)
        self._read = lambda index: load_view(folder, index)
        self._scenes = Scenes(self._read, self._count, seed)
        if before:
            self._words = before.tokenizer
            self._model = _learner(before, machine, lora, seed)
        else:
            self._words = _tokenizer(self._scenes, run / _WORDS)
            self._model = fresh.new_model(fresh.small_shape(self._words.vocabulary_size), seed).to(machine.device)

    def see(self, plan: "Plan", pictures: int) -> None:
        """The encoders learn; so many pictures a step."""
        from lisa_core.training import scratch

        trainer = scratch.seeing(self._model, self._scenes, pictures, self._machine, self._run / "see", plan)
        with _bar("learning to see", plan.steps, trainer.step) as show:
            for told in _drawn(trainer, self._run / "see", plan.steps):
                show(trainer.step, f"learning to see: {100 * told['sam_knows']:.0f} % known")

    def speak(self, plan: "Plan", portion: "Portion", at_most: int | None, exam: "Exam | None") -> None:
        """The rest learns, about every scene or the first ones only."""
        from lisa_core.training import adapters, losses, scratch
        from lisa_core.training.scenes import Scenes

        self._model.eval()
        count = min(self._count, at_most or self._count)
        trainer = scratch.speaking(
            self._model,
            adapters.learnt(self._model) if self._lora else scratch.speakers(self._model, self._whole),
            self._words,
            Scenes(self._read, count, self._seed),
            None if self._whole else self._look(count),
            portion,
            self._machine,
            self._run / "speak",
            plan,
            losses.Weights(),
            in_full=not self._lora,
        )
        with _bar("learning to speak", plan.steps, trainer.step) as show:
            for told in _drawn(trainer, self._run / "speak", plan.steps):
                show(trainer.step, f"learning to speak: loss {told['loss']:.3f}")
                if exam and exam.is_due(trainer.step, plan.steps):
                    self._model.eval()
                    scores = exam.take(trainer.step, self._model, self._words, self._machine)
                    terminal.stderr().print(f"step {trainer.step}: " + ", ".join(scores))

    def _look(self, count: int) -> "Looked":
        """What SAM's frozen encoder makes of the first scenes."""
        from lisa_core.training import scratch

        looked = scratch.Looked.open(self._run, count, self._model.shape)
        with _bar("looking at the scenes", count) as show:
            for done in scratch.look(self._model, self._read, looked, self._machine):
                show(done, "looking at the scenes")
        return looked

    def export(self, out: Path) -> None:
        """Writes the checkpoint: the one before with what was learnt, or a new one."""
        from lisa_core.training import adapters, fresh
        from lisa_core.training.export import export

        if self._before:
            size = adapters.Lora()
            adapters.write_merged(self._before, adapters.learnt(self._model), size.alpha / size.rank, out)
            return
        config, tower = fresh.config_of(self._model.shape), fresh.tower_config_of(self._model.shape.clip)
        state = self._model.state_dict()
        export(state.items(), config, tower, self._run / _WORDS, out, len(state))


def _drawn(trainer: "Trainer[Any]", folder: Path, last: int) -> "Iterator[Mapping[str, float]]":
    """The losses step by step; now and then, and in the end, there is a new picture of them."""
    from lisa_core.training import curves
    from lisa_core.training.trainer import LOG

    for told in trainer.run():
        if trainer.step % _DRAW_EVERY == 0 or trainer.step == last:
            curves.draw(folder / LOG, folder / curves.NAME)
        yield told


def _opened(checkpoint: str, lora: bool) -> "Checkpoint":
    """What to go on with; raises CheckpointError if that cannot be."""
    from lisa_core.checkpoint import Checkpoint
    from lisa_core.training import adapters, fresh

    if lora:
        adapters.check_available()
    opened = Checkpoint.open(checkpoint)
    adapters.check_learnable(opened)
    if opened.template != fresh.TEMPLATE:
        raise CheckpointError(
            f"{checkpoint} speaks in the template {opened.template}, and this command teaches {fresh.TEMPLATE};"
            " take `lisa finetune`."
        )
    return opened


def _learner(checkpoint: "Checkpoint", machine: "Machine", lora: bool, seed: int) -> "Lisa":
    """What goes on, in fp32."""
    import torch

    from lisa_core import loading
    from lisa_core.training import adapters

    if not lora:
        return loading.load(checkpoint, "fp32", machine.device, to_learn=True)
    torch.manual_seed(seed)  # adapters begin at random
    return adapters.load_learner(checkpoint, "fp32", machine.device, adapters.Lora())


def _tokenizer(scenes: "Scenes", folder: Path) -> Any:
    """Made once, of what is said about the first scenes; read again when training goes on."""
    from lisa_core.template import BY_NAME
    from lisa_core.tokenizer import Tokenizer
    from lisa_core.training import fresh

    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        try:
            template = BY_NAME[fresh.TEMPLATE]
            fixed = [template.opening, template.before_question, template.after_question] * _READ_FOR_WORDS
            fresh.write_tokenizer([*fixed, *scenes.sentences(_READ_FOR_WORDS)], _PIECES, partial)
            partial.rename(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return Tokenizer.from_folder(folder)


def _keep(run: Path, settings: dict[str, Any]) -> None:
    """Remembers what a training depends on besides its plans; one under way on something else is not gone on with."""
    path = run / "settings.json"
    if not path.is_file():
        run.mkdir(parents=True, exist_ok=True)
        write_whole({path: json.dumps(settings).encode()})
        return
    before = json.loads(path.read_bytes())
    if changed := [name for name, value in settings.items() if before.get(name, value) != value]:
        raise CheckpointError(
            f"{run} holds a training that differs in {', '.join(changed)};"
            " give the same options, scenes and weights to finish it, or delete that folder."
        )


def _number_of(folder: Path) -> int:
    """How many scenes there are; raises DatasetError for those that nothing may be learnt from."""
    from lisa_core.tabletop.dataset import count, load_scene
    from lisa_core.tabletop.scene import HELD_OUT_SEED

    if not (scenes := count(folder)):
        raise DatasetError(f"{folder} has no scenes (000000.json); make some with `lisa tabletop render`.")
    if more := sum(int(path.stem) > scenes for path in folder.glob("[0-9]" * 6 + ".json")):
        raise DatasetError(
            f"{folder} lacks scene {scenes:06d}, and {more} come after it: a render of several workers was stopped;"
            " the same `lisa tabletop render` fills it up."
        )
    if load_scene(folder, scenes - 1).seed >= HELD_OUT_SEED:
        raise DatasetError(f"{folder} has scenes to measure with (seeds from {HELD_OUT_SEED}); train on others.")
    return scenes


def _digest(folder: Path, scenes: int) -> str:
    """Tells so many scenes from others that are rendered in their place later, by the first and the last."""
    from lisa_core.reasonseg import digest_of

    ends = (0, scenes - 1)
    return digest_of(folder / f"{index:06d}.{kind}" for index in ends for kind in ("json", "jpg", "png"))


@contextmanager
def _bar(name: str, total: int, done: int = 0) -> Iterator[Callable[[int, str], None]]:
    console = terminal.stderr()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(name, total=total, completed=done)
        yield lambda completed, description: bar.update(task, completed=completed, description=description)
