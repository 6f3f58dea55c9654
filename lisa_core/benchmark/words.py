"""A tokenizer without a vocabulary file: the id of a word is its hash, and decoded words encode to the same ids."""

import re
import zlib

from lisa_core.template import IM_END, IM_START, SEG
from lisa_core.tokenizer import Tokenizer

_PIECES = re.compile(r"\w+|[^\w\s]")
_NAMED = re.compile(r"w(\d+)")
_FIRST = 3
"""First id of a word; below are Llama's unknown, begin and end of sequence."""


def word_tokenizer(vocabulary: int) -> Tokenizer:
    """LISA's tokenizer over `vocabulary` ids; the last three are `[SEG]`, `<im_start>` and `<im_end>`.

    A decoded word contains its id, so that an answer in a history encodes to its original tokens.
    """
    added = (SEG, IM_START, IM_END)
    words = vocabulary - len(added)
    return Tokenizer(_HashedWords(words), {name: words + index for index, name in enumerate(added)})


class _HashedWords:
    """Stands in for sentencepiece."""

    def __init__(self, size: int) -> None:
        self._size = size

    def vocab_size(self) -> int:
        return self._size

    def bos_id(self) -> int:
        return 1

    def eos_id(self) -> int:
        return 2

    def encode_as_ids(self, words: str) -> list[int]:
        return [self.piece_to_id(piece) for piece in self.encode_as_pieces(words)]

    def encode_as_pieces(self, words: str) -> list[str]:
        return _PIECES.findall(words)

    def piece_to_id(self, piece: str) -> int:
        named = _NAMED.fullmatch(piece)
        if named and int(named[1]) < self._size:
            return int(named[1])
        return _FIRST + zlib.crc32(piece.encode()) % (self._size - _FIRST)

    def decode_ids(self, ids: list[int]) -> str:
        return " ".join(f"w{token_id}" for token_id in ids)
