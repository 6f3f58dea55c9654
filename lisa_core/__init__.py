"""LISA, the language model that answers with words and masks: numpy in, numpy out, no ROS.

The engine is imported on first use, so that the small modules (answers, geometry, overlays, errors)
cost no import of torch.
"""

from typing import TYPE_CHECKING, Any

from lisa_core.answer import Answer, Segment
from lisa_core.errors import (
    Cancelled,
    CheckpointError,
    DatasetError,
    DeviceError,
    DeviceUnusableError,
    ImageError,
    LisaError,
    OutOfMemoryError,
    PromptError,
)

if TYPE_CHECKING:
    from lisa_core.engine import Frame, LisaEngine

__all__ = [
    "Answer",
    "Cancelled",
    "CheckpointError",
    "DatasetError",
    "DeviceError",
    "DeviceUnusableError",
    "Frame",
    "ImageError",
    "LisaEngine",
    "LisaError",
    "OutOfMemoryError",
    "PromptError",
    "Segment",
]


def __getattr__(name: str) -> Any:
    if name in ("Frame", "LisaEngine"):
        from lisa_core import engine

        return getattr(engine, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
