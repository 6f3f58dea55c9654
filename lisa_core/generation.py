"""Reading prompts and decoding answers over one KV cache.

The cache remembers which tokens of which frame it holds, so whatever a new prompt shares with the last one (the
frame's prefix, or a conversation's earlier turns) is not read again. When another frame takes the cache, what was
read about the first is set aside with it.
"""

import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from lisa_core.cuda_graphs import Capture
from lisa_core.errors import Cancelled, PromptError
from lisa_core.model.language import KVCache, Language
from lisa_core.stepping import Step, Stepper
from lisa_core.tokenizer import IMAGE_ID

_GROWTH = 256
"""Positions that the cache grows by."""
_SET_ASIDE = 8
"""Frames whose keys and values are kept while another frame has the cache."""


@dataclass(eq=False)
class Visual:
    """A frame to the language model.

    Attributes:
        tokens: (N, width) input embeddings of its N visual tokens.
    """

    tokens: Tensor
    _aside: "Text | None" = field(default=None, repr=False)


@dataclass(eq=False)
class Text:
    """A prompt with a cache of its own, and its answer as far as it goes.

    Attributes:
        ids: the tokens that the cache holds.
        hidden: (1, width) state of the last of them.
    """

    cache: KVCache
    ids: list[int]
    hidden: Tensor = field(default_factory=lambda: torch.empty(0))


class Room(Protocol):
    """Whoever has an eye on the memory that caches may take."""

    def count(self, cache: KVCache) -> None:
        """Its bytes count as long as somebody holds it."""

    def has_room(self, size: int) -> bool:
        """Whether so many bytes more fit."""

    def take(self, size: int) -> None:
        """Makes room for so many bytes; raises OutOfMemoryError if there is none."""


class Generator:
    """The language model with its cache.

    Attributes:
        ids: the tokens that the cache holds, `IMAGE_ID` once for each visual token.
    """

    def __init__(
        self,
        language: Language,
        end_id: int,
        dtype: torch.dtype,
        device: torch.device,
        room: Room,
        new_capture: Callable[[], Capture | None] = lambda: None,
    ) -> None:
        self._language = language
        self._stepper = Stepper(language, new_capture)
        self._end_id = end_id
        self._room = room
        self._cache = KVCache(language.shape, min(2 * _GROWTH, language.shape.context), dtype, device)
        self._visual: weakref.ref[Visual] | None = None
        self._set_aside: OrderedDict[int, weakref.ref[Visual]] = OrderedDict()
        room.count(self._cache)
        self.ids: list[int] = []

    @property
    def context(self) -> int:
        """Tokens that prompt and answer may have together."""
        return self._language.shape.context

    @property
    def records(self) -> bool:
        """Whether a token of one text is a recorded step; of several texts it never is."""
        return self._stepper.records

    def check_length(self, ids: Sequence[int]) -> None:
        """Raises PromptError for a prompt that is longer than the context."""
        if len(ids) >= self.context:
            raise PromptError(
                f"The conversation takes {len(ids)} tokens with the image, but this model reads at most"
                f" {self.context - 1}; ask with fewer words, or start a new conversation."
            )

    def read(self, visual: Visual, ids: Sequence[int], cancel: threading.Event | None = None) -> Step:
        """Reads a prompt about a frame.

        Args:
            visual: the frame.
            ids: the prompt, `IMAGE_ID` once for each visual token.

        Raises:
            PromptError: longer than the context.
            Cancelled: before anything was read.
        """
        self.check_length(ids)
        raise_if_cancelled(cancel)
        self._take(visual)
        known = _common_length(self.ids, ids, at_most=len(ids) - 1)
        del self.ids[known:]
        embeddings = self._embed(visual, ids, known)
        step = self._read(embeddings, known)
        self.ids = list(ids)
        return step

    def decode(
        self, step: Step, max_new_tokens: int, cancel: threading.Event | None = None
    ) -> Iterator[tuple[int, Tensor]]:
        """Decodes greedily from what `read` gave.

        Yields:
            Each new token, and the (1, width) hidden state that emitted it. Ends with the end of sequence, which is
            yielded too, after `max_new_tokens`, or where the context is full.

        Raises:
            Cancelled: between two tokens.
        """
        most = min(max_new_tokens, self.context - len(self.ids))
        for said in range(1, most + 1):
            raise_if_cancelled(cancel)
            token = int(self._language.lm_head(step.hidden).argmax() if step.token is None else step.token)
            yield token, step.hidden
            if said == most or token == self._end_id:
                return
            step = self._read(self._language.embed_tokens.weight[token][None], len(self.ids))
            self.ids.append(token)

    def is_last(self, token: int) -> bool:
        """Whether an answer ends with this token."""
        return token == self._end_id

    def read_together(self, asked: Sequence[tuple[Visual, Sequence[int]]]) -> list["Text"]:
        """Reads several prompts in one pass; what the frames' own cache holds of each is copied, not read again.

        Raises:
            PromptError: one is longer than the context.
        """
        for _, ids in asked:
            self.check_length(ids)
        begun: dict[int, Text] = {}
        for visual in dict.fromkeys(visual for visual, _ in asked):
            about = [index for index, one in enumerate(asked) if one[0] is visual]
            self._read_shared(visual, [asked[index][1] for index in about])
            begun |= {index: self._begun(asked[index][1]) for index in about}
        texts = [begun[index] for index in range(len(asked))]
        unread = [self._embed(visual, ids, len(text.ids)) for text, (visual, ids) in zip(texts, asked, strict=True)]
        self._read_on(texts, unread, [ids[len(text.ids) :] for text, (_, ids) in zip(texts, asked, strict=True)])
        return texts

    def _read_shared(self, visual: Visual, prompts: Sequence[Sequence[int]]) -> None:
        """Reads once what all prompts about a frame begin with, if that is new and there are several."""
        self._take(visual)
        shared = prompts[0][: min(_common_length(prompts[0], ids, at_most=len(ids)) for ids in prompts)]
        if len(prompts) > 1 and _common_length(self.ids, shared, at_most=len(shared)) < len(shared):
            self.read(visual, shared)

    def _begun(self, ids: Sequence[int]) -> Text:
        """A prompt with a copy of what the cache holds of it."""
        known = _common_length(self.ids, ids, at_most=len(ids) - 1)
        self._room.take(self._size(self._capacity(len(ids))))
        return Text(self._copy(self._cache, self._capacity(len(ids)), known), list(ids[:known]))

    def next_tokens(self, texts: Sequence["Text"]) -> list[int]:
        """The token that each text goes on with, greedily."""
        ids: list[int] = self._language.lm_head(torch.cat([text.hidden for text in texts])).argmax(-1).tolist()
        return ids

    def append(self, texts: Sequence["Text"], tokens: Sequence[int]) -> None:
        """Reads one token more of each text, in one pass; each has room for it in the context."""
        for text in texts:
            text.cache = self._grown(text.cache, len(text.ids), len(text.ids) + 1)
        embedded = [self._language.embed_tokens.weight[token][None] for token in tokens]
        self._read_on(texts, embedded, [[token] for token in tokens])

    def _read_on(self, texts: Sequence["Text"], embedded: Sequence[Tensor], ids: Sequence[Sequence[int]]) -> None:
        caches, starts = [text.cache for text in texts], [len(text.ids) for text in texts]
        states = self._language.read_together(embedded, caches, starts)
        for text, read, hidden in zip(texts, ids, states, strict=True):
            text.ids.extend(read)
            text.hidden = hidden[-1:]

    def keep(self, visual: Visual, text: "Text") -> None:
        """What was read in this text is what is known of the frame from now on, as after `read` and `decode`."""
        visual._aside = None
        self._take(visual)
        if text.cache.capacity > self._cache.capacity:
            self._cache = text.cache
        else:  # at the addresses that a step may be recorded for
            self._cache.take(text.cache, len(text.ids))
        self.ids = text.ids

    def forget(self) -> None:
        """Drops everything that was read; it will be read again when it is needed."""
        for ref in self._set_aside.values():
            if visual := ref():
                visual._aside = None
        self._set_aside.clear()
        self._visual = None
        self.ids = []

    def _capacity(self, length: int) -> int:
        """Of a cache for so many tokens."""
        return min(self.context, -(-length // _GROWTH) * _GROWTH)

    def _size(self, length: int) -> int:
        """Bytes of the keys and values of so many tokens."""
        return (self._cache.keys.nbytes + self._cache.values.nbytes) // self._cache.capacity * length

    def _take(self, visual: Visual) -> None:
        """Gives the cache to a frame, with what was read about it before."""
        current = self._visual() if self._visual else None
        if current is visual:
            return
        if current is not None:
            self._put_aside(current)
        self._visual = weakref.ref(visual)
        self.ids = []
        self._set_aside.pop(id(visual), None)
        if (aside := visual._aside) is not None:
            visual._aside = None
            self._reserve(len(aside.ids))
            self._cache.take(aside.cache, len(aside.ids))
            self.ids = aside.ids

    def _put_aside(self, visual: Visual) -> None:
        """Copies what was read about a frame, where there is room for that; else it will be read again."""
        length = len(self.ids)
        if not self._room.has_room(self._size(length)):
            return
        try:
            visual._aside = Text(self._copy(self._cache, length, length), self.ids)
        except torch.OutOfMemoryError:
            return
        self._set_aside[id(visual)] = weakref.ref(visual)
        while len(self._set_aside) > _SET_ASIDE:
            _, oldest = self._set_aside.popitem(last=False)
            if dropped := oldest():
                dropped._aside = None

    def _embed(self, visual: Visual, ids: Sequence[int], start: int) -> Tensor:
        """(T, width) input embeddings of `ids[start:]`."""
        wanted = torch.tensor(ids[start:], device=visual.tokens.device)
        embeddings = self._language.embed_tokens(wanted.clamp(min=0))
        seen = sum(token == IMAGE_ID for token in ids[:start])
        if seen < len(visual.tokens):
            first = ids.index(IMAGE_ID, start) - start  # from here on they stand together
            embeddings[first : first + len(visual.tokens) - seen] = visual.tokens[seen:].to(embeddings.dtype)
        return embeddings

    def _read(self, embeddings: Tensor, start: int) -> Step:
        """Reads (T, width) input embeddings after the first `start` tokens of the cache."""
        count = len(embeddings)
        self._reserve(max(start + count, min(self._stepper.end(start, count), self.context)))
        return self._stepper.read(embeddings, self._cache, start)

    def _reserve(self, length: int) -> None:
        self._cache = self._grown(self._cache, len(self.ids), length)

    def _grown(self, cache: KVCache, held: int, length: int) -> KVCache:
        """The cache, or its `held` tokens in a larger one, with room for `length` tokens."""
        if length <= cache.capacity:
            return cache
        capacity = self._capacity(length)
        self._room.take(self._size(capacity - cache.capacity))
        return self._copy(cache, capacity, held)

    def _copy(self, cache: KVCache, capacity: int, length: int) -> KVCache:
        copied = cache.copy(capacity, length)
        self._room.count(copied)
        return copied


def _common_length(left: Sequence[int], right: Sequence[int], at_most: int) -> int:
    """How many tokens two prompts share at their beginning."""
    most = min(len(left), len(right), at_most)
    return next((index for index in range(most) if left[index] != right[index]), most)


def raise_if_cancelled(cancel: threading.Event | None) -> None:
    """Between two stages, or two tokens: `Cancelled` if the caller has set it."""
    if cancel is not None and cancel.is_set():
        raise cancelled()


def cancelled() -> Cancelled:
    """What to say of a question that the caller gave up."""
    return Cancelled("The question was cancelled.")
