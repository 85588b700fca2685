"""A notes list of about fifty lines, written from the README, in a real browser.

The app (`app.js`) runs against `typelets-ws dev` and must come through every fault.
`/readme` is the README's own example.
"""

import json
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path
from secrets import token_hex
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit
from urllib.request import Request, urlopen

import psycopg
import pytest
from playwright.sync_api import Browser, Dialog, Locator, Page, expect

from tests.dev import Dev, dev
from tests.page import browser, fresh_notes
from tests.readme import blocks
from tests.within import PATIENCE_S
from typelets_ws.dev.samples import USERS, note_id
from typelets_ws.testing import dev_token

__all__ = ["browser", "dev", "fresh_notes"]

ALICE = USERS[0]
NOTE = note_id(1, 1)
PAGE = """<!doctype html><html lang="en"><title>Notes</title><p id="status"></p>
<p id="pending"></p><ul id="notes"></ul><script type="module" src="app.js"></script>"""


README_PAGE = """<!doctype html><html lang="en"><title>Notes</title>
<ul id="notes"></ul><script type="module">
import { notesApp } from "./notes-app.mjs";

const { daemon, user } = await (await fetch("/settings")).json();
const session = { getToken: async () => (await fetch(`/token?user=${user}`)).json() };
window.client = notesApp(daemon, session, (notes) => {
  const items = notes.map(({ title }) => {
    const item = document.createElement("li");
    item.textContent = title;
    return item;
  });
  document.getElementById("notes").replaceChildren(...items);
});
</script>"""


class App:
    """The app's own web server: its files, and tokens for its user."""

    def __init__(self, dev: Dev) -> None:
        self.dev = dev
        self.session = f"sess_{token_hex(4)}"
        self.signed_in = True
        script = "text/javascript"
        module = (files("typelets_ws") / "client" / "typelets-client.js").read_text()
        [example] = [each.text for each in blocks() if each.name == "notes-app.mjs"]
        files_ = {
            "/": ("text/html", PAGE),
            "/app.js": (script, Path(__file__).with_name("app.js").read_text("utf-8")),
            "/typelets-client.js": (script, module),
            "/readme": ("text/html", README_PAGE),
            "/notes-app.mjs": (script, example),
            "/typelets-client.mjs": (script, module),
        }
        self.server = ThreadingHTTPServer(
            ("127.0.0.1", 0), partial(Handler, self, files_)
        )
        self.url = f"http://127.0.0.1:{self.server.server_port}/"

    @property
    def daemon(self) -> str:
        return self.dev.page.replace("http:", "ws:")

    def answer(self, path: str) -> Any:
        if path == "/settings":
            return {"daemon": self.daemon, "user": ALICE}
        query = parse_qs(urlsplit(path).query)
        if "user" not in query or not self.signed_in:
            return None
        return dev_token(self.daemon, query["user"][0], session=self.session)


class Handler(BaseHTTPRequestHandler):
    def __init__(
        self, app: App, files_: dict[str, tuple[str, str]], *arguments: Any
    ) -> None:
        self.app = app
        self.files = files_
        super().__init__(*arguments)

    def do_GET(self) -> None:
        kind, body = self.files.get(self.path, ("application/json", ""))
        status = 200
        try:
            body = body or json.dumps(self.app.answer(self.path))
        except OSError:
            status = 503
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing."""


@pytest.fixture
def app(dev: Dev) -> Iterator[App]:
    app = App(dev)
    thread = threading.Thread(target=app.server.serve_forever)
    thread.start()
    yield app
    app.server.shutdown()
    thread.join()
    app.server.server_close()


@pytest.fixture
def page(browser: Browser, app: App, dev: Dev) -> Iterator[Page]:
    context = browser.new_context()
    page = context.new_page()
    failures: list[str] = []
    page.on("pageerror", lambda error: failures.append(str(error)))
    page.goto(app.url)
    in_sync(page)
    yield page
    context.close()
    assert failures == []


def in_sync(page: Page) -> None:
    expect(page.locator("#status")).to_have_text("in sync")


def title(page: Page) -> Locator:
    return page.locator(f'[id="{NOTE}"] input')


def stored(dev: Dev, note: str = NOTE) -> str:
    with psycopg.connect(dev.told("PostgreSQL"), autocommit=True) as db:
        row = db.execute("SELECT title FROM notes WHERE id = %s", [note]).fetchone()
        assert row is not None
        return str(row[0])


def assert_taken_over(dev: Dev, title: str, note: str = NOTE) -> None:
    """A page sends the edits of one before it, once that has ended."""
    end = time.monotonic() + PATIENCE_S
    while (found := stored(dev, note)) != title:
        assert time.monotonic() < end, found
        time.sleep(0.1)


def ask(dev: Dev, path: str, **query: Any) -> Any:
    place = f"{dev.page}dev/{path}?{urlencode(query)}"
    with urlopen(
        Request(place, headers={"X-Typelets-Dev": "1"}), timeout=PATIENCE_S
    ) as answer:
        return json.load(answer)


def rename_by_rest(dev: Dev, name: str) -> None:
    ask(dev, "publish", user=ALICE, event="note_updated", subject=NOTE, name=name)


def fault(dev: Dev, **query: Any) -> None:
    ask(dev, "fault", user=ALICE, **query)


def restart(dev: Dev) -> None:
    dev.stop()
    dev.start()


FAULTS: dict[str, Callable[[Dev], None]] = {
    "restart": restart,
    "closed 4401": lambda dev: fault(dev, kind="close", code=4401),
    "unavailable": lambda dev: fault(dev, kind="error", code="UNAVAILABLE", times=2),
    "rate limited": lambda dev: fault(dev, kind="error", code="RATE_LIMITED"),
    "redis stopped": lambda dev: fault(dev, kind="redis", action="stop"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_an_edit_survives(page: Page, app: App, dev: Dev, name: str) -> None:
    FAULTS[name](dev)
    title(page).fill(f"edited, {name}")
    expect(title(page)).to_have_value(f"edited, {name}")
    if name == "redis stopped":
        fault(dev, kind="redis", action="start")
    in_sync(page)
    assert stored(dev) == f"edited, {name}"
    rename_by_rest(dev, "by REST")
    expect(title(page)).to_have_value("by REST")


def test_offline_closed_and_opened_again_with_a_conflict(
    page: Page, app: App, dev: Dev
) -> None:
    dev.stop()
    expect(page.locator("#status")).to_have_text("offline")
    title(page).fill("typed offline")
    expect(page.locator("#pending")).to_have_text("1 not stored yet")
    page.reload()
    expect(title(page)).to_have_value("typed offline")
    dev.start()
    in_sync(page)
    assert_taken_over(dev, "typed offline")

    dev.stop()
    expect(page.locator("#status")).to_have_text("offline")
    title(page).fill("mine")
    page.reload()
    dev.start()
    page.goto("about:blank")  # so that REST is first
    rename_by_rest(dev, "theirs")
    page.goto(app.url)
    note = page.locator(f'[id="{NOTE}"]')
    expect(note.locator("output")).to_have_text("elsewhere: theirs")
    assert stored(dev) == "theirs"
    note.get_by_role("button", name="Mine").click()
    in_sync(page)
    assert stored(dev) == "mine"
    expect(note.locator("output")).to_be_hidden()


def test_no_network(page: Page, dev: Dev) -> None:
    page.context.set_offline(True)
    fault(dev, kind="close", code=1012)
    expect(page.locator("#status")).to_have_text("offline")
    title(page).fill("in the tunnel")
    page.context.set_offline(False)
    in_sync(page)
    assert stored(dev) == "in the tunnel"


SAVED = """text =>
  Object.values(localStorage).some((saved) => saved.includes(text))"""


def test_a_revoked_session_is_signed_out_and_keeps_the_edit(
    page: Page, app: App, dev: Dev
) -> None:
    app.signed_in = False
    ask(dev, "publish", user=ALICE, event="session_revoked", subject=app.session)
    expect(page.locator("#pending")).to_have_text("signed out")
    title(page).fill("typed after that")
    # A client that has ended gets its outbox back first: a few milliseconds.
    page.wait_for_function(SAVED, arg="typed after that")
    app.signed_in, app.session = True, f"sess_{token_hex(4)}"
    page.reload()
    in_sync(page)
    assert_taken_over(dev, "typed after that")


SHOWN_AGAIN = """() => {
  document.dispatchEvent(new Event("visibilitychange"));
  return document.getElementById("pending").textContent === "2 not stored yet";
}"""


def test_two_tabs_share_a_storage(page: Page, app: App, dev: Dev) -> None:
    """Both edit offline and are closed; the next tab has all of it."""
    other = page.context.new_page()
    other.goto(app.url)
    in_sync(other)
    page.context.set_offline(True)
    fault(dev, kind="close", code=1012)
    second = note_id(1, 2)
    for tab, note, text in [(page, NOTE, "first tab"), (other, second, "second tab")]:
        expect(tab.locator("#status")).to_have_text("offline")
        tab.locator(f'[id="{note}"] input').fill(text)
        expect(tab.locator("#pending")).to_have_text("1 not stored yet")
    other.close()
    page.wait_for_function(SHOWN_AGAIN)  # the lock of the closed tab ends some time
    expect(page.locator(f'[id="{second}"] input')).to_have_value("second tab")
    page.goto("about:blank")
    page.context.set_offline(False)
    page.goto(app.url)
    in_sync(page)
    assert_taken_over(dev, "first tab")
    assert_taken_over(dev, "second tab", second)


def test_the_example_of_the_readme(browser: Browser, app: App, dev: Dev) -> None:
    context = browser.new_context()
    page = context.new_page()
    asked: list[str] = []

    def answer(dialog: Dialog) -> None:
        asked.append(dialog.message)
        dialog.accept()

    page.on("dialog", answer)
    page.goto(f"{app.url}readme")
    shown = page.locator("#notes")
    expect(shown).to_contain_text("Shopping list")
    rename_by_rest(dev, "by REST")
    expect(shown).to_contain_text("by REST")
    page.evaluate("window.client.stop()")
    page.evaluate("id => window.client.edit(id, { title: 'mine' })", NOTE)
    expect(shown).to_contain_text("mine")
    rename_by_rest(dev, "theirs")
    page.evaluate("window.client.start()")
    page.wait_for_function("window.client.status === 'in sync'")
    assert asked == ['Changed elsewhere: "theirs". Keep yours?']
    assert stored(dev) == "mine"
    context.close()
