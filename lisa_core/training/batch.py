"""Pictures with conversations about them, packed: what is the same for all questions about a picture is there once.

A row of a batch is a picture: first the prompt up to the image's end, then the rest of each conversation, one after
the other. A token sees its own conversation and that prefix, and has the position that it would have alone, so the
losses are those of the conversations in rows of their own.
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
        conversation: (B, T) which of the row's conversations; 0 the common beginning, -1 padding.
        labels: (B, T) what the token before must say, `NOT_LEARNT` elsewhere.
        before_seg: per picture the columns whose hidden states prompt its masks, conversation by conversation.
        image: column of the first visual token, in every row.
        learnt: (L,) where in the flattened rows (B * T) what comes next is learnt.
        segs: (2, N) the rows and columns of `before_seg`, picture by picture.
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
        """(B, 1, T, T) bool, true where the row's token may look at the column's."""
        looks, seen = self.conversation[:, :, None], self.conversation[:, None, :]
        length = self.ids.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool, device=self.ids.device).tril()
        itself = torch.eye(length, dtype=torch.bool, device=self.ids.device)  # or padding would see nothing: NaN
        return ((((seen == looks) | (seen == 0)) & (seen != _NONE) & causal) | itself)[:, None]


def pack(pictures: Sequence[Sequence[Lesson]], visual_tokens: int) -> Packed:
    """Packs the lessons about each picture; every picture has at least one, all with the same prefix."""
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
        common = lessons[0].ids.index(IMAGE_ID) + 2  # the token after the image belongs to every prompt
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
