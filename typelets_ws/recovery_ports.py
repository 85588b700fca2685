"""The contract of recovery with the database: row versions, horizons, digests.

`postgres.changes` fulfils `Changes`; delivery knows only this module. A horizon is a
transaction id of one database, and means nothing in another one: it is kept with its
`Snapshot.identity`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, Protocol

from msgspec import Struct

__all__ = [
    "Changes", "Digest", "Extent", "HorizonMemory", "PackedIds", "RowIds", "RowKey",
    "RowKind", "Since", "Snapshot", "StoredRow", "TableContents", "UserChanges",
]  # fmt: skip


class RowKind(StrEnum):
    """The table of a row; pages show folders before notes."""

    FOLDER = "folder"
    NOTE = "note"


class RowKey(Struct, frozen=True, gc=False):
    """A row of one user. A row that changes hands is another key.

    Each event makes one: a `NamedTuple` takes four times as long to make.
    """

    user_id: str
    kind: RowKind
    row_id: str


@dataclass(frozen=True, slots=True)
class StoredRow:
    """A row as read: its version (``xmin``), its updatedAt and its JSON text.

    `version` is empty when it was read without the privilege. `settled` is True when
    the row has had this version since before the horizon `Since.settled`.
    """

    key: RowKey
    version: str
    settled: bool
    updated_at: str
    text: bytes


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A point in the history of one database, named by `identity`.

    Every transaction below `horizon` had ended; `newest` is the next id to be given.
    """

    identity: str
    horizon: int
    newest: int


@dataclass(frozen=True, slots=True)
class Since:
    """A query for one user: rows at or above `horizon`, all rows if None.

    `after` is where the last page ended. With `since_s`, rows whose updatedAt is at
    most so many seconds old are wanted as well, or none but those if `horizon` is None.
    Without `digest` the user has none, even if `Extent.digest` is True. With `packed`
    the user's ids are read.
    """

    user_id: str
    horizon: int | None
    after: tuple[RowKind, str] | None = None
    settled: int | None = None
    since_s: float | None = None
    digest: bool = True
    packed: bool = False


class TableContents(NamedTuple):
    """Row count and XOR (32 hex digits) of one user's rows in one table."""

    rows: int
    xor: str


class Digest(NamedTuple):
    """Equal digests prove equal sets of ids and updatedAt."""

    notes: TableContents
    folders: TableContents


class RowIds(NamedTuple):
    """All ids of one user, as JSON arrays."""

    notes: bytes
    folders: bytes


class PackedIds(NamedTuple):
    """The ids of one user, 16 bytes each: `Extent.packed` and one more at most."""

    notes: bytes
    folders: bytes


@dataclass(frozen=True, slots=True)
class UserChanges:
    """The changes of one user, in the order of pages; `more` when some are left."""

    rows: list[StoredRow]
    more: bool
    digest: Digest | None = None
    ids: RowIds | None = None
    count: int | None = None
    """Notes and folders of the user, changed or not."""
    packed: PackedIds | None = None


class Extent(NamedTuple):
    """How much is read of each user, and what beside the rows.

    With `narrow` only notes of the last `Since.since_s` and an hour by their updatedAt
    are looked at, and of those the changes selected.
    """

    rows: int
    bytes: int
    digest: bool = False
    ids: bool = False
    narrow: bool = False
    counts: bool = False
    packed: int = 0
    """At most so many ids of a user, for those with `Since.packed`."""


class Changes(Protocol):
    """Row versions of the database; every method may raise `StoreError`."""

    async def supported(self) -> str | None:
        """Why the server or the role does not allow recovery; None when they do."""

    async def horizon(self) -> Snapshot:
        """The horizon as of now."""

    async def changed(
        self, wanted: Sequence[Since], extent: Extent
    ) -> tuple[Snapshot, list[UserChanges]]:
        """The changes of each, all from one snapshot."""

    async def rows(
        self,
        keys: Sequence[RowKey],
        *,
        before: Mapping[str, int] | None = None,
        versions: bool = True,
    ) -> Mapping[RowKey, StoredRow | None]:
        """The rows as of now; None for a row that is not there.

        The bytes of one user's rows are limited: a key beyond that is missing from
        the result, and may be asked for again. Each user's first row is read whatever
        its size. Rows below the horizon that `before` has for their user are settled.
        Without `versions` no privilege for recovery is needed.
        """


class HorizonMemory(Protocol):
    """Horizons of the last minutes, shared by all processes."""

    def remember(self, identity: str, horizon: int) -> None:
        """Keep a horizon taken now. Never waits."""

    async def recall(self, identity: str) -> list[tuple[float, int]] | None:
        """Horizons of this database and their ages in s, the newest first.

        None when they cannot be read now.
        """
