"""Random inputs for what reads text of strangers: JSON-like, valid and spoiled.

Made by `random.Random`, not by Hypothesis: 20,000 inputs a second instead of 500.
"""

import json
import random
from typing import Any

__all__ = ["document", "generator", "javascript_json", "spoiled", "text"]

ALPHABET = (
    "a", "Z", "0", " ", '"', "\\", "/", "é", "\u2028", "😀", "\ud83d", "\udc00",
    "\0", "\x1f", "\x7f", "null", "\ufeff",
)  # fmt: skip
PIECES = (
    b"", b"{", b"}", b"[", b"]", b":", b",", b'"', b"\\", b"\\u", b"\\ud800", b"d83d",
    b"1", b"-0", b"1e400", b"true", b"null", b"NaN", b"\xff", b"\xc3\xa9", b"\x00",
    b" ", b"\xef\xbb\xbf", b"[" * 1_200, b'"type"', b'"event"', b"\xed\xa0\x80",
)  # fmt: skip
UUID = "00000000-0000-4000-8000-000000000001"


def generator(seed: int, number: int) -> random.Random:
    """The source of one input: the same for the same seed and number."""
    return random.Random(seed << 40 | number)


def text(rng: random.Random, longest: int = 6) -> str:
    """A string as JavaScript may hold one: half surrogate pairs too."""
    return "".join(rng.choices(ALPHABET, k=rng.randrange(longest)))


def value(rng: random.Random, depth: int = 0) -> Any:
    """A JSON value of a few levels."""
    match rng.randrange(9 if depth < 3 else 6):
        case 0:
            return None
        case 1:
            return rng.random() < 0.5
        case 2:
            return rng.choice((0, -1, 7, 2**53, 10**30, 1.5, 1e300))
        case 3:
            return UUID
        case 4 | 5:
            return text(rng)
        case 6:
            return [value(rng, depth + 1) for _ in range(rng.randrange(3))]
        case _:
            return {text(rng): value(rng, depth + 1) for _ in range(rng.randrange(3))}


def document(
    rng: random.Random, tag: str, kinds: list[str], fields: list[str]
) -> dict[str, Any]:
    """An object with a tag and some of these fields, of any type."""
    found: dict[str, Any] = {}
    if rng.random() < 0.95:
        found[tag] = rng.choice(kinds) if rng.random() < 0.95 else value(rng)
    for name in rng.sample(fields, rng.randrange(min(4, len(fields)))):
        found[name] = value(rng)
    if rng.random() < 0.3:
        found[text(rng)] = value(rng)
    return found


def javascript_json(rng: random.Random, found: dict[str, Any]) -> bytes:
    r"""The object as `JSON.stringify` writes it, or with all but ASCII escaped.

    Keys are repeated now and then, in which case the last one counts.
    """
    escaped = rng.random() < 0.3
    written = json.dumps(found, ensure_ascii=escaped, separators=(",", ":"))
    if found and rng.random() < 0.1:
        name = json.dumps(rng.choice(list(found)), ensure_ascii=escaped)
        early = json.dumps(value(rng), ensure_ascii=escaped)
        written = "{" + f"{name}:{early}," + written[1:]
    return written.encode("utf-8", "backslashreplace")


def spoiled(rng: random.Random, data: bytes) -> bytes:
    """The bytes with a few replaced, removed or put in."""
    found = bytearray(data)
    for _ in range(rng.randrange(1, 4)):
        at = rng.randrange(len(found) + 1)
        found[at : at + rng.randrange(3)] = rng.choice(PIECES)
    return bytes(found)
