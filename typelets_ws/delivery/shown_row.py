"""One row as devices have been shown it, compared with the stored row. Pure.

A device is one of two kinds. The old web client lays the `changes` of an event over
its own copy; a newer one lays the whole row of the event. A reply, a page of a sync
and a replay show the row to one device. A row counts as shown only if every device
holds exactly the stored row, whichever kind it is.

Neither `updatedAt` nor the last message proves that: a row can change without a new
time, be shown to one device, and change back. So `ShownRow` keeps a `base`, a whole
row that all devices are known to hold, and each step since. `is_held` plays the steps
for each device that a step names, and for the others together.

Tested by tests/unit/delivery/test_shown.py and test_shown_row.py.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import msgspec
from msgspec import Struct

from ..recovery_ports import StoredRow

__all__ = ["ShownRow", "Step", "is_complete"]

OVERHEAD_BYTES: Final = 600
"""Of an entry beside its texts."""
STEP_BYTES: Final = 150
MOST_STEPS: Final = 16
MOST_STEP_BYTES: Final = 524_288
"""Some milliseconds to read."""
NOTE_NAMES: Final = frozenset({
    "id", "userId", "folderId", "title", "content", "type", "encryptedTitle",
    "encryptedContent", "iv", "salt", "starred", "archived", "deleted", "hidden",
    "hiddenAt", "tags", "createdAt", "updatedAt",
})  # fmt: skip
FOLDER_NAMES: Final = frozenset({
    "id", "userId", "name", "color", "parentId", "sortOrder", "isDefault", "createdAt",
    "updatedAt",
})  # fmt: skip
OTHERS: Final = ""
"""In place of a connection id: all devices that no step names."""
_object: Final = msgspec.json.Decoder(dict[str, Any])
_UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

Fields = Mapping[str, Any]


class Step(Struct, frozen=True, gc=False):
    """A message that showed the row.

    Without `changes` only `connection` got it. Otherwise it is an event, which went to
    all but `connection`.
    """

    changes: bytes | None
    row: bytes
    connection: str | None
    holds: bool = True
    """Whether `connection` holds `row` from now on; not if it was shown it before."""
    version: str | None = None
    """The row's `updatedAt`, where only `connection` got it."""

    def shows_to(self, name: str) -> bool:
        """Whether the copy of this device, or of `OTHERS`, is another one after it."""
        if self.connection == name:
            return self.holds
        return self.changes is not None


class _Copy(NamedTuple):
    """A device's copy, as far as it is known, for each kind of client."""

    old: Fields
    new: Fields


@dataclass(slots=True)
class ShownRow:
    """One row as shown; see the module."""

    version: str | None = None
    """Its `updatedAt` as shown to any device; None when the event had none."""
    event_version: str | None = None
    """The same, by an event: shown to all but the event's holder."""
    sequence: int = 0
    base: bytes | None = None
    steps: list[Step] = field(default_factory=list)
    mixed: bool = False
    """Devices may hold different copies, and `steps` do not say which: send the row."""
    holder: str | None = None
    """The connection that wrote `version`."""
    replied: bool = False
    """True until the event of `version` has reached the other devices."""
    gone: bool = False
    """A deletion was shown last."""
    step_bytes: int = 0
    size: int = OVERHEAD_BYTES
    """Bytes held, about."""
    counted: int = 0
    """Bytes that `ShownRows` has counted for it."""

    @property
    def is_new(self) -> bool:
        """Whether nothing is known of what devices hold."""
        return self.base is None and not self.steps and not self.mixed

    @property
    def is_removed(self) -> bool:
        """Whether no device has been shown the row since its deletion was shown."""
        return self.gone and self.is_new

    def is_newer(self, version: str | None, holder: str | None) -> bool:
        """Whether a newer version was shown to those who would be shown this one.

        An event of the device that was shown its own newer row does not go to it:
        updates that one device sends in a row are each shown to the others.
        """
        own = self.replied and holder is not None and holder == self.holder
        shown = self.event_version if own else self.version
        return shown is not None and version is not None and version < shown

    def was_sent_whole(self, row: bytes) -> bool:
        """Whether the last step sent exactly this whole row to one device."""
        last = self.steps[-1] if self.steps else None
        return last is not None and last.changes is None and last.row == row

    def was_shown_to(self, holder: str | None, version: str | None) -> bool:
        """Whether an event's holder was shown this version before the event.

        By the row of its reply or of a page, or as all devices were. It may hold
        another row of this version than the event's.
        """
        if holder is None:
            return False
        if version is not None and version == self.version:
            return True
        return any(
            step.connection == holder
            and step.version is not None
            and (version is None or step.version >= version)
            for step in self.steps
        )

    def rebase(self, base: bytes | None, *, mixed: bool = False) -> None:
        """Note the whole row that all devices hold; None when it is unknown."""
        self.base, self.mixed = base, mixed
        self.steps.clear()
        self.step_bytes = 0
        self.size = OVERHEAD_BYTES + len(base or b"")

    def was_replied_to(self, holder: str | None) -> bool:
        """Whether the last version shown is the reply to this device's own update."""
        return self.replied and holder is not None and holder == self.holder

    def take_version(self, version: str | None, holder: str | None) -> None:
        """Note the version of an event that is not older, and who wrote it."""
        if holder is not None or version != self.version:
            self.holder = holder
        self.version, self.replied = version or self.version, False

    def add_alone(self, step: Step) -> None:
        """Note an event whose holder is the only device."""
        # The row of a reply comes from Postgres: it has all fields.
        if self.was_sent_whole(step.row) or is_complete(step.row):
            self.rebase(step.row)
        else:
            self.add(step)

    def add(self, step: Step) -> None:
        """Note a message that showed the row."""
        if self.mixed:
            return
        self.steps.append(step)
        size = STEP_BYTES + len(step.changes or b"") + len(step.row)
        self.step_bytes += size
        self.size += size
        if self.step_bytes > MOST_STEP_BYTES:
            self.rebase(None, mixed=True)
        elif len(self.steps) > MOST_STEPS:
            self._merge()

    def is_held(self, row: StoredRow, *, changed: bool = True) -> bool:
        """Whether every device holds the stored row.

        `changed` is False when the row is as it was when the devices were known to
        hold it: then fields that no step named are right. Otherwise it may be new, and
        the old web client ignores updates of a row that it does not know.
        """
        if self.gone or self.mixed or (changed and self.base is None):
            return False
        if not self.steps and self.base == row.text:
            return True
        stored, copies = _read(row.text), self._copies()
        if stored is None or copies is None:
            return False
        return all(
            _within(fields, stored) and (not changed or fields.keys() >= stored.keys())
            for copy in copies.values()
            for fields in copy
        )

    def holder_of(self, row: StoredRow) -> str | None:
        """The connection that holds exactly the stored row, because it wrote it.

        The version alone does not tell: when a folder is deleted, its notes change
        and keep their `updatedAt`.
        """
        stored, copies = _read(row.text), self._copies()
        if self.holder is None or stored is None or copies is None:
            return None
        for fields in copies.get(self.holder, ({},)):
            if not fields.keys() >= stored.keys() or not _within(fields, stored):
                return None
        return self.holder

    def _merge(self) -> None:
        """Play the steps now, if they left one whole row on all devices."""
        copies = self._copies() or {}
        found = [fields for copy in copies.values() for fields in copy]
        same = bool(found) and all(fields == found[0] for fields in found)
        if same and _has_all_names(found[0]):
            self.rebase(msgspec.json.encode(found[0]))
        else:
            self.rebase(None, mixed=True)

    def _copies(self) -> dict[str, _Copy] | None:
        """The copies by connection and of the `OTHERS`; None if one is unreadable."""
        names = {OTHERS, *(step.connection for step in self.steps if step.connection)}
        try:
            base = {} if self.base is None else _object.decode(self.base)
            steps = [_ReadStep(step) for step in self.steps]
            return {name: _played(base, steps, name) for name in names}
        except _UNREADABLE:
            return None


class _ReadStep:
    """A step whose texts are read; its row when it is asked for."""

    __slots__ = ("_row", "changes", "step")

    def __init__(self, step: Step) -> None:
        self.step = step
        self.changes: Fields = _object.decode(step.changes) if step.changes else {}
        self._row: Fields | None = None

    @property
    def row(self) -> Fields:
        if self._row is None:
            self._row = _object.decode(self.step.row) if self.step.row else {}
        return self._row


def _played(base: Fields, steps: Sequence[_ReadStep], name: str) -> _Copy:
    """The copy of one device, or of `OTHERS`.

    A whole row makes what came before it irrelevant, so most rows are never read.
    """
    steps = [one for one in steps if one.step.shows_to(name)]
    old, new, old_from, new_from = dict(base), dict(base), 0, 0
    for number in range(len(steps) - 1, -1, -1):
        alone = steps[number].step.connection == name
        if (alone or not new_from) and _has_all_names(steps[number].row):
            if not new_from:
                new, new_from = dict(steps[number].row), number + 1
            if alone:
                old, old_from = dict(steps[number].row), number + 1
                break
    for one in steps[old_from:]:
        old.update(one.changes)
        if one.step.connection == name:
            old.update(one.row)
    for one in steps[new_from:]:
        new.update(one.changes)
        new.update(one.row)
    return _Copy(old, new)


def is_complete(row: bytes) -> bool:
    """Whether a row's JSON has all the fields of the wire format."""
    found = _read(row)
    return found is not None and _has_all_names(found)


def _has_all_names(row: Fields) -> bool:
    return row.keys() >= NOTE_NAMES or row.keys() >= FOLDER_NAMES


def _read(text: bytes) -> dict[str, Any] | None:
    try:
        return _object.decode(text)
    except _UNREADABLE:
        return None


def _within(part: Fields, whole: Fields) -> bool:
    """Whether each field of `part` that the row has is equal there."""
    return all(part[name] == whole[name] for name in part.keys() & whole.keys())
