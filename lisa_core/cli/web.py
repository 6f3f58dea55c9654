"""`lisa web`: the demo in a browser."""

import os
import signal
import socket
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from lisa_core.cli import options, terminal
from lisa_core.cli.loading import ModelOptions, loaded
from lisa_core.cli.terminal import plain
from lisa_core.errors import installing
from lisa_core.options import CHECKPOINT, MAX_NEW_TOKENS, MAX_SEGMENTS


def web(
    context: typer.Context,
    host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Where to listen; 0.0.0.0 lets everyone in the network in.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(metavar="N", min=1, max=65535, help="Port to listen on.")] = 7860,
    checkpoint: options.Checkpoint = CHECKPOINT,
    precision: options.Precision = "auto",
    device: options.Device = "",
    vision_tower: options.VisionTower = "",
    template: options.Template = None,
    memory_limit: options.MemoryLimit = 0.0,
    max_new_tokens: options.MaxNewTokens = MAX_NEW_TOKENS,
    max_segments: options.MaxSegments = MAX_SEGMENTS,
) -> None:
    """Talk about pictures in a browser.

    Upload a picture, ask about it and go on asking: answers come word by word,
    masks are layers to switch on and off, and to download.
    Several visitors are answered in turn. Pictures stay on this machine and
    are deleted when the command ends.

    $ lisa web --checkpoint xinlai/LISA-7B-v1

    The page has no password: --host other than this machine's own address
    is for networks whose people may use it.

    [b]Exit codes[/b]: 0; 1 the model or the address cannot be had; 2 wrong
    usage; 130 stopped by Ctrl-C; 143 and 129 terminated or hung up.
    """
    model = ModelOptions(checkpoint, precision, device, vision_tower, template, memory_limit)
    with tempfile.TemporaryDirectory(prefix="lisa_web_") as scratch:
        # Gradio reads these at import: no telemetry, and uploads go into the folder that is deleted
        os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_TEMP_DIR": scratch}
        try:
            from lisa_core.web.app import Page
        except ImportError as error:
            terminal.fail(f"lisa web needs Gradio, which does not import here ({error}); {installing('web')}.")
        from lisa_core.web.session import Inference, Sessions

        try:
            _try_address(host, port)
        except (OSError, UnicodeError) as error:  # the latter of a name that no address can have
            why = getattr(error, "strerror", None) or error
            terminal.fail(f"{host}:{port} cannot be listened on ({why}); choose another --host or --port.")
        engine = loaded(context.obj, model)
        inference = Inference(engine, max_new_tokens, max_segments)
        page = Page(Sessions(inference), f"{engine.checkpoint}, {engine.precision} on {engine.device}", Path(scratch))
        try:
            page.launch(host, port)
            terminal.stdout().print(plain(f"http://{host}:{port} (Ctrl-C ends it)"))
            signal.pause()
        except OSError as error:
            terminal.fail(f"{host}:{port} cannot be listened on ({error}); choose another --host or --port.")
        finally:
            page.close()
            inference.close()
            engine.close()


def _try_address(host: str, port: int) -> None:
    """Takes the address for a moment, before the model takes its time to load.

    Raises:
        OSError, UnicodeError: it cannot be had, or is none.
    """
    family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        trial.bind(address)
