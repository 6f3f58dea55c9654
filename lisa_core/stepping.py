"""One token more, at one call of the driver: on a GPU the step of decoding is a CUDA graph.

A step of a 7B model is some thousand small kernels, which take longer to launch than to run. Over a cache at fixed
addresses they are always the same, so they are recorded once and replayed; only the token and its position change.
"""

import logging
from collections.abc import Callable

import torch
from torch import Tensor

from lisa_core.model.language import KVCache, Language
from lisa_core.options import ResolvedPrecision

Replay = Callable[[], None]
Capture = Callable[[Replay], Replay]
"""Takes work on fixed addresses; gives back what does the same work again."""

_ALIKE = 0.05
"""How far the first replay may be from the step as it is without a graph, as a share of the largest element: 16 bit
sums in another order differ by a tenth of that, and a graph that went wrong by far more."""


def capture_for(device: torch.device, precision: ResolvedPrecision) -> Capture | None:
    """How steps are captured on a device; None where they are not: LLM.int8 asks the host about outliers."""
    if device.type != "cuda" or precision == "int8":
        return None
    return lambda work: _cuda_graph(work, device)


class Stepper:
    """Reads one token after those that a cache holds.

    Args:
        language: the model.
        capture: None: every step is launched kernel by kernel.
    """

    def __init__(self, language: Language, capture: Capture | None) -> None:
        self._language = language
        self._capture = capture
        self._recorded: _Recorded | None = None

    def step(self, token: int, cache: KVCache, position: int) -> Tensor:
        """(1, width) hidden state of the token at `position` after the last norm; its keys and values are cached."""
        if self._recorded is not None and self._recorded.cache is cache:
            return self._recorded.replay(token, position)
        self._recorded = None  # lets go of the last cache
        hidden = self._language(self._language.embed_tokens.weight[token][None], cache, position)
        if self._capture is not None:
            self._record(self._capture, token, cache, position, hidden)
        return hidden

    def _record(self, capture: Capture, token: int, cache: KVCache, position: int, hidden: Tensor) -> None:
        """Records the step that was just done; what cannot be recorded, or goes wrong, is never tried again."""
        try:
            recorded = _Recorded(self._language, cache, capture, token, position)
            off = float((recorded.replay(token, position) - hidden).abs().max() / hidden.abs().max())
        except RuntimeError as error:
            self._give_up(str(error))
            return
        if off <= _ALIKE:
            self._recorded = recorded
        else:
            self._give_up(f"its first replay was off by {100 * off:.0f} %")

    def _give_up(self, cause: str) -> None:
        self._capture = None
        logging.getLogger(__name__).warning("Decoding goes on without a CUDA graph, and slower: %s", cause)


class _Recorded:
    """The step over one cache; recording does it, too, so it is recorded with the token that stands at the position."""

    def __init__(self, language: Language, cache: KVCache, capture: Capture, token: int, position: int) -> None:
        self.cache = cache
        self._language = language
        self._token = torch.full((1,), token, dtype=torch.long, device=cache.keys.device)
        self._position = torch.full_like(self._token, position)
        self._hidden: Tensor
        self._replay = capture(self._work)
        self._hidden.zero_()  # so that a replay that does nothing is seen to be wrong

    def replay(self, token: int, position: int) -> Tensor:
        self._token.fill_(token)
        self._position.fill_(position)
        self._replay()
        return self._hidden.clone()

    def _work(self) -> None:
        embedding = self._language.embed_tokens(self._token)
        self._hidden = self._language.step(embedding, self.cache, self._position)


def _cuda_graph(work: Replay, device: torch.device) -> Replay:
    """Runs the work once, so that libraries are loaded and their workspaces made, and then records it."""
    with torch.cuda.device(device):
        before, aside = torch.cuda.current_stream(), torch.cuda.Stream()
        aside.wait_stream(before)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.stream(aside):  # which goes back to `before` after a capture that failed, too
            work()
            # a stream of its own, for torch's default one belongs to whichever device captured first
            with torch.cuda.graph(graph, stream=aside, capture_error_mode="thread_local"):
                work()
        before.wait_stream(aside)
    return graph.replay
