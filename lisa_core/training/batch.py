"""Packed conversations: all conversations about a picture share one row, and its prompt prefix is in there once.

A row starts with the prompt up to the end of the image; then the rest of each conversation follows. A token attends to
the prefix and to its own conversation, at the position it would have alone, so the losses are the same as if each
conversation had a row of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lisa_core.tokenizer import IMAGE_ID, spread
from lisa_core.training.conversation import NOT_LEARNT, Lesson

_NONE = -1


@dataclass(frozen=True)
class Packed:
    """The conversations of B pictures, T tokens to a row.

    Attributes:
        ids: (B, T) token ids, `IMAGE_ID` once for each visual token; padding is 0.
        positions: (B, T) in the token's own conversation.
        conversation: (B, T) number of the conversation in its row; 0 is the shared prefix, -1 padding.
        labels: (B, T) the token ids that are learnt, `NOT_LEARNT` elsewhere; the token before predicts each.
        before_seg: per picture, the columns whose hidden states prompt its masks, in the order of conversations.
        image: column of the first visual token, in every row.
        learnt: (L,) indices into the flattened rows (B * T) of the tokens whose successor is learnt.
        segs: (2, N) rows and columns of `before_seg`, picture by picture.
    """

    ids: Tensor
    positions: Tensor
    conversation: Tensor
    labels: Tensor
    before_seg: tuple[tuple[int, ...], ...]
    image: int
    learnt: Tensor
    segs: Tensor

    def to(self, device: torch.device) -> "Packed":
        """The same on a device."""
        return replace(
            self,
            ids=self.ids.to(device),
            positions=self.positions.to(device),
            conversation=self.conversation.to(device),
            labels=self.labels.to(device),
            learnt=self.learnt.to(device),
            segs=self.segs.to(device),
        )

    def visible(self) -> Tensor:
        """(B, 1, T, T) bool attention mask: true where the query (row) may attend to the key (column)."""
        looks, seen = self.conversation[:, :, None], self.conversation[:, None, :]
        length = self.ids.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool, device=self.ids.device).tril()
        itself = torch.eye(length, dtype=torch.bool, device=self.ids.device)  # else padding attends to nothing: NaN
        return ((((seen == looks) | (seen == 0)) & (seen != _NONE) & causal) | itself)[:, None]


def pack(pictures: Sequence[Sequence[Lesson]], visual_tokens: int) -> Packed:
    """Packs the lessons about each picture; each picture has at least one, and all start with the same prefix."""
    rows = [_Row.of(lessons, visual_tokens) for lessons in pictures]
    length = max(len(row.ids) for row in rows)

    def filled(lists: Sequence[list[int]], padding: int) -> Tensor:
        return torch.tensor([row + [padding] * (length - len(row)) for row in lists])

    labels = filled([row.labels for row in rows], NOT_LEARNT)
    segs = [(number, column) for number, row in enumerate(rows) for column in row.before_seg]
    return Packed(
        ids=filled([row.ids for row in rows], 0),
        positions=filled([row.positions for row in rows], 0),
        conversation=filled([row.conversation for row in rows], _NONE),
        labels=labels,
        before_seg=tuple(tuple(row.before_seg) for row in rows),
        image=rows[0].ids.index(IMAGE_ID),
        learnt=(labels.flatten()[1:] != NOT_LEARNT).nonzero()[:, 0],
        segs=torch.tensor(segs, dtype=torch.long).view(-1, 2).T,
    )


@dataclass(frozen=True)
class _Row:
    ids: list[int]
    positions: list[int]
    conversation: list[int]
    labels: list[int]
    before_seg: list[int]

    @classmethod
    def of(cls, lessons: Sequence[Lesson], visual_tokens: int) -> "_Row":
        common = lessons[0].ids.index(IMAGE_ID) + 2  # every prompt has the same token after the image
        ids = spread(lessons[0].ids[:common], visual_tokens)
        shift = len(ids) - common
        row = cls(ids, list(range(len(ids))), [0] * len(ids), [NOT_LEARNT] * len(ids), [])
        for number, lesson in enumerate(lessons, start=1):
            offset = len(row.ids) - common
            row.before_seg.extend(offset + index for index in lesson.before_seg)
            row.ids.extend(lesson.ids[common:])
            row.labels.extend(lesson.labels[common:])
            row.positions.extend(range(common + shift, len(lesson.ids) + shift))
            row.conversation.extend([number] * (len(lesson.ids) - common))
        return row
