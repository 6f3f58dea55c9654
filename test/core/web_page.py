"""The page of `lisa web`, served in this process, and an engine that answers at once or never."""

import socket
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from goldens import picture

from lisa_core import overlay
from lisa_core.answer import Answer, Segment, tight_box
from lisa_core.errors import Cancelled, PromptError


class Frame:
    def __init__(self, rgb):
        self.image, self.size, self.timings = rgb, rgb.shape[:2], {"clip": 0.1}


class FakeEngine:
    """Says which turn it is and shows two segments; "for ever" goes on until it is cancelled, "fail" fails."""

    checkpoint, precision, device = "fake", "fp32", "cpu"

    def __init__(self):
        self.threads = set()

    def encode(self, rgb):
        self.threads.add(threading.get_ident())
        return Frame(rgb)

    def ask(self, frame, question, history, *, max_new_tokens, max_segments, on_token, cancel):
        self.threads.add(threading.get_ident())
        if question == "fail":
            raise PromptError("This cannot be asked; ask something else.")
        on_token("turn")
        while question == "for ever":
            if cancel.is_set():
                raise Cancelled("The question was cancelled.")
            time.sleep(0.01)
        on_token(f" {len(history)}")
        return Answer(f"turn {len(history)}", _segments(frame.size), timings={"decode": 0.2})

    def close(self):
        pass


def _segments(size):
    nothing = np.zeros(0, np.float32)
    masks = np.zeros((2, *size), bool)
    masks[0, 10:80, 10:120] = True
    masks[1, 60:160, 100:200] = True
    return tuple(Segment(mask, 0.9, tight_box(mask), nothing, nothing) for mask in masks)


def drawn(engine, name, question):
    """A golden's picture with what the engine finds on it."""
    rgb = picture(name)
    return overlay.draw(rgb, engine.ask(engine.encode(rgb), question).segments)


def alike(left, right):
    """Whether two pictures are the same but for a mask's pixel at its edge; see `goldens.same_answer`."""
    return left.shape == right.shape and (left != right).mean() < 1e-3


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@contextmanager
def serving(engine):
    """The page's address."""
    with page_of(engine) as (_, address):
        yield address


@contextmanager
def page_of(engine):
    """The page, served, and its address."""
    from lisa_core.web.app import Page
    from lisa_core.web.session import Inference, Sessions

    with TemporaryDirectory() as scratch, pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", scratch)
        inference = Inference(engine)
        page = Page(Sessions(inference), "a test", Path(scratch))
        port = free_port()
        page.launch("127.0.0.1", port)
        try:
            yield page, f"http://127.0.0.1:{port}"
        finally:
            page.close()
            inference.close()
