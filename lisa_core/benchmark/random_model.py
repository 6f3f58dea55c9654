"""A checkpoint of random weights, which are drawn on the device when they are loaded, one tensor at a time.

They load like those of a real checkpoint: 4 bit is quantised the same way, and the host never holds the whole model.
The start of the answers is planted: whatever the question, they begin with "Sure, it is [SEG]", like a trained LISA's.
The tokens after that depend on all weights and on everything read before.
"""

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lisa_core import devices, template
from lisa_core.benchmark import shapes
from lisa_core.benchmark.words import word_tokenizer
from lisa_core.checkpoint import Checkpoint
from lisa_core.model.lisa import Lisa
from lisa_core.model.sam import FREQUENCIES
from lisa_core.options import ResolvedPrecision
from lisa_core.template import SEG, Special
from lisa_core.tensor_files import StoredTensor
from lisa_core.tokenizer import Tokenizer

ANSWER: list[template.Piece] = ["Sure, it is", Special(SEG)]
"""How every answer begins."""

_SEED = 0
_LOUD = 3.0
"""Scale of the elements of a loud embedding; those of others are 1 / sqrt(width), and each layer adds up to 1."""


@dataclass(frozen=True)
class RandomCheckpoint(Checkpoint):
    """A checkpoint of random weights.

    Attributes:
        device: the weights are drawn on it.
        dtype: of the weights.
    """

    device: torch.device
    dtype: torch.dtype

    @classmethod
    def of(cls, name: shapes.ShapeName, precision: ResolvedPrecision, device: torch.device) -> "RandomCheckpoint":
        """The checkpoint of a shape; the same name gives the same weights on the same kind of device."""
        shape = shapes.BY_NAME[name]
        dtype = devices.compute_dtype(precision, device)
        parameters = Lisa.on_meta(shape).state_dict()
        nowhere = Path(f"random-{name}")
        return cls(
            folder=nowhere,
            vision_tower=nowhere,
            layout="v1",
            template="llava_v1",
            shape=shape,
            tokenizer=word_tokenizer(shape.language.vocabulary),
            quantised=False,
            stored={
                parameter: StoredTensor(nowhere, parameter, tuple(tensor.shape), dtype)
                for parameter, tensor in parameters.items()
            },
            device=device,
            dtype=dtype,
        )

    def tensors(self) -> Iterator[tuple[str, Tensor, Mapping[str, Tensor]]]:
        """Yields every (parameter, tensor on the device, no statistics); each tensor is drawn when it is its turn."""
        random = torch.Generator(self.device).manual_seed(_SEED)
        planted = _Planted.draw(self.tokenizer, self.shape.language.width, random)
        for parameter, stored in self.stored.items():
            tensor = self._draw(parameter, stored.shape, random)
            if parameter == "language.embed_tokens.weight":
                tensor[planted.before] = (_LOUD * planted.directions).to(self.dtype)
            elif parameter == "language.lm_head.weight":
                tensor[planted.never] = 0
                tensor[planted.after] = (planted.directions / math.sqrt(tensor.shape[1])).to(self.dtype)
            yield parameter, tensor, {}

    def _draw(self, parameter: str, size: tuple[int, ...], random: torch.Generator) -> Tensor:
        """Random weights, scaled so that activations stay near 1 through all layers; norms are the identity."""
        tensor = torch.empty(size, dtype=self.dtype, device=self.device)
        if parameter.endswith("bias"):
            return tensor.zero_()
        if len(size) == 1 and parameter.endswith("weight"):
            return tensor.fill_(1)
        fan_in = 1 if parameter.endswith(FREQUENCIES) else math.prod(size[1:]) or size[0]
        return tensor.normal_(std=1 / math.sqrt(fan_in), generator=random)


@dataclass(frozen=True)
class _Planted:
    """Makes the model say `ANSWER`: the embedding of each token is loud, and its direction raises the next one's logit.

    Attributes:
        before: the tokens before each token of the answer, starting with the prompt's last.
        after: the tokens of the answer, `[SEG]` last.
        never: tokens that are never generated, such as the end of sequence.
        directions: (len(before), width) fp32, standard normal.
    """

    before: list[int]
    after: list[int]
    never: list[int]
    directions: Tensor

    @classmethod
    def draw(cls, tokenizer: Tokenizer, width: int, random: torch.Generator) -> "_Planted":
        prompt = tokenizer.encode(template.BY_NAME["llava_v1"].render("Where?"))
        said = [prompt[-1], *tokenizer.encode(ANSWER)[1:]]
        pairs = list(itertools.pairwise(said))
        seg = tokenizer.special_ids[SEG]
        return cls(
            before=[before for before, _ in pairs],
            after=[after for _, after in pairs],
            never=[token for token in tokenizer.special_ids.values() if token != seg],
            directions=torch.randn(len(pairs), width, generator=random, device=random.device),
        )
