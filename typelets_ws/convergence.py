"""Devices converge: the last word on a note is the stored row (spec section 3).

The argument. Every write of a row moves its `updatedAt` strictly forward while
Postgres holds the row's lock, so `updatedAt` orders the writes of a note exactly
as they were committed: it is the row's version. What follows a commit does not
keep that order: two processes publish after their commits, and Redis may see
the later write first; a reply may overtake an event. Holding the lock while
publishing would keep it, at the price of a transaction around a network call,
and of announcing what then fails to commit.

So the order is restored where it matters, at the devices' side. Every process
remembers the newest row of each note it has shown to anyone (`Newest`). What
arrives late (its version is older) is not dropped, as its `changes` may name
fields that the newer message did not; it is brought up to date instead: the same
fields, with the newest row's values. Hence after every message, each device on
this process holds the newest row shown here, whichever of `changes` and
`updatedNote` it goes by; as each write's event reaches each process in the end
(or its devices are told to resync), that row is the stored one. The reply to an
update is judged the same way, in the turn of the loop in which it is sent.

Only the daemon's own writes are versioned and repaired. The REST service's
events pass byte for byte, and count as the newest row when they are newer; an
older one is followed by a resync, as its clock proves nothing about the order.

A row is remembered for `keep` seconds, longer than a publish can be late, and
the texts of at most `room` bytes are; over that the oldest texts are forgotten,
and a late message whose newest row was forgotten makes its devices resync.
"""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec
from msgspec import Raw

__all__ = ["Forgotten", "Newest", "Row", "brought_up_to_date", "version_of"]

_fields = msgspec.json.Decoder(dict[str, Raw])


@dataclass(frozen=True, slots=True)
class Row:
    """A note as stored: its version (updatedAt) and its JSON text."""

    version: str
    text: bytes


class Forgotten(Exception):
    """A newer row was shown, but its text is no longer remembered."""


Key = tuple[str, str]
"""User and note: a note that changes hands never shows one user the other's."""


class Newest:
    """The newest row of each note that this process has shown, for a while."""

    def __init__(self, keep: float, room: int) -> None:
        self._keep = keep
        self._room = room
        self._used = 0
        self._versions: OrderedDict[Key, tuple[str, float]] = OrderedDict()
        self._texts: OrderedDict[Key, bytes] = OrderedDict()

    def __len__(self) -> int:
        return len(self._versions)

    def show(self, key: Key, row: Row, now: float) -> Row:
        """Return the row to show for `row`: itself, or a newer one.

        `now` in seconds, never backwards. Raises `Forgotten`.
        """
        self._expire(now)
        version, _ = self._versions.get(key, ("", 0.0))
        if version > row.version:
            if key not in self._texts:
                raise Forgotten
            return Row(version, self._texts[key])
        self._versions[key] = (row.version, now)
        self._versions.move_to_end(key)
        self._drop_text(key)
        self._texts[key] = row.text
        self._used += len(row.text)
        while self._used > self._room:
            self._drop_text(next(iter(self._texts)))
        return row

    def _expire(self, now: float) -> None:
        while self._versions:
            key = next(iter(self._versions))
            if self._versions[key][1] > now - self._keep:
                return
            del self._versions[key]
            self._drop_text(key)

    def _drop_text(self, key: Key) -> None:
        self._used -= len(self._texts.pop(key, b""))


def brought_up_to_date(changes: bytes, row: Row) -> bytes:
    """The same fields as in `changes`, with the values of `row`. Returns JSON."""
    values: Mapping[str, Raw] = _fields.decode(row.text)
    names = _fields.decode(changes)
    return msgspec.json.encode({name: values[name] for name in names if name in values})


class _Version(msgspec.Struct):
    updatedAt: str | None = None


_version = msgspec.json.Decoder(_Version)
_VERSION_LENGTH = len("2026-01-01T00:00:00.000Z")


def version_of(row: bytes) -> str | None:
    """The `updatedAt` of a row's JSON text, when it has the canonical form."""
    try:
        text = _version.decode(row).updatedAt
    except (msgspec.DecodeError, RecursionError):
        return None
    if text is None or len(text) != _VERSION_LENGTH or not text.endswith("Z"):
        return None
    return text
