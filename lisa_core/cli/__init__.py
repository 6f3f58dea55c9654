"""The command `lisa`: one file per subcommand. Commands import torch only when they run and need it."""

from collections.abc import Sequence
from typing import NoReturn

from lisa_core.cli import (
    bench,
    chat,
    evaluate,
    finetune,
    info,
    label,
    quantize,
    segment,
    tabletop,
    terminal,
    train,
    web,
)
from lisa_core.late import Load, load_engine

app = terminal.program(
    help="Ask about pictures and get words and masks, by the LISA model.", name="lisa", no_args_is_help=True
)
app.command()(segment.segment)
app.command()(chat.chat)
app.command()(web.web)
app.command()(info.info)
app.add_typer(evaluate.app, name="evaluate")
app.add_typer(label.app, name="label")
app.command()(finetune.finetune)
app.command(name="import-lora")(finetune.import_lora)
app.command()(quantize.quantize)
app.command()(bench.bench)
app.add_typer(tabletop.app, name="tabletop")
app.command()(train.train)


def main(argv: Sequence[str] | None = None, load: Load = load_engine) -> NoReturn:
    """Runs the command and exits, as `terminal.run` says."""
    terminal.run(app, argv, "lisa", load)
