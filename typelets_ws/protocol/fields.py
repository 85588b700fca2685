"""Checks the fields of messages (spec section 3). Pure.

Invariants. Every error names the field. Fields of `note_update` that are not allowed
are filtered out and counted: the web client sends some of them.
Tested by tests/unit/protocol/test_fields.py.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec
from msgspec import Raw

from .errors import FOREIGN_RESOURCE, ClientError, Code
from .json_members import build, members

__all__ = [
    "ALLOWED", "accepted_changes", "check_owner", "json_object", "uuid",
]  # fmt: skip

Value = str | bool | None

ENCRYPTED: Final = "[ENCRYPTED]"
FILTERED_NAMES: Final = frozenset({
    "hiddenAt", "tags", "id", "userId", "createdAt", "updatedAt", "type", "iv", "salt",
})  # fmt: skip
"""Known names that are left out; all others are counted as "other"."""

_UUID: Final = re.compile(
    r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.IGNORECASE
)
_text: Final = msgspec.json.Decoder(str)
_nullable_text: Final = msgspec.json.Decoder(str | None)
_flag: Final = msgspec.json.Decoder(bool)
ALLOWED: Final[Mapping[str, msgspec.json.Decoder[Any]]] = {
    "title": _text,
    "content": _nullable_text,
    "encryptedTitle": _nullable_text,
    "encryptedContent": _nullable_text,
    "starred": _flag,
    "archived": _flag,
    "deleted": _flag,
    "hidden": _flag,
    "folderId": _nullable_text,
}
"""The fields that `note_update` may change; a decoder's `type` is that of the value."""
_WIRE_TIME: Final = re.compile(r"\d{4,}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", re.ASCII)


def uuid(text: str | None, name: str) -> str:
    """The id in lower case. Raises `ClientError` when it is missing or malformed."""
    if not text:
        raise ClientError(Code.INVALID_FIELD, f"Missing {name}")
    if not _UUID.fullmatch(text):
        raise ClientError(Code.INVALID_FIELD, f"Invalid {name}")
    return text.lower()


def wire_time(text: str, name: str) -> str:
    """Return a timestamp in wire format; raises `ClientError` naming the field."""
    if not _WIRE_TIME.fullmatch(text):
        raise ClientError(Code.INVALID_FIELD, f"Invalid {name}")
    return text


def accepted_changes(
    changes: Mapping[str, Raw], *, require_encrypted: bool
) -> tuple[dict[str, Value], dict[str, int]]:
    """The allowed fields with their values, and how often a name was left out.

    Raises `ClientError` naming a field of the wrong type, or a plain text where only
    ciphertext may be.
    """
    accepted: dict[str, Value] = {}
    filtered: dict[str, int] = {}
    for name, raw in changes.items():
        decoder = ALLOWED.get(name)
        if decoder is None:
            label = name if name in FILTERED_NAMES else "other"
            filtered[label] = filtered.get(label, 0) + 1
            continue
        accepted[name] = _value(name, raw, decoder)
    if require_encrypted:
        for name in ("title", "content"):
            if accepted.get(name, ENCRYPTED) != ENCRYPTED:
                raise ClientError(Code.INVALID_FIELD, f"{name} must be encrypted")
    return accepted, filtered


def _value(name: str, raw: Raw, decoder: msgspec.json.Decoder[Any]) -> Value:
    try:
        value: Value = decoder.decode(raw)
    except (msgspec.DecodeError, RecursionError):
        raise ClientError(Code.INVALID_FIELD, f"Invalid {name}") from None
    if name == "folderId":
        return uuid(str(value), name) if value else None
    if isinstance(value, str) and "\0" in value:
        # Postgres holds no NUL in text: better refused by name than by the database.
        raise ClientError(Code.INVALID_FIELD, f"Invalid {name}")
    return value


class _Owned(msgspec.Struct):
    """The id and the owner inside announced data."""

    id: Raw = Raw(b"")
    userId: Raw = Raw(b"")


_owned: Final = msgspec.json.Decoder(_Owned)


def json_object(raw: Raw, name: str) -> Raw | None:
    """The object, or None when it is absent or null. Raises `ClientError`."""
    data = bytes(raw)
    if data in {b"", b"null"}:
        return None
    if not data.startswith(b"{"):
        raise ClientError(Code.INVALID_FIELD, f"Invalid {name}")
    return raw


def _read_owned(data: Raw) -> _Owned:
    try:
        return _owned.decode(data)
    except msgspec.DecodeError:
        # It was read member by member, so a lone surrogate is in it.
        return build(_Owned, members(bytes(data).decode()))


def check_owner(data: Raw, user_id: str, id_name: str) -> str | None:
    """Refuse data whose `userId` is not the sender; return its `id`, if any.

    Raises `ClientError`.
    """
    owned = _read_owned(data)
    if bytes(owned.userId):
        try:
            owner = _text.decode(owned.userId)
        except msgspec.DecodeError:
            owner = ""
        if owner != user_id:
            raise ClientError(Code.ACCESS_DENIED, FOREIGN_RESOURCE)
    if bytes(owned.id) in {b"", b"null"}:
        return None
    try:
        return uuid(_text.decode(owned.id), id_name)
    except msgspec.DecodeError:
        raise ClientError(Code.INVALID_FIELD, f"Invalid {id_name}") from None
