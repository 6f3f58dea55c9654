"""The page: a picture and a conversation about it on the left, the masks of the answer on the right."""

import html
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import gradio as gr

from lisa_core import files
from lisa_core.errors import Cancelled, LisaError
from lisa_core.overlay import PALETTE
from lisa_core.template import SEG
from lisa_core.web.session import Session, Sessions, Turn

EXAMPLES = Path(__file__).parent / "examples"
LARGEST_UPLOAD = "32mb"
MOST_PIXELS = 1 << 26
"""Largest picture, px; it is kept as long as the visitor talks about it."""
_LONGEST_KEPT = 3600.0
"""s; uploaded and shown files that are older are deleted when somebody asks, but for archives and examples."""
MOST_WAITING = 32
"""Longest queue of questions; beyond that, visitors are asked to try again."""

_CSS = "\n".join(
    f"#layers label:nth-of-type({len(PALETTE)}n+{index + 1}) {{ border-left: 6px solid rgb{ink}; }}\n"
    f".seg-{index} {{ background: rgb{ink}; color: {'#101010' if sum(ink) > 360 else '#ffffff'};"
    " border-radius: 0.6em; padding: 0 0.45em; font-weight: 600; }"
    for index, ink in enumerate(PALETTE)
)


class Page:
    """The page and its event handlers.

    Args:
        sessions: of the visitors.
        title: names the model that answers.
        scratch: folder for the archives to download.
    """

    def __init__(self, sessions: Sessions, title: str, scratch: Path) -> None:
        self._sessions = sessions
        self._scratch = scratch
        with gr.Blocks(title="LISA", analytics_enabled=False) as self.blocks:
            gr.Markdown(f"## LISA\nAsk about a picture and get words and masks, by {html.escape(title)}.")
            with gr.Row(equal_height=False):
                with gr.Column(scale=5, min_width=360):
                    self._put_conversation()
                with gr.Column(scale=6, min_width=360):
                    self._put_masks()
            self._connect()
        self.blocks.queue(max_size=MOST_WAITING)

    def launch(self, host: str, port: int) -> None:
        """Serves the page from another thread; raises OSError if the address cannot be bound."""
        self.blocks.launch(
            server_name=host,
            server_port=port,
            share=False,
            inbrowser=False,
            quiet=True,
            prevent_thread_lock=True,
            ssr_mode=False,
            max_file_size=LARGEST_UPLOAD,
            footer_links=[],
            theme=gr.themes.Soft(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
            css=_CSS,
        )

    def close(self) -> None:
        """Stops serving, and forgets the visitors."""
        self.blocks.close(verbose=False)
        self._sessions.close()

    def _put_conversation(self) -> None:
        self._image = gr.Image(
            type="filepath", sources=["upload", "clipboard"], label="Picture", height=300, elem_id="picture"
        )
        self._image.preprocess = _path_of  # type: ignore[method-assign, assignment] # pictures are read by files.read_rgb, not by Gradio
        examples = sorted(map(str, EXAMPLES.glob("*.jpg")))
        if examples:
            gr.Examples(examples, self._image, label="Examples", elem_id="examples")
        self._chat = gr.Chatbot(
            label="Conversation", height=300, latex_delimiters=[], buttons=[], elem_id="conversation"
        )
        self._question = gr.Textbox(
            show_label=False,
            placeholder="What to find or answer, e.g. segment the cup",
            submit_btn=True,
            stop_btn=True,
            elem_id="question",
        )
        # what was sent last; the browser empties the box at once, for the reply would take away what is typed meanwhile
        self._sent = gr.Textbox(visible="hidden")
        # the number of the last question, kept by the browser and sent with each request for an answer
        self._heard = gr.Number(visible="hidden", precision=0)
        self._reset = gr.Button("New conversation", size="sm")

    def _put_masks(self) -> None:
        self._view = gr.Image(
            label="Masks", interactive=False, format="png", height=480, buttons=["fullscreen"], elem_id="view"
        )
        self._layers = gr.CheckboxGroup([], label="Layers", visible=False, elem_id="layers")
        self._timings = gr.Markdown(elem_id="timings")
        self._download = gr.DownloadButton("Download masks (zip)", visible=False, size="sm", elem_id="download")

    def _connect(self) -> None:
        masks: list[Any] = [self._view, self._layers, self._timings, self._download]
        in_turn: dict[str, Any] = {"concurrency_limit": 1, "show_progress_on": self._chat, "trigger_mode": "multiple"}
        at_once: dict[str, Any] = {"queue": False, "show_progress": "hidden", "trigger_mode": "multiple"}
        box = self._question
        sending = box.submit(None, box, [self._sent, box], js="(typed) => [typed, '']", **at_once)
        hearing = sending.then(self.hear, self._sent, [self._chat, self._heard], api_name="hear", **at_once)
        hearing.failure(None, [self._sent, box], box, js="(sent, typed) => typed || sent", **at_once)
        answering = hearing.success(self.answer, self._heard, [self._chat, box, *masks], api_name="answer", **in_turn)
        # a pending answer must not overwrite what replaces it
        again: dict[str, Any] = {**at_once, "cancels": answering}
        self._image.change(self.look, self._image, [self._chat, *masks], api_name="look", **again)
        self._question.stop(self.stop, None, self._chat, api_name="stop", **at_once)
        gr.on([self._reset.click, self._chat.clear], self.reset, None, [self._chat, *masks], api_name="reset", **again)
        self._layers.input(self.show, self._layers, self._view, api_name="show", **at_once)
        self.blocks.unload(self.leave)

    def look(self, path: str | None, request: gr.Request) -> list[Any]:
        """Starts a new conversation about another picture, or none."""
        session = self._session(request)
        try:
            session.open(files.read_rgb(Path(path), MOST_PIXELS) if path else None)
        except LisaError as error:
            session.open(None)
            sentence = str(error).replace(str(path), Path(str(path)).name)  # visitors do not see the server's folders
            gr.Warning(sentence, duration=None)
        return [[], *self._no_masks(session)]

    def hear(self, question: str, request: gr.Request) -> list[Any]:
        """Shows a question in the conversation, and queues it."""
        session = self._session(request)
        number = session.hear(question)
        return [[*_messages(session.turns), *_exchange(question, "")[:1]], number]

    def answer(self, number: int, request: gr.Request) -> Iterator[list[Any]]:
        """Streams the answer to the question of that number, then shows the masks."""
        session = self._session(request)
        turns = session.turns
        said = _messages(turns)
        unchanged = [gr.skip()] * 5
        try:
            question, words = session.answer(number)
            for text in words:
                yield [[*said, *_exchange(question, text)], *unchanged]
        except Cancelled:
            yield [_messages(session.turns), *unchanged]
        except LisaError as error:
            gr.Warning(str(error), duration=None)
            yield [_messages(session.turns), question, *unchanged[1:]]
        else:
            masks = self._masks(turns[-1], session)
            self._clear()
            if session.turns is turns:  # else the visitor has chosen another picture meanwhile
                yield [_messages(turns), gr.skip(), *masks]

    def stop(self, request: gr.Request) -> list[dict[str, str]]:
        """Cancels the visitor's running and queued questions."""
        session = self._session(request)
        session.stop()
        return _messages(session.turns)

    def reset(self, request: gr.Request) -> list[Any]:
        """Starts a new conversation about the same picture."""
        session = self._session(request)
        session.reset()
        return [[], *self._no_masks(session)]

    def show(self, shown: list[int], request: gr.Request) -> Any:
        """The overlay of the last answer, with these segments."""
        session = self._session(request)
        return session.turns[-1].picture(shown) if session.turns else gr.skip()

    def leave(self, request: gr.Request) -> None:
        """Gives up the questions of a visitor who has closed the page, or whose connection broke."""
        self._sessions.leave(_visitor(request))

    def _session(self, request: gr.Request) -> Session:
        return self._sessions.of(_visitor(request))

    def _masks(self, turn: Turn, session: Session) -> list[Any]:
        segments = turn.answer.segments
        layers = [
            (f"{index + 1}:  score {segment.score:.3f}, {segment.area} px", index)
            for index, segment in enumerate(segments)
        ]
        shown = list(range(len(segments)))
        return [
            turn.picture(shown),
            gr.CheckboxGroup(layers, value=shown, visible=bool(layers)),
            _timings(turn),
            self._archive(turn, session) if layers else gr.DownloadButton(visible=False),
        ]

    def _archive(self, turn: Turn, session: Session) -> gr.DownloadButton:
        """Offers the masks for download, in place of those of the previous answer."""
        folder = self._scratch / secrets.token_hex(8)
        archive = folder / "masks.zip"
        kept = self._download.keep_in_cache
        try:
            with ExitStack() as made:
                made.callback(shutil.rmtree, folder, ignore_errors=True)
                folder.mkdir()
                files.write_whole({archive: turn.archive()})
                made.callback(kept.discard, str(archive))
                kept.add(str(archive))
                session.offer(made.pop_all())
        except OSError as error:
            gr.Warning(f"The masks cannot be offered for download: {error.strerror}.", duration=None)
            return gr.DownloadButton(visible=False)
        return gr.DownloadButton(value=str(archive), visible=True)

    def _clear(self) -> None:
        """Deletes old files; Gradio's own `delete_cache` loses sight of what a visitor was shown."""
        parts = self.blocks.blocks.values()  # copied below, for other visitors' threads add archives
        kept = {os.path.realpath(path) for part in parts for path in tuple(getattr(part, "keep_in_cache", ()))}
        oldest = time.time() - _LONGEST_KEPT
        for path in self._scratch.glob("*/*"):
            with suppress(OSError):  # it is being deleted for another visitor
                if path.stat().st_ctime < oldest and os.path.realpath(path) not in kept:
                    path.unlink()

    @staticmethod
    def _no_masks(session: Session) -> list[Any]:
        return [session.image, gr.CheckboxGroup([], value=[], visible=False), "", gr.DownloadButton(visible=False)]


def _path_of(upload: Any) -> str | None:
    """The path of an uploaded file, of whatever kind."""
    return upload.path if upload else None


def _visitor(request: gr.Request) -> str:
    return str(request.session_hash)


def _messages(turns: list[Turn]) -> list[dict[str, str]]:
    return [message for turn in turns for message in _exchange(turn.question, turn.answer.text)]


def _exchange(question: str, answer: str) -> list[dict[str, str]]:
    """The messages of a question and its answer, each [SEG] in the colour of its segment."""
    first, *rest = map(_verbatim, answer.split(SEG))
    marked = first + "".join(
        f'<span class="seg-{index % len(PALETTE)}">{index + 1}</span>{words}' for index, words in enumerate(rest)
    )
    return [{"role": "user", "content": _verbatim(question)}, {"role": "assistant", "content": marked}]


def _verbatim(words: str) -> str:
    """Words escaped for Markdown and HTML."""
    return re.sub(r"([\\`*_{}\[\]()#+.!|~-])", r"\\\1", html.escape(words, quote=False))


def _timings(turn: Turn) -> str:
    stages = ", ".join(f"{stage} {seconds:.2f}" for stage, seconds in turn.timings.items())
    return f"{sum(turn.timings.values()):.2f} s ({stages})"
