"""Devices converge: the last word on a note is the stored row (spec section 3).

The argument. Every write of a row moves its `updatedAt` strictly forward while
Postgres holds the row's lock, so `updatedAt` orders the writes of a note exactly
as they were committed: it is the row's version. What follows a commit does not
keep that order: two processes publish after their commits, and Redis may see
the later write first; a reply may overtake an event. Holding the lock while
publishing would keep it, at the price of a transaction around a network call,
and of announcing what then fails to commit.

So the order is restored where it matters, at the devices' side. Every process
remembers the newest row of each note it has shown to anyone (`VersionCache`). What
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

A row is remembered for `ttl_s` seconds, longer than a publish can be late, and
the texts of at most `max_bytes` bytes are; over that the oldest texts are forgotten,
and a late message whose newest row was forgotten makes its devices resync.
"""

import re
from collections import OrderedDict
from datetime import UTC, datetime

import msgspec

from ..protocol.json_members import NotJson, has_surrogates, members, raw_members, text

__all__ = [
    "Evicted",
    "VersionCache",
    "VersionedRow",
    "refresh_changes",
    "version_of",
    "wire_time",
]


class VersionedRow(msgspec.Struct, frozen=True, gc=False):
    """A note as stored: its version (updatedAt) and its JSON text."""

    version: str
    text: bytes


class _Entry(msgspec.Struct, frozen=True, gc=False):
    row: VersionedRow
    at: float


class Evicted(Exception):
    """A newer row was shown, but its text is no longer remembered."""


Key = tuple[str, str]
"""User and note: a note that changes hands never shows one user the other's."""


class VersionCache:
    """The newest row of each note that this process has shown, for a while.

    Of thousands of users each one's entry has left the cache when its turn comes, so
    as few of them are looked at as can be, and the collector knows of none.
    """

    def __init__(self, ttl_s: float, max_bytes: int) -> None:
        self._ttl_s = ttl_s
        self._max_bytes = max_bytes
        self._used = 0
        self._rows: OrderedDict[Key, _Entry] = OrderedDict()
        self._evicted: OrderedDict[Key, _Entry] = OrderedDict()
        """Without their texts; all of them were shown before all of the others."""
        self._next_expiry = 0.0

    def __len__(self) -> int:
        return len(self._rows) + len(self._evicted)

    def latest(self, key: Key, row: VersionedRow, now: float) -> VersionedRow:
        """Return the row to show for `row`: itself, or a newer one.

        `now` in seconds, never backwards. Raises `Evicted`.
        """
        if now >= self._next_expiry:
            self._expire(now)
        known = self._rows.get(key)
        if known is not None:
            if known.row.version > row.version:
                return known.row
            self._used -= len(known.row.text)
        elif (known := self._evicted.get(key)) is not None:
            if known.row.version > row.version:
                raise Evicted
            del self._evicted[key]
        self._rows[key] = _Entry(row, now)
        self._rows.move_to_end(key)
        self._used += len(row.text)
        while self._used > self._max_bytes:
            self._evict()
        return row

    def _evict(self) -> None:
        key, old = self._rows.popitem(last=False)
        self._used -= len(old.row.text)
        self._evicted[key] = _Entry(VersionedRow(old.row.version, b""), old.at)

    def _expire(self, now: float) -> None:
        for known in (self._evicted, self._rows):
            while known:
                oldest = next(iter(known.values()))
                if oldest.at > now - self._ttl_s:
                    self._next_expiry = oldest.at + self._ttl_s
                    return
                known.popitem(last=False)
                self._used -= len(oldest.row.text)
        self._next_expiry = now + self._ttl_s


def refresh_changes(changes: bytes, row: VersionedRow) -> bytes:
    """The same fields as in `changes`, with the values of `row`. Returns JSON."""
    values = raw_members(row.text)
    names = raw_members(changes)
    return msgspec.json.encode({name: values[name] for name in names if name in values})


class _Version(msgspec.Struct):
    updatedAt: str | None = None


_version = msgspec.json.Decoder(_Version)
_VERSION = re.compile(
    r"[0-9]{4}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-6][0-9]\.[0-9]{3}Z"
)
"""As in "2026-01-01T00:00:00.000Z": such texts sort by time."""


def version_of(row: bytes) -> str | None:
    """The `updatedAt` of a row's JSON text, when it has the canonical form."""
    found: str | None
    try:
        found = _version.decode(row).updatedAt
    except (msgspec.DecodeError, RecursionError):
        found = _updated_at_beside_surrogates(row)
    return found if found is not None and _VERSION.fullmatch(found) else None


def wire_time(ms: int) -> str:
    """The version that a row written at `ms` since the epoch has."""
    moment = datetime.fromtimestamp(ms / 1000, UTC).replace(tzinfo=None)
    return moment.isoformat(timespec="milliseconds") + "Z"


def _updated_at_beside_surrogates(row: bytes) -> str | None:
    if not has_surrogates(row):
        return None
    try:
        return text(members(row.decode()).get("updatedAt"))
    except NotJson:
        return None
