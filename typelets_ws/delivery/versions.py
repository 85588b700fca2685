"""The version of a row: its `updatedAt`, read from its JSON. Pure.

Versions of one row order its writes only while all clocks agree: see `shown`.
"""

import re
from datetime import UTC, datetime
from typing import Final

import msgspec

from ..protocol.json_members import NotJsonError, has_surrogates, members, text

__all__ = ["head_of", "version_at", "version_of"]


class _RowHead(msgspec.Struct):
    id: str | None = None
    updatedAt: str | None = None


class _Version(msgspec.Struct):
    updatedAt: str | None = None


_head: Final = msgspec.json.Decoder(_RowHead)
_version: Final = msgspec.json.Decoder(_Version)
_VERSION: Final = re.compile(
    r"[0-9]{4}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-6][0-9]\.[0-9]{3}Z"
)
"""As in "2026-01-01T00:00:00.000Z": such texts sort by time."""


def version_of(row: bytes) -> str | None:
    """The `updatedAt` of a row's JSON text, when it has the canonical form."""
    try:
        found = _version.decode(row).updatedAt
    except (msgspec.DecodeError, RecursionError):
        found = _beside_surrogates(row)[1]
    return found if found is not None and _VERSION.fullmatch(found) else None


def head_of(row: bytes) -> tuple[str | None, str | None]:
    """The id of a row in lower case, and its version; None for what it does not say."""
    try:
        head = _head.decode(row)
        row_id, found = head.id, head.updatedAt
    except (msgspec.DecodeError, RecursionError):
        row_id, found = _beside_surrogates(row)
    version = found if found is not None and _VERSION.fullmatch(found) else None
    return row_id and row_id.lower(), version


def version_at(ms: int) -> str:
    """The version that a row written at `ms` since the epoch has."""
    moment = datetime.fromtimestamp(ms / 1000, UTC).replace(tzinfo=None)
    return moment.isoformat(timespec="milliseconds") + "Z"


def _beside_surrogates(row: bytes) -> tuple[str | None, str | None]:
    if not has_surrogates(row):
        return None, None
    try:
        found = members(row.decode())
        return text(found.get("id")), text(found.get("updatedAt"))
    except NotJsonError:
        return None, None
