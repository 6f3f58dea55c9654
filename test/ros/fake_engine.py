"""A stand-in for the engine: it finds colours by name, at once, and does on demand what goes wrong in real life.

The instruction says what to do: colour words give one segment each, and `word=value` are orders: `delay=S` takes S
seconds and can be cancelled, `hang=S` takes S seconds and cannot, `tokens=N` says N words more, `pause=S` seconds
apart, `fail=KIND` raises. The checkpoint's name gives orders too: `fails...` cannot be loaded, `breaks...` raises what
nobody expects, `until PATH` takes until there is such a file, `heavy...` holds 100 MiB, and 50 more for each frame.
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scenes import COLOURS, found

from lisa_core import Answer, Cancelled, CheckpointError, ImageError, LisaError, OutOfMemoryError, PromptError, Segment
from lisa_core.answer import tight_box

FAILURES: Mapping[str, Callable[[], BaseException]] = {
    "memory": lambda: OutOfMemoryError("out of memory on purpose: free some"),
    "prompt": lambda: PromptError("too long on purpose: say less"),
    "python": lambda: RuntimeError("broken on purpose"),
    "exit": lambda: SystemExit("left on purpose"),
    "allocation": MemoryError,
}


@dataclass(eq=False)
class FakeFrame:
    """An encoded picture."""

    image: NDArray[np.uint8]
    ballast: NDArray[np.uint8]

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        return (self.image.shape[0], self.image.shape[1])


class FakeEngine:
    """What the node needs of `LisaEngine`."""

    def __init__(self, checkpoint: str, precision: str) -> None:
        self.checkpoint = checkpoint
        self.precision = "fp32" if precision == "auto" else precision
        self.device = "cpu"
        self._heavy = checkpoint.startswith("heavy")
        self._ballast = np.ones(100 << 20 if self._heavy else 1 << 20, np.uint8)
        self._owner: int | None = None
        self.encoded = 0

    @classmethod
    def from_pretrained(
        cls,
        checkpoint: str,
        precision: str = "auto",
        device: str | None = None,
        vision_tower: str | None = None,
        template: str | None = None,
        *,
        memory_limit: float = 0.0,
        on_progress: Callable[[float, str], None] | None = None,
    ) -> "FakeEngine":
        """As `LisaEngine.from_pretrained`, with a checkpoint that is only a name."""
        if checkpoint.startswith("fails"):
            raise CheckpointError(f"{checkpoint} is no checkpoint: name a folder that is one")
        if checkpoint.startswith("breaks"):
            raise RuntimeError("an error that nobody thought of")
        if checkpoint.startswith("until "):
            while not Path(checkpoint.removeprefix("until ")).exists():
                time.sleep(0.1)
                if on_progress is not None:
                    on_progress(0.5, "shard")
        return cls(checkpoint, precision)

    def encode(self, rgb: NDArray[np.uint8]) -> FakeFrame:
        """Keep the picture."""
        self._check_thread()
        if min(rgb.shape[:2]) < 2:
            raise ImageError(f"an image of {rgb.shape[1]}x{rgb.shape[0]} is too small: 2x2 is the least")
        self.encoded += 1
        return FakeFrame(rgb, np.ones(50 << 20 if self._heavy else 0, np.uint8))

    def ask(
        self,
        frame: FakeFrame,
        instruction: str,
        history: Sequence[tuple[str, str]] = (),
        *,
        max_new_tokens: int = 512,
        max_segments: int = 16,
        mask_only: bool = False,
        on_token: Callable[[str], None] | None = None,
        on_stage: Callable[[str], None] | None = None,
        cancel: threading.Event | None = None,
    ) -> Answer:
        """Find the colours that the instruction names; obey its orders."""
        self._check_thread()
        words = instruction.split()
        orders = dict(word.split("=", 1) for word in words if "=" in word)
        if on_stage is not None:
            on_stage("answering")
        _take_time(orders, cancel or threading.Event(), on_token)
        if "fail" in orders:
            raise FAILURES[orders["fail"]]()
        if on_stage is not None:
            on_stage("masking")
        segments = tuple(_segment(found(frame.image, word)) for word in words if word in COLOURS)[:max_segments]
        masks = ", ".join(["[SEG]"] * len(segments)) or "nothing"
        text = "[SEG]." if mask_only else f"Turn {len(history) + 1}: {instruction} is {masks}."
        return Answer(text=text, segments=segments, timings={"decode": 0.0})

    def memory(self) -> Mapping[str, int]:
        """Bytes by part."""
        return {"language": self._ballast.nbytes, "sam": 0}

    def close(self) -> None:
        """Give the memory back."""
        self._ballast = np.empty(0, np.uint8)

    def _check_thread(self) -> None:
        self._owner = self._owner or threading.get_ident()
        if self._owner != threading.get_ident() or not self._ballast.size:
            raise LisaError("the engine is used from two threads, or after it was closed")


def _take_time(orders: Mapping[str, str], cancel: threading.Event, on_token: Callable[[str], None] | None) -> None:
    time.sleep(float(orders.get("hang", 0)))
    for _ in range(int(orders.get("tokens", 0))):
        _wait(cancel, float(orders.get("pause", 0)))
        if on_token is not None:
            on_token("word ")
    _wait(cancel, float(orders.get("delay", 0)))


def _wait(cancel: threading.Event, seconds: float) -> None:
    if cancel.wait(seconds):
        raise Cancelled("the question was cancelled")


def _segment(mask: NDArray[np.bool_]) -> Segment:
    nothing: Any = np.zeros(0, np.float32)
    return Segment(mask=mask, score=0.9, box=tight_box(mask), embedding=nothing, low_res_logits=nothing)
