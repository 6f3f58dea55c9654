"""Signals that end a process: they unwind it in order, and wait while another process is started."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals that end a process."""


@contextmanager
def ended_in_order() -> Iterator[None]:
    """SIGTERM and SIGHUP unwind the stack as Ctrl-C does, so that temporary files go; an ignored one stays ignored."""
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
    """Delays signals that end this process until after the block, which starts other processes.

    Python drops an exception that a handler raises during a fork, and the new process would run this one's handlers.
    """
    if threading.current_thread() is not threading.main_thread():  # handlers run in the main thread only
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
