"""Words to token ids and back, exactly as the released checkpoints were trained.

LISA was trained with the *legacy slow* Llama tokenizer of transformers 4.31. Its rules, on top of sentencepiece:

- the added tokens (`[SEG]`, `<im_start>`, `<im_end>`, `<im_patch>`) strip the white space of the words on both
  sides of them; `<s>` and `</s>` do not;
- each run of words between special tokens is tokenized on its own and so gets its own leading `▁`;
- the prompt is cut where the image stands, and the cut strips nothing.

Where `tokenizer_config.json` says `"legacy": false`, as models derived from others may, words right after a special
token get no `▁` of their own.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import sentencepiece

from lisa_core.checkpoint_files import TOKENIZER_FILES, TOKENIZER_SETTINGS
from lisa_core.errors import CheckpointError, PromptError
from lisa_core.template import BOS, EOS, IM_END, IM_START, SEG, Image, Piece, Special

IMAGE_ID = -200
"""Stands in a prompt's ids where the frame's visual tokens go; no token has it."""

_WORD_BEGINS = "▁"
_STRIPS_NOTHING = (BOS, EOS)
_NO_SPACE_BEFORE = tuple(".,;:!?)]}'\"%")
_NO_SPACE_AFTER = tuple("([{\"'")


def spread(ids: Sequence[int], visual_tokens: int) -> list[int]:
    """A prompt's ids with its one `IMAGE_ID` once for each of the frame's visual tokens."""
    where = ids.index(IMAGE_ID)
    return [*ids[:where], *[IMAGE_ID] * visual_tokens, *ids[where + 1 :]]


class Words(Protocol):
    """What a `Tokenizer` asks of sentencepiece, by sentencepiece's names."""

    def vocab_size(self) -> int:
        """One more than the largest id of a piece."""

    def bos_id(self) -> int:
        """Of the beginning of sequence."""

    def eos_id(self) -> int:
        """Of the end of sequence."""

    def encode_as_ids(self, words: str, /) -> list[int]:
        """The ids of the pieces of a run of words."""

    def encode_as_pieces(self, words: str, /) -> list[str]:
        """The pieces themselves."""

    def piece_to_id(self, piece: str, /) -> int:
        """The id of one piece."""

    def decode_ids(self, ids: list[int], /) -> str:
        """The words that these pieces make."""


class Tokenizer:
    """Encodes prompts and decodes answers by the module's rules.

    Args:
        words: of the language model.
        added_tokens: ids by name of what LISA adds to them, `[SEG]`, `<im_start>` and `<im_end>` at least.
        legacy: whether words right after a special token get a `▁` of their own.

    Attributes:
        special_ids: token id by name, e.g. `special_ids["[SEG]"]`.
    """

    def __init__(self, words: Words, added_tokens: Mapping[str, int], legacy: bool = True) -> None:
        self._words = words
        self._legacy = legacy
        self.special_ids: dict[str, int] = {BOS: words.bos_id(), EOS: words.eos_id(), **added_tokens}
        self._names = {token_id: name for name, token_id in self.special_ids.items()}

    @classmethod
    def from_folder(cls, folder: Path) -> "Tokenizer":
        """Reads `tokenizer.model`, `added_tokens.json` and, if it is there, `tokenizer_config.json` of a checkpoint.

        Raises:
            CheckpointError: a file is missing or damaged, or they are not those of a LISA.
        """
        model, added, settings = (folder / name for name in (*TOKENIZER_FILES, TOKENIZER_SETTINGS))
        for path in (model, added):
            if not path.is_file():
                raise CheckpointError(f"{folder} has no {path.name}; copy the whole checkpoint folder.")
        tokens = _read_json(added)
        if not isinstance(tokens, dict) or not all(type(token_id) is int for token_id in tokens.values()):
            raise CheckpointError(f"{added} must map token names to ids.")
        said = _read_json(settings) if settings.is_file() else {}
        words = _read_words(model)
        own = {name: token_id for name, token_id in tokens.items() if not _is_word(words, name, token_id)}
        tokenizer = cls(words, own, legacy=not isinstance(said, dict) or said.get("legacy") is not False)
        tokenizer._check(model)
        return tokenizer

    def _check(self, model: Path) -> None:
        missing = [token for token in (SEG, IM_START, IM_END) if token not in self.special_ids]
        if missing:
            raise CheckpointError(
                f"The tokenizer beside {model} has no {' and no '.join(missing)}: this is no LISA checkpoint. "
                "Use one that was trained for segmentation, such as xinlai/LISA-7B-v1."
            )
        words = self._words.vocab_size()
        taken = [name for name, token_id in self.special_ids.items() if name not in (BOS, EOS) and token_id < words]
        if taken:
            raise CheckpointError(f"added_tokens.json gives {', '.join(taken)} the id of a word of {model.name}.")
        for name, token_id in self.special_ids.items():
            if (other := self._names[token_id]) != name:
                raise CheckpointError(f"added_tokens.json gives {name} and {other} the same id {token_id}.")

    @property
    def vocabulary_size(self) -> int:
        """One more than the largest token id."""
        return max(self._words.vocab_size(), *(token_id + 1 for token_id in self.special_ids.values()))

    def encode(self, pieces: Sequence[Piece]) -> list[int]:
        """The token ids of a prompt, beginning of sequence first; the image is one `IMAGE_ID`."""
        ids = [self.special_ids[BOS]]
        for position, piece in enumerate(pieces):
            match piece:
                case Special(token):
                    ids.append(self.special_ids[token])
                case Image():
                    ids.append(IMAGE_ID)
                case str(words):
                    if position > 0 and _strips(pieces[position - 1]):
                        words = words.lstrip()
                    if position + 1 < len(pieces) and _strips(pieces[position + 1]):
                        words = words.rstrip()
                    goes_on = not self._legacy and position > 0 and isinstance(pieces[position - 1], Special)
                    ids += self._encode_words(words, goes_on)
        return ids

    def _encode_words(self, words: str, goes_on: bool) -> list[int]:
        """Ids of a run of words; what `goes_on` after a token begins with no `▁` but its own."""
        try:
            if not goes_on or words.startswith(" "):
                return self._words.encode_as_ids(words)
            pieces = self._words.encode_as_pieces(words)
        except (UnicodeEncodeError, TypeError, RuntimeError) as error:  # as sentencepiece's releases say it
            raise PromptError("The words are not valid Unicode text.") from error
        if pieces and pieces[0].startswith(_WORD_BEGINS):
            pieces = [rest for rest in [pieces[0].removeprefix(_WORD_BEGINS)] if rest] + pieces[1:]
        return [self._words.piece_to_id(piece) for piece in pieces]

    def decode(self, ids: Sequence[int]) -> str:
        """The words of an answer: special tokens by name, `[SEG]` spaced as a person would, `</s>` left out.

        Around `[SEG]` the ids do not say whether a space stood there (see the module's rules); one is put
        except before closing and after opening punctuation.
        """
        text = ""
        run: list[int] = []
        for token_id in [*ids, self.special_ids[EOS]]:
            if token_id not in self._names:
                if token_id < self._words.vocab_size():  # a model may have rows that stand for no token
                    run.append(token_id)
                continue
            text = _join(text, self._words.decode_ids(run))
            run = []
            if token_id not in (self.special_ids[EOS], self.special_ids[BOS]):
                text = _join(text, self._names[token_id])
        return text


def _read_words(model: Path) -> sentencepiece.SentencePieceProcessor:
    words = sentencepiece.SentencePieceProcessor()
    try:
        words.load(str(model))
    except (OSError, RuntimeError) as error:
        raise CheckpointError(
            f"{model} is not a readable sentencepiece model ({error}); fetch the checkpoint's files again."
        ) from error
    return words


def _is_word(words: sentencepiece.SentencePieceProcessor, name: str, token_id: int) -> bool:
    """Whether this is what sentencepiece calls it, too: newer programs list `<unk>` as added."""
    return 0 <= token_id < words.vocab_size() and words.id_to_piece(token_id) == name


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not readable JSON ({error}); fetch the checkpoint's files again.") from error


def _strips(neighbour: Piece) -> bool:
    return isinstance(neighbour, Special) and neighbour.token not in _STRIPS_NOTHING


def _join(left: str, right: str) -> str:
    if not left or not right or left.endswith((" ", *_NO_SPACE_AFTER)) or right.startswith((" ", *_NO_SPACE_BEFORE)):
        return left + right
    return f"{left} {right}"
