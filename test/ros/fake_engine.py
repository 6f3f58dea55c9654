"""A fake engine: it finds colours by name, at once, and simulates on demand what goes wrong in real life.

Each colour word of the instruction gives one segment. Words `name=value` are orders:
`delay=S` takes S seconds and can be cancelled; `hang=S` takes S seconds and cannot;
`until=PATH` takes until that file exists, and can be cancelled;
`deaf=S` goes on for S seconds after it was cancelled;
`masks=S` spends S seconds on the masks, less if it is cancelled then;
`tokens=N` says N more words, `pause=S` seconds apart;
`fail=KIND` raises; `fail_together=KIND` raises unless it is asked alone; `alone` is answered only if it is asked alone;
`company` says how many questions are asked at once.
The checkpoint's name gives orders, too: `fails...` cannot be loaded; `breaks...` raises an unexpected error;
`on a gpu...` says that it is there; `no device...` and `lost...` find a GPU that does not work, or fails meanwhile;
`until PATH` loads until that file exists; `heavy...` holds 100 MiB, and 50 MiB more for each frame.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scenes import COLOURS, found

from lisa_core import (
    Answer,
    Cancelled,
    CheckpointError,
    DeviceError,
    DeviceUnusableError,
    ImageError,
    LisaError,
    OutOfMemoryError,
    PromptError,
    Segment,
)
from lisa_core.answer import tight_box

FAILURES: Mapping[str, Callable[[], BaseException]] = {
    "memory": lambda: OutOfMemoryError("out of memory on purpose: free some"),
    "prompt": lambda: PromptError("too long on purpose: say less"),
    "python": lambda: RuntimeError("broken on purpose"),
    "exit": lambda: SystemExit("left on purpose"),
    "allocation": MemoryError,
    "device": lambda: DeviceError("the GPU failed on purpose; start this program anew"),
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
    """The part of `LisaEngine` that the node uses."""

    def __init__(self, checkpoint: str, precision: str) -> None:
        self.checkpoint = checkpoint
        self.precision = "fp32" if precision == "auto" else precision
        self.device = "cuda" if checkpoint.startswith("on a gpu") else "cpu"
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
        if checkpoint.startswith("no device"):
            raise DeviceUnusableError("there is no GPU on purpose: see why")
        if checkpoint.startswith("lost"):
            raise FAILURES["device"]()
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
        listeners = on_token or _nobody, on_stage or _nobody
        answering = _answering(
            frame, instruction, history, max_segments, mask_only, *listeners, cancel or threading.Event(), 1
        )
        return deque(answering, maxlen=1).pop()  # type: ignore[return-value]  # alone it is raised, not returned

    def ask_many(
        self,
        frame: FakeFrame | Sequence[FakeFrame],
        instructions: Sequence[str],
        histories: Sequence[Sequence[tuple[str, str]]] = (),
        *,
        max_new_tokens: int = 512,
        max_segments: int = 16,
        mask_only: bool = False,
        on_token: Callable[[int, str], None] | None = None,
        on_stage: Callable[[int, str], None] | None = None,
        on_answer: Callable[[int, Answer | Cancelled], None] | None = None,
        cancels: Sequence[threading.Event] = (),
    ) -> list[Answer | Cancelled]:
        """As `ask`; takes a step of each question in turn."""
        self._check_thread()
        count = len(instructions)
        frames = [frame] * count if isinstance(frame, FakeFrame) else frame
        histories, cancels = histories or [()] * count, cancels or [threading.Event() for _ in instructions]
        going, ends = {}, {}
        for index, of_one in enumerate(zip(frames, instructions, histories, strict=True)):
            listeners = partial(on_token or _nobody, index), partial(on_stage or _nobody, index)
            going[index] = _answering(*of_one, max_segments, mask_only, *listeners, cancels[index], count)
        while going:
            for index, steps in list(going.items()):
                try:
                    answer = next(steps)
                except Cancelled as error:
                    answer = Cancelled(*error.args)
                if answer is not None:
                    del going[index]
                    ends[index] = answer
                    (on_answer or _nobody)(index, answer)
        return [ends[index] for index in range(count)]

    def memory(self) -> Mapping[str, int]:
        """Bytes by part."""
        return {"language": self._ballast.nbytes, "sam": 0}

    def close(self) -> None:
        """Free the memory."""
        self._ballast = np.empty(0, np.uint8)

    def _check_thread(self) -> None:
        self._owner = self._owner or threading.get_ident()
        if self._owner != threading.get_ident() or not self._ballast.size:
            raise LisaError("the engine is used from two threads, or after it was closed")


def _answering(
    frame: FakeFrame,
    instruction: str,
    history: Sequence[tuple[str, str]],
    max_segments: int,
    mask_only: bool,
    on_token: Callable[[str], object],
    on_stage: Callable[[str], object],
    cancel: threading.Event,
    together: int,
) -> Iterator[Answer | Cancelled | None]:
    """Answers in small steps: yields None for each step but the last, which yields the answer."""
    words = instruction.split()
    orders = dict(word.split("=", 1) for word in words if "=" in word)
    on_stage("answering")
    for _ in _taking_time(orders, cancel, on_token):
        yield None
    while "alone" in words and together > 1:
        yield from _waiting(cancel, 0.01)
        yield None
    failure = orders.get("fail") or (orders.get("fail_together") if together > 1 else None)
    if failure:
        raise FAILURES[failure]()
    on_stage("masking")
    cancel.wait(float(orders.get("masks", 0)))
    segments = tuple(_segment(found(frame.image, word)) for word in words if word in COLOURS)[:max_segments]
    masks = ", ".join(["[SEG]"] * len(segments)) or "nothing"
    company = f" ({together} at once)" if "company" in words else ""
    text = "[SEG]." if mask_only else f"Turn {len(history) + 1}: {instruction} is {masks}{company}."
    yield Answer(text=text, segments=segments, timings={"decode": 0.0})


def _taking_time(
    orders: Mapping[str, str], cancel: threading.Event, on_token: Callable[[str], object]
) -> Iterator[None]:
    time.sleep(float(orders.get("hang", 0)))
    if "deaf" in orders:
        cancel.wait()
        time.sleep(float(orders["deaf"]))
    while "until" in orders and not Path(orders["until"]).exists():
        yield from _waiting(cancel, 0.01)
    for _ in range(int(orders.get("tokens", 0))):
        yield from _waiting(cancel, float(orders.get("pause", 0)))
        on_token("word ")
    yield from _waiting(cancel, float(orders.get("delay", 0)))


def _waiting(cancel: threading.Event, seconds: float) -> Iterator[None]:
    end = time.monotonic() + seconds
    while not cancel.wait(min(0.01, max(0.0, end - time.monotonic()))):
        if time.monotonic() >= end:
            return
        yield
    raise Cancelled("the question was cancelled")


def _nobody(*_: object) -> None:
    """Stands in for a listener."""


def _segment(mask: NDArray[np.bool_]) -> Segment:
    nothing: Any = np.zeros(0, np.float32)
    return Segment(mask=mask, score=0.9, box=tight_box(mask), embedding=nothing, low_res_logits=nothing)
