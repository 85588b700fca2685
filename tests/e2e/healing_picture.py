"""Take the README's picture of a device that heals.

Starts `typelets-ws dev` with its defaults, writes a note without publishing it, and
waits until a device shows it. The two moments and the seconds between them become one
image, tests/e2e/healing.png.
"""

import base64
import sys
import tempfile
import time
from pathlib import Path

import psycopg
from playwright.sync_api import Page, expect, sync_playwright

from tests.command_line import command_line
from tests.dev import Dev
from tests.page import CHROMIUM, FLAGS, content, is_in, pane, rest, tab

PICTURE = Path(__file__).with_name("healing.png")
BOUND_MS = 120_000
STYLE = """body { margin: 0; padding: 20px; display: flex; gap: 20px;
width: max-content; background: #f3f4f9; color: #1b1d2a;
font: 16px system-ui, sans-serif }
figure { margin: 0; width: 440px } figcaption { margin-bottom: 10px; height: 44px }
img { width: 440px; display: block }"""


def moments(page: Page) -> list[tuple[str, bytes]]:
    """A caption and an image for before and after the healing."""
    phone = pane(page, "Phone")
    is_in(phone, "in-sync")
    expect(content(phone)).to_have_value("Write here.")
    page.get_by_label("Name", exact=True).fill("Changed in Postgres")
    page.get_by_label("Skip the publish").check()
    rest(page, "note_updated")
    expect(page.locator("#say")).to_have_text("note_updated: written, not published")
    began = time.monotonic()
    before = phone.screenshot()
    expect(tab(phone, "Changed in Postgres")).to_be_visible(timeout=BOUND_MS)
    is_in(phone, "in-sync")
    after = f"{time.monotonic() - began:.0f} s later: the daemon has read it from"
    return [
        ("The note was renamed in Postgres, and the event was not published.", before),
        (f"{after} Postgres and sent it.", phone.screenshot()),
    ]


def main() -> int:
    """Take the picture, and say how long the healing took."""
    command = "python -m tests.e2e.healing_picture"
    command_line(command, "Take the README's picture of a device.", "").parse_args()
    with tempfile.TemporaryDirectory() as place, sync_playwright() as playwright:
        dev = Dev(Path(place))
        dev.start()
        try:
            with psycopg.connect(dev.told("PostgreSQL"), autocommit=True) as db:
                db.execute("UPDATE notes SET content = 'Write here.'")
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
            page = browser.new_page(viewport={"width": 1280, "height": 800})
            page.goto(dev.page)
            shown = moments(page)
            figures = "".join(
                f"<figure><figcaption>{caption}</figcaption><img"
                f' src="data:image/png;base64,{base64.b64encode(image).decode()}">'
                "</figure>"
                for caption, image in shown
            )
            album = browser.new_page()  # the page's policy forbids images as data
            album.set_content(f"<style>{STYLE}</style>{figures}")
            album.locator("body").screenshot(path=PICTURE)
            print(shown[1][0])
        finally:
            dev.interrupt()
    return 0


if __name__ == "__main__":
    sys.exit(main())
