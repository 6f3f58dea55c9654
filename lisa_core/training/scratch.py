"""A LISA from scratch, in three steps: it learns to see, looks at every scene once, and learns to speak about them.

The encoders train first, on what is where in the pictures. Then SAM's is frozen, as in the official recipe, so what it
makes of a scene is computed once; on it the mask decoder trains together with the language model and CLIP, which here
has not seen millions of pictures before and goes on learning, by hints beside the official losses.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lisa_core import preprocess
from lisa_core.files import write_whole
from lisa_core.model.lisa import Lisa, LisaShape
from lisa_core.tabletop.scene import View
from lisa_core.tokenizer import Tokenizer
from lisa_core.training import forward, losses, vision
from lisa_core.training.forward import Pictures
from lisa_core.training.hints import Hints
from lisa_core.training.scenes import SENSES, Scenes, Sights, Talk
from lisa_core.training.trainer import Plan, Trainer

_SPEAKING = (
    "clip.",
    "mm_projector.",
    "language.",
    "text_hidden_fcs.",
    "sam.mask_decoder.",
    "sam.prompt_encoder.no_mask_embed.",
)
_ENCODERS = ("clip.", "sam.image_encoder.")
_PROGRESS = "looked.json"
_AT_ONCE = 16
"""Scenes that are looked at together."""


@dataclass(frozen=True)
class Machine:
    """Where training runs.

    Attributes:
        device: of the model.
        mixed: products in bf16, weights in fp32.
    """

    device: torch.device
    mixed: bool

    def products(self) -> torch.autocast:
        """For a forward pass."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.mixed)


def seeing(model: Lisa, scenes: Scenes, size: int, machine: Machine, folder: Path, plan: Plan) -> Trainer[Sights]:
    """Training of the two encoders; losses `clip` and `sam`, and the share of things whose kind SAM's encoder knows."""
    heads = vision.Heads(model, SENSES)
    heads.load_state_dict(_first_heads(heads, plan.seed))
    heads.to(machine.device)
    image = model.shape.sam.image

    def loss_of(sights: Sights) -> Mapping[str, Tensor]:
        with machine.products():
            clip = heads.of_clip(model.clip, preprocess.clip_input(sights.for_clip.to(machine.device)))
            sam = heads.of_sam(model.sam.image_encoder, preprocess.sam_input(sights.for_sam.to(machine.device), image))
        clip_truth, sam_truth = sights.clip_truth.to(machine.device), sights.sam_truth.to(machine.device)
        clip_loss = vision.loss(clip, clip_truth, SENSES)
        sam_loss = vision.loss(sam, sam_truth, SENSES)
        return {
            "loss": clip_loss + sam_loss,
            "clip": clip_loss,
            "sam": sam_loss,
            "clip_knows": vision.known(clip, clip_truth, SENSES),
            "sam_knows": vision.known(sam, sam_truth, SENSES),
        }

    learnt = {name: weight for name, weight in model.named_parameters() if name.startswith(_ENCODERS)}
    learnt |= {f"heads.{name}": weight for name, weight in heads.named_parameters()}
    _free(model, learnt)
    return Trainer(learnt, lambda step: scenes.sights(step, size, model.shape), loss_of, folder, plan)


@dataclass(frozen=True, eq=False)
class Looked:
    """What SAM's encoder made of every scene, in a file.

    Attributes:
        folder: of the file.
        embedding: (scenes, C, grid, grid) float16.
    """

    folder: Path
    embedding: NDArray[np.float16]

    @classmethod
    def open(cls, folder: Path, count: int, shape: LisaShape) -> "Looked":
        """A file for so many scenes, as an earlier call has left it, or a new one."""
        path = folder / "embedding.npy"
        if path.is_file():
            return cls(folder, np.lib.format.open_memmap(path, "r+"))
        size = (count, shape.sam.embedding, shape.sam.grid, shape.sam.grid)
        return cls(folder, np.lib.format.open_memmap(path, "w+", np.float16, size))

    @property
    def done(self) -> int:
        """How many scenes have been looked at."""
        progress = self.folder / _PROGRESS
        return int(json.loads(progress.read_text())["done"]) if progress.is_file() else 0

    def keep(self, first: int, embedding: Tensor) -> None:
        """Stores what was made of the scenes from `first` on."""
        stop = first + len(embedding)
        self.embedding[first:stop] = embedding.half().cpu().numpy()
        write_whole({self.folder / _PROGRESS: json.dumps({"done": stop}).encode()})


def look(model: Lisa, read: Callable[[int], View], looked: Looked, machine: Machine) -> Iterator[int]:
    """Encodes all scenes that have not been encoded yet; yields how many have."""
    shape, count = model.shape, len(looked.embedding)
    for first in range(looked.done, count, _AT_ONCE):
        rgbs = [read(index).rgb for index in range(first, min(count, first + _AT_ONCE))]
        wholes = torch.stack([preprocess.for_sam(rgb, shape.sam.image)[0] for rgb in rgbs]).to(machine.device)
        with torch.no_grad(), machine.products():
            looked.keep(first, model.sam.encode(preprocess.sam_input(wholes, shape.sam.image)))
        yield first + len(rgbs)


@dataclass(frozen=True)
class Portion:
    """What one step of speaking learns: scenes, and dialogues about each."""

    scenes: int
    dialogues: int


def speakers(model: Lisa) -> dict[str, nn.Parameter]:
    """All parameters but those of SAM's encoder, by name: what learns to speak in full."""
    return {name: weight for name, weight in model.named_parameters() if name.startswith(_SPEAKING)}


def speaking(
    model: Lisa,
    learnt: Mapping[str, nn.Parameter],
    tokenizer: Tokenizer,
    scenes: Scenes,
    looked: Looked,
    portion: Portion,
    machine: Machine,
    folder: Path,
    plan: Plan,
    weights: losses.Weights,
    with_hints: bool,
) -> Trainer[Talk]:
    """Training of what is `learnt`, all of `speakers` or less, by the official losses, with or without hints."""
    hints = Hints(model.shape, SENSES) if with_hints else None
    if hints:
        hints.load_state_dict(_first_heads(hints, plan.seed))
        hints.to(machine.device)

    def loss_of(talk: Talk) -> Mapping[str, Tensor]:
        model.language.train()  # adapters have dropout
        embedding = torch.from_numpy(looked.embedding[talk.scenes]).float().to(machine.device)
        masks = [of_one.to(machine.device) for of_one in talk.masks]
        words = talk.words.to(machine.device)
        with machine.products():
            visual = model.clip(preprocess.clip_input(talk.for_clip.to(machine.device)))
            hidden = forward.read(model, visual, words)
            told = forward.of_states(model, hidden, Pictures(visual, embedding, talk.sizes, masks), words, weights)
            if not hints:
                return told
            seen = vision.at_patches(hints.clip(visual))
            rows, states = forward.before_seg(hidden, words)
            pointed = hints.pointing(states, model.mm_projector(visual)[rows])
        hinted = hints.losses(seen, talk.clip_truth.to(machine.device), pointed, masks)
        return {**told, **hinted, "loss": told["loss"] + hinted["loss"]}

    _free(model, learnt)
    if hints:
        learnt = {**learnt, **{f"heads.{name}": weight for name, weight in hints.named_parameters()}}

    def make_batch(step: int) -> Talk:
        return scenes.talk(step, portion.scenes, portion.dialogues, model.shape, tokenizer)

    return Trainer(learnt, make_batch, loss_of, folder, plan)


def _free(model: Lisa, learnt: Mapping[str, nn.Parameter]) -> None:
    for name, weight in model.named_parameters():
        weight.requires_grad_(name in learnt)


def _first_heads(heads: nn.Module, seed: int) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(seed)
    return {
        name: torch.zeros_like(weight)
        if name.endswith("bias")
        else torch.ones_like(weight)
        if weight.dim() == 1
        else torch.empty_like(weight).normal_(std=0.05, generator=random)
        for name, weight in heads.state_dict().items()
    }
