"""The page of `lisa web` in a real browser: an upload, a question, a follow-up."""

import io
import queue
import re
import shutil
import zipfile

import numpy as np
import pytest
from goldens import GOLDENS, picture
from PIL import Image
from playwright.sync_api import expect, sync_playwright
from web_page import FakeEngine, alike, serving

from lisa_core import overlay

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
TABLE, ODD = "table_640x480.png", "odd_333x217.png"
UNAVAILABLE = {"status": 503, "json": {"detail": "Queue is full."}}
PATIENCE = 60_000.0
"""Timeout, ms, for busy machines."""
expect.set_options(timeout=PATIENCE)
FIRST, SECOND = "Please segment the two cups on the table.", "What is in this image?"

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed"),
]


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield opened
        opened.close()


@pytest.fixture
def visit(browser):
    """Opens the page as a new visitor; `elsewhere` has the page's requests to other machines."""
    contexts = []

    def open_page(address):
        contexts.append(browser.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True))
        page = contexts[-1].new_page()
        page.set_default_timeout(PATIENCE)
        page.elsewhere = []
        page.on("request", lambda request: page.elsewhere.append(request.url) if _is_elsewhere(request.url) else None)
        page.goto(address)
        page.wait_for_selector("#question textarea")
        return page

    yield open_page
    for context in contexts:
        context.close()


def _is_elsewhere(url):
    return not re.match(r"(http://127\.0\.0\.1:|data:|blob:)", url)


def upload(page, name):
    if page.locator("#picture img").count():
        page.locator("#picture button[aria-label*='emove']").click()
        expect(page.locator("#view img")).to_have_count(0)
    page.set_input_files("#picture input[type=file]", GOLDENS / "images" / name)
    page.wait_for_selector("#view img")


def ask(page, question):
    """Types a question and sends it; the page reads the box a moment after Enter, sooner than anyone can type again."""
    page.fill("#question textarea", question)
    with page.expect_request(lambda request: question in (request.post_data or "")):
        page.keyboard.press("Enter")


def bubbles(page, role):
    return page.locator(f"#conversation .message.{role}")


def shown(page):
    """The pixels of the picture on the right."""
    address = page.locator("#view img").get_attribute("src")
    return np.array(Image.open(io.BytesIO(page.request.get(address).body())).convert("RGB"))


def test_an_upload_a_question_and_a_follow_up(visit, small, tmp_path):
    frame = small.encode(picture(TABLE))
    first = small.ask(frame, FIRST)
    second = small.ask(frame, SECOND, [(FIRST, first.text)])
    assert first.segments
    with serving(small) as address:
        page = visit(address)
        upload(page, TABLE)
        ask(page, FIRST)
        expect(page.locator("#layers label")).to_have_count(len(first.segments))
        expect(bubbles(page, "user")).to_have_text(FIRST)
        expect(bubbles(page, "bot")).to_contain_text(_words(first.text))
        assert f"score {first.segments[0].score:.3f}" in page.inner_text("#layers")
        assert re.match(r"\d+\.\d\d s \(", page.inner_text("#timings"))
        assert alike(shown(page), overlay.draw(picture(TABLE), first.segments))

        for label in page.locator("#layers label").all():
            label.click()
        expect(page.locator("#layers input:checked")).to_have_count(0)
        _until(page, lambda: np.array_equal(shown(page), picture(TABLE)))

        with page.expect_download() as download:
            page.click("#download")
        download.value.save_as(tmp_path / "masks.zip")
        with zipfile.ZipFile(tmp_path / "masks.zip") as archive:
            mask = np.array(Image.open(archive.open("answer_mask_0.png")))
        assert np.array_equal(mask, first.segments[0].mask * 255)

        ask(page, SECOND)
        expect(bubbles(page, "user")).to_have_count(2)
        expect(bubbles(page, "bot").nth(1)).to_contain_text(_words(second.text))
        assert page.elsewhere == []


def _until(page, holds, patience=60.0):
    while not holds():
        page.wait_for_timeout(100)
        patience -= 0.1
        assert patience > 0


def _words(answer):
    """The text of an answer up to its first [SEG], as a browser shows it."""
    return re.sub(r"\s+", " ", answer.split("[SEG]")[0]).strip()


def test_another_picture_starts_again_and_an_answer_can_be_stopped(visit):
    with serving(FakeEngine()) as address:
        page = visit(address)
        ask(page, "where")
        expect(page.get_by_text("There is no picture to talk about yet")).to_be_visible()
        upload(page, TABLE)
        ask(page, "where")
        expect(bubbles(page, "bot")).to_have_text("turn 0")
        ask(page, "for ever")
        expect(bubbles(page, "bot")).to_have_count(2)
        page.locator("#question button").last.click()
        expect(bubbles(page, "bot")).to_have_count(1)
        ask(page, "fail")
        expect(page.get_by_text("This cannot be asked; ask something else.")).to_be_visible()
        expect(page.locator("#question textarea")).to_have_value("fail")
        ask(page, "again")
        expect(bubbles(page, "bot").nth(1)).to_have_text("turn 1")
        upload(page, ODD)
        expect(bubbles(page, "bot")).to_have_count(0)
        expect(page.locator("#layers")).to_be_hidden()
        ask(page, "where")
        expect(bubbles(page, "bot")).to_have_text("turn 0")


def test_a_second_visitor_waits_for_the_first(visit):
    with serving(FakeEngine()) as address:
        first, second = visit(address), visit(address)
        for page in (first, second):
            upload(page, ODD)
        ask(first, "for ever")
        expect(bubbles(first, "bot")).to_have_count(1)
        ask(second, "where")
        expect(second.get_by_text(re.compile("queue"))).to_be_visible()
        second.locator("#question button").last.click()
        expect(second.get_by_text(re.compile("queue"))).to_be_hidden()
        ask(second, "again")
        expect(second.get_by_text(re.compile("queue"))).to_be_visible()
        first.locator("#question button").last.click()
        expect(bubbles(second, "bot")).to_have_text("turn 0")
        expect(bubbles(second, "user")).to_have_text("again")
        expect(bubbles(first, "bot")).to_have_count(0)


def test_questions_in_quick_succession_are_answered_in_order(visit):
    with serving(FakeEngine()) as address:
        page = visit(address)
        upload(page, ODD)
        for question in ("first", "second", "third"):
            ask(page, question)
        expect(bubbles(page, "bot")).to_have_text(["turn 0", "turn 1", "turn 2"])
        expect(bubbles(page, "user")).to_have_text(["first", "second", "third"])


def test_what_is_typed_while_a_question_is_sent_stays_and_a_question_that_cannot_be_sent_comes_back(visit):
    with serving(FakeEngine()) as address:
        page = visit(address)
        box, held = page.locator("#question textarea"), queue.SimpleQueue()
        upload(page, ODD)
        page.route("**/run/predict*", lambda route: held.put(route))  # noqa: PLW0108 # Playwright takes no built-in
        ask(page, "first")
        expect(box).to_have_value("")
        box.fill("second")
        held.get().continue_()
        expect(bubbles(page, "bot")).to_have_text("turn 0")
        expect(box).to_have_value("second")
        ask(page, "second")
        expect(box).to_have_value("")
        held.get().fulfill(**UNAVAILABLE)
        expect(box).to_have_value("second")
        page.unroute("**/run/predict*")
        ask(page, "second")
        expect(bubbles(page, "bot").nth(1)).to_have_text("turn 1")
        expect(bubbles(page, "user")).to_have_text(["first", "second"])


def test_after_a_request_that_was_lost_answers_fit_their_questions(visit):
    with serving(FakeEngine()) as address:
        page = visit(address)
        upload(page, ODD)
        page.route("**/queue/join*", lambda route: route.fulfill(**UNAVAILABLE), times=1)
        ask(page, "lost")
        expect(page.get_by_text("Error").first).to_be_visible()
        for number, question in enumerate(("where", "again")):
            ask(page, question)
            expect(bubbles(page, "bot").nth(number)).to_have_text(f"turn {number}")
        expect(bubbles(page, "user")).to_have_text(["where", "again"])


def test_an_example_can_be_taken(visit):
    with serving(FakeEngine()) as address:
        page = visit(address)
        page.locator("#examples button:has(img)").first.click()
        page.wait_for_selector("#view img")
        ask(page, "where")
        expect(bubbles(page, "bot")).to_have_text("turn 0")
        assert page.elsewhere == []
