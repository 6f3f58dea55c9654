"""Being told to end while a process is made: afterwards it is obeyed, and nobody is lost."""

import signal
import subprocess
import sys
import threading

import pytest

from lisa_core.signals import ENDING, postponed

LOSES = """
import logging, os, signal, subprocess, sys
from lisa_core.signals import postponed
signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
os.register_at_fork(after_in_parent=lambda: os.kill(os.getpid(), signal.SIGTERM))
with postponed():
    process = subprocess.Popen([sys.executable, "-c", ""], preexec_fn=lambda: None)
print("goes on")
"""


def test_an_end_that_is_told_in_the_middle_of_a_fork_is_not_lost() -> None:
    ended = subprocess.run([sys.executable, "-c", LOSES], capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (143, "", "")


@pytest.mark.parametrize("number", ENDING)
def test_it_is_obeyed_after_the_block_by_the_handler_from_before(number: signal.Signals) -> None:
    came = []
    before = signal.signal(number, lambda number, _: came.append(number))
    try:
        with postponed():
            signal.raise_signal(number)
            assert not came
        assert came == [number]
        signal.raise_signal(number)
        assert came == [number] * 2
    finally:
        signal.signal(number, before)


def test_what_is_ignored_stays_so() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with postponed():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_another_thread_that_makes_processes_changes_no_handler() -> None:
    found = []

    def work() -> None:
        with postponed():
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [signal.getsignal(signal.SIGTERM)]
