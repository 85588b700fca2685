"""Checks notes and folders before they are published.

Invariant: a mistake raises `ValueError` that names the argument and the key; nothing
wrong is sent. The 18 keys of a note and their wire format are those of the protocol
(README, "Publish from your REST service"). Tested by tests/unit/test_publisher.py.
"""

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final
from uuid import UUID

__all__ = ["NOTE_KEYS", "check_changes", "check_folder", "check_note", "row_id"]

NOTE_KEYS: Final = (
    "id",
    "userId",
    "folderId",
    "title",
    "content",
    "type",
    "encryptedTitle",
    "encryptedContent",
    "iv",
    "salt",
    "starred",
    "archived",
    "deleted",
    "hidden",
    "hiddenAt",
    "tags",
    "createdAt",
    "updatedAt",
)
_TIMESTAMPS: Final = ("createdAt", "updatedAt", "hiddenAt")
_FLAGS: Final = ("starred", "archived", "deleted", "hidden", "isDefault")
_OPTIONAL_TEXTS: Final = (
    "content", "encryptedTitle", "encryptedContent", "iv", "salt", "color",
)  # fmt: skip
_UUID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_WIRE_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
_SNAKE_CASE: Final = re.compile(r"[a-z]+(?:_[a-z]+)+")

Row = Mapping[str, Any]


def row_id(value: object, name: str) -> str:
    """A UUID in canonical text form. Raises `ValueError`."""
    if isinstance(value, UUID):
        return str(value)
    if not isinstance(value, str) or not _UUID.fullmatch(value):
        raise ValueError(f"{name}: expected a UUID, or its text with hyphens")
    return value.lower()


def check_note(user_id: str, note_id: str | None, note: Row, name: str) -> None:
    """A whole note of `user_id`; `note_id` is the id the event names, if any."""
    _check_names(note, name)
    if missing := [key for key in NOTE_KEYS if key not in note]:
        raise ValueError(f"{name}: {', '.join(missing)} missing of a note's 18 keys")
    _check_row(note, name, user_id, note_id)
    for key in ("title", "type"):
        _expect(isinstance(note[key], str), name, key, "text")


def check_folder(user_id: str, folder_id: str | None, folder: Row, name: str) -> None:
    """A folder of `user_id`: it has an `id`, and other keys in wire names."""
    _check_names(folder, name)
    _expect("id" in folder, name, "id", "a UUID")
    _check_row(folder, name, user_id, folder_id)


def check_changes(user_id: str, expected_id: str, changes: Row, name: str) -> None:
    """Some keys of a row, in wire names and formats."""
    _check_names(changes, name)
    _check_row(changes, name, user_id, expected_id)


def _check_names(row: Row, name: str) -> None:
    if columns := [key for key in row if _SNAKE_CASE.fullmatch(key)]:
        shown = ", ".join(f"{column} (write {_camel(column)})" for column in columns)
        raise ValueError(f"{name}: names of database columns: {shown}")


def _check_row(row: Row, name: str, user_id: str, expected_id: str | None) -> None:
    if "id" in row:
        found = row_id(row["id"], f"{name}.id")
        if expected_id is not None and found != expected_id:
            raise ValueError(f"{name}.id: {found} is not the id of the event")
    if "userId" in row and row["userId"] != user_id:
        raise ValueError(f"{name}.userId: expected the user that is published to")
    for key in ("folderId", "parentId"):
        if row.get(key) is not None:
            row_id(row[key], f"{name}.{key}")
    _check_kinds(row, name)


def _check_kinds(row: Row, name: str) -> None:
    for key in _TIMESTAMPS:
        if key in row:
            _check_timestamp(row[key], name, key)
    for key in _FLAGS:
        # The columns of the flags are nullable.
        flag = isinstance(row.get(key), bool | None)
        _expect(flag, name, key, "true, false or null")
    for key in _OPTIONAL_TEXTS:
        _expect(isinstance(row.get(key), str | None), name, key, "text or null")
    tags = row.get("tags")
    listed = isinstance(tags, list | tuple) and all(isinstance(t, str) for t in tags)
    _expect(tags is None or listed, name, "tags", "a list of texts, or null")


def _check_timestamp(value: object, name: str, key: str) -> None:
    if value is None and key == "hiddenAt":
        return
    right = isinstance(value, datetime) or _is_wire_time(value)
    _expect(right, name, key, "a datetime, or text YYYY-MM-DDTHH:MM:SS.mmmZ")


def _is_wire_time(value: object) -> bool:
    if not isinstance(value, str) or not _WIRE_TIME.fullmatch(value):
        return False
    try:
        datetime.fromisoformat(value)
    except ValueError:
        return False
    return True


def _expect(holds: bool, name: str, key: str, wanted: str) -> None:
    if not holds:
        raise ValueError(f"{name}.{key}: expected {wanted}")


def _camel(column: str) -> str:
    first, *rest = column.split("_")
    return first + "".join(map(str.title, rest))
