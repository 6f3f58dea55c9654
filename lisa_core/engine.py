"""Encode a frame once, ask it many things.

    engine = LisaEngine.from_pretrained("xinlai/LISA-7B-v1")
    frame = engine.encode(rgb)
    answer = engine.ask(frame, "What could open the bottle?")

One thread uses an engine at a time, and what it calls back cannot use it before it has returned; `LisaError` says so.
"""

import gc
import math
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from lisa_core import devices, footprint, loading, preprocess, quantization, template
from lisa_core.answer import Answer, Segment
from lisa_core.checkpoint import Checkpoint
from lisa_core.errors import (
    Cancelled,
    ImageError,
    LisaError,
    OutOfMemoryError,
    PromptError,
    cancelled,
    first_line,
    raise_if_cancelled,
)
from lisa_core.inference import cuda_graphs
from lisa_core.inference.beside import beside_on
from lisa_core.inference.cuda_graphs import Replayed
from lisa_core.inference.frame import Encoded, Frame, Visual
from lisa_core.inference.generation import Generator
from lisa_core.inference.masking import Masker
from lisa_core.inference.memory import FrameMemory
from lisa_core.inference.prefix_cache import PrefixCache
from lisa_core.inference.question import Limits, Question
from lisa_core.inference.reply import Reply
from lisa_core.inference.stopwatch import Stopwatch
from lisa_core.inference.together import Asked, Together
from lisa_core.model.lisa import Lisa
from lisa_core.options import MAX_NEW_TOKENS, MAX_SEGMENTS, Layout, ResolvedPrecision, TemplateName
from lisa_core.template import IM_PATCH, History
from lisa_core.tokenizer import IMAGE_ID, Tokenizer, spread

__all__ = ["Frame", "LisaEngine"]

_MANY_WORDS = (
    "which of all the things that one can see in this picture would be the right one to take if somebody wanted to"
    " open a bottle and had nothing else at hand? Please explain why."
)
"""As long as people's questions get, for the warm-up."""


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
        memory_limit: float = 0.0,
    ) -> None:
        self.checkpoint = checkpoint
        self.precision = precision
        self.device = str(device)
        self.layout = layout
        self.template = template_name
        self._dtype = devices.compute_dtype(precision, device)
        self._torch_device = device
        self._tokenizer = tokenizer
        self._model: Lisa | None = model
        self._free = threading.Lock()
        end = tokenizer.special_ids[template.EOS]
        capture_for = partial(cuda_graphs.capture_for, device, precision)
        room = memory_limit * 2**30 - sum(self._weights().values()) if memory_limit > 0 else math.inf
        self._memory = FrameMemory(room)
        self._prefixes = PrefixCache(model.shape.language, self._dtype, device, self._memory)
        self._generator = Generator(model.language, end, self._prefixes, capture_for)
        self._look = Replayed(lambda seen: (model.mm_projector(model.clip(seen)[0]),), capture_for)
        self._masker = Masker(model, self._memory, self._dtype, device, precision, beside_on(device))

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
            checkpoint: folder, hub id, or "bundled", the small one that comes with this package.
            precision: "nf4", "int8", "bf16", "fp16" or "fp32"; "auto": nf4 on a GPU and if stored so, else fp32.
            device: "cuda", "cuda:1", "cpu"; None: the GPU if there is one.
            vision_tower: folder or hub id of CLIP; None: what the checkpoint brings or names.
            template: "llava_v1", "llava_llama_2" or "vicuna_v1_1"; None: the checkpoint's own.
            memory_limit: GiB that weights, KV caches and frames may take together, the least recently used frames
                giving theirs back first; 0: no limit.
            on_progress: called with (share done, parameter) while the weights stream in, and before that with
                (0, "downloading ...") if they have to be downloaded first.

        Raises:
            CheckpointError: it cannot be loaded so; says why.
            OutOfMemoryError: the device is too small.
        """
        target = devices.resolve_device(device)
        tell = on_progress or (lambda *_: None)
        opened = Checkpoint.open(
            checkpoint, vision_tower, template, on_download=lambda name: tell(0.0, f"downloading {name}")
        )
        resolved = devices.resolve_precision(precision, target, opened.quantised)
        footprint.check_limit(opened, resolved, target, memory_limit)
        model = loading.load(opened, resolved, target, on_progress)
        of_checkpoint = (model, opened.tokenizer, opened.layout, opened.template)
        with footprint.fitting(resolved, target):
            engine = cls(str(checkpoint), *of_checkpoint, resolved, target, memory_limit)
            if target.type == "cuda":
                try:
                    engine.warm_up()
                except BaseException:
                    engine.close()  # now, for who tries again needs the memory
                    raise
        return engine

    def warm_up(self) -> None:
        """Asks short and long questions about a black image: a GPU loads its kernels and records its graphs now.

        Raises:
            OutOfMemoryError: the device is too small to answer anything.
        """
        for first, then in (("What is this?", "And that?"), (_MANY_WORDS, f"Now, {_MANY_WORDS}")):
            frame = self.encode(np.zeros((480, 640, 3), np.uint8))
            self.ask(frame, first, max_new_tokens=2, max_segments=0)
            self.ask(frame, then, mask_only=True)
        self._prefixes.forget()

    def encode(self, rgb: NDArray[np.uint8]) -> Frame:
        """Encodes an image with CLIP; the language model prefills it together with the first question.

        SAM encodes it when an answer first needs a mask; on a GPU while that answer is decoded.

        Args:
            rgb: (H, W, 3) uint8 RGB.

        Raises:
            ImageError, OutOfMemoryError, DeviceError
        """
        watch = Stopwatch()
        with self._alone(), self._guarded():
            image = preprocess.check_image(rgb).copy()  # SAM may look at it later, when a camera has reused the buffer
            frame = Frame(image, watch.laps)
            (encoded,) = self._memory.use([frame])
            self._visual(encoded, watch)
        return frame

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
            frame: from `encode`; one of another engine's is encoded anew.
            instruction: what to find or answer; always plain words, whatever it contains.
            history: earlier (question, answer) turns; `[SEG]` in their answers is the token.
            max_new_tokens: end of sequence included.
            max_segments: most masks; further `[SEG]`s stay words.
            mask_only: no decoding, "[SEG]." is taken for the answer (the published benchmark's protocol).
            on_token: called with the answer's new text as it comes.
            on_stage: called with "answering" and "masking" when each begins.
            cancel: set it from any thread to stop within one token.

        Raises:
            ImageError: `frame` is none.
            PromptError, OutOfMemoryError, DeviceError, Cancelled
        """
        self._ready()
        _check_frames([frame])
        question = self._question(frame, instruction, history, on_token, on_stage, cancel)
        _check_limits(max_new_tokens, max_segments)
        return self._answer_one(question, Limits(max_new_tokens, max_segments, mask_only))

    def ask_many(
        self,
        frame: Frame | Sequence[Frame],
        instructions: Sequence[str],
        histories: Sequence[History] = (),
        *,
        max_new_tokens: int = MAX_NEW_TOKENS,
        max_segments: int = MAX_SEGMENTS,
        mask_only: bool = False,
        on_token: Callable[[int, str], None] | None = None,
        on_stage: Callable[[int, str], None] | None = None,
        on_answer: Callable[[int, Answer | Cancelled], None] | None = None,
        cancels: Sequence[threading.Event] = (),
    ) -> list[Answer | Cancelled]:
        """Answers several questions as `ask` would, decoding them together: each pass over the weights serves all.

        One alone is asked as by `ask`. Where decoding replays recorded steps (on a GPU), several are answered one after
        the other instead: only the step of a single question is recorded, and unrecorded steps of several take longer
        than recorded ones in turn.

        Args:
            frame: from `encode`, as in `ask`; one for all questions, or one for each.
            instructions: the questions.
            histories: earlier turns, one sequence for each question; empty: none has any.
            max_new_tokens, max_segments, mask_only: as in `ask`, for each question.
            on_token, on_stage: as in `ask`; called with the question's index first.
            on_answer: called with a question's index and what the list will hold of it, as soon as it has ended.
            cancels: one for each question; a cancelled one ends within one token while the others go on (one that waits
                for its turn ends when that comes); empty: none can be cancelled.

        Returns:
            An answer for each question, or `Cancelled`. The `timings` of an answer are those of all questions that are
            answered together, until this one ended.

        Raises:
            PromptError, ImageError, OutOfMemoryError, DeviceError: of any of them, for all.
        """
        self._ready()
        if isinstance(instructions, str):
            raise PromptError("The instructions are one text; give a list of texts, or ask one with `ask`.")
        count = len(instructions)
        frames = list(frame) if isinstance(frame, Sequence) else [frame] * count
        _check_frames(frames)
        if len(frames) != count or not {len(histories), len(cancels)} <= {0, count}:
            raise PromptError("Give as many frames, histories and cancels as questions, or one frame and none of them.")
        histories, cancels = histories or [()] * count, cancels or [threading.Event() for _ in range(count)]
        _check_limits(max_new_tokens, max_segments)
        questions = [
            self._question(
                frames[index],
                instructions[index],
                histories[index],
                on_token and partial(on_token, index),
                on_stage and partial(on_stage, index),
                cancels[index],
            )
            for index in range(count)
        ]
        for question in questions:
            self._generator.check_length(question.prompt)
        ends: dict[int, Answer | Cancelled] = {}

        def end(index: int, found: Answer | Cancelled) -> None:
            ends[index] = found
            if on_answer is not None:
                on_answer(index, found)

        answer = self._answer_in_turn if self._generator.records or count == 1 else self._answer_together
        answer(questions, Limits(max_new_tokens, max_segments, mask_only), end)
        return [ends[index] for index in range(count)]

    def _question(
        self,
        frame: Frame,
        instruction: str,
        history: History,
        on_token: Callable[[str], None] | None,
        on_stage: Callable[[str], None] | None,
        cancel: threading.Event | None,
    ) -> Question:
        rendered = template.BY_NAME[self.template].render(*template.checked(instruction, history))
        ids = self._tokenizer.encode(rendered)
        prompt = spread(ids, self._ready().shape.clip.tokens)
        return Question(frame, ids, prompt, on_token, on_stage or _no_one_listens, cancel or threading.Event())

    def _answer_one(self, question: Question, limits: Limits) -> Answer:
        cancel, watch = question.cancel, Stopwatch()
        with self._alone(), self._guarded():
            question.on_stage("answering")
            (frame,) = self._memory.use([question.frame])
            step = self._generator.read(self._visual(frame, watch), question.prompt, cancel)
            watch.lap("prefill")
            self._masker.begin(frame, watch)
            reply = Reply(self._tokenizer, question.on_token)
            if limits.mask_only:
                reply.assume_mask(step.hidden)
            else:
                for token, state in self._generator.decode(step, limits.new_tokens, cancel):
                    reply.add(token, state)
            reply.end()
            watch.lap("decode")
            segments: tuple[Segment, ...] = ()
            if states := reply.states[: max(limits.segments, 0)]:
                question.on_stage("masking")
                raise_if_cancelled(cancel)
                segments = self._masker.segments(frame, states, watch)
        return self._answer(question, reply, segments, watch)

    def _answer_in_turn(self, questions: Sequence[Question], limits: Limits, end: "_End") -> None:
        for index, question in enumerate(questions):
            found: Answer | Cancelled
            try:
                found = self._answer_one(question, limits)
            except Cancelled:
                found = cancelled()  # a new one, for the traceback of that one holds the question's tensors
            end(index, found)

    def _answer_together(self, questions: Sequence[Question], limits: Limits, end: "_End") -> None:
        watch = Stopwatch()

        def end_one(asked: Asked, segments: tuple[Segment, ...] | None) -> None:
            found = cancelled() if segments is None else self._answer(asked.question, asked.reply, segments, watch)
            end(asked.index, found)

        with self._alone(), self._guarded():
            frames = self._memory.use([question.frame for question in questions])
            asked = [
                Asked(
                    index=index,
                    question=question,
                    frame=frames[index],
                    visual=self._visual(frames[index], watch),
                    reply=Reply(self._tokenizer, question.on_token),
                )
                for index, question in enumerate(questions)
            ]
            Together(self._generator, self._prefixes, self._masker, limits, watch, end_one).answer(asked)

    def memory(self) -> Mapping[str, int]:
        """Bytes held by part: `clip`, `mm_projector`, `language`, `text_hidden_fcs`, `sam`, `frames`, `kv_cache`."""
        return {**self._weights(), "frames": self._memory.frames(), "kv_cache": self._memory.kv_caches()}

    def _weights(self) -> dict[str, int]:
        parts: dict[str, int] = {}
        for name, parameter in self._ready().named_parameters():
            part = name.split(".")[0]
            parts[part] = parts.get(part, 0) + quantization.stored_bytes(parameter)
        return parts

    def close(self) -> None:
        """Releases the model's memory; later calls raise `LisaError`.

        Raises:
            DeviceError: the GPU has failed.
        """
        if self._model is None:
            return
        with self._alone():
            self._model = None
            self._prefixes.forget()
            del self._prefixes, self._generator, self._masker, self._memory, self._look
            try:
                self._release()
            except RuntimeError as error:
                devices.raise_if_lost(self._torch_device, error)
                raise

    def _ready(self) -> Lisa:
        if self._model is None:
            raise LisaError("This engine was closed; load the checkpoint again.")
        return self._model

    def _visual(self, frame: Encoded, watch: Stopwatch) -> Visual:
        """The frame for the language model, encoded now if that is missing."""
        if frame.visual is None:
            model = self._ready()
            pixels = preprocess.for_clip(frame.image, model.shape.clip.image, self._torch_device)
            watch.lap("preprocess")
            seen = preprocess.clip_input(pixels).to(self._dtype)
            (tokens,) = self._look(seen[None])
            self._memory.make_room(tokens.nbytes)
            frame.visual = Visual(tokens)
            watch.lap("clip")
        return frame.visual

    def _answer(self, question: Question, reply: Reply, segments: tuple[Segment, ...], watch: Stopwatch) -> Answer:
        return Answer(
            text=reply.text,
            segments=segments,
            prompt_ids=self._as_released(question),
            token_ids=list(reply.ids),
            timings=dict(watch.laps),
        )

    def _as_released(self, question: Question) -> list[int]:
        """The prompt's ids as the authors' code has them: the image is one -200 in v1, patch tokens in v0."""
        if self.layout == "v1":
            return list(question.ids)
        patch = self._tokenizer.special_ids[IM_PATCH]
        return [patch if token == IMAGE_ID else token for token in question.prompt]

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """Without gradients; when memory runs out, what was read and recorded gives way to the next question."""
        try:
            with torch.inference_mode(), devices.current(self._torch_device):
                yield
        except (RuntimeError, MemoryError) as error:
            if not devices.ran_out_of_memory(self._torch_device, error):
                raise
            message = f"{self.device} ran out of memory on this question ({first_line(error)})."
            traceback.clear_frames(error.__traceback__)  # they hold the question's tensors
        else:
            return
        self._prefixes.forget()
        for recorded in (self._generator, self._look, self._masker):
            recorded.forget()
        self._release()
        raise OutOfMemoryError(f"{message} Ask about a smaller image, or use a smaller precision or checkpoint.")

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One call at a time: raises LisaError in another thread's, or a callback's; or if the engine was closed."""
        if not self._free.acquire(blocking=False):
            raise LisaError(
                "This engine is answering; use it when that call has returned, for it serves one thread at a time, and"
                " not its own callbacks."
            )
        try:
            self._ready()
            yield
        finally:
            self._free.release()

    def _release(self) -> None:
        gc.collect()
        if self._torch_device.type == "cuda":
            torch.cuda.empty_cache()


_End = Callable[[int, Answer | Cancelled], None]


def _no_one_listens(_stage: str) -> None:
    """Stands in for a caller's `on_stage`."""


def _check_frames(frames: Sequence[object]) -> None:
    for frame in frames:
        if not isinstance(frame, Frame):
            raise ImageError(f"A question takes a frame, not {type(frame).__name__}: frame = engine.encode(rgb).")


def _check_limits(max_new_tokens: int, max_segments: int) -> None:
    for name, most in (("max_new_tokens", max_new_tokens), ("max_segments", max_segments)):
        if not isinstance(most, (int, np.integer)):
            raise PromptError(f"{name} is {most!r}; give a whole number.")
    if max_new_tokens < 1:
        raise PromptError(f"max_new_tokens is {max_new_tokens}; at least 1 is needed.")
