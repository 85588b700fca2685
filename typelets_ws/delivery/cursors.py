"""Cursors: where a client's copy stands, as an opaque text. Pure.

A cursor names a horizon of one database. It has no secret: a forged one selects among
the sender's own rows. Layout before base64url, big-endian::

    version 1 byte | identity 6 bytes | horizon 8 bytes
    and, between two pages: since 8 bytes | kind 1 byte | id 16 bytes

`horizon` is where the client stands when the last page has arrived: the horizon of
the *first* page's snapshot. Rows that change behind the position while pages are read
are at or above it, so the next sync finds them. `since` is the horizon that the pages
started from, 0 for a sync without a cursor.
"""

import base64
import binascii
import hashlib
import struct
import uuid
from functools import lru_cache
from typing import Final, NamedTuple

from ..recovery_ports import RowKind, Snapshot

__all__ = ["HORIZON_XIDS", "Cursor", "CursorError", "check", "decode", "encode"]

HORIZON_XIDS: Final = 2**31 - 2**21
"""A horizon older than this many transactions is refused: 32-bit ids wrap around."""
_PLAIN, _PAGING = 1, 2
_HEAD: Final = struct.Struct(">B6sQ")
_POSITION: Final = struct.Struct(">QB16s")
_KINDS: Final = (RowKind.FOLDER, RowKind.NOTE)
_TEXT_LENGTH: Final = 64
"""The longest cursor that this module writes."""


class CursorError(Exception):
    """The cursor is malformed, too old, or of another database."""


class Cursor(NamedTuple):
    """A horizon; between two pages also where the pages started and stand.

    `since` is None for all rows.
    """

    horizon: int
    since: int | None = None
    after: tuple[RowKind, str] | None = None


@lru_cache(maxsize=64)
def encode(identity: str, cursor: Cursor) -> str:
    """The cursor's text for the database named `identity`.

    The users of one look have the same one: made once, and one text in memory.
    """
    version = _PLAIN if cursor.after is None else _PAGING
    packed = _HEAD.pack(version, _digest(identity), cursor.horizon)
    if cursor.after is not None:
        kind, row_id = cursor.after
        packed += _POSITION.pack(
            cursor.since or 0, _KINDS.index(kind), uuid.UUID(row_id).bytes
        )
    return base64.urlsafe_b64encode(packed).rstrip(b"=").decode()


def decode(text: str) -> tuple[bytes, Cursor]:
    """Read a cursor; returns the digest of its database's identity with it.

    Raises `CursorError` for a text that is not a cursor of this version.
    """
    packed = _unpacked(text)
    if len(packed) < _HEAD.size:
        raise CursorError
    version, identity, horizon = _HEAD.unpack_from(packed)
    rest = packed[_HEAD.size :]
    if (version, len(rest)) == (_PLAIN, 0):
        return identity, Cursor(horizon)
    if (version, len(rest)) != (_PAGING, _POSITION.size):
        raise CursorError
    since, kind, row_id = _POSITION.unpack(rest)
    if kind >= len(_KINDS):
        raise CursorError
    after = (_KINDS[kind], str(uuid.UUID(bytes=row_id)))
    return identity, Cursor(horizon, since or None, after)


def check(identity: bytes, cursor: Cursor, snapshot: Snapshot) -> None:
    """Raise `CursorError` unless the cursor is a past one of this database."""
    if identity != _digest(snapshot.identity):
        raise CursorError
    for horizon in (cursor.horizon, cursor.since or cursor.horizon):
        if not 0 <= snapshot.newest - horizon <= HORIZON_XIDS:
            raise CursorError


def _digest(identity: str) -> bytes:
    return hashlib.blake2b(identity.encode(), digest_size=6).digest()


def _unpacked(text: str) -> bytes:
    if len(text) > _TEXT_LENGTH:
        raise CursorError
    try:
        packed = base64.b64decode(
            text.encode() + b"=" * (-len(text) % 4), altchars=b"-_", validate=True
        )
    except (binascii.Error, ValueError):
        raise CursorError from None
    return packed
