"""Encode a frame once, ask it many things.

    engine = LisaEngine.from_pretrained("xinlai/LISA-7B-v1")
    frame = engine.encode(rgb)
    answer = engine.ask(frame, "What could open the bottle?")

An engine is not thread-safe: one thread owns it.
"""

import gc
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lisa_core import loading, preprocess, quantization, template
from lisa_core.answer import Answer, Segment, tight_box
from lisa_core.checkpoint import Checkpoint, Layout
from lisa_core.errors import LisaError, OutOfMemoryError, PromptError
from lisa_core.generation import Generator, Visual, raise_if_cancelled
from lisa_core.model.lisa import Lisa
from lisa_core.model.sam import upsample
from lisa_core.options import MAX_NEW_TOKENS, MAX_SEGMENTS, ResolvedPrecision, TemplateName
from lisa_core.stopwatch import Stopwatch
from lisa_core.template import IM_PATCH, SEG, History, Special
from lisa_core.tokenizer import IMAGE_ID, Tokenizer


@dataclass(eq=False)
class Frame:
    """An encoded image; hand it back with every question about it.

    Attributes:
        image: (H, W, 3) uint8 RGB, as it was given.
        timings: seconds that encoding took, by stage.
    """

    image: NDArray[np.uint8]
    timings: Mapping[str, float]
    _visual: Visual = field(repr=False)
    _sam: tuple[Tensor, preprocess.SamSize] | None = field(default=None, repr=False)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in px."""
        return (self.image.shape[0], self.image.shape[1])


class LisaEngine:
    """A LISA on one device.

    Attributes:
        checkpoint: as it was asked for.
        precision: "nf4", "int8", "bf16", "fp16" or "fp32".
        device: "cpu" or "cuda:0", ...
        layout: of the checkpoint.
        template: name of the conversation template.
    """

    def __init__(
        self,
        checkpoint: str,
        model: Lisa,
        tokenizer: Tokenizer,
        layout: Layout,
        template_name: TemplateName,
        precision: ResolvedPrecision,
        device: torch.device,
    ) -> None:
        self.checkpoint = checkpoint
        self.precision = precision
        self.device = str(device)
        self.layout = layout
        self.template = template_name
        self._dtype = loading.compute_dtype(precision, device)
        self._torch_device = device
        self._tokenizer = tokenizer
        self._seg = tokenizer.special_ids[SEG]
        self._model: Lisa | None = model
        end = tokenizer.special_ids[template.EOS]
        self._generator = Generator(model.language, end, self._dtype, device)

    @classmethod
    def from_pretrained(
        cls,
        checkpoint: str | Path,
        precision: str = "auto",
        device: str | None = None,
        vision_tower: str | Path | None = None,
        template: str | None = None,
        *,
        memory_limit: float = 0.0,
        on_progress: loading.Progress | None = None,
    ) -> "LisaEngine":
        """Loads a checkpoint. From a folder it touches no network.

        Args:
            checkpoint: folder or hub id.
            precision: "nf4", "int8", "bf16", "fp16" or "fp32"; "auto": nf4 on a GPU, fp32 on the CPU.
            device: "cuda", "cuda:1", "cpu"; None: the GPU if there is one.
            vision_tower: folder or hub id of CLIP; None: what the checkpoint brings or names.
            template: "llava_v1", "llava_llama_2" or "vicuna_v1_1"; None: what the checkpoint is.
            memory_limit: GiB that weights and KV cache may take together; 0: no limit.
            on_progress: called with (share done, parameter) while the weights stream in.

        Raises:
            CheckpointError: it cannot be loaded so; says why.
            OutOfMemoryError: the device is too small.
        """
        target = loading.resolve_device(device)
        opened = Checkpoint.open(checkpoint, vision_tower, template)
        resolved = loading.resolve_precision(precision, target, opened.quantised)
        loading.check_limit(opened, resolved, target, memory_limit)
        model = loading.load(opened, resolved, target, on_progress)
        return cls(str(checkpoint), model, opened.tokenizer, opened.layout, opened.template, resolved, target)

    def encode(self, rgb: NDArray[np.uint8]) -> Frame:
        """Encodes an image for the language model; SAM encodes it when an answer first needs a mask.

        Args:
            rgb: (H, W, 3) uint8 RGB.

        Raises:
            ImageError, OutOfMemoryError
        """
        model = self._ready()
        image = preprocess.check_image(rgb).copy()  # SAM may look at it later, when a camera has reused the buffer
        watch = Stopwatch()
        with self._guarded():
            pixels = preprocess.for_clip(image, model.shape.clip.image)
            watch.lap("preprocess")
            features = model.clip(self._on_device(pixels)[None])[0]
            visual = Visual(model.mm_projector(features))
            watch.lap("clip")
            prefix = self._tokenizer.encode(template.BY_NAME[self.template].prefix())
            self._generator.read(visual, self._expand(prefix))
            watch.lap("prefix")
        return Frame(image, watch.laps, visual)

    def ask(
        self,
        frame: Frame,
        instruction: str,
        history: History = (),
        *,
        max_new_tokens: int = MAX_NEW_TOKENS,
        max_segments: int = MAX_SEGMENTS,
        mask_only: bool = False,
        on_token: Callable[[str], None] | None = None,
        on_stage: Callable[[str], None] | None = None,
        cancel: threading.Event | None = None,
    ) -> Answer:
        """Answers one question about a frame.

        Args:
            frame: from `encode` of this engine.
            instruction: what to find or answer; always plain words, whatever it contains.
            history: earlier (question, answer) turns; `[SEG]` in their answers is the token.
            max_new_tokens: end of sequence included.
            max_segments: masks at most; the text goes on.
            mask_only: no decoding, "[SEG]." is taken for the answer (the published benchmark's protocol).
            on_token: called with the answer's new text as it comes.
            on_stage: called with "answering" and "masking" when each begins.
            cancel: set it from any thread to stop within one token.

        Raises:
            PromptError, OutOfMemoryError, Cancelled
        """
        model = self._ready()
        prompt = self._prompt(instruction, history)
        _check_most(max_new_tokens)
        notify = on_stage or _no_one_listens
        watch = Stopwatch()
        with self._guarded():
            notify("answering")
            hidden = self._generator.read(frame._visual, self._expand(prompt), cancel)
            watch.lap("prefill")
            if mask_only:
                token_ids, states = self._taken_answer(), [hidden]
            else:
                steps = self._generator.decode(hidden, max_new_tokens, cancel)
                token_ids, states = self._stream(steps, on_token)
            watch.lap("decode")
            segments: tuple[Segment, ...] = ()
            if states and max_segments > 0:
                notify("masking")
                raise_if_cancelled(cancel)
                segments = self._segments(model, frame, states[:max_segments], watch)
        return self._answer(prompt, token_ids, segments, watch)

    def ask_many(
        self,
        frame: Frame | Sequence[Frame],
        instructions: Sequence[str],
        histories: Sequence[History] = (),
        *,
        max_new_tokens: int = MAX_NEW_TOKENS,
        max_segments: int = MAX_SEGMENTS,
        mask_only: bool = False,
        cancel: threading.Event | None = None,
    ) -> list[Answer]:
        """Answers several questions at once, each as `ask` would: the weights are read once per token for all.

        Args:
            frame: from `encode` of this engine; one for all questions, or one for each.
            instructions: the questions.
            histories: earlier turns, one sequence for each question; empty: none has any.
            max_new_tokens, max_segments, mask_only: as in `ask`, for each question.
            cancel: set it from any thread to stop all of them within one token.

        Returns:
            An answer for each question; their `timings` are those of all together.

        Raises:
            PromptError, OutOfMemoryError, Cancelled
        """
        model = self._ready()
        frames = [frame] * len(instructions) if isinstance(frame, Frame) else list(frame)
        if len(frames) != len(instructions) or len(histories) not in (0, len(instructions)):
            raise PromptError("Give as many frames and histories as questions, or one frame and no history.")
        prompts = [
            self._prompt(words, history)
            for words, history in zip(instructions, histories or [()] * len(instructions), strict=True)
        ]
        _check_most(max_new_tokens)
        watch = Stopwatch()
        with self._guarded():
            visuals = [frame._visual for frame in frames]
            asked = zip(visuals, map(self._expand, prompts), strict=True)
            texts = self._generator.read_together(list(asked), cancel) if prompts else []
            watch.lap("prefill")
            told: list[tuple[list[int], list[Tensor]]] = [([], []) for _ in texts]
            if mask_only:
                told = [(self._taken_answer(), [text.hidden]) for text in texts]
            else:
                for step in self._generator.decode_together(texts, max_new_tokens, cancel):
                    for index, token, hidden in step:
                        told[index][0].append(token)
                        told[index][1].extend([hidden] if token == self._seg else [])
            watch.lap("decode")
            raise_if_cancelled(cancel)
            segments = self._segments_of_all(model, frames, [states[:max_segments] for _, states in told], watch)
        return [
            self._answer(prompt, ids, found, watch)
            for prompt, (ids, _), found in zip(prompts, told, segments, strict=True)
        ]

    def memory(self) -> Mapping[str, int]:
        """Bytes held by part: `clip`, `mm_projector`, `language`, `text_hidden_fcs`, `sam` and `kv_cache`."""
        parts: dict[str, int] = {}
        for name, parameter in self._ready().named_parameters():
            part = name.split(".")[0]
            parts[part] = parts.get(part, 0) + quantization.stored_bytes(parameter)
        return {**parts, "kv_cache": self._generator.memory()}

    def close(self) -> None:
        """Releases the model's memory; later calls raise `LisaError`."""
        if self._model is None:
            return
        self._model = None
        del self._generator
        self._release()

    def _ready(self) -> Lisa:
        if self._model is None:
            raise LisaError("This engine was closed; load the checkpoint again.")
        return self._model

    def _prompt(self, instruction: str, history: History) -> list[int]:
        return self._tokenizer.encode(template.BY_NAME[self.template].render(*template.checked(instruction, history)))

    def _answer(
        self, prompt: list[int], token_ids: Sequence[int], segments: tuple[Segment, ...], watch: Stopwatch
    ) -> Answer:
        return Answer(
            text=self._tokenizer.decode(token_ids),
            segments=segments,
            prompt_ids=tuple(self._as_released(prompt)),
            token_ids=tuple(token_ids),
            timings=watch.laps,
        )

    def _stream(
        self, steps: Iterator[tuple[int, Tensor]], on_token: Callable[[str], None] | None
    ) -> tuple[list[int], list[Tensor]]:
        """Collects the answer's tokens and the states behind its `[SEG]`s, and tells the text as it grows."""
        ids: list[int] = []
        states: list[Tensor] = []
        told = ""
        for token, hidden in steps:
            ids.append(token)
            if token == self._seg:
                states.append(hidden)
            if on_token is not None:
                text = self._tokenizer.decode(ids)
                if text.startswith(told) and text != told and not text.endswith("\ufffd"):  # half a character
                    on_token(text[len(told) :])
                    told = text
        if on_token is not None and (rest := self._tokenizer.decode(ids)[len(told) :]):
            on_token(rest)
        return ids, states

    def _segments(self, model: Lisa, frame: Frame, states: Sequence[Tensor], watch: Stopwatch) -> tuple[Segment, ...]:
        if frame._sam is None:
            pixels, size = preprocess.for_sam(frame.image, model.shape.sam.image)
            frame._sam = model.sam.encode(self._on_device(pixels)[None])[0], size
            watch.lap("sam")
        embedding, size = frame._sam
        prompts = model.text_hidden_fcs(torch.cat(list(states)))
        logits, scores = model.sam.decode(embedding, prompts)
        segments = []
        for prompt, low_res, score in zip(prompts, logits, scores, strict=True):
            full = upsample(low_res[None], model.shape.sam.image, size.resized, size.source)[0]
            mask = (full > 0).cpu().numpy()
            segments.append(
                Segment(
                    mask=mask,
                    score=float(score),
                    box=tight_box(mask),
                    embedding=prompt.float().cpu().numpy(),
                    low_res_logits=low_res.float().cpu().numpy(),
                )
            )
        watch.lap("masks")
        return tuple(segments)

    def _segments_of_all(
        self, model: Lisa, frames: Sequence[Frame], states: Sequence[Sequence[Tensor]], watch: Stopwatch
    ) -> list[tuple[Segment, ...]]:
        """The segments of each question, decoded as one batch per frame."""
        batches: dict[Frame, list[Tensor]] = {}
        for frame, of_one in zip(frames, states, strict=True):
            batches.setdefault(frame, []).extend(of_one)
        found = {
            frame: iter(self._segments(model, frame, batch, watch) if batch else ()) for frame, batch in batches.items()
        }
        return [tuple(islice(found[frame], len(of_one))) for frame, of_one in zip(frames, states, strict=True)]

    def _taken_answer(self) -> list[int]:
        """The ids of "[SEG]." and the end of sequence."""
        return self._tokenizer.encode([Special(SEG), ".", Special(template.EOS)])[1:]

    def _expand(self, ids: Sequence[int]) -> list[int]:
        """The image's one id, once for each of its visual tokens."""
        count = self._ready().shape.clip.tokens
        where = ids.index(IMAGE_ID)
        return [*ids[:where], *[IMAGE_ID] * count, *ids[where + 1 :]]

    def _as_released(self, ids: list[int]) -> list[int]:
        """How the checkpoint's layout writes the image: v1 as -200, v0 as its patch tokens."""
        if self.layout == "v1":
            return ids
        patch = self._tokenizer.special_ids[IM_PATCH]
        return [patch if token == IMAGE_ID else token for token in self._expand(ids)]

    def _on_device(self, pixels: Tensor) -> Tensor:
        return pixels.to(self._torch_device, self._dtype)

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """No gradients; when memory runs out, what was read is dropped, so that the next question finds room."""
        try:
            with torch.inference_mode():
                yield
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and not loading.is_out_of_memory(error):
                raise
            message = f"{self.device} ran out of memory on this question ({_first_line(error)})."
        else:
            return
        # outside the except block, so that the traceback no longer holds the question's tensors
        self._generator.forget()
        self._release()
        raise OutOfMemoryError(f"{message} Ask about a smaller image, or use a smaller precision or checkpoint.")

    def _release(self) -> None:
        gc.collect()
        if self._torch_device.type == "cuda":
            torch.cuda.empty_cache()


def _no_one_listens(_stage: str) -> None:
    """Stands in for a caller's `on_stage`."""


def _check_most(max_new_tokens: int) -> None:
    if max_new_tokens < 1:
        raise PromptError(f"max_new_tokens is {max_new_tokens}; at least 1 is needed.")


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
