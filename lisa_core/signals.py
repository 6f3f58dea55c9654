"""Being told to end: in order, and not while another process is made."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""What tells a process to end."""


@contextmanager
def ended_in_order() -> Iterator[None]:
    """Being terminated or hung up unwinds as Ctrl-C does, or files would stay; ignored, as under nohup, it stays so."""
    before = {name: signal.getsignal(name) for name in (signal.SIGTERM, signal.SIGHUP)}
    for name, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(name, lambda number, _: sys.exit(128 + number))
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)


@contextmanager
def postponed() -> Iterator[None]:
    """What tells this process to end is obeyed after the block, in which processes are made.

    In the middle of a fork Python drops what a handler raises, and the new process would obey the handlers of this one.
    """
    if threading.current_thread() is not threading.main_thread():  # no handler runs in it
        yield
        return
    came: list[int] = []
    handlers = {number: signal.getsignal(number) for number in ENDING}
    before = {number: handler for number, handler in handlers.items() if handler not in (None, signal.SIG_IGN)}
    for number in before:
        signal.signal(number, lambda number, _: came.append(number))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for told in came:
            signal.raise_signal(told)
