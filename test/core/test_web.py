"""`lisa web` without a browser: sessions, and the page over HTTP."""

import errno
import gc
import io
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import weakref
import zipfile
from concurrent.futures import CancelledError
from contextlib import ExitStack
from types import SimpleNamespace

import cli
import httpx
import numpy as np
import pytest
from goldens import GOLDENS, picture
from gradio_client import Client, handle_file
from PIL import Image
from web_page import FakeEngine, alike, drawn, free_port, page_of, serving

from lisa_core import overlay
from lisa_core.errors import Cancelled, CheckpointError, ImageError, PromptError
from lisa_core.web import session as session_module
from lisa_core.web.session import Inference, Session, Sessions

TABLE, ODD = "table_640x480.png", "odd_333x217.png"
FIRST, SECOND = "Please segment the two cups on the table.", "What is in this image?"


@pytest.fixture
def inference():
    made = Inference(FakeEngine())
    yield made
    made.close()


@pytest.fixture
def talk(inference):
    session = Session(inference)
    session.open(picture(TABLE))
    return session


def ask(session, question):
    """The text of the answer so far, as it grows."""
    return session.answer(session.hear(question))[1]


# A visitor's conversation


def test_answers_know_what_was_said_before(talk):
    assert list(ask(talk, "where")) == ["turn", "turn 0"]
    assert list(ask(talk, "again")) == ["turn", "turn 1"]
    assert [turn.question for turn in talk.turns] == ["where", "again"]


def test_masks_are_kept_of_the_last_answer_only(talk):
    for question in ("where", "again", "where"):
        list(ask(talk, question))
    assert [len(turn.answer.segments) for turn in talk.turns] == [0, 0, 2]


def test_a_picture_is_encoded_once_and_its_time_counts_for_the_first_question(talk):
    list(ask(talk, "where"))
    list(ask(talk, "again"))
    assert [list(turn.timings) for turn in talk.turns] == [["clip", "decode"], ["decode"]]


def test_another_picture_starts_again(talk):
    list(ask(talk, "where"))
    talk.open(picture(ODD))
    assert talk.turns == []
    assert list(ask(talk, "where"))[-1] == "turn 0"
    assert talk.turns[0].answer.segments[0].mask.shape == (217, 333)


def test_a_picture_that_was_left_while_it_was_encoded_is_not_asked_about(talk, inference, monkeypatch):
    encode = inference.encode

    def slowly(image):
        frame = encode(image)
        if image.shape[:2] == (480, 640):
            talk.open(picture(ODD))
        return frame

    monkeypatch.setattr(inference, "encode", slowly)
    list(ask(talk, "where"))
    assert talk.turns == []
    list(ask(talk, "where"))
    assert talk.turns[0].answer.segments[0].mask.shape == (217, 333)


def test_reset_forgets_the_words_and_keeps_the_picture(talk):
    list(ask(talk, "where"))
    talk.reset()
    assert list(ask(talk, "where"))[-1] == "turn 0"
    assert "clip" not in talk.turns[0].timings


def test_without_a_picture_there_is_a_sentence(inference):
    with pytest.raises(ImageError, match="choose one first"):
        list(ask(Session(inference), "where"))


@pytest.mark.parametrize("leave", [Session.stop, Session.reset, lambda talk: talk.open(None)])
def test_an_answer_on_its_way_can_be_stopped(talk, leave):
    words = ask(talk, "for ever")
    next(words)
    leave(talk)
    with pytest.raises(Cancelled):
        list(words)
    assert talk.turns == []


def test_a_question_that_waits_can_be_stopped(talk):
    stopped = talk.hear("for ever")
    talk.stop()
    wanted = talk.hear("again")
    with pytest.raises(Cancelled):
        list(talk.answer(stopped)[1])
    assert list(talk.answer(wanted)[1])[-1] == "turn 0"


def test_what_was_heard_twice_before_an_answer_is_answered_in_order(talk):
    numbers = [talk.hear(question) for question in ("where", "again")]
    for number in numbers:
        list(talk.answer(number)[1])
    assert [turn.question for turn in talk.turns] == ["where", "again"]


def test_a_question_whose_answer_nobody_came_for_delays_no_other(talk):
    talk.hear("lost")
    assert list(ask(talk, "where"))[-1] == "turn 0"
    assert [turn.question for turn in talk.turns] == ["where"]


def test_what_waits_about_a_picture_is_not_asked_about_another(talk):
    number = talk.hear("where")
    talk.open(picture(ODD))
    with pytest.raises(Cancelled):
        talk.answer(number)
    assert list(ask(talk, "again"))[-1] == "turn 0"


def test_who_no_longer_listens_keeps_nobody_waiting(talk, inference):
    gone = ask(talk, "for ever")
    next(gone)
    gone.close()
    other = Session(inference)
    other.open(picture(ODD))
    assert list(ask(other, "where"))[-1] == "turn 0"


def test_what_fails_is_no_part_of_the_conversation(talk):
    with pytest.raises(PromptError):
        list(ask(talk, "fail"))
    assert list(ask(talk, "where"))[-1] == "turn 0"


def test_what_a_question_that_failed_held_is_gone_at_once(talk):
    """A GPU's memory is needed now, not when Python looks for cycles."""
    list(ask(talk, "where"))
    held = weakref.ref(talk._frame)
    gc.disable()
    try:
        with pytest.raises(PromptError):
            list(ask(talk, "fail"))
        talk.open(picture(ODD))
        assert held() is None
    finally:
        gc.enable()


def test_one_thread_asks_the_engine():
    engine = FakeEngine()
    inference = Inference(engine)

    def visit():
        session = Session(inference)
        session.open(picture(ODD))
        for _ in range(3):
            list(ask(session, "where"))

    visitors = [threading.Thread(target=visit) for _ in range(4)]
    for visitor in visitors:
        visitor.start()
    for visitor in visitors:
        visitor.join()
    inference.close()
    assert len(engine.threads) == 1


def test_closing_gives_up_what_is_answered_and_what_waits():
    engine, ends = Endless(), queue.SimpleQueue()
    inference = Inference(engine)

    def visit():
        try:
            for _ in inference.ask("frame", "where", [], threading.Event()):
                pass
        except (Cancelled, CancelledError, RuntimeError) as error:  # the last: it came too late to be queued
            ends.put(error)

    visitors = [threading.Thread(target=visit) for _ in range(3)]
    for visitor in visitors:
        visitor.start()
    assert engine.began.wait(30)
    inference.close()
    for visitor in visitors:
        visitor.join(30)
    assert ends.qsize() == 3


class Endless:
    """Answers until it is cancelled."""

    def __init__(self):
        self.began = threading.Event()

    def ask(self, *_, cancel, **__):
        self.began.set()
        assert cancel.wait(30), "nobody gave it up"
        raise Cancelled("The question was cancelled.")


def test_layers_keep_their_colours_and_numbers(talk):
    list(ask(talk, "where"))
    turn, rgb = talk.turns[0], picture(TABLE)
    first, second = turn.answer.segments
    assert first.mask[:50].any()
    assert np.array_equal(turn.picture([]), rgb)
    assert np.array_equal(turn.picture([0, 1]), overlay.draw(rgb, [first, second]))
    only_second = turn.picture([1])
    assert np.array_equal(only_second[:50], rgb[:50])  # where the first alone is
    inside = tuple(np.argwhere(second.mask)[0] + 12)
    tint = (1 - overlay.OPACITY) * rgb[inside] + overlay.OPACITY * np.array(overlay.colour(1))
    assert np.abs(only_second[inside] - tint).max() <= 1


def test_the_archive_has_what_lisa_segment_writes(talk):
    list(ask(talk, "where"))
    with zipfile.ZipFile(io.BytesIO(talk.turns[0].archive())) as archive:
        record = json.loads(archive.read("answer.json"))
        masks = [np.array(Image.open(archive.open(segment["mask"]))) for segment in record["segments"]]
        shown = np.array(Image.open(archive.open("answer_overlay.png")))
    assert record["question"] == "where"
    segments = talk.turns[0].answer.segments
    assert all(np.array_equal(mask, s.mask * 255) for mask, s in zip(masks, segments, strict=True))
    assert np.array_equal(shown, talk.turns[0].picture([0, 1]))


def test_visitors_do_not_hear_each_other_and_the_longest_away_is_forgotten(inference, monkeypatch):
    monkeypatch.setattr(session_module, "MOST_VISITORS", 2)
    sessions = Sessions(inference)
    first, second = sessions.of("first"), sessions.of("second")
    assert first is not second
    assert sessions.of("first") is first
    sessions.of("third")
    assert sessions.of("first") is first
    assert sessions.of("second") is not second


def test_who_left_finds_the_conversation_again(talk):
    list(ask(talk, "where"))
    encoded = weakref.ref(talk._frame)
    running, waiting = ask(talk, "for ever"), talk.hear("again")
    next(running)
    talk.leave()
    with pytest.raises(Cancelled):
        list(running)
    with pytest.raises(Cancelled):
        list(talk.answer(waiting)[1])
    assert encoded() is None
    assert list(ask(talk, "again"))[-1] == "turn 1"
    assert "clip" in talk.turns[1].timings


def test_a_picture_that_is_encoded_after_its_visitor_left_is_not_kept(talk, inference, monkeypatch):
    encode = inference.encode

    def slowly(image):
        frame = encode(image)
        talk.leave()
        return frame

    monkeypatch.setattr(inference, "encode", slowly)
    with pytest.raises(Cancelled):
        list(ask(talk, "for ever"))
    assert talk._frame is None
    monkeypatch.undo()
    for question in ("where", "again"):
        list(ask(talk, question))
    assert [list(turn.timings) for turn in talk.turns] == [["clip", "decode"], ["decode"]]


@pytest.fixture
def now(monkeypatch):
    """A list of one, the time in s."""
    now = [0.0]
    monkeypatch.setattr(session_module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


@pytest.mark.parametrize("somebody_calls", [Sessions.of, Sessions.leave])
def test_who_left_and_stays_away_is_forgotten(inference, now, somebody_calls):
    sessions = Sessions(inference)
    names = ("away", "back", "reading")
    away, back, reading = map(sessions.of, names)
    now[0] += 2 * session_module.LONGEST_AWAY
    for name in names[:2]:
        sessions.leave(name)
    now[0] += 0.9 * session_module.LONGEST_AWAY
    assert sessions.of("back") is back
    now[0] += 0.2 * session_module.LONGEST_AWAY
    dropped = weakref.ref(away)
    del away
    somebody_calls(sessions, "somebody")
    assert dropped() is None
    assert sessions.of("back") is back
    assert sessions.of("reading") is reading
    now[0] += 1.1 * session_module.LONGEST_AWAY
    assert sessions.of("back") is not back
    assert sessions.of("reading") is reading


def archive_of(path):
    """An archive of a file's name, and what deletes it."""
    path.touch()
    archive = ExitStack()
    archive.callback(path.unlink)
    return archive


def test_an_archive_is_there_until_the_next_one_or_until_the_session_closes(talk, tmp_path):
    for name in ("first", "second"):
        talk.offer(archive_of(tmp_path / name))
        assert [path.name for path in tmp_path.iterdir()] == [name]
    talk.leave()
    talk.reset()
    assert (tmp_path / "second").exists()
    talk.close()
    assert not list(tmp_path.iterdir())


def test_an_archive_that_comes_when_its_session_has_closed_does_not_stay(talk, tmp_path):
    talk.close()
    talk.offer(archive_of(tmp_path / "late"))
    assert not list(tmp_path.iterdir())


def test_whatever_drops_a_session_deletes_its_archive(inference, now, monkeypatch, tmp_path):
    sessions = Sessions(inference)

    def visit(name):
        sessions.of(name).offer(archive_of(tmp_path / name))
        return {path.name for path in tmp_path.iterdir()}

    visit("away")
    sessions.leave("away")
    now[0] += 1.1 * session_module.LONGEST_AWAY
    assert visit("reading") == {"reading"}
    monkeypatch.setattr(session_module, "MOST_VISITORS", 1)
    assert visit("other") == {"other"}
    sessions.close()
    assert not list(tmp_path.iterdir())


# Over HTTP


@pytest.fixture(scope="module")
def address(small):
    with serving(small) as address:
        yield address


@pytest.fixture
def visitor(address):
    return Client(address, verbose=False, analytics_enabled=False)


def look(visitor, name):
    return visitor.predict(handle_file(str(GOLDENS / "images" / name)), api_name="/look")


def put(visitor, question):
    """Asks a question, and returns what the page shows in the end."""
    return visitor.predict(hear(visitor, question), api_name="/answer")


def hear(visitor, question):
    """Queues a question, and returns its number."""
    return visitor.predict(question, api_name="/hear")[1]


def said(chat):
    return [message["content"][0]["text"] for message in chat]


def test_an_upload_a_question_and_a_follow_up(visitor, small):
    look(visitor, TABLE)
    frame = small.encode(picture(TABLE))
    first = small.ask(frame, FIRST)
    second = small.ask(frame, SECOND, [(FIRST, first.text)])
    assert first.segments
    chat, _, view, layers, timings, archive = put(visitor, FIRST)
    assert len(said(chat)) == 2
    assert alike(np.array(Image.open(view)), overlay.draw(picture(TABLE), first.segments))
    assert [index for _, index in layers["choices"]] == list(range(len(first.segments)))
    assert f"score {first.segments[0].score:.3f}, {first.segments[0].area} px" in layers["choices"][0][0]
    assert "decode" in timings
    assert zipfile.ZipFile(archive["value"] if isinstance(archive, dict) else archive).namelist()
    chat, *_ = put(visitor, SECOND)
    assert len(said(chat)) == 4
    assert second.text.split("[SEG]")[0].split()[0] in said(chat)[3]


def test_words_come_as_they_are_said(visitor):
    look(visitor, TABLE)
    job = visitor.submit(hear(visitor, FIRST), api_name="/answer")
    job.result(60)
    answers = [said(update[0])[1] for update in job.outputs() if len(said(update[0])) == 2]
    assert len(answers) > 2
    assert len(answers[0]) < len(answers[-1])


def test_layers_switch_off_and_on(visitor):
    look(visitor, TABLE)
    put(visitor, FIRST)
    assert np.array_equal(np.array(Image.open(visitor.predict([], api_name="/show"))), picture(TABLE))


def test_without_room_for_the_archive_the_masks_are_shown_all_the_same(visitor, monkeypatch):
    folders = []

    def full(contents):
        folders.extend(path.parent for path in contents)
        assert folders[0].is_dir()
        raise OSError(errno.ENOSPC, "No space left on device")

    look(visitor, TABLE)
    monkeypatch.setattr("lisa_core.web.app.files.write_whole", full)
    chat, _, view, layers, *_ = put(visitor, FIRST)
    assert len(said(chat)) == 2
    assert view
    assert layers["choices"]
    assert [folder.exists() for folder in folders] == [False]


def test_two_visitors_at_once(address, small):
    visitors = [Client(address, verbose=False, analytics_enabled=False) for _ in range(2)]
    names = [TABLE, ODD]
    expected = [drawn(small, name, FIRST) for name in names]
    for one, name in zip(visitors, names, strict=True):
        look(one, name)
    jobs = [one.submit(hear(one, FIRST), api_name="/answer") for one in visitors]
    for job, picture_with_masks in zip(jobs, expected, strict=True):
        assert alike(np.array(Image.open(job.result(60)[2])), picture_with_masks)


def test_a_request_for_an_answer_that_was_lost_delays_no_other(visitor):
    look(visitor, TABLE)
    hear(visitor, "Is this lost?")
    chat, *_ = put(visitor, SECOND)
    assert said(chat)[0] == SECOND
    assert len(said(chat)) == 2


def test_a_file_that_is_no_picture_leaves_nothing_to_talk_about(visitor, tmp_path):
    look(visitor, TABLE)
    put(visitor, FIRST)
    (tmp_path / "broken.png").write_bytes(b"no picture")
    chat, view, *_ = visitor.predict(handle_file(str(tmp_path / "broken.png")), api_name="/look")
    assert (chat, view) == ([], None)
    chat, typed, *_ = put(visitor, FIRST)
    assert (chat, typed) == ([], FIRST)


def test_a_picture_that_would_fill_the_memory_is_not_kept(visitor, tmp_path):
    Image.new("1", (10_000, 7_000)).save(tmp_path / "huge.png")
    assert (tmp_path / "huge.png").stat().st_size < 100_000
    chat, view, *_ = visitor.predict(handle_file(str(tmp_path / "huge.png")), api_name="/look")
    assert (chat, view) == ([], None)
    chat, typed, *_ = put(visitor, FIRST)
    assert (chat, typed) == ([], FIRST)


def test_a_path_on_the_server_is_not_read(address):
    elsewhere = {"path": str(GOLDENS / "images" / TABLE), "meta": {"_type": "gradio.FileData"}}
    answers = [
        httpx.post(f"{address}/gradio_api/run/{name}", json={"data": [value], "session_hash": "somebody"}, timeout=60)
        for name, value in (("look", elsewhere), ("show", []))
    ]
    assert answers[0].status_code >= 400
    assert TABLE not in answers[1].text


def test_pictures_lie_upright_and_of_any_depth(visitor, tmp_path):
    grey = (np.arange(64 * 48, dtype=np.uint16) * 20).reshape(48, 64)
    Image.fromarray(grey).save(tmp_path / "deep.png")
    visitor.predict(handle_file(str(tmp_path / "deep.png")), api_name="/look")
    put(visitor, FIRST)
    shown = np.array(Image.open(visitor.predict([], api_name="/show")))
    assert np.array_equal(shown[..., 0], grey >> 8)


def test_a_page_whose_connection_broke_talks_on(address, visitor, monkeypatch):
    left, leave = threading.Event(), Sessions.leave
    monkeypatch.setattr(Sessions, "leave", lambda *who: (leave(*who), left.set()))
    look(visitor, TABLE)
    put(visitor, FIRST)
    with httpx.stream("GET", f"{address}/gradio_api/heartbeat/{visitor.session_hash}", timeout=60) as heartbeat:
        next(heartbeat.iter_lines())
    assert left.wait(60)
    chat, *_ = put(visitor, SECOND)
    assert said(chat)[2] == SECOND
    assert len(said(chat)) == 4


def test_of_old_files_only_archives_and_examples_are_kept(monkeypatch):
    monkeypatch.setattr("lisa_core.web.app._LONGEST_KEPT", -1.0)
    with page_of(FakeEngine()) as (page, address):
        examples = {path for path in page._scratch.glob("*/*") if path.is_file()}
        assert len(examples) >= 2
        visitor = Client(address, download_files=False, verbose=False, analytics_enabled=False)
        shown = []
        for name, expected in ((TABLE, [403, 200, 200]), (ODD, [403, 403, 403, 403, 200, 200])):
            uploaded, answer = look(visitor, name)[1], put(visitor, "where")
            shown += [uploaded["url"], answer[2]["url"], answer[5]["value"]["url"]]  # picture, masks, archive
            assert [httpx.get(url).status_code for url in shown] == expected
        assert all(path.is_file() for path in examples)


def test_what_visitors_could_download_goes_with_them(monkeypatch):
    monkeypatch.setattr(session_module, "MOST_VISITORS", 2)
    with page_of(FakeEngine()) as (page, address):
        for _ in range(4):
            visitor = Client(address, verbose=False, analytics_enabled=False)
            look(visitor, TABLE)
            put(visitor, "where")
        folders = [archive.parent for archive in page._scratch.glob("*/masks.zip")]
        assert len(folders) == len(page._download.keep_in_cache) == 2
        page.close()
        assert not any(folder.exists() for folder in folders)
        assert not page._download.keep_in_cache


def test_html_and_markdown_are_words(visitor):
    look(visitor, TABLE)
    chat, *_ = put(visitor, "what is *here* <script>alert(1)</script>")
    assert said(chat)[0] == r"what is \*here\* &lt;script&gt;alert\(1\)&lt;/script&gt;"


# The command

SERVED = """
from web_page import FakeEngine
from lisa_core.cli import main
main(load=lambda **_: FakeEngine())
"""


@pytest.mark.timeout(120)
@pytest.mark.parametrize(("told", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_command_serves_until_it_is_told_to_end_and_leaves_nothing(tmp_path, told, code):
    port = free_port()
    path = os.pathsep.join([os.path.dirname(__file__), *filter(None, sys.path)])  # noqa: PTH120
    with subprocess.Popen(
        [sys.executable, "-c", SERVED, "web", "--checkpoint", "some", "--port", str(port)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path, "TMPDIR": str(tmp_path)},
    ) as process:
        assert f"http://127.0.0.1:{port}" in process.stdout.readline()
        with pytest.raises(OSError, match="refused"):
            socket.create_connection((_other_address(), port), 5)
        visitor = Client(f"http://127.0.0.1:{port}", verbose=False, analytics_enabled=False)
        look(visitor, ODD)
        assert len(said(put(visitor, "where")[0])) == 2
        assert list(tmp_path.glob("lisa_web_*/*"))
        process.send_signal(told)
        assert process.wait(30) == code
        assert "Traceback" not in process.stderr.read()
    assert not list(tmp_path.glob("lisa_web_*"))


def _other_address():
    """An address of this machine that is not 127.0.0.1."""
    return "127.0.0.2"


def test_a_port_that_is_taken():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = cli.run("web", "--checkpoint", "some", "--port", port, load=None)
    assert result.code == 1
    assert f"127.0.0.1:{port} cannot be listened on (Address already in use)" in result.errors


@pytest.mark.parametrize(
    ("host", "why"), [("192.0.2.1", "Cannot assign requested address"), ("a..b", "label empty or too long")]
)
def test_an_address_that_is_not_here(host, why):
    """The first is one for documentation, which no machine has (RFC 5737)."""
    result = cli.run("web", "--checkpoint", "some", "--host", host, load=None)
    assert result.code == 1
    assert f"error: {host}:7860 cannot be listened on (" in result.errors
    assert why in result.errors
    assert "choose another --host or --port." in result.errors


def test_without_gradio_there_is_a_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.delitem(sys.modules, "lisa_core.web.app", raising=False)
    result = cli.run("web", "--checkpoint", "some")
    assert result.code == 1
    assert "pip install '.[web]'" in result.errors


def test_a_model_may_be_downloaded(monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    seen = []

    def load(**_):
        seen.append(os.environ.get("HF_HUB_OFFLINE"))
        raise CheckpointError("no matter")

    assert cli.run("web", "--checkpoint", "xinlai/LISA-7B-v1", load=load).code == 1
    assert seen == [None]


def test_without_a_model_it_is_the_bundled_one():
    def load(**options):
        raise CheckpointError(f"asked for {options['checkpoint']}")

    result = cli.run("web", load=load)
    assert result.code == 1
    assert "asked for bundled" in result.errors
