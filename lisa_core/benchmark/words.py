"""A tokenizer without a vocabulary file: the id of a word is its hash, and decoded words encode to the same ids."""

import re
import zlib
from collections.abc import Sequence

from lisa_core.template import BOS, EOS, IM_END, IM_START, SEG
from lisa_core.tokenizer import Tokenizer

_PIECES = re.compile(r"\w+|[^\w\s]")
_NAMED = re.compile(r"w(\d+)")
_FIRST = 3
"""First id of a word; below are Llama's unknown, begin and end of sequence."""


class WordTokenizer(Tokenizer):
    """LISA's tokenizer over `vocabulary` ids; the last three are `[SEG]`, `<im_start>` and `<im_end>`.

    A decoded word contains its id, so that an answer in a history encodes to its original tokens.
    """

    def __init__(self, vocabulary: int) -> None:
        self._legacy = True
        added = (SEG, IM_START, IM_END)
        words = vocabulary - len(added)
        self._words = _HashedWords(words)  # type: ignore[assignment]
        self.special_ids = {BOS: 1, EOS: 2, **{name: words + index for index, name in enumerate(added)}}
        self._names = {token_id: name for name, token_id in self.special_ids.items()}


class _HashedWords:
    """The part of sentencepiece's interface that `Tokenizer` uses."""

    def __init__(self, size: int) -> None:
        self._size = size

    def vocab_size(self) -> int:
        return self._size

    def EncodeAsIds(self, words: str) -> list[int]:  # noqa: N802, sentencepiece's name
        return [self._id(word) for word in _PIECES.findall(words)]

    def DecodeIds(self, ids: Sequence[int]) -> str:  # noqa: N802
        return " ".join(f"w{token_id}" for token_id in ids)

    def _id(self, word: str) -> int:
        named = _NAMED.fullmatch(word)
        if named and int(named[1]) < self._size:
            return int(named[1])
        return _FIRST + zlib.crc32(word.encode()) % (self._size - _FIRST)
