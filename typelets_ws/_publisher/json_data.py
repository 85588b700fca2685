"""Converts a publisher's arguments to JSON; raises `ValueError` for a bad one.

Invariant: an argument is sent whole or not at all. The error names the argument and the
way into it ("updated_note.tags[2]"), so that it is found where it was made.
Tested by tests/unit/test_publisher.py.
"""

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from math import isfinite
from typing import Any, Final, TypeGuard
from uuid import UUID

import msgspec
from msgspec import UNSET, Raw, UnsetType

__all__ = ["data", "is_integer", "optional_data", "text", "user_text"]

LONGEST_ID: Final = 255
Check = Callable[[Mapping[str, Any], str], None]


def text(value: object, name: str) -> str:
    """The text, which is not empty and fits UTF-8."""
    if not isinstance(value, str) or not value:
        raise ValueError(f"{name}: expected text that is not empty")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{name}: expected text that UTF-8 can hold") from None
    return value


def user_text(value: object) -> str:
    """A user id: it becomes part of a channel name and of log lines."""
    user_id = text(value, "user_id")
    if not user_id.isprintable() or " " in user_id or len(user_id) > LONGEST_ID:
        raise ValueError("user_id: expected printable text without spaces")
    return user_id


def optional_data(value: object, name: str, check: Check) -> Raw | UnsetType:
    """Like `data`; None is left out of the event."""
    return UNSET if value is None else data(value, name, check)


def data(value: object, name: str, check: Check) -> Raw:
    """JSON of an object: of a mapping, or as it is in bytes.

    `check` gets the object and `name`, and raises `ValueError`.
    """
    if isinstance(value, bytes):
        check(_read(value, name), name)
        return Raw(value.strip())
    if not isinstance(value, Mapping):
        raise ValueError(f"{name}: expected a mapping, or JSON of an object as bytes")
    try:
        encoded = msgspec.json.encode(_plain(value, name))
    except RecursionError:
        raise ValueError(f"{name}: nested too deep, or in a circle") from None
    check(value, name)
    return Raw(encoded)


def _read(value: bytes, name: str) -> Mapping[str, Any]:
    """The object in `value`, also one with lone surrogates, as JavaScript writes."""
    try:
        found = json.loads(value.decode(), parse_constant=_no_constant)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise ValueError(f"{name}: expected JSON of an object")
    return found


def _no_constant(word: str) -> None:
    raise ValueError(f"{word} is not JSON")


def _plain(value: object, path: str) -> Any:
    """The value in words that JSON has. Raises `ValueError` with the path."""
    if isinstance(value, Mapping):
        return {
            text(key, f"{path}: a key"): _plain(inside, f"{path}.{key}")
            for key, inside in value.items()
        }
    if isinstance(value, list | tuple):
        return [_plain(inside, f"{path}[{n}]") for n, inside in enumerate(value)]
    return _scalar(value, path)


def _scalar(value: object, path: str) -> str | int | float | None:
    if isinstance(value, str):
        return text(value, path) if value else value
    if isinstance(value, datetime):
        moment = value.replace(tzinfo=UTC) if value.tzinfo is None else value
        utc = moment.astimezone(UTC).replace(tzinfo=None)
        return utc.isoformat(timespec="milliseconds") + "Z"
    if isinstance(value, UUID):
        return str(value)
    if value is None or isinstance(value, bool) or is_integer(value):
        return value
    if isinstance(value, float) and isfinite(value):
        return value
    raise ValueError(f"{path}: {type(value).__name__} cannot be sent as JSON")


def is_integer(value: object) -> TypeGuard[int]:
    """True for an integer that 64 bits hold: the encoder takes no larger one."""
    return (
        isinstance(value, int)
        and not isinstance(value, bool)
        and -(2**63) <= value < 2**64
    )
