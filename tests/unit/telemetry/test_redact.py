"""Nothing that must not be in a log gets through the guard."""

import math
import uuid
from enum import Enum

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct

from tests.texts import CHARACTERS
from typelets_ws.telemetry.redact import BurstLimiter, describe_exception, redact, scrub


class Colour(Enum):
    RED = "red"


class Note(Struct):
    words: str


@pytest.mark.parametrize(
    "key",
    [
        "token", "sessionSecret", "session_secret", "Authorization", "signature",
        "payload", "content", "encrypted_title", "encryptedContent", "password",
        "cookie", "changes", "jwt", "nonce", "noteData", "updated_note", "folderData",
    ],
)  # fmt: skip
def test_field_named_like_a_secret_is_hidden(key: str) -> None:
    assert redact({key: "x", "deep": {key: ["x"]}}) == {
        key: "(hidden)",
        "deep": {key: "(hidden)"},
    }


def test_counts_are_no_secrets() -> None:
    fields = {
        "token_age_s": 1.5,
        "payload_bytes": 10,
        "signature_ok": True,
        "jwt": None,
    }
    assert redact(fields) == fields


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("bad eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ4In0.sig-_x!", "bad (hidden)!"),
        ("cut eyJhbGciOi", "cut (hidden)"),
        ("key sk_live_abc123 sk_test_x", "key (hidden) (hidden)"),
        ("redis://user:p@ss@host:1/0", "redis://(hidden)@host:1/0"),
        ("https://host/a@b", "https://host/a@b"),
        ("secret " + "ab" * 32, "secret (hidden)"),
        ("Authorization: Bearer abc", "Authorization: (hidden)"),
        ("host=a password=b user=c", "host=a (hidden) user=c"),
    ],
)
def test_secret_inside_a_text_is_hidden(text: str, left: str) -> None:
    assert scrub(text) == left


def test_text_is_cut() -> None:
    assert scrub("x" * 500) == "x" * 500
    assert scrub("x" * 501) == "x" * 497 + "..."
    assert len(scrub("eyJhbGciOi" * 1000)) < 500


@given(st.text(CHARACTERS))
def test_text_is_one_short_printable_line(text: str) -> None:
    found = scrub(text)
    assert len(found) <= 500
    assert len(found.splitlines()) <= 1
    found.encode()


def test_surrogates_are_escaped() -> None:
    assert scrub("a\ud800\n") == "a\\ud800\\n"


def test_every_kind_of_value_has_a_form() -> None:
    number = uuid.UUID(int=1)
    assert redact(
        {
            "a": b"secret",
            "b": Note("secret"),
            "c": math.nan,
            "d": 10**5000,
            "e": [1, (2, {"x"}), None],
            "f": number,
            "g": Colour.RED,
            "h": range(3),
            "i": {1: {2: {3: {4: {5: 6}}}}},
            "j": list(range(100)),
        }
    ) == {
        "a": "(6 bytes)",
        "b": "(Note)",
        "c": "nan",
        "d": "(huge)",
        "e": [1, [2, ["x"]], None],
        "f": str(number),
        "g": "Colour.RED",
        "h": "range(0, 3)",
        "i": {"1": {"2": {"3": {"4": "(...)"}}}},
        "j": list(range(20)),
    }


def test_exception_is_reported_with_causes_and_members() -> None:
    try:
        try:
            raise KeyError("inner")
        except KeyError as exc:
            raise ExceptionGroup("tasks", [OSError("one"), TypeError("two")]) from exc
    except ExceptionGroup as exc:
        found = describe_exception(exc)
    assert [each.partition(":")[0] for each in found] == [
        "ExceptionGroup",
        "OSError",
        "TypeError",
        "KeyError",
    ]
    assert "(at test_redact.py:" in found[0]
    assert redact({"error": ValueError("x")}) == {"error": ["ValueError: x"]}


def test_exception_reported_without_its_suppressed_context_and_without_end() -> None:
    one, two = ValueError(), ValueError("two")
    one.__cause__, two.__cause__ = two, one
    assert describe_exception(one) == ["ValueError: ", "ValueError: two"]
    hidden = ValueError("x")
    hidden.__context__ = KeyError("y")
    assert len(describe_exception(hidden)) == 2
    hidden.__suppress_context__ = True
    assert describe_exception(hidden) == ["ValueError: x"]
    chain = ValueError("0")
    for number in range(100):
        chain.__context__, chain = chain.__context__, ValueError(str(number))
    group = ExceptionGroup("many", [ValueError(str(n)) for n in range(100)])
    assert len(describe_exception(group)) == 20


def test_burst_lets_the_first_of_each_second_through() -> None:
    burst = BurstLimiter(2)
    assert [burst.allow("a", 5.0 + n / 10) for n in range(4)] == [
        True,
        True,
        False,
        False,
    ]
    assert burst.allow("b", 5.5)
    assert burst.allow("a", 6.0)


def test_burst_sums_up_every_ten_seconds() -> None:
    burst = BurstLimiter(1)
    for _ in range(4):
        burst.allow("a", 5.0)
    assert burst.take_suppressed(14.9) == []
    assert burst.take_suppressed(15.0) == [("a", 3)]
    assert burst.take_suppressed(99.0) == []


def test_a_flood_of_warnings_is_one_burst_and_one_summary() -> None:
    burst = BurstLimiter(2)
    written = [burst.allow("a", n / 10, lasting=True) for n in range(100)]
    assert written == [True, True] + [False] * 98
    assert burst.take_suppressed(10.2) == [("a", 98)]
    assert burst.allow("a", 10.3, lasting=True)


def test_burst_can_be_emptied_at_the_end() -> None:
    burst = BurstLimiter(1)
    burst.allow("a", 5.0)
    burst.allow("a", 5.0)
    assert burst.take_suppressed(5.0, all_of_it=True) == [("a", 1)]


def test_burst_stands_a_clock_that_is_set_back() -> None:
    burst = BurstLimiter(1)
    burst.allow("a", 500.0)
    assert not burst.allow("a", 500.0)
    assert burst.allow("a", 5.0)
    assert burst.take_suppressed(5.0) == [("a", 1)]


def test_burst_remembers_a_bounded_number_of_names() -> None:
    burst = BurstLimiter(1)
    admitted = [burst.allow(str(number), 5.0) for number in range(1000)]
    assert admitted.count(True) == 257
    kept_back = dict(burst.take_suppressed(20.0))
    assert len(kept_back) == 257
    assert sum(kept_back.values()) == 743
