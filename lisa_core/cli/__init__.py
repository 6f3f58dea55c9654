"""The command `lisa`: one file per subcommand. Commands import torch only when they run and need it."""

import sys
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
from lisa_core.cli.loading import Load, load_engine
from lisa_core.signals import ended_in_order

app = terminal.group(
    "Ask about pictures and get words and masks, by the LISA model.",
    name="lisa",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
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
    """Runs the command and exits.

    0 answered, 1 a question or file failed, 2 wrong usage, 130 stopped by Ctrl-C, 143 terminated, 129 hung up.
    """
    try:
        with ended_in_order():
            app(args=None if argv is None else list(argv), prog_name="lisa", obj=load)
    except SystemExit as ended:
        if terminal.took_all() or ended.code:
            raise
    except OSError as error:
        if terminal.took_all() and not terminal.is_of_stdout(error):
            raise
    terminal.complain("Standard output is full or closed; what was to be written there is lost.")
    sys.exit(1)
