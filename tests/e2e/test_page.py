"""The page of `typelets-ws dev` in a real browser: what it does."""

import json
import re
from typing import Any

import psycopg
import pytest
from playwright.sync_api import Page, Route, expect

from tests.dev import Dev, dev
from tests.page import (
    Open,
    browser,
    content,
    fresh_notes,
    is_in,
    is_stored,
    lines,
    open_page,
    pane,
    rest,
    tab,
)  # fmt: skip

pytestmark = pytest.mark.slow

__all__ = ["browser", "dev", "fresh_notes", "open_page"]

KEEP_TEXTS = """(element) => {
  element.texts = [];
  new MutationObserver(() => element.texts.push(element.textContent))
    .observe(element, { childList: true });
}"""


def test_an_edit_in_one_pane_arrives_in_the_other(open_page: Open) -> None:
    page = open_page()
    laptop, phone = pane(page, "Laptop"), pane(page, "Phone")
    content(laptop).press("Control+Home")
    content(laptop).press_sequentially("Oat milk, ")
    expect(content(phone)).to_have_value("Oat milk, Write here.")
    expect(lines(phone, "note_sync").last).to_be_visible()
    expect(lines(laptop, "note_update_success").last).to_be_visible()
    expect(lines(laptop, "note_sync")).to_have_count(0)
    content(phone).fill("Bread")
    expect(content(laptop)).to_have_value("Bread")
    phone.get_by_label("Star of Phone").click()
    expect(laptop.get_by_label("Star of Laptop")).to_have_text("★")
    is_stored(laptop)


def test_typing_is_not_disturbed_by_what_arrives(open_page: Open, dev: Dev) -> None:
    page = open_page()
    laptop = pane(page, "Laptop")
    other = page.context.new_page()
    other.goto(dev.page)
    is_in(pane(other, "Phone"), "in-sync")
    content(laptop).focus()
    content(laptop).press("Home")
    pane(other, "Phone").get_by_label("Title of Phone").fill("Groceries")
    expect(tab(laptop, "Groceries")).to_be_visible()
    page.bring_to_front()  # keys go to the page that the browser shows
    page.keyboard.type("ab")
    expect(content(laptop)).to_have_value("abWrite here.")
    expect(content(pane(other, "Phone"))).to_have_value("abWrite here.")


def test_two_tabs(open_page: Open, dev: Dev) -> None:
    page = open_page()
    other = page.context.new_page()
    other.goto(dev.page)
    is_in(pane(other, "Phone"), "in-sync")
    expect(page.locator(".users")).to_have_text("user_alice × 4")
    content(pane(page, "Laptop")).fill("from the first tab")
    expect(content(pane(other, "Phone"))).to_have_value("from the first tab")
    other.close()
    expect(page.locator(".users")).to_have_text("user_alice × 2")


def test_offline_and_back(open_page: Open) -> None:
    page = open_page()
    laptop, phone = pane(page, "Laptop"), pane(page, "Phone")
    phone.get_by_role("button", name="Go offline").click()
    is_in(phone, "offline")
    content(laptop).fill("written while the phone was away")
    is_stored(laptop)
    tab(phone, "Ideas").click()
    content(phone).fill("thought of on the train")
    expect(phone.locator(".saved")).to_have_text("not sent yet")
    phone.get_by_role("button", name="Go online").click()
    is_in(phone, "in-sync")
    is_stored(phone)
    tab(phone, "Shopping list").click()
    expect(content(phone)).to_have_value("written while the phone was away")
    tab(laptop, "Ideas").click()
    expect(content(laptop)).to_have_value("thought of on the train")


def test_the_first_note_is_open_whatever_arrives_first(open_page: Open) -> None:
    """A row that is healed at sign-in may come before the first page of rows."""

    def an_event_first(page: Page) -> None:
        def serve(socket: Any) -> None:
            server = socket.connect_to_server()
            shown: list[str] = []

            def pass_on(text: str) -> None:
                message = json.loads(text)
                if message["type"].endswith("_sync") and not shown:
                    return
                if message["type"] == "sync_page" and not shown:
                    notes = message["notes"]
                    [row] = [each for each in notes if each["title"] == "Ideas"]
                    event = {"type": "note_created_sync", "noteData": row}
                    socket.send(json.dumps(event))
                    shown.append(row["id"])
                socket.send(text)

            server.on_message(pass_on)
            socket.on_message(server.send)

        page.route_web_socket("**/*", serve)

    page = open_page(an_event_first)
    for name in ("Laptop", "Phone"):
        first = tab(pane(page, name), "Shopping list")
        expect(first).to_have_attribute("aria-pressed", "true")
        expect(lines(pane(page, name), "note_joined")).to_have_count(1)


def test_signed_messages(open_page: Open) -> None:
    page = open_page()
    laptop, phone = pane(page, "Laptop"), pane(page, "Phone")
    laptop.get_by_label("signed").check()
    content(laptop).fill('signed: "ä€𐍈\u2028" \\ </b>')
    expect(content(phone)).to_have_value('signed: "ä€𐍈\u2028" \\ </b>')
    expect(lines(laptop, "note_update").first).to_contain_text("signed")
    expect(lines(laptop, "error")).to_have_count(0)


def test_one_join_per_note_and_connection(open_page: Open) -> None:
    page = open_page()
    laptop = pane(page, "Laptop")
    expect(lines(laptop, "note_joined")).to_have_count(1)
    laptop.get_by_label("signed").check()
    tab(laptop, "Ideas").click()
    expect(lines(laptop, "note_joined")).to_have_count(2)
    kinds = laptop.locator('li[data-type*="_note"]').evaluate_all(
        "lines => lines.map((line) => line.dataset.type)"
    )
    assert kinds == ["join_note", "leave_note", "join_note"]


def test_a_revoked_session_is_signed_out(open_page: Open) -> None:
    page = open_page()
    laptop, phone = pane(page, "Laptop"), pane(page, "Phone")
    page.get_by_label("Session", exact=True).select_option(index=0)
    rest(page, "session_revoked")
    is_in(laptop, "signed-out")
    expect(laptop.locator(".saved")).to_contain_text("sign in again")
    expect(laptop).to_contain_text("4401 session_revoked")
    expect(content(laptop)).to_be_disabled()
    is_in(phone, "in-sync")
    laptop.get_by_role("button", name="Sign in again").click()
    is_in(laptop, "in-sync")


def test_a_disconnected_user_comes_back(open_page: Open) -> None:
    page = open_page()
    rest(page, "user_disconnected")
    for name in ("Laptop", "Phone"):
        expect(pane(page, name)).to_contain_text("4401 user_disconnected, again in")
    for name in ("Laptop", "Phone"):
        is_in(pane(page, name), "in-sync")


def test_resync_required_fetches_again(open_page: Open, dev: Dev) -> None:
    page = open_page()
    with psycopg.connect(dev.told("PostgreSQL"), autocommit=True) as db:
        db.execute("UPDATE notes SET content = 'changed and not told'")
    rest(page, "resync_required")
    for name in ("Laptop", "Phone"):
        expect(content(pane(page, name))).to_have_value("changed and not told")


def test_the_rest_side_publishes_each_kind_to_every_pane_of_the_user(
    open_page: Open,
) -> None:
    page = open_page()
    page.get_by_role("button", name="Add a device").click()
    own = [pane(page, name) for name in ("Laptop", "Phone")]
    foreign = pane(page, "Tablet")
    foreign.get_by_label("User of Tablet").select_option("user_bob")
    is_in(foreign, "in-sync")
    name = page.get_by_label("Name", exact=True)

    def publish(event: str, kind: str) -> None:
        rest(page, event)
        for each in own:
            expect(lines(each, kind).first).to_be_visible()

    name.fill("A new note")
    publish("note_created", "note_created_sync")
    page.get_by_label("Note", exact=True).select_option(label="A new note")
    name.fill("Renamed")
    publish("note_updated", "note_sync")
    for each in own:
        expect(tab(each, "Renamed")).to_be_visible()
    page.get_by_label("Note", exact=True).select_option(label="Renamed")
    publish("note_deleted", "note_deleted_sync")
    for each in own:
        expect(tab(each, "Renamed")).to_have_count(0)

    name.fill("Work")
    publish("folder_created", "folder_created_sync")
    page.get_by_label("Folder", exact=True).select_option(label="Work")
    name.fill("Play")
    publish("folder_updated", "folder_updated_sync")
    for each in own:
        expect(each.locator(".folders")).to_have_text("Folders: Home, Play")
    page.get_by_label("Folder", exact=True).select_option(label="Play")
    publish("folder_deleted", "folder_deleted_sync")
    for each in own:
        expect(each.locator(".folders")).to_have_text("Folders: Home")
    # A heal may show it bob's own rows.
    published = re.compile('"(A new note|Renamed|Work|Play)"|_deleted_sync')
    shown = foreign.locator('li[data-type$="_sync"]', has_text=published)
    expect(shown).to_have_count(0)
    expect(page.locator(".rest .failed")).to_have_count(0)


def test_an_expired_token_is_replaced_on_the_same_socket(open_page: Open) -> None:
    def first_token_expired(page: Page) -> None:
        def expire(route: Route) -> None:
            route.continue_(url=f"{route.request.url}&expires=-60")

        page.route("**/dev/token?*", expire, times=1)

    page = open_page(first_token_expired)
    both = page.locator(".pane")
    expect(both.locator('li[data-type="auth_failed"]')).to_have_count(1)
    expect(both.locator('li[data-type="auth_success"]')).to_have_count(2)
    expect(both.locator('li[data-type="connection_established"]')).to_have_count(2)


def test_a_silent_server_is_given_up(open_page: Open) -> None:
    """A link that died without a word: nothing comes, and nothing says so."""
    held: list[bool] = []

    def can_fall_silent(page: Page) -> None:
        page.clock.install()

        def serve(socket: Any) -> None:
            server = socket.connect_to_server()
            server.on_message(lambda text: None if held else socket.send(text))
            socket.on_message(lambda text: None if held else server.send(text))

        page.route_web_socket("**/*", serve)

    page = open_page(can_fall_silent)
    held.append(True)
    page.clock.fast_forward(26_000)
    page.clock.fast_forward(11_000)
    for name in ("Laptop", "Phone"):
        expect(pane(page, name)).to_contain_text("no answer")
    held.clear()
    page.clock.fast_forward(1_000)
    for name in ("Laptop", "Phone"):
        is_in(pane(page, name), "in-sync")


def test_1000_is_final(open_page: Open) -> None:
    sockets: list[Any] = []

    def can_close(page: Page) -> None:
        def serve(socket: Any) -> None:
            socket.connect_to_server()
            sockets.append(socket)

        page.route_web_socket("**/*", serve)

    page = open_page(can_close)
    sockets[0].close(code=1000, reason="done")
    closed = page.locator('.pane[data-state="offline"]')
    expect(closed).to_have_count(1)
    expect(closed).to_contain_text("1000 done")
    closed.get_by_role("button", name="Go online").click()
    expect(page.locator('.pane[data-state="in-sync"]')).to_have_count(2)


def test_the_page_comes_back_after_a_restart(open_page: Open, dev: Dev) -> None:
    page = open_page()
    content(pane(page, "Laptop")).fill("kept over the restart")
    expect(content(pane(page, "Phone"))).to_have_value("kept over the restart")
    dev.stop()
    for name in ("Laptop", "Phone"):
        is_in(pane(page, name), "offline")
        expect(pane(page, name)).to_contain_text("1012 restarting")
    expect(page.locator("body")).to_have_attribute("data-status", "down")
    dev.start()
    for name in ("Laptop", "Phone"):
        is_in(pane(page, name), "in-sync")
        expect(content(pane(page, name))).to_have_value("kept over the restart")
    expect(page.locator("body")).to_have_attribute("data-status", "healthy")


def test_faults_on_demand(open_page: Open) -> None:
    page = open_page()
    laptop, phone = pane(page, "Laptop"), pane(page, "Phone")
    page.locator('[data-fault="error"]').click()
    expect(page.locator("#say")).to_contain_text("get UNAVAILABLE")
    # It is shown until the second attempt, half a second at least.
    laptop.locator(".failure").evaluate(KEEP_TEXTS)
    content(laptop).fill("stored at the second attempt")
    expect(content(phone)).to_have_value("stored at the second attempt")
    is_in(laptop, "in-sync")
    said = laptop.locator(".failure").evaluate("(element) => element.texts")
    assert said == ["UNAVAILABLE on demand", ""]
    page.get_by_label("Error code").select_option("INVALID_FIELD")
    page.locator('[data-fault="error"]').click()
    expect(page.locator("#say")).to_contain_text("get INVALID_FIELD")
    content(laptop).fill("refused for good")
    expect(laptop.get_by_label("Conflict of Laptop")).to_contain_text("Refused")
    laptop.get_by_role("button", name="Take theirs").click()
    expect(content(laptop)).to_have_value("stored at the second attempt")
    page.locator('[data-fault="close"]').click()
    expect(laptop).to_contain_text("1012 on_demand")
    for each in (laptop, phone):
        is_in(each, "in-sync")


def test_redis_is_stopped_and_started(open_page: Open) -> None:
    """Clerk's tokens do not need it, nor do devices of one process."""
    page = open_page()
    page.locator('[data-fault="redis"]').click()
    expect(page.locator("#say")).to_have_text("Redis is stopped")
    page.reload()
    laptop, phone = pane(page, "Laptop"), pane(page, "Phone")
    for each in (laptop, phone):
        is_in(each, "in-sync")
    content(laptop).fill("stored without Redis")
    expect(content(phone)).to_have_value("stored without Redis")
    expect(page.locator('[data-fault="redis"]')).to_have_text("Start Redis")
    page.locator('[data-fault="redis"]').click()
    expect(page.locator("#say")).to_have_text("Redis is started")
    expect(page.locator("body")).to_have_attribute("data-status", "healthy")
    expect(page.locator('[data-fault="redis"]')).to_have_text("Stop Redis")


def test_a_note_that_was_not_published_arrives_with_the_next_sync(
    open_page: Open,
) -> None:
    page = open_page()
    page.get_by_label("Clock", exact=True).select_option("an hour behind")
    page.get_by_label("Skip the publish").check()
    rest(page, "note_updated")
    expect(page.locator("#say")).to_have_text("note_updated: written, not published")
    rest(page, "user_disconnected")
    for name in ("Laptop", "Phone"):
        expect(tab(pane(page, name), "Named by REST")).to_be_visible()


def test_the_keyboard_focus_survives_updates(open_page: Open) -> None:
    page = open_page()
    laptop = pane(page, "Laptop")
    tab(laptop, "Ideas").focus()

    def publish(event: str) -> None:
        # A real click would move the focus.
        page.locator(f'button[data-event="{event}"]').evaluate("e => e.click()")

    publish("note_updated")
    expect(tab(laptop, "Named by REST")).to_be_visible()
    expect(tab(laptop, "Ideas")).to_be_focused()
    publish("note_deleted")
    expect(tab(laptop, "Named by REST")).to_have_count(0)
    expect(tab(laptop, "Ideas")).to_be_focused()
    page.get_by_label("Note", exact=True).select_option(label="Ideas")
    tab(laptop, "Ideas").focus()
    publish("note_deleted")
    expect(tab(laptop, "Ideas")).to_have_count(0)
    expect(tab(laptop, "Letter to Ada")).to_be_focused()


def test_the_figures_follow(open_page: Open) -> None:
    page = open_page()
    expect(page.locator('[data-figure="Devices"]')).to_have_text("2")
    pane(page, "Phone").get_by_label("Remove Phone").click()
    expect(page.locator('[data-figure="Devices"]')).to_have_text("1")
