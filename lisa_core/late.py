"""The engine, imported no sooner than it loads a model: torch takes seconds to import, and programs start before."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lisa_core.engine import LisaEngine

Load = Callable[..., "LisaEngine"]
"""`LisaEngine.from_pretrained`, or what a test puts in its place."""


def load_engine(*args: Any, **options: Any) -> "LisaEngine":
    """`LisaEngine.from_pretrained`."""
    from lisa_core.engine import LisaEngine

    return LisaEngine.from_pretrained(*args, **options)
