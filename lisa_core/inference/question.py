"""A question to an engine, checked and tokenized, and how long its answer may be."""

import threading
from collections.abc import Callable
from dataclasses import dataclass

from lisa_core.inference.frame import Frame


@dataclass(frozen=True, eq=False)
class Question:
    """What `LisaEngine.ask` was given.

    Attributes:
        ids: token ids of the whole conversation, one `IMAGE_ID` where the image stands.
        prompt: the same with one `IMAGE_ID` for each visual token.
        on_token: called with the answer's new text as it comes.
        on_stage: called with "answering" and "masking" when each begins.
        cancel: set from any thread to end it within one token.
    """

    frame: Frame
    ids: list[int]
    prompt: list[int]
    on_token: Callable[[str], None] | None
    on_stage: Callable[[str], None]
    cancel: threading.Event


@dataclass(frozen=True)
class Limits:
    """Of each answer, as in `LisaEngine.ask`."""

    new_tokens: int
    segments: int
    mask_only: bool
