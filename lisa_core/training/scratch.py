"""The two stages in which a LISA is trained from scratch: seeing, then speaking.

In the first, the two encoders learn what is where in the pictures. In the second, SAM's encoder is frozen, as in the
official recipe, and encodes each scene once beforehand. The language model, the mask decoder and CLIP are trained by
the official losses; CLIP, which was not pretrained on millions of pictures, needs the auxiliary losses of `hints` as
well. Every other step uses weights rounded to 4 bit. Alternatively SAM's encoder is trained, too: then it encodes the
scenes at every step, which takes a GPU.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lisa_core import preprocess
from lisa_core.errors import CheckpointError
from lisa_core.files import write_whole
from lisa_core.model.lisa import Lisa, LisaShape
from lisa_core.tabletop.scene import View
from lisa_core.tokenizer import Tokenizer
from lisa_core.training import adapters, forward, vision
from lisa_core.training.ahead import ahead
from lisa_core.training.forward import Pictures
from lisa_core.training.hints import Hints
from lisa_core.training.in_4_bit import in_4_bit
from lisa_core.training.recipe import Plan, Weights
from lisa_core.training.scenes import SENSES, Scenes, Sights, Talk
from lisa_core.training.settings import read_json
from lisa_core.training.trainer import Trainer

_SPEAKING = (
    "clip.",
    "mm_projector.",
    "language.",
    "text_hidden_fcs.",
    "sam.mask_decoder.",
    "sam.prompt_encoder.no_mask_embed.",
)
_SAM_ENCODER = "sam.image_encoder."
_ENCODERS = ("clip.", _SAM_ENCODER)
_PROGRESS = "looked.json"
_AT_ONCE = 16
"""Scenes that SAM encodes in one batch."""
_MOST_WORKERS = 15


@dataclass(frozen=True)
class Machine:
    """Where training runs.

    Attributes:
        device: of the model.
        mixed: mixed precision: matrix products in bf16, weights in fp32.
    """

    device: torch.device
    mixed: bool

    def products(self) -> torch.autocast:
        """The autocast context of a forward pass."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.mixed)

    @property
    def workers(self) -> int:
        """Processes that make batches: all cores but one for a GPU, none on a CPU, which is busy with training."""
        return min(_MOST_WORKERS, (os.cpu_count() or 1) - 1) if self.device.type == "cuda" else 0


def seeing(model: Lisa, scenes: Scenes, size: int, machine: Machine, folder: Path, plan: Plan) -> Trainer[Sights]:
    """The trainer of the first stage; logs the losses `clip` and `sam`, and the share of kinds that each gets right."""
    heads = vision.Heads(model, SENSES)
    heads.load_state_dict(_first_heads(heads, plan.seed))
    heads.to(machine.device)
    image = model.shape.sam.image

    def loss_of(sights: Sights) -> Mapping[str, Tensor]:
        to_clip, to_sam = sights.clip.to(machine.device), sights.sam.to(machine.device)
        with machine.products():
            clip = heads.of_clip(model.clip, preprocess.clip_input(to_clip.pictures))
            sam = heads.of_sam(model.sam.image_encoder, preprocess.sam_input(to_sam.pictures, image))
        clip_loss = vision.loss(clip, to_clip.truth, SENSES)
        sam_loss = vision.loss(sam, to_sam.truth, SENSES)
        return {
            "loss": clip_loss + sam_loss,
            "clip": clip_loss,
            "sam": sam_loss,
            "clip_knows": vision.known(clip, to_clip.truth, SENSES),
            "sam_knows": vision.known(sam, to_sam.truth, SENSES),
        }

    learnt = {name: weight for name, weight in model.named_parameters() if name.startswith(_ENCODERS)}
    learnt |= {f"heads.{name}": weight for name, weight in heads.named_parameters()}
    _free(model, learnt)
    shape = model.shape
    return Trainer(learnt, lambda step: scenes.sights(step, size, shape), loss_of, folder, plan, machine.workers)


@dataclass(frozen=True, eq=False)
class Looked:
    """SAM's embeddings of all scenes, in a file.

    Attributes:
        folder: of the file.
        embedding: (scenes, C, grid, grid) float16, memory-mapped.
        encoder: digest of the weights that made them; what others made is not `done`.
    """

    folder: Path
    embedding: "np.memmap[Any, np.dtype[np.float16]]"
    encoder: str

    @classmethod
    def open(cls, folder: Path, count: int, shape: LisaShape, encoder: str) -> "Looked":
        """Opens the file, or makes one for that many scenes if there is none, or only a part; see `encoder_of`.

        Raises:
            OSError: the disk has no room for it.
        """
        path = folder / "embedding.npy"
        size = (count, shape.sam.embedding, shape.sam.grid, shape.sam.grid)
        if new := not _is_whole(path, size):
            (folder / _PROGRESS).unlink(missing_ok=True)  # of a file that was deleted or cut off since
        try:
            how: tuple[Any, ...] = ("w+", np.float16, size) if new else ("r+",)
            embedding = np.lib.format.open_memmap(path, *how)
            with path.open("r+b") as file:  # now: a mapped page without room would kill the process
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        except OSError as error:
            if new:
                path.unlink(missing_ok=True)
            raise OSError(error.errno, error.strerror, str(path)) from error
        return cls(folder, embedding, encoder)

    @property
    def done(self) -> int:
        """Number of scenes that this encoder has encoded."""
        try:
            progress = read_json(self.folder / _PROGRESS)
        except CheckpointError:  # damaged
            return 0
        done = progress.get("done")
        return done if isinstance(done, int) and progress.get("encoder") == self.encoder else 0

    def keep(self, first: int, embedding: Tensor) -> None:
        """Stores the embeddings of the scenes from `first` on."""
        stop = first + len(embedding)
        self.embedding[first:stop] = embedding.half().cpu().numpy()
        self.embedding.flush()
        write_whole({self.folder / _PROGRESS: json.dumps({"done": stop, "encoder": self.encoder}).encode()})


def encoder_of(model: Lisa) -> str:
    """A digest of the weights of SAM's encoder, and of their names."""
    digest = hashlib.sha256()
    for name, weight in model.named_parameters():
        if name.startswith(_SAM_ENCODER):
            digest.update(name.encode())
            digest.update(weight.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _is_whole(path: Path, size: tuple[int, ...]) -> bool:
    """Whether embeddings of that size are there; numpy itself would fill up what is missing with zeros."""
    if not path.is_file():
        return False
    try:
        found = np.lib.format.open_memmap(path, mode="r")
    except ValueError:
        return False
    return found.shape == size and found.dtype == np.float16


def look(model: Lisa, read: Callable[[int], View], looked: Looked, machine: Machine) -> Iterator[int]:
    """Encodes the scenes that are not encoded yet; yields the number that are."""
    image, count = model.shape.sam.image, len(looked.embedding)

    def pictures(first: int) -> Tensor:
        indices = range(first, min(count, first + _AT_ONCE))
        return torch.stack([preprocess.for_sam(read(index).rgb, image)[0] for index in indices])

    done = looked.done
    with closing(ahead(pictures, range(done, count, _AT_ONCE), machine.workers)) as batches:
        for wholes in batches:
            with torch.no_grad(), machine.products():
                looked.keep(done, model.sam.encode(preprocess.sam_input(wholes.to(machine.device), image)))
            done += len(wholes)
            yield done


@dataclass(frozen=True)
class Portion:
    """The size of a step of the second stage: scenes, and dialogues about each."""

    scenes: int
    dialogues: int


def speakers(model: Lisa, whole: bool) -> dict[str, nn.Parameter]:
    """The parameters that the second stage trains in full, by name; with `whole` SAM's encoder as well."""
    parts = (*_SPEAKING, _SAM_ENCODER) if whole else _SPEAKING
    return {name: weight for name, weight in model.named_parameters() if name.startswith(parts)}


class Speaking:
    """The second stage: its batches, its losses, and the trainer that takes both.

    Args:
        model: what is trained.
        tokenizer: of the dialogues.
        scenes: what they are about.
        looked: SAM's embeddings of the scenes; None: SAM's encoder is trained, too, and encodes them at every step, in
            random light.
        portion: of a step.
        machine: where to train.
        by_lora: trains what the official recipe does, by the adapters that the model has, with the official losses;
            otherwise all of `speakers`, with hints beside those losses, and every other step in 4 bit.
    """

    def __init__(
        self,
        model: Lisa,
        tokenizer: Tokenizer,
        scenes: Scenes,
        looked: Looked | None,
        portion: Portion,
        machine: Machine,
        by_lora: bool,
    ) -> None:
        self._model, self._tokenizer, self._machine = model, tokenizer, machine
        self._scenes, self._looked, self._portion = scenes, looked, portion
        self._hints = None if by_lora else Hints(model.shape, SENSES, looked is None)

    def trainer(self, folder: Path, plan: Plan) -> Trainer[Talk]:
        """The trainer, going on with what is in the folder."""
        learnt = speakers(self._model, self._looked is None) if self._hints else adapters.learnt(self._model)
        _free(self._model, learnt)
        if self._hints:
            self._hints.load_state_dict(_first_heads(self._hints, plan.seed))
            self._hints.to(self._machine.device)
            learnt |= {f"heads.{name}": weight for name, weight in self._hints.named_parameters()}
        return Trainer(
            learnt, self._batch, self._losses, folder, plan, self._machine.workers, self._rounded_every_other_step
        )

    def _batch(self, step: int) -> Talk:
        size, shape = self._portion, self._model.shape
        return self._scenes.talk(step, size.scenes, size.dialogues, shape, self._tokenizer, self._looked is None)

    def _losses(self, talk: Talk) -> Mapping[str, Tensor]:
        model = self._model
        model.language.train()  # adapters have dropout
        talk = talk.to(self._machine.device)
        with self._machine.products():
            visual = model.clip(preprocess.clip_input(talk.clip.pictures))
            embedding = self._embedding(talk)
            hidden = forward.read(model, visual, talk.words)
            masks = (talk.masks.float() / 255).split([len(columns) for columns in talk.words.before_seg])
            pictures = Pictures(visual, embedding, [talk.size] * len(masks), masks)
            parts = [forward.of_states(model, hidden, pictures, talk.words, Weights())]
            if self._hints:
                parts += self._hint_losses(self._hints, talk, visual, embedding, hidden)
        named = {name: value for part in parts for name, value in part.items()}
        return {**named, "loss": torch.stack([part["loss"] for part in parts]).sum()}

    def _embedding(self, talk: Talk) -> Tensor:
        """(B, C, grid, grid) of SAM's encoder."""
        if talk.sam:
            return self._model.sam.encode(preprocess.sam_input(talk.sam.pictures, self._model.shape.sam.image))
        assert self._looked
        return torch.from_numpy(self._looked.embedding[talk.scenes]).to(self._machine.device).float()

    def _hint_losses(
        self, hints: Hints, talk: Talk, visual: Tensor, embedding: Tensor, hidden: Tensor
    ) -> Iterator[dict[str, Tensor]]:
        rows, states = forward.before_seg(hidden, talk.words)
        pointed = hints.pointing(states, self._model.mm_projector(visual).index_select(0, rows))
        seen = vision.at_patches(hints.clip(visual))
        yield hints.losses(seen, talk.clip.truth, pointed, talk.patches.float() / 255)
        if hints.sam and talk.sam:
            yield hints.sam_losses(hints.sam(embedding), talk.sam.truth)

    def _rounded_every_other_step(self, step: int) -> AbstractContextManager[None]:
        return in_4_bit(self._model) if self._hints and step % 2 else nullcontext()


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
