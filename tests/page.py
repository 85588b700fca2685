"""The page of `typelets-ws dev` in a real browser: fixtures and words of its tests."""

import os
import re
import shutil
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from tests.dev import Dev
from tests.within import PATIENCE_S
from typelets_ws.dev.samples import NOTES, fill, note_id

CHROMIUM = "/usr/bin/chromium"
FLAGS = [
    "--no-sandbox", "--headless=new", "--disable-gpu", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
PATIENCE_MS = 1000 * PATIENCE_S

Open = Callable[..., Page]

expect.set_options(timeout=PATIENCE_MS)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if shutil.which(CHROMIUM) is None:
        if "CI" in os.environ:
            pytest.fail("chromium is not installed")
        pytest.skip("chromium is not installed")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Browser, dev: Dev) -> Iterator[Open]:
    """Open the page in a browser of its own; it must not fail nor fetch elsewhere."""
    pages: list[Page] = []
    errors: list[str] = []
    hosts: set[str] = set()

    def open_page(prepare: Callable[[Page], None] | None = None, **kind: Any) -> Page:
        page = browser.new_context(**kind).new_page()
        pages.append(page)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda request: hosts.add(urlsplit(request.url).netloc))
        if prepare is not None:
            prepare(page)
        page.goto(dev.page)
        for name in ("Laptop", "Phone"):
            is_in(pane(page, name), "in-sync")
            expect(content(pane(page, name))).to_have_value("Write here.")
        return page

    yield open_page
    for page in pages:
        page.context.close()
    assert errors == []
    assert hosts == {f"127.0.0.1:{dev.port}"}


@pytest.fixture(autouse=True)
def fresh_notes(dev: Dev) -> None:
    """Each test finds the sample notes as they were, and nothing else."""
    fill(dev.told("PostgreSQL"))
    with psycopg.connect(dev.told("PostgreSQL"), autocommit=True) as db:
        db.execute("DELETE FROM notes WHERE id::text NOT LIKE '00000000-%'")
        db.execute("DELETE FROM folders WHERE id::text NOT LIKE '00000000-%'")
        db.execute("UPDATE notes SET content = 'Write here.', starred = false")
        for number, title in enumerate(NOTES, 1):
            db.execute(
                "UPDATE notes SET title = %s WHERE id = %s", (title, note_id(1, number))
            )


def pane(page: Page, name: str) -> Locator:
    return page.get_by_label(name, exact=True)


def content(where: Locator) -> Locator:
    return where.locator("textarea")


def is_in(where: Locator, state: str) -> None:
    expect(where).to_have_attribute("data-state", state)


def is_stored(where: Locator) -> None:
    """The pane's open note is; "not stored" is the word for a conflict."""
    expect(where.locator(".saved")).to_have_text(re.compile("^stored "))


def lines(where: Locator, kind: str) -> Locator:
    """The messages of a kind in a pane's log."""
    return where.locator(f'li[data-type="{kind}"]')


def tab(where: Locator, title: str) -> Locator:
    return where.locator(".tabs").get_by_role("button", name=title, exact=True)


def rest(page: Page, event: str) -> None:
    page.locator(f'button[data-event="{event}"]').click()
