"""The chat page in a real browser, as a person uses it. Skipped where there is no Chromium."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from library import knowledge
from playwright.sync_api import Browser, Page, expect, sync_playwright

from kiara_cli.core.serve import kiara

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, up: Any) -> Iterator[Page]:
    """A fresh profile on the page; complaints of the browser fail the test."""
    context = browser.new_context(viewport={"width": 1200, "height": 800})
    page = context.new_page()
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.goto(up.url)
    yield page
    context.close()
    assert complaints == []


def say(page: Page, text: str) -> None:
    page.get_by_label("Your message").fill(text)
    page.keyboard.press("Enter")


def replies(page: Page) -> Any:
    return page.locator("article.assistant .text")


def finished(page: Page) -> None:
    expect(page.get_by_role("button", name="Send")).to_be_visible(timeout=20_000)


@needs_browser
def test_a_person_talks_stops_edits_regenerates_and_finds_it_all_again(page: Page, up: Any) -> None:
    expect(page.locator("#model")).to_have_text(re.compile("tiny"))
    say(page, "<b>Hello</b> & <script>alert(1)</script>")
    finished(page)
    expect(page.locator("article.user .text")).to_have_text("<b>Hello</b> & <script>alert(1)</script>")
    first = replies(page).inner_text()
    assert first
    expect(page.locator(".stats")).to_have_text(
        re.compile(r"^\d+ tokens · \d.* tokens/s · first after \d+ ms · \d+ read")
    )

    page.get_by_role("button", name="Settings").click()
    page.get_by_label("Longest reply").fill("100000")
    page.get_by_label("Temperature").fill("0")  # the end is never the likeliest: it goes on until it is stopped
    page.get_by_role("button", name="Close").click()
    engine, step = up.served.engine, up.served.engine.step
    with pytest.MonkeyPatch.context() as patch:  # as fast as a model of some size: thousands a second starve the page
        patch.setattr(engine, "step", lambda: (time.sleep(0.02), step()))
        say(page, "Now a long one")
        expect(replies(page)).to_have_count(2)
        expect(replies(page).last).not_to_be_empty()
        page.get_by_role("button", name="Stop").click()
        finished(page)
        up.wait_until_idle()
    expect(page.locator(".stats").last).to_contain_text("stopped")
    expect(page.locator("article")).to_have_count(4)

    page.get_by_role("button", name="Settings").click()
    page.get_by_label("Longest reply").fill("9")
    page.get_by_label("Seed").fill("7")
    page.get_by_label("Temperature").fill("1.5")
    page.get_by_role("button", name="Regenerate").click()
    finished(page)
    expect(page.locator(".stats").last).to_contain_text("9 tokens")

    sent: list[dict[str, Any]] = []
    page.on("request", lambda request: sent.append(request.post_data_json))
    page.locator("article.user").last.get_by_role("button", name="Edit").click()
    page.get_by_label("Edit the message").fill("Something else")
    page.get_by_label("Edit the message").press("Enter")
    finished(page)
    expect(page.locator("article.user .text").last).to_have_text("Something else")
    other = replies(page).last.inner_text()
    assert [message["content"] for message in sent[-1]["messages"] if message["role"] == "user"][
        -1
    ] == "Something else"
    assert (sent[-1]["seed"], sent[-1]["temperature"], sent[-1]["max_completion_tokens"]) == (7, 1.5, 9)

    page.reload()
    expect(replies(page)).to_have_count(2)
    assert replies(page).last.inner_text() == other
    expect(page.get_by_label("Seed")).to_have_value("7")


@needs_browser
def test_what_else_the_model_weighed_is_shown_to_mouse_and_keyboard(page: Page) -> None:
    say(page, "Hello")
    finished(page)
    page.locator("article.assistant .text span").first.hover()
    expect(page.locator("#tip")).to_be_visible()
    expect(page.locator("#tip .chosen")).to_have_count(1)
    expect(page.locator("#tip .chosen b")).to_contain_text("%")
    page.mouse.move(0, 0)
    expect(page.locator("#tip")).to_be_hidden()
    replies(page).focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#tip")).to_be_visible()
    expect(page.get_by_role("status")).to_contain_text("percent")


@needs_browser
def test_conversations_are_exported_imported_and_deleted(page: Page, tmp_path: Path) -> None:
    say(page, "Keep this")
    finished(page)
    said = replies(page).inner_text()
    with page.expect_download() as download:
        page.get_by_role("button", name="Export").click()
    saved = tmp_path / "conversation.json"
    download.value.save_as(saved)
    assert [message["role"] for message in json.loads(saved.read_text())["messages"]] == ["user", "assistant"]

    page.get_by_role("button", name="New conversation").first.click()
    expect(page.locator("article")).to_have_count(0)
    page.get_by_label("Conversation to import").set_input_files(saved)
    expect(replies(page)).to_have_text(said)
    (tmp_path / "other.json").write_text('{"messages": [{"role": "wizard", "content": 1}]}')
    page.get_by_label("Conversation to import").set_input_files(tmp_path / "other.json")
    expect(page.get_by_role("alert")).to_have_text("This file holds no conversation.")

    expect(page.locator("#conversations li")).to_have_count(2)
    page.get_by_role("button", name=re.compile("^Delete")).first.click()
    page.get_by_role("button", name=re.compile("^Delete")).first.click()
    expect(page.locator("article")).to_have_count(0)


@needs_browser
def test_on_a_phone_the_conversation_has_the_whole_width(browser: Browser, up: Any) -> None:
    context = browser.new_context(viewport={"width": 360, "height": 700}, color_scheme="dark")
    page = context.new_page()
    page.goto(up.url)
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    expect(page.get_by_role("navigation")).to_be_hidden()
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.get_by_role("button", name="Conversations").click()
    expect(page.get_by_role("navigation")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("navigation")).to_be_hidden()
    page.get_by_role("button", name="Dark or light").click()
    expect(page.locator("html")).to_have_attribute("data-theme", "light")
    context.close()


@needs_browser
def test_the_page_asks_for_a_key_where_one_is_needed(browser: Browser, start: Any) -> None:
    with start(keys=("secret",)) as locked:
        context = browser.new_context()
        page = context.new_page()
        page.goto(locked.url)
        say(page, "Hello")
        expect(page.get_by_role("alert")).to_contain_text("API key")
        page.get_by_label("API key").fill("secret")
        page.locator("#words").fill("Hello again")
        page.locator("#words").press("Enter")
        finished(page)
        expect(page.locator(".stats")).to_contain_text("tokens")
        context.close()


def test_the_page_is_one_file_that_needs_nothing_from_elsewhere() -> None:
    assert re.findall(r"(?:https?:)?//[a-z0-9]", kiara.PAGE.replace("// ----", "")) == []
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(", kiara.PAGE)
    assert not re.search(r"<[a-z]+[^>]*\s(?:style|on[a-z]+)=", kiara.PAGE)
    assert "unsafe" not in kiara.POLICY
    assert "script-src 'sha256-" in kiara.POLICY


@needs_browser
def test_why_a_reply_says_what_it_says_is_shown_at_each_word(page: Page, up: Any) -> None:
    say(page, "Hello fox")
    finished(page)
    text = replies(page).inner_text()
    page.get_by_role("button", name="Why?").click()
    expect(page.locator("#status")).to_contain_text("to see what it leaned on")
    assert replies(page).inner_text() == text
    spans = "[...document.querySelectorAll('article.assistant .text span')]"
    sources = f"{spans}.map((one) => one.offsetWidth && one.token.sources.length)"
    shown = next(index for index, count in enumerate(page.evaluate(sources)) if count)
    page.locator("article.assistant .text span").nth(shown).hover()
    expect(page.locator("#tip")).to_contain_text("leaned on")
    page.locator("h1").hover()
    expect(page.locator(".leaned")).to_have_count(0)


@needs_browser
def test_citations_open_what_they_cite_and_nothing_in_it_is_read_as_html(
    browser: Browser, start: Any, model: Any
) -> None:
    markup = "The hen said <b onclick='x'>good night</b>.\n<script>alert(1)</script>"
    served = dataclasses.replace(model(), knowledge={"birds": knowledge(markup, name="birds")}, consulted="birds")
    with start(served=served) as library:
        context = browser.new_context()
        page = context.new_page()
        complaints: list[str] = []
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.goto(library.url)
        say(page, "What did the hen say?")
        finished(page)
        cited = page.get_by_role("list", name="Sources")
        expect(cited.locator("summary")).to_have_text(["[1] notes.md › Part, lines 3–4 (read in part)"])
        expect(cited.locator("blockquote")).to_be_hidden()
        cited.locator("summary").click()
        expect(cited.locator("blockquote")).to_have_text(markup)
        page.get_by_role("button", name="Why?").click()
        expect(page.locator("#status")).to_contain_text("to see what it leaned on")
        page.reload()
        expect(page.get_by_role("list", name="Sources")).to_have_count(1)
        page.get_by_role("button", name="Settings").click()
        page.get_by_label("Answers from").select_option("off")
        page.get_by_role("button", name="Close").click()
        say(page, "And now?")
        finished(page)
        expect(page.get_by_role("list", name="Sources")).to_have_count(1)
        context.close()
        assert complaints == []
