"""Loads, describes and closes the engine."""

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from rclpy.impl.rcutils_logger import RcutilsLogger

from lisa_core.late import Load
from lisa_core.options import CHECKPOINT
from lisa_ros.lifecycle import TransitionFailed
from lisa_ros.parameters import Parameters

if TYPE_CHECKING:
    from lisa_core import LisaEngine

MEMORY_INTERVAL = 1.0
"""Least seconds between two measurements of the engine's memory."""


class Model:
    """Loads the engine, and has what the diagnostics say about it.

    Attributes:
        engine: None unless loaded.
        progress: how far loading has got, in words; empty unless it is loading.
        facts: about the loaded engine, for the diagnostics.
        gpu_worked: whether an engine was ever loaded to a GPU.
    """

    def __init__(self, load: Load, wanted: Callable[[], bool], logger: RcutilsLogger) -> None:
        self._load = load
        self._wanted = wanted
        self._logger = logger
        self._measured = 0.0
        self.engine: LisaEngine | None = None
        self.progress = ""
        self.facts: dict[str, object] = {}
        self.gpu_worked = False

    def load(self, parameters: Parameters) -> None:
        """Load the checkpoint that the parameters name; raises LisaError, DeviceError among them, if it cannot be."""
        self._logger.info(f"loading {parameters.checkpoint}")
        self.progress = "starting"
        began = time.monotonic()
        try:
            engine = self._load(
                parameters.checkpoint,
                precision=parameters.precision,
                device=parameters.device or None,
                vision_tower=parameters.vision_tower or None,
                template=parameters.template or None,
                memory_limit=parameters.memory_limit,
                on_progress=self._on_progress,
            )
        finally:
            self.progress = ""
        self.engine = engine
        self.gpu_worked |= engine.device != "cpu"
        self.facts = {
            "checkpoint": engine.checkpoint,
            "precision": engine.precision,
            "device": engine.device,
            "loaded in, s": f"{time.monotonic() - began:.1f}",
        }
        self.measure()
        self._tell(engine, parameters)

    def _tell(self, engine: "LisaEngine", parameters: Parameters) -> None:
        """Log what answers from now on."""
        toy = " (knows rendered tables only)" if engine.checkpoint == CHECKPOINT else ""
        seconds = self.facts["loaded in, s"]
        self._logger.info(
            f"{engine.checkpoint}{toy} answers in {engine.precision} on {engine.device}; loaded in {seconds} s"
        )
        if engine.device == "cpu" and not parameters.device and not toy:
            self._logger.warning(
                "torch sees no GPU here, so answers come from the CPU, and slowly: see whether nvidia-smi shows one,"
                " and whether torch was built for its driver; if the CPU is meant, set the parameter device to cpu"
            )

    def close(self) -> None:
        """Free the engine's memory, and let go of the engine even if that raises, as DeviceError."""
        engine, self.engine, self.facts = self.engine, None, {}
        if engine is not None:
            engine.close()

    def measure(self) -> None:
        """Measure the engine's memory, at most once a second; call on the thread that owns the engine."""
        now = time.monotonic()
        if self.engine is not None and now - self._measured >= MEMORY_INTERVAL:
            self._measured = now
            self.facts = self.facts | _memory_facts(self.engine.memory())  # a new one: another thread reads it

    def _on_progress(self, fraction: float, what: str) -> None:
        if not self._wanted():
            raise TransitionFailed("the node was ended while it loaded the model.")
        self.progress = f"{fraction:.0%}, {what}"


def _memory_facts(parts: Mapping[str, int]) -> dict[str, object]:
    facts: dict[str, object] = {f"memory of {part}, MiB": f"{held / 2**20:.1f}" for part, held in parts.items()}
    return {"memory, MiB": f"{sum(parts.values()) / 2**20:.1f}"} | facts
