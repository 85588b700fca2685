"""One form for each origin, and none for what no browser sends."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.texts import CHARACTERS
from typelets_ws.config.origins import AllowedOrigins, canonical_origin


@pytest.mark.parametrize(
    ("text", "origin"),
    [
        ("https://app.example.com", "https://app.example.com"),
        ("HTTPS://App.Example.COM", "https://app.example.com"),
        ("https://app.example.com:443", "https://app.example.com"),
        ("http://app.example.com:80", "http://app.example.com"),
        ("http://app.example.com:443", "http://app.example.com:443"),
        ("http://localhost:03000", "http://localhost:3000"),
        ("http://[::1]:8080", "http://[::1]:8080"),
        ("null", "null"),
        ("file://", "file://"),
        ("capacitor://localhost", "capacitor://localhost"),
        ("tauri://localhost", "tauri://localhost"),
        ("app://.", "app://."),
        ("chrome-extension://abcdefgh", "chrome-extension://abcdefgh"),
    ],
)
def test_every_spelling_has_one_form(text: str, origin: str) -> None:
    assert canonical_origin(text) == origin


@pytest.mark.parametrize(
    "text",
    ["", "*", "https://", "app.example.com", "https://a/", "https://a/b", "https://u@a",
     "https://*.a", "https://a:", "https://a:99999", "https://a?b", "https://a b",
     "file:///a", "https://" + "a" * 600],
)  # fmt: skip
def test_text_that_is_no_origin_has_none(text: str) -> None:
    assert canonical_origin(text) is None
    assert not AllowedOrigins(["https://a"]).allows(text)


def test_an_empty_list_allows_all() -> None:
    assert AllowedOrigins([]).allows("https://anything.example/")


def test_listed_origins_and_clients_without_one_are_allowed() -> None:
    allowed = AllowedOrigins(["https://App.example.com:443", "null"])
    assert allowed.allows(None)
    assert allowed.allows("https://app.example.com")
    assert allowed.allows("HTTPS://app.example.com:443")
    assert allowed.allows("null")
    assert not allowed.allows("http://app.example.com")
    assert not allowed.allows("https://app.example.com.evil.example")


@given(st.text(CHARACTERS, max_size=60))
def test_the_form_is_stable(text: str) -> None:
    origin = canonical_origin(text)
    assert origin is None or canonical_origin(origin) == origin
