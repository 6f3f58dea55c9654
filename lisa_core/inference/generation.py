"""Prefilling prompts and decoding answers greedily.

One question is read into the prefix cache; of several at once each has a cache of its own.
"""

import threading
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from lisa_core.errors import PromptError, raise_if_cancelled
from lisa_core.inference.cuda_graphs import Capture
from lisa_core.inference.frame import Visual
from lisa_core.inference.memory import Text
from lisa_core.inference.prefix_cache import PrefixCache, common_length
from lisa_core.inference.stepping import Step, Stepper
from lisa_core.model.language import Language
from lisa_core.tokenizer import IMAGE_ID


class Generator:
    """The language model with its cache.

    Args:
        end_id: the token that ends an answer.
        prefixes: what has been read already.
        new_capture: see `Stepper`.
    """

    def __init__(
        self,
        language: Language,
        end_id: int,
        prefixes: PrefixCache,
        new_capture: Callable[[], Capture | None] = lambda: None,
    ) -> None:
        self._language = language
        self._stepper = Stepper(language, new_capture)
        self._end_id = end_id
        self._prefixes = prefixes

    @property
    def context(self) -> int:
        """Tokens that prompt and answer may have together."""
        return self._language.shape.context

    @property
    def records(self) -> bool:
        """Whether decoding one text replays recorded steps; decoding several at once never does."""
        return self._stepper.records

    def forget(self) -> None:
        """Drops what is recorded, and its memory; it is recorded again when it is needed."""
        self._stepper.forget()

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
        self._prefixes.switch_to(visual)
        known = self._prefixes.keep_common(ids)
        step = self._read(self._embed(visual, ids, known))
        self._prefixes.ids.extend(ids[known:])
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
        known = self._prefixes.ids
        most = min(max_new_tokens, self.context - len(known))
        for said in range(1, most + 1):
            raise_if_cancelled(cancel)
            token = int(self._language.lm_head(step.hidden).argmax() if step.token is None else step.token)
            yield token, step.hidden
            if said == most or token == self._end_id:
                return
            step = self._read(self._language.embed_tokens.weight[token][None])
            known.append(token)

    def is_last(self, token: int) -> bool:
        """Whether an answer ends with this token."""
        return token == self._end_id

    def read_together(self, asked: Sequence[tuple[Visual, Sequence[int]]]) -> list[Text]:
        """Reads several prompts in one pass; prefixes that the prefix cache holds are copied, not read again.

        Raises:
            PromptError: one is longer than the context.
        """
        for _, ids in asked:
            self.check_length(ids)
        begun: dict[int, Text] = {}
        for visual in dict.fromkeys(visual for visual, _ in asked):
            about = [index for index, one in enumerate(asked) if one[0] is visual]
            self._read_shared(visual, [asked[index][1] for index in about])
            begun |= {index: self._prefixes.begin(asked[index][1]) for index in about}
        texts = [begun[index] for index in range(len(asked))]
        unread = [self._embed(visual, ids, len(text.ids)) for text, (visual, ids) in zip(texts, asked, strict=True)]
        self._read_on(texts, unread, [ids[len(text.ids) :] for text, (_, ids) in zip(texts, asked, strict=True)])
        return texts

    def _read_shared(self, visual: Visual, prompts: Sequence[Sequence[int]]) -> None:
        """Reads the common prefix of several prompts about a frame into the prefix cache, if it is not there yet."""
        self._prefixes.switch_to(visual)
        shared = prompts[0][: min(common_length(prompts[0], ids) for ids in prompts)]
        if len(prompts) > 1 and common_length(self._prefixes.ids, shared) < len(shared):
            self.read(visual, shared)

    def next_tokens(self, texts: Sequence[Text]) -> list[int]:
        """The token that each text goes on with, greedily."""
        ids: list[int] = self._language.lm_head(torch.cat([text.hidden for text in texts])).argmax(-1).tolist()
        return ids

    def append(self, texts: Sequence[Text], tokens: Sequence[int]) -> None:
        """Reads one token more of each text, in one pass; each has room for it in the context."""
        for text in texts:
            self._prefixes.grow(text)
        embedded = [self._language.embed_tokens.weight[token][None] for token in tokens]
        self._read_on(texts, embedded, [[token] for token in tokens])

    def _read_on(self, texts: Sequence[Text], embedded: Sequence[Tensor], ids: Sequence[Sequence[int]]) -> None:
        caches, starts = [text.cache for text in texts], [len(text.ids) for text in texts]
        states = self._language.read_together(embedded, caches, starts)
        for text, read, hidden in zip(texts, ids, states, strict=True):
            text.ids.extend(read)
            text.hidden = hidden[-1:]

    def _embed(self, visual: Visual, ids: Sequence[int], start: int) -> Tensor:
        """(T, width) input embeddings of `ids[start:]`."""
        wanted = torch.tensor(ids[start:], device=visual.tokens.device)
        embeddings = self._language.embed_tokens(wanted.clamp(min=0))
        seen = sum(token == IMAGE_ID for token in ids[:start])
        if seen < len(visual.tokens):
            first = ids.index(IMAGE_ID, start) - start  # the visual tokens stand together
            embeddings[first : first + len(visual.tokens) - seen] = visual.tokens[seen:].to(embeddings.dtype)
        return embeddings

    def _read(self, embeddings: Tensor) -> Step:
        """Reads (T, width) input embeddings after the tokens that the cache holds."""
        start, count = len(self._prefixes.ids), len(embeddings)
        self._prefixes.reserve(max(start + count, min(self._stepper.end(start, count), self.context)))
        return self._stepper.read(embeddings, self._prefixes.cache, start)
