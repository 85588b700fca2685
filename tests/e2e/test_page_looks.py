"""The page of `typelets-ws dev`: readable, usable by keyboard, clear about failures."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.dev import dev
from tests.node import node_package
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
)  # fmt: skip

__all__ = ["browser", "dev", "fresh_notes", "open_page"]


def luminance(colour: str) -> float:
    """WCAG's relative luminance of `rgb(r, g, b)`."""
    parts = [int(part) / 255 for part in colour[4:-1].split(",")]
    linear = [
        p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_readable_in_light_and_dark(
    open_page: Open, scheme: str, tmp_path: Path
) -> None:
    page = open_page(color_scheme=scheme, viewport={"width": 1280, "height": 800})
    content(pane(page, "Laptop")).fill("Oat milk\nBread\nTwo lemons")
    expect(content(pane(page, "Phone"))).to_have_value("Oat milk\nBread\nTwo lemons")
    expect(page.locator('[data-figure="Devices"]')).to_have_text("2")
    page.screenshot(path=tmp_path / f"{scheme}.png", full_page=True)
    card = luminance(style(page.locator(".pane").first, "background-color"))
    assert (card > 0.5) is (scheme == "light")
    for part in ("h2", ".pane .state", ".figures dt", ".log code", ".log time", "#add"):
        text = luminance(style(page.locator(part).first, "color"))
        low, high = sorted((text, card))
        assert (high + 0.05) / (low + 0.05) >= 4.5, part


def style(where: Locator, name: str) -> str:
    return str(where.evaluate("(e, name) => getComputedStyle(e)[name]", name))


def test_usable_on_a_narrow_screen(open_page: Open, tmp_path: Path) -> None:
    page = open_page(viewport={"width": 375, "height": 667}, has_touch=True)
    laptop, phone = pane(page, "Laptop"), pane(page, "Phone")
    content(laptop).fill("on the go")
    expect(content(phone)).to_have_value("on the go")
    lines(laptop, "note_update").first.click()
    page.screenshot(path=tmp_path / "narrow.png", full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth") == 375


AUDIT = """async () => (await axe.run()).violations.map((v) =>
  `${v.id}: ${v.nodes.map((n) => n.target + " " + n.failureSummary).join("; ")}`)"""


def at_rest(page: Page) -> None:
    """A page with messages, opened details and two devices in sync."""


def signed_out(page: Page) -> None:
    page.get_by_label("Session", exact=True).select_option(index=0)
    rest(page, "session_revoked")
    is_in(pane(page, "Laptop"), "signed-out")


def without_notes(page: Page) -> None:
    for _ in range(3):
        count = page.get_by_label("Note", exact=True).locator("option").count()
        rest(page, "note_deleted")
        options = page.get_by_label("Note", exact=True).locator("option")
        expect(options).to_have_count(max(count - 1, 1))
    expect(pane(page, "Laptop")).to_contain_text("No notes yet")
    expect(page.get_by_label("Note", exact=True)).to_contain_text("no notes yet")
    page.get_by_label("Star of Laptop").click(force=True)
    expect(page.locator("#say")).to_contain_text("There is no note to edit")
    page.locator('button[data-event="note_updated"]').click(force=True)
    expect(page.locator("#say")).to_contain_text(
        "there is nothing to choose: no notes yet"
    )


def in_conflict(page: Page) -> None:
    phone = pane(page, "Phone")
    phone.get_by_role("button", name="Go offline").click()
    content(phone).fill("from the train")
    content(pane(page, "Laptop")).fill("from the desk")
    is_stored(pane(page, "Laptop"))
    phone.get_by_role("button", name="Go online").click()
    expect(phone.get_by_label("Conflict of Phone")).to_be_visible()


def failed(page: Page) -> None:
    page.locator('[data-fault="redis"]').click()
    expect(page.locator("#say")).to_have_text("Redis is stopped")
    rest(page, "resync_required")
    expect(page.locator("#say")).to_contain_text("Redis does not answer")
    page.locator('[data-fault="redis"]').click()
    expect(page.locator("#say")).to_have_text("Redis is started")
    expect(page.locator(".rest .failed")).to_be_visible()


STATES = [at_rest, signed_out, without_notes, in_conflict, failed]
LOOKS: dict[str, dict[str, Any]] = {
    "light": {"color_scheme": "light"},
    "dark": {"color_scheme": "dark"},
    "forced-colors": {"forced_colors": "active"},
}


@pytest.mark.parametrize("state", STATES)
def test_an_audit_finds_nothing(
    open_page: Open, state: Callable[[Page], None], tmp_path: Path
) -> None:
    script = (node_package("axe-core") / "axe.min.js").read_text("utf-8")
    page = open_page(reduced_motion="reduce", viewport={"width": 1280, "height": 800})
    content(pane(page, "Laptop")).fill("Oat milk")
    pane(page, "Laptop").locator(".log summary").first.click()
    state(page)
    page.evaluate(script)
    for name, look in LOOKS.items():
        page.emulate_media(**look)
        page.screenshot(path=tmp_path / f"{name}.png", full_page=True)
        assert page.evaluate(AUDIT) == [], name
    page.set_viewport_size({"width": 375, "height": 667})
    page.screenshot(path=tmp_path / "narrow.png", full_page=True)
    assert page.evaluate(AUDIT) == []
    assert page.evaluate("document.documentElement.scrollWidth") == 375
