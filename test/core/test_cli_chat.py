"""`lisa chat`: over a pipe like a script, through a pseudo-terminal like a person."""

import base64
import fcntl
import io
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import cli
import numpy as np
import pytest
from goldens import GOLDENS, picture
from PIL import Image

from lisa_core import overlay
from lisa_core.cli import inline

IMAGES = GOLDENS / "images"
PORTRAIT, ODD = IMAGES / "portrait_360x640.png", IMAGES / "odd_333x217.png"
FIRST, SECOND = "Please segment the two cups on the table.", "What is in this image?"


@pytest.fixture
def chat(small_checkpoint, tmp_path):
    """Runs the command over a pipe, with these lines as input."""

    def run(*lines, image=PORTRAIT):
        images = [] if image is None else [image]
        model = cli.model(small_checkpoint)
        return cli.run("chat", *images, *model, "--out", tmp_path / "out", typed="".join(f"{line}\n" for line in lines))

    return run


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def pixels(path):
    return np.asarray(Image.open(path))


# Over a pipe


def test_answers_know_what_was_said_before(chat, small):
    result = chat(FIRST, SECOND)
    frame = small.encode(picture(PORTRAIT.name))
    first = small.ask(frame, FIRST)
    second = small.ask(frame, SECOND, [(FIRST, first.text)])
    alone = small.ask(frame, SECOND)
    assert second.text != alone.text
    assert result.code == 0
    assert result.out.index(f"> {FIRST} {first.text}") < result.out.index(f"> {SECOND} {second.text}")
    for segment in first.segments:
        assert ", ".join(map(str, segment.box)) in result.out
        assert f"{segment.score:.3f}" in result.out


def test_overlays_are_written_as_they_come(chat, out, small):
    result = chat(FIRST)
    answer = small.ask(small.encode(picture(PORTRAIT.name)), FIRST)
    path = out / "portrait_360x640_001_overlay.png"
    assert str(path) in result.out
    assert names(out) == [path.name]
    assert np.array_equal(pixels(path), overlay.draw(picture(PORTRAIT.name), answer.segments))


def test_those_of_an_earlier_chat_stay(chat, out):
    chat(FIRST)
    before = (out / "portrait_360x640_001_overlay.png").stat().st_mtime_ns
    chat("segment the handle")
    assert names(out) == ["portrait_360x640_001_overlay.png", "portrait_360x640_002_overlay.png"]
    assert (out / "portrait_360x640_001_overlay.png").stat().st_mtime_ns == before


def test_reset_forgets_what_was_said(chat, small):
    result = chat(FIRST, "/reset", SECOND)
    frame = small.encode(picture(PORTRAIT.name))
    assert f"> /reset (forgotten) > {SECOND} {small.ask(frame, SECOND).text}" in result.out


def test_another_picture(chat, small):
    result = chat(FIRST, f"/image {ODD}", SECOND)
    answer = small.ask(small.encode(picture(ODD.name)), SECOND)
    assert f"> /image {ODD} {ODD}, 333x217 > {SECOND} {answer.text}" in result.out


def test_a_picture_can_be_named_later(chat):
    result = chat(SECOND, f"/image '{ODD}'", SECOND, image=None)
    assert result.code == 1
    assert result.errors == "error: There is no picture to talk about yet: /image PATH names one."
    assert f"{ODD}, 333x217" in result.out


def test_a_picture_that_cannot_be_read_changes_nothing(chat, small, tmp_path):
    result = chat(FIRST, f"/image {tmp_path}", SECOND)
    assert result.code == 1
    assert result.errors == f"error: {tmp_path} is a folder; give a picture's file."
    frame = small.encode(picture(PORTRAIT.name))
    assert small.ask(frame, SECOND, [(FIRST, small.ask(frame, FIRST).text)]).text in result.out


def test_saved_is_the_whole_conversation(chat, out, small):
    result = chat(FIRST, SECOND, "/save")
    frame = small.encode(picture(PORTRAIT.name))
    first = small.ask(frame, FIRST)
    path = out / "portrait_360x640_001_chat.json"
    assert str(path) in result.out
    saved = json.loads(path.read_text())
    assert saved["image"] == str(PORTRAIT)
    assert [turn["question"] for turn in saved["turns"]] == [FIRST, SECOND]
    assert saved["turns"][0]["text"] == first.text
    assert saved["turns"][0]["overlay"] == "portrait_360x640_001_overlay.png"
    for segment, entry in zip(first.segments, saved["turns"][0]["segments"], strict=True):
        assert (entry["box"], entry["area"], entry["score"]) == (list(segment.box), segment.area, segment.score)
        assert np.array_equal(pixels(out / entry["mask"]), segment.mask * 255)
    for turn in saved["turns"]:
        assert {entry["mask"] for entry in turn["segments"]} <= set(names(out))


def test_commands_that_cannot_be_done_are_told(chat):
    result = chat("/save", "/nonsense", "/image", "/camera", "/image ~nobody-of-that-name/x.png", "")
    assert result.code == 1
    assert "~nobody-of-that-name/x.png cannot be looked at" in result.errors
    assert "Say which: /image PATH." in result.errors
    assert "Say which: /camera TOPIC." in result.errors
    assert "Nothing was said yet that could be saved." in result.errors
    assert "There is no /nonsense; /help lists what there is." in result.errors


def test_a_camera_without_ros_is_told(chat, monkeypatch):
    monkeypatch.setitem(sys.modules, "lisa_ros.snapshot", None)
    result = chat("/camera /image")
    assert result.code == 1
    assert "/camera needs ROS and lisa_ros, which do not import here" in result.errors


def test_help_lists_the_commands(chat):
    shown = chat("/help").out
    for command in ("/image PATH", "/reset", "/save", "/help", "/quit"):
        assert command in shown


def test_quit_ends_it(chat):
    for words in ("/quit", "/quit now"):
        result = chat(words, FIRST)
        assert result.code == 0
        assert FIRST not in result.out


def test_a_question_that_fails_does_not_end_it(chat):
    result = chat("word " * 10_000, "segment the handle")
    assert result.code == 1
    assert "tokens" in result.errors
    assert "[SEG]" in result.out


def test_a_folder_that_cannot_be_written_does_not_end_it(chat, out, monkeypatch):
    def full(_):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)
    result = chat(FIRST, SECOND)
    assert result.code == 1
    assert f"error: No space left on device: {out / 'portrait_360x640_001_overlay.png'}" in result.errors
    assert SECOND in result.out
    assert names(out) == []


@pytest.mark.parametrize(
    ("arguments", "code"), [([PORTRAIT, "--precision", "int2"], 2), (["nowhere.png", "--checkpoint", "x"], 1)]
)
def test_what_cannot_begin(arguments, code):
    assert cli.run("chat", *arguments).code == code


def test_its_options_are_those_of_the_model(out):
    asked = {}

    def load(**options):
        asked.update(options)
        raise KeyboardInterrupt

    options = {"checkpoint": "some", "precision": "int8", "device": "cuda:1", "vision_tower": "clip"}
    options |= {"template": "llava_llama_2", "memory_limit": 6.0}
    words = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", value)]
    stopped = cli.run("chat", PORTRAIT, *words, "--out", out, load=load)
    assert {name: asked[name] for name in options} == options
    assert (stopped.code, stopped.errors) == (130, "error: stopped.")


@pytest.mark.parametrize("precision", ["int8", "nf4"])
def test_in_8_and_4_bit(load, small_checkpoint, out, precision):
    words = ("--precision", precision, "--max-new-tokens", 12, "--out", out, *cli.model(small_checkpoint))
    result = cli.run("chat", PORTRAIT, *words, typed=f"{SECOND}\n")
    engine = load(small_checkpoint, precision)
    assert result.code == 0, result.errors
    assert engine.ask(engine.encode(picture(PORTRAIT.name)), SECOND, max_new_tokens=12).text in result.out


# In a terminal

SLOW = """
import signal, sys, threading, time
import numpy as np
from lisa_core.answer import Answer, Segment
from lisa_core.cli import main
from lisa_core.errors import Cancelled

class Frame:
    timings = {}
    def __init__(self, rgb):
        self.image, self.size = rgb, rgb.shape[:2]

class Engine:
    checkpoint, precision, device = "slow", "fp32", "cpu"
    def encode(self, rgb):
        if rgb.shape[0] == 300:
            pressed, obey = threading.Event(), signal.getsignal(signal.SIGINT)
            signal.signal(signal.SIGINT, lambda *told: (obey(*told), pressed.set()))
            print("a picture that takes its time, until Ctrl-C", flush=True)
            pressed.wait()
        return Frame(rgb)
    def ask(self, frame, question, history=(), *, on_token, on_stage, cancel, **limits):
        on_stage("answering")
        for number in range(3000 if "count" in question else 2):
            if cancel.is_set():
                raise Cancelled("cancelled")
            on_token(f"{number} ")
            time.sleep(0.02)
        on_token(f"turn {len(history)}: [SEG]")
        on_stage("masking")
        mask = np.zeros(frame.size, bool)
        mask[10:50, 20:80] = True
        nothing = np.zeros(0, np.float32)
        return Answer("It is [SEG]", (Segment(mask, 0.75, (20, 10, 60, 40), nothing, nothing),))
    def close(self):
        pass

main(load=lambda on_progress, **_: (on_progress(0.5, "sam"), Engine())[1])
"""


class Terminal:
    """A chat in a pseudo-terminal."""

    def __init__(self, folder, **environment):
        (folder / "slow.py").write_text(SLOW)
        self._keys, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 200, 0, 0))  # rows, columns
        variables = {name: value for name, value in os.environ.items() if name not in ("TMUX", "TERM_PROGRAM")}
        words = ["chat", ODD, "--checkpoint", "slow", "--out", folder / "out"]
        self.process = subprocess.Popen(
            [sys.executable, str(folder / "slow.py"), *map(str, words)],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=variables | {"TERM": "xterm-256color"} | environment,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509 # so that Ctrl-C is a signal
        )
        os.close(theirs)
        self.shown = ""

    def type(self, keys):
        os.write(self._keys, keys.encode())

    def until(self, pattern, patience=120, pressing=""):
        """The new output up to the pattern; `pressing`: keys to press every second until it comes."""
        deadline, pressed = time.monotonic() + patience, 0.0
        begin = len(self.shown)
        while not re.search(pattern, self.shown[begin:]):
            assert time.monotonic() < deadline, f"waited in vain for {pattern!r} in {self.shown[begin:]!r}"
            if pressing and time.monotonic() > pressed + 1:
                self.type(pressing)
                pressed = time.monotonic()
            if select.select([self._keys], [], [], 0.1)[0]:
                try:
                    self.shown += os.read(self._keys, 65536).decode(errors="replace")
                except OSError:  # the other end is closed
                    assert re.search(pattern, self.shown[begin:]), self.shown
        return self.shown[begin:]

    def close(self):
        self.process.kill()
        self.process.wait()
        os.close(self._keys)


@pytest.fixture
def terminal(tmp_path):
    opened = []

    def start(**environment):
        opened.append(Terminal(tmp_path, **environment))
        return opened[-1]

    yield start
    for one in opened:
        one.close()


def test_a_person_talks(terminal, tmp_path):
    talk = terminal()
    assert "slow, fp32 on cpu; /help for help" in talk.until("> $")
    talk.type("where is it\r")
    shown = talk.until("(?s:overlay.png.*> $)")
    red, green, blue = overlay.colour(0)
    colour = f"38;2;{red};{green};{blue}" if f"38;2;{red}" in shown else "38;5;"
    assert re.search(rf"\x1b\[1;{colour}[\d;]*m\[SEG\]", shown)
    assert re.search(rf"\x1b\[1;{colour}[\d;]*m20, 10, 60, 40", shown)
    assert "0.750" in shown
    assert "\x1b_G" not in shown
    assert "1337" not in shown
    assert (tmp_path / "out" / "odd_333x217_001_overlay.png").is_file()
    talk.type("again\r")
    assert "turn 1" in talk.until("(?s:overlay.png.*> $)")
    talk.type("/quit\r")
    assert talk.process.wait(60) == 0


def test_ctrl_c_stops_the_answer_and_not_the_chat(terminal):
    talk = terminal()
    talk.until("> $")
    talk.type("count\r")
    talk.until("3 ")
    talk.type("\x03")
    shown = talk.until("(?s:stopped.*> $)")
    assert "turn" not in shown
    talk.type("again\r")
    assert "turn 0" in talk.until("(?s:overlay.png.*> $)")  # the stopped answer is not part of the history
    talk.until("quit leaves(?s:.*> $)", pressing="\x03")  # pressed too early, it waits for the next key
    talk.type("\x04")
    assert talk.process.wait(60) == 0


def test_ctrl_c_while_it_looks_keeps_the_picture_before(terminal):
    talk = terminal()
    talk.until("> $")
    talk.type(f"/image {IMAGES / 'square_300.png'}\r")
    talk.until("takes its time")
    talk.type("\x03")
    talk.until("(?s:stopped.*> $)")
    talk.type("where is it\r")
    assert "odd_333x217_001_overlay.png" in talk.until("(?s:overlay.png.*> $)")


def test_answers_come_word_by_word(terminal):
    talk = terminal()
    talk.until("> $")
    talk.type("count\r")
    talk.until("5 ")
    assert "turn" not in talk.shown  # its last word


def test_kitty_shows_the_picture(terminal, tmp_path):
    talk = terminal(TERM="xterm-kitty")
    talk.until("> $")
    talk.type("where\r")
    shown = talk.until("(?s:overlay.png.*> $)")
    chunks = re.findall(r"\x1b_G([^;]*);([^\x1b]*)\x1b\\", shown)
    assert all(len(data) <= 4096 for _, data in chunks)
    assert all("m=1" in keys for keys, _ in chunks[:-1])
    assert "m=0" in chunks[-1][0]
    assert "a=T" in chunks[0][0]
    sent = Image.open(io.BytesIO(base64.b64decode("".join(data for _, data in chunks))))
    assert np.array_equal(np.asarray(sent), pixels(tmp_path / "out" / "odd_333x217_001_overlay.png"))


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"TERM": "xterm-kitty"}, inline.as_kitty),
        ({"TERM": "xterm-256color", "KITTY_WINDOW_ID": "1"}, inline.as_kitty),
        ({"TERM": "xterm-ghostty", "TERM_PROGRAM": "ghostty"}, inline.as_kitty),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "iTerm.app"}, inline.as_iterm),
        ({"TERM": "xterm-256color", "LC_TERMINAL": "iTerm2"}, inline.as_iterm),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "WezTerm"}, inline.as_iterm),
        ({"TERM": "xterm-256color"}, None),
        ({"TERM": "tmux-256color", "TMUX": "/tmp/tmux", "KITTY_WINDOW_ID": "1"}, None),
        ({"TERM": "screen", "LC_TERMINAL": "iTerm2"}, None),
        ({}, None),
    ],
)
def test_which_terminals_show_pictures(environment, expected):
    assert inline.encoder(environment) is expected


def test_iterm_gets_a_smaller_picture_of_a_large_one():
    large = np.zeros((1500, 3000, 3), np.uint8)
    found = re.fullmatch(r"\x1b\]1337;File=inline=1;width=\d+:([^\x07]*)\x07\n", inline.as_iterm(large))
    assert Image.open(io.BytesIO(base64.b64decode(found[1]))).size == (1024, 512)


def test_stopped_over_a_pipe_all_of_it_ends(tmp_path):
    (tmp_path / "slow.py").write_text(SLOW)
    words = ["chat", ODD, "--checkpoint", "slow", "--out", tmp_path / "out"]
    with subprocess.Popen(
        [sys.executable, str(tmp_path / "slow.py"), *map(str, words)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        process.stdin.write("count\nagain\n")
        process.stdin.close()
        while process.stdout.readline() != "> count\n":
            pass
        process.stdout.read(len("0 1 2 "))  # it answers
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
        assert process.wait(60) == 130
    assert "error: stopped." in rest
    assert "again" not in rest
    assert "Traceback" not in rest


def test_bytes_that_are_no_utf_8_do_not_end_it(tmp_path):
    (tmp_path / "slow.py").write_text(SLOW)
    process = subprocess.run(
        [sys.executable, str(tmp_path / "slow.py"), "chat", str(ODD), "--checkpoint", "slow"],
        input=b"K\xe4se\n/image K\xe4se.png\n",
        capture_output=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONUTF8": "0", "PYTHONIOENCODING": "utf-8:strict"},
        timeout=60,
    )
    out, errors = process.stdout.decode(), process.stderr.decode()
    assert "> K\ufffdse\n" in out
    assert "turn 0: [SEG]" in out
    assert "K\ufffdse.png" in errors
    assert "Traceback" not in errors


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["chat", ODD, "--checkpoint", "slow"], "No space left on device: where the answers go"),
        (["--help"], "Standard output is full or closed"),
    ],
    ids=["chat", "help"],
)
def test_a_full_disk_under_its_output_ends_it_with_a_sentence(tmp_path, words, sentence, unbuffered):
    (tmp_path / "slow.py").write_text(SLOW)
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        process = subprocess.run(
            [sys.executable, str(tmp_path / "slow.py"), *map(str, words)],
            input="count\n",
            stdout=full,
            stderr=subprocess.PIPE,
            cwd=tmp_path,
            env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
            text=True,
            timeout=60,
        )
    assert process.returncode == 1
    assert f"error: {sentence}" in process.stderr
    assert "Traceback" not in process.stderr
    assert "Exception ignored" not in process.stderr
