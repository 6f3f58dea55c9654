"""An answer while it is decoded: its tokens, its words so far, and the hidden states behind its `[SEG]`s."""

from collections.abc import Callable

from torch import Tensor

from lisa_core.template import EOS, SEG, Special
from lisa_core.tokenizer import Tokenizer


class Reply:
    """Collects the tokens of one answer and passes new text on as it comes.

    Attributes:
        ids: the tokens so far.
        states: (1, width) each, the hidden states that emitted the `[SEG]`s among them.
    """

    def __init__(self, tokenizer: Tokenizer, on_token: Callable[[str], None] | None = None) -> None:
        self._tokenizer = tokenizer
        self._seg = tokenizer.special_ids[SEG]
        self._on_token = on_token
        self._told = ""
        self.ids: list[int] = []
        self.states: list[Tensor] = []

    @property
    def text(self) -> str:
        """The words so far."""
        return self._tokenizer.decode(self.ids)

    def add(self, token: int, hidden: Tensor) -> None:
        """Adds the next token and the (1, width) hidden state that emitted it."""
        self.ids.append(token)
        if token == self._seg:
            self.states.append(hidden)
        if self._on_token is not None:
            text = self.text
            if text.startswith(self._told) and text != self._told and not text.endswith("\ufffd"):  # half a character
                self._on_token(text[len(self._told) :])
                self._told = text

    def assume_mask(self, hidden: Tensor) -> None:
        """Takes "[SEG]." for the whole answer, without decoding; (1, width) `hidden` ends the prompt."""
        self.ids = self._tokenizer.encode([Special(SEG), ".", Special(EOS)])[1:]
        self.states = [hidden]

    def end(self) -> None:
        """Passes on the text that was held back as half a character."""
        if self._on_token is not None and (rest := self.text[len(self._told) :]):
            self._on_token(rest)
