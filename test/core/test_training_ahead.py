"""Prefetched batches: in order, by a thread or by processes, which end with their consumer."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import torch
from torch import Tensor

from lisa_core import DatasetError, OutOfMemoryError
from lisa_core.tabletop.dataset import StoredScene
from lisa_core.training import ahead as module
from lisa_core.training import fresh, trouble
from lisa_core.training.ahead import ahead
from lisa_core.training.scenes import Scenes, Shown

STORED = Path(__file__).parents[1] / "data" / "tabletop_scenes"
SHAPE = fresh.small_shape(300)
WORKERS = pytest.mark.parametrize("workers", [0, 2])


@pytest.fixture(autouse=True)
def room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets machines with little shared memory test processes as well."""
    monkeypatch.setattr(module, "_ROOM", 0)


@pytest.fixture
def none_left() -> Iterator[None]:
    """No thread or process that made batches is left."""
    yield
    assert multiprocessing.active_children() == []
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("batches")]


def tensors(shown: Shown) -> list[Tensor]:
    return [shown.pictures, *vars(shown.truth).values()]


def drawn(step: int) -> Tensor:
    return torch.randn(3, generator=torch.Generator().manual_seed(step))


@WORKERS
@pytest.mark.usefixtures("none_left")
def test_batches_come_in_order(workers: int) -> None:
    made = list(ahead(lambda step: (step, drawn(step)), range(5, 25), workers))
    assert [step for step, _ in made] == list(range(5, 25))
    assert all(torch.equal(batch, drawn(step)) for step, batch in made)
    assert list(ahead(drawn, range(3, 3), workers)) == []


@WORKERS
@pytest.mark.usefixtures("none_left")
def test_scenes_are_the_same_whoever_reads_them(workers: int) -> None:
    scenes = Scenes(lambda index: StoredScene(STORED, index).read(), 6, 0)
    for step, sights in enumerate(ahead(lambda step: scenes.sights(step, 2, SHAPE), range(3), workers)):
        alone = scenes.sights(step, 2, SHAPE)
        pairs = zip(tensors(sights.clip) + tensors(sights.sam), tensors(alone.clip) + tensors(alone.sam), strict=True)
        assert all(torch.equal(one, other) for one, other in pairs)


@WORKERS
@pytest.mark.parametrize("error", [DatasetError("a scene is damaged"), FileNotFoundError(2, "No such file", "7.png")])
@pytest.mark.usefixtures("none_left")
def test_what_is_wrong_with_a_file_is_told_as_it_is(workers: int, error: Exception) -> None:
    def make(step: int) -> int:
        if step == 7:
            raise error
        return step

    made = []
    with pytest.raises(type(error)) as told:
        made.extend(ahead(make, range(20), workers))
    assert str(told.value) == str(error)


@pytest.mark.usefixtures("none_left")
def test_a_bug_in_a_process_surfaces() -> None:
    with pytest.raises(ZeroDivisionError, match=r"1 // step"):
        list(ahead(lambda step: 1 // step, range(3), 2))


@WORKERS
@pytest.mark.usefixtures("none_left")
def test_who_needs_no_more_ends_them(workers: int) -> None:
    batches = ahead(drawn, range(1_000_000), workers)
    next(batches)
    assert bool(multiprocessing.active_children()) == bool(workers)
    batches.close()


def test_without_room_to_share_they_are_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_ROOM", 1 << 60)
    batches = ahead(drawn, range(1_000), 2)
    assert torch.equal(next(batches), drawn(0))
    assert multiprocessing.active_children() == []
    assert [torch.equal(next(batches), drawn(step)) for step in range(1, 20)] == [True] * 19


INTERRUPTED = """
import numpy as np, cv2, torch
from lisa_core.training import ahead
ahead._ROOM = 0
cv2.setNumThreads(4)
def make(step):
    torch.ones(300, 300) @ torch.ones(300, 300)
    return cv2.resize(np.full((900, 900), step % 256, np.uint8), (100, 100), interpolation=cv2.INTER_AREA)
make(0)
try:
    for step, batch in enumerate(ahead.ahead(make, range(1_000_000), 2)):
        if step == 10:
            print("under way", flush=True)
except KeyboardInterrupt:
    print("stopped", flush=True)
"""


@pytest.mark.timeout(60)
def test_an_interrupt_ends_processes_that_follow_threads(tmp_path: Path) -> None:
    script = tmp_path / "learns.py"
    script.write_text(INTERRUPTED)
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as learning:
        assert learning.stdout
        assert learning.stdout.readline() == "under way\n"
        workers = psutil.Process(learning.pid).children(recursive=True)
        assert len(workers) >= 2
        learning.send_signal(signal.SIGINT)
        assert learning.stdout.readline() == "stopped\n"
        assert learning.wait(20) == 0
    assert psutil.wait_procs(workers, 10)[1] == []


def test_a_worker_that_was_killed_is_told_and_a_fault_in_one_is_not_hidden(tmp_path: Path) -> None:
    with (
        pytest.raises(OutOfMemoryError, match="fewer pictures a step"),
        trouble.translated(tmp_path, torch.device("cpu")),
    ):
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")
    with pytest.raises(RuntimeError, match="process 0"), trouble.translated(tmp_path, torch.device("cpu")):
        raise RuntimeError("Caught RuntimeError in DataLoader worker process 0.")


GROUP = """
import signal, sys, time, warnings
from multiprocessing.context import ForkProcess
from lisa_core.signals import ended_in_order
from lisa_core.training.ahead import _by_processes

def make(number):
    time.sleep(0.01)
    return number

signal.signal(signal.SIGHUP, signal.SIG_DFL)  # as on a terminal, and not as under nohup
run = ForkProcess.run
ForkProcess.run = lambda process: (time.sleep(process.name == "ForkProcess-2"), run(process))  # it starts late
warnings.filterwarnings("ignore", "This DataLoader will create 2 worker processes")  # more than there are CPUs
try:
    with ended_in_order():
        for made in _by_processes(make, range(10**6), 2):
            if made == 0:
                print("begun", flush=True)
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.mark.parametrize(("told", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)])
def test_a_group_that_is_told_to_end_is_no_crash_of_its_workers(told: int, code: int) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", GROUP],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "begun\n"
        os.killpg(process.pid, told)
        try:
            assert process.wait(60) == code
        finally:
            process.kill()
        assert process.stderr.read() == ""
