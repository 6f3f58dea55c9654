"""Quantising a checkpoint of LISA's size and loading it: seconds, and host memory.

    .venv/bin/python benchmarks/loading.py FOLDER [--shape 7b] [--ask] [--json FILE]

Makes FOLDER with random weights in the layout of the released ones (fp16, in `.bin` shards of about 5 GB; 15 GB for 7b)
and their 4-bit twin, and leaves both there. Each step is a process of its own on the CPU, and reads files that are not
in the page cache. Needs Linux. Fails if a step needs more private memory than the quantised model plus 1 GB, if the
original in nf4 and its twin differ in weights, or with --ask in their answers.
"""

import argparse
import json
import math
import multiprocessing
import os
import shutil
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from itertools import groupby
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

import lisa_core
from lisa_core import LisaEngine, quantization
from lisa_core.benchmark.random_model import RandomCheckpoint
from lisa_core.checkpoint import OWN_TOWER
from lisa_core.checkpoint_files import TOKENIZER_FILES
from lisa_core.cli import main as lisa
from lisa_core.files import whole_folder
from lisa_core.model.lisa import released_name
from lisa_core.training.fresh import config_of, tower_config_of

CPU = torch.device("cpu")
GB = 1e9
SHARD = 5 * GB
ALLOWED = 1 * GB
"""Bytes that a step may need on top of the quantised model."""


@dataclass(frozen=True)
class Memory:
    """Bytes of a process: private ones, and those of mapped files, which the system can reclaim."""

    own: int
    mapped: int

    @classmethod
    def of(cls, process: int) -> "Memory":
        lines = Path(f"/proc/{process}/status").read_text(encoding="ascii").splitlines()
        kib = {line.split(":")[0]: int(line.split()[1]) for line in lines if line.startswith("Rss")}
        return cls(kib.get("RssAnon", 0) << 10, kib.get("RssFile", 0) << 10)


@dataclass(frozen=True)
class Step:
    """The cost of a step.

    Attributes:
        wall: seconds.
        cpu: seconds of all threads.
        peak: the peaks of both kinds of memory, not necessarily at the same time.
        size: bytes of the quantised model, on disk or in memory.
        used: memory of a loaded model, once all of its weights have been read.
        weights: checksum of the weights.
        answer: tokens, and a checksum of the mask's logits, if it was asked.
    """

    name: str
    wall: float
    cpu: float
    peak: Memory
    size: int
    used: Memory | None = None
    weights: int | None = None
    answer: tuple[list[int], int] | None = None


def write_checkpoint(name: Any, out: Path) -> None:
    """Random weights of a shape, in the official v1 layout."""
    checkpoint = RandomCheckpoint.of(name, "fp16", CPU)
    places = _places(checkpoint)
    with whole_folder(out) as folder:
        (folder / OWN_TOWER).mkdir()
        for place, parameters in groupby(checkpoint.tensors(), lambda drawn: places[drawn[0]]):
            torch.save({released_name(parameter): tensor for parameter, tensor, _ in parameters}, folder / place)
        index = {released_name(parameter): place for parameter, place in places.items() if OWN_TOWER not in place}
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
        (folder / "config.json").write_text(json.dumps(config_of(checkpoint.shape)))
        (folder / OWN_TOWER / "config.json").write_text(json.dumps(tower_config_of(checkpoint.shape.clip)))
        _write_tokenizer(checkpoint.shape.language.vocabulary, folder)


def _places(checkpoint: RandomCheckpoint) -> dict[str, str]:
    """The file of each parameter; a shard is full once it has `SHARD` bytes."""
    shards: dict[str, int] = {}
    written = 0
    for parameter, stored in checkpoint.stored.items():
        if not parameter.startswith("clip."):
            shards[parameter] = 1 + int(written // SHARD)
            written += math.prod(stored.shape) * torch.float16.itemsize
    count = max(shards.values())
    return {
        parameter: f"pytorch_model-{shards[parameter]:05}-of-{count:05}.bin"
        if parameter in shards
        else f"{OWN_TOWER}/pytorch_model.bin"
        for parameter in checkpoint.stored
    }


def _write_tokenizer(vocabulary: int, folder: Path) -> None:
    """Writes the bundled tokenizer, with enough added words for all ids of random weights."""
    model, added = (Path(lisa_core.__file__).with_name("bundled") / file for file in TOKENIZER_FILES)
    tokens = json.loads(added.read_text(encoding="utf-8"))
    tokens |= {f"<{word}>": word for word in range(max(tokens.values()) + 1, vocabulary)}
    (folder / added.name).write_text(json.dumps(tokens), encoding="utf-8")
    shutil.copyfile(model, folder / model.name)


def quantise(pipe: Connection, original: Path, out: Path) -> None:
    """Runs `lisa quantize` in this process, and sends its cost."""
    with _costs(pipe) as costs:
        with suppress(SystemExit):  # the folder tells whether it worked
            lisa(["quantize", str(original), str(out), "--device", "cpu"])
        assert out.is_dir(), "lisa quantize failed"
        costs["size"] = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())


def load(pipe: Connection, folder: Path, ask: bool) -> None:
    """Loads a model in nf4 in this process, and sends the cost; then a checksum of the weights, and an answer."""
    with _costs(pipe) as costs:
        engine = LisaEngine.from_pretrained(folder, "nf4", "cpu")
        costs["size"] = sum(engine.memory().values())
    checksum = _checksum_of(engine)
    pipe.send({"used": Memory.of(os.getpid()), "weights": checksum, "answer": _answer(engine) if ask else None})


@contextmanager
def _costs(pipe: Connection) -> Iterator[dict[str, Any]]:
    """Times the block, and sends the times with what the block adds to the dict."""
    costs: dict[str, Any] = {}
    wall, cpu = time.perf_counter(), time.process_time()
    yield costs
    pipe.send({"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu, **costs})


def _checksum_of(engine: LisaEngine) -> int:
    checksum = 0
    for _, weight in sorted(engine._ready().named_parameters()):
        statistics = quantization.statistics_of(weight) if hasattr(weight, "quant_state") else {}
        for tensor in (weight, *statistics.values()):
            checksum = _checksum(tensor.detach().numpy(), checksum)
    return checksum


def _checksum(array: Any, before: int = 0) -> int:
    return zlib.crc32(np.ascontiguousarray(array).view(np.uint8).data, before)


def _answer(engine: LisaEngine) -> tuple[list[int], int]:
    picture = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    frame = engine.encode(picture)
    words = engine.ask(frame, "segment the handle", max_new_tokens=2)
    mask = engine.ask(frame, "segment the handle", mask_only=True)
    return list(words.token_ids), _checksum(mask.segments[0].low_res_logits)


def measure(name: str, target: Callable[..., None], *arguments: Any) -> Step:
    """Runs a step in a process, and samples its memory until it sends its cost."""
    print(f"{name} ...", flush=True)
    spawn = multiprocessing.get_context("spawn")
    receiver, sender = spawn.Pipe(duplex=False)
    process = spawn.Process(target=target, args=(sender, *arguments))
    process.start()
    sender.close()  # so that recv() ends if the process dies
    assert process.pid is not None
    samples: list[Memory] = []
    with _watching(process.pid, samples):
        costs = receiver.recv()
    if target is load:
        costs |= receiver.recv()
    process.join()
    peak = Memory(max(sample.own for sample in samples), max(sample.mapped for sample in samples))
    return Step(name, peak=peak, **costs)


@contextmanager
def _watching(process: int, samples: list[Memory]) -> Iterator[None]:
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            samples.append(Memory.of(process))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


def forget(folder: Path) -> None:
    """Drops the files from the page cache, so that the next reader waits for the disk."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def report(steps: list[Step]) -> None:
    """Print the cost of each step."""
    table = Table(title="GB; in files: mapped, and the system's to take back")
    columns = ("", "seconds", "CPU s", "size", "own, peak", "peak - size", "in files, peak")
    for column in (*columns, "own, in use", "in files, in use"):
        table.add_column(column, justify="right" if column else "left")
    for step in steps:
        used = ("", "") if step.used is None else (step.used.own, step.used.mapped)
        sizes = (step.size, step.peak.own, step.peak.own - step.size, step.peak.mapped, *used)
        table.add_row(
            step.name,
            f"{step.wall:.1f}",
            f"{step.cpu:.1f}",
            *(size if isinstance(size, str) else f"{size / GB:.2f}" for size in sizes),
        )
    Console(width=140).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="to make")
    parser.add_argument("--shape", choices=("small", "7b", "13b"), default="small")
    parser.add_argument("--ask", action="store_true", help="compare an answer, too; takes minutes for 7b")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers")
    options = parser.parse_args()
    original, twin = options.folder / "original", options.folder / "quantised"
    options.folder.mkdir(parents=True)
    write_checkpoint(options.shape, original)
    forget(original)
    steps = [measure("lisa quantize", quantise, original, twin)]
    for name, folder in (("original, in nf4", original), ("quantised", twin)):
        forget(folder)
        steps.append(measure(name, load, folder, options.ask))
    report(steps)
    if options.json:
        options.json.write_text(json.dumps([asdict(step) for step in steps], indent=1))
    for step in steps:
        assert step.peak.own - step.size <= ALLOWED, f"{step.name} needs too much memory"
    assert steps[1].weights == steps[2].weights, "other weights"
    assert steps[1].answer == steps[2].answer, "another answer"


if __name__ == "__main__":
    main()
