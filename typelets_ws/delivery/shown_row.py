"""One row as devices have been shown it, compared with the stored row. Pure.

A device is one of two kinds. The old web client lays the `changes` of an event over
its own copy; a newer one takes the whole row of the event. A row counts as shown only
if both of them hold exactly the stored row. For that, `ShownRow` keeps a `base`, a
whole row that the devices are known to hold, the `changes` laid over it since, and
the last row. A publisher that skips an event leaves no trace but this one: the laid
row differs from the stored one, although the last event had the newest version.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, Final

import msgspec

from ..recovery_ports import StoredRow

__all__ = ["Agreement", "ShownRow", "is_complete"]

OVERHEAD_BYTES: Final = 600
"""Of an entry beside its texts."""
MOST_OVERLAYS: Final = 16
NOTE_NAMES: Final = frozenset({
    "id", "userId", "folderId", "title", "content", "type", "encryptedTitle",
    "encryptedContent", "iv", "salt", "starred", "archived", "deleted", "hidden",
    "hiddenAt", "tags", "createdAt", "updatedAt",
})  # fmt: skip
FOLDER_NAMES: Final = frozenset({
    "id", "userId", "name", "color", "parentId", "sortOrder", "isDefault", "createdAt",
    "updatedAt",
})  # fmt: skip
_object: Final = msgspec.json.Decoder(dict[str, Any])


class Agreement(Enum):
    """How a stored row compares with what was shown of it."""

    SHOWN = auto()
    ANNOUNCED = auto()
    """This version was shown, but whether all devices hold it is unknown."""
    REPLIED = auto()
    """This version was shown to the device that wrote it, and to no other."""
    DIFFERENT = auto()


@dataclass(slots=True)
class ShownRow:
    """One row as shown; see the module."""

    version: str | None = None
    """Its `updatedAt` as shown to any device; None when the event had none."""
    event_version: str | None = None
    """The same, by an event: shown to all but the event's holder."""
    sequence: int = 0
    base: bytes | None = None
    overlays: list[bytes] = field(default_factory=list)
    last: bytes = b""
    holder: str | None = None
    """The connection that is known to hold `version`, as it wrote it."""
    replied: bool = False
    """True until the event of `version` has reached the other devices."""
    gone: bool = False
    """A deletion was shown last."""
    overlay_bytes: int = 0
    counted: int = 0
    """Bytes that `ShownRows` has counted for it."""

    @property
    def size(self) -> int:
        """Bytes held, about."""
        texts = len(self.base or b"") + len(self.last) + self.overlay_bytes
        return OVERHEAD_BYTES + texts

    def rebase(self, base: bytes | None) -> None:
        """Note the whole row that devices hold; None when it is unknown."""
        self.base = base
        self.overlays.clear()
        self.overlay_bytes = 0

    def lay(self, changes: bytes) -> None:
        """Lay changes over the base, as the old web client does."""
        self.overlays.append(changes)
        self.overlay_bytes += len(changes)
        if len(self.overlays) > MOST_OVERLAYS:
            laid, based = self._laid(), self.base is not None
            merged = None if laid is None else msgspec.json.encode(laid)
            self.rebase(merged if based else None)
            if merged is not None and not based:
                self.overlays.append(merged)
                self.overlay_bytes = len(merged)

    def compare(self, row: StoredRow, *, changed: bool = True) -> Agreement:
        """How the stored row compares with this one.

        `changed` is False when the row is as it was when the devices were known to
        hold it: then fields that no event named are right.
        """
        if self.gone:
            return Agreement.DIFFERENT
        same = self.version == row.updated_at
        if self.replied:
            return Agreement.REPLIED if same else Agreement.DIFFERENT
        stored, laid = _read(row.text), self._laid()
        last = _read(self.last) if self.last else {}
        if stored is None or last is None or laid is None:
            return Agreement.DIFFERENT
        if not _within(last, stored) or not _within(laid, stored):
            return Agreement.DIFFERENT
        if laid.keys() >= stored.keys() or not changed:
            return Agreement.SHOWN
        return Agreement.ANNOUNCED if same else Agreement.DIFFERENT

    def holder_of(self, row: StoredRow) -> str | None:
        """The connection that holds exactly the stored row, because it wrote it.

        The version alone does not tell: when a folder is deleted, its notes change
        and keep their `updatedAt`.
        """
        if self.holder is None or self.version != row.updated_at:
            return None
        stored, last = _read(row.text), _read(self.last)
        if stored is None or last is None or not last.keys() >= stored.keys():
            return None
        return self.holder if _within(last, stored) else None

    def _laid(self) -> dict[str, Any] | None:
        """The fields that devices hold which go by `changes`; None if unreadable.

        Without a base only those that events have named.
        """
        row = {} if self.base is None else _read(self.base)
        for changes in self.overlays:
            found = _read(changes)
            if row is None or found is None:
                return None
            row.update(found)
        return row


def is_complete(row: bytes) -> bool:
    """Whether a row's JSON has all the fields of the wire format."""
    found = _read(row)
    if found is None:
        return False
    return found.keys() >= NOTE_NAMES or found.keys() >= FOLDER_NAMES


def _read(text: bytes) -> dict[str, Any] | None:
    try:
        return _object.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _within(part: Mapping[str, Any], whole: Mapping[str, Any]) -> bool:
    """Whether each field of `part` that the row has is equal there."""
    return all(part[name] == whole[name] for name in part.keys() & whole.keys())
