"""A row counts as held only if it is on every device: random courses, both kinds.

Values are few, so that a row often changes back, with and without a new `updatedAt`.
"""

import json
import random
from typing import Any

import pytest

from typelets_ws.delivery.shown import ShownRows
from typelets_ws.delivery.shown_row import NOTE_NAMES
from typelets_ws.ports import VersionedRow
from typelets_ws.recovery_ports import RowKey, RowKind, StoredRow

KEY = RowKey("alice", RowKind.NOTE, "n1")
DEVICES = ("c1", "c2", "c3")
Row = dict[str, Any]


def text(row: Row) -> bytes:
    return json.dumps(row).encode()


class Course:
    """A row of the database, the events on their way, and each device's copies."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.shown = ShownRows(10_000_000)
        self.shown.add_user("alice")
        self.clock = 0
        self.row: Row = dict.fromkeys(NOTE_NAMES) | {"updatedAt": self.time()}
        self.old = {name: dict(self.row) for name in DEVICES}
        self.new = {name: dict(self.row) for name in DEVICES}
        self.events: list[tuple[Row, Row, str | None]] = []
        """Changes, row, and the device that does not get it."""

    def time(self) -> str:
        self.clock += 1
        return f"2026-01-01T00:00:00.{self.clock:03d}Z"

    def stored(self) -> StoredRow:
        return StoredRow(KEY, "7", True, self.row["updatedAt"], text(self.row))

    def takes(self, name: str) -> None:
        """The device has the whole row, as it is stored."""
        self.old[name], self.new[name] = dict(self.row), dict(self.row)

    def hand(self) -> None:
        self.row["starred"] = self.rng.randrange(2)

    def update(self) -> None:
        """By a device through its socket, or by REST, perhaps as one of the devices."""
        name = self.rng.choice([*DEVICES, None])
        field = self.rng.choice(["title", "starred"])
        changes = {field: self.rng.randrange(2), "updatedAt": self.time()}
        self.row.update(changes)
        if name is not None and self.rng.random() < 0.7:
            self.takes(name)
            reply = VersionedRow(text(self.row), self.row["updatedAt"])
            self.shown.replied(KEY, reply, name)
        whole = self.rng.random() < 0.8
        self.events.append((changes, dict(self.row) if whole else changes, name))

    def event(self) -> None:
        if not self.events:
            return
        changes, row, name = self.events.pop(0)
        if self.shown.is_stale(KEY, changes["updatedAt"], name):
            return
        self.shown.updated(
            KEY, text(changes), text(row), changes["updatedAt"], holder=name
        )
        for each in DEVICES:
            if each != name:
                self.old[each].update(changes)
                self.new[each].update({**changes, **row})
        if name is not None and self.new[name]["updatedAt"] < changes["updatedAt"]:
            # Written over REST: by contract the writer has the row.
            self.old[name].update({**changes, **row})
            self.new[name].update({**changes, **row})

    def page(self) -> None:
        name = self.rng.choice(DEVICES)
        self.takes(name)
        row = VersionedRow(text(self.row), self.row["updatedAt"])
        self.shown.sent_to_one(KEY, row, name)

    def creation(self) -> None:
        """Repeated: devices of the old kind know the row and ignore it."""
        self.shown.created(KEY, text(self.row), self.row["updatedAt"])
        for name in DEVICES:
            self.new[name].update(self.row)

    def send(self) -> None:
        """As a look does, to all but the device that holds it."""
        known = self.shown.get(KEY)
        holder = None if known is None else known.holder_of(self.stored())
        for name in DEVICES:
            if name != holder:
                self.takes(name)
        self.check(DEVICES if holder is None else [holder])
        self.shown.sent(self.stored())

    def check(self, names: Any) -> None:
        for name in names:
            assert self.old[name] == self.new[name] == self.row, name

    def step(self) -> bool:
        """Returns whether the row is held, after a random step."""
        self.rng.choice(
            [self.hand, self.update, self.event, self.event, self.page, self.creation]
        )()
        if self.rng.random() < 0.1:
            self.send()
        known = self.shown.get(KEY)
        held = known is not None and known.is_held(self.stored())
        if held:
            self.check(DEVICES)
        return held


@pytest.mark.parametrize("seed", range(15))
def test_a_row_is_held_only_if_every_device_has_it(seed: int) -> None:
    course = Course(seed)
    course.send()
    assert sum(course.step() for _ in range(200)) > 5, "otherwise it says little"
