"""A look reads twice: the changes, then by id the rows that were shown."""

import json
from collections.abc import Mapping
from typing import Any

from tests.fakes import NoChanges
from typelets_ws.config.model import RecoverySettings
from typelets_ws.delivery.deletions import Deletions
from typelets_ws.delivery.horizons import Horizons
from typelets_ws.delivery.hub import Hub
from typelets_ws.delivery.judging import Judge, Verdict
from typelets_ws.delivery.kept_ids import KeptIds
from typelets_ws.delivery.looks import LookReader
from typelets_ws.delivery.senders import RowSender
from typelets_ws.delivery.shown import ShownRows
from typelets_ws.delivery.shown_row import NOTE_NAMES
from typelets_ws.delivery.user_states import UserState
from typelets_ws.recovery_ports import (
    RowKey,
    RowKind,
    Snapshot,
    StoredRow,
    UserChanges,
)
from typelets_ws.telemetry.metrics import Metrics

KEY = RowKey("alice", RowKind.NOTE, "00000000-0000-4000-8000-000000000001")
TEXT = json.dumps(dict.fromkeys(NOTE_NAMES)).encode()
HORIZON = 10


class Table(NoChanges):
    """One row of this transaction; no changes up to `HORIZON`."""

    def __init__(self, version: int) -> None:
        super().__init__()
        self.version = version

    async def changed(self, *_query: object) -> tuple[Snapshot, list[UserChanges]]:
        return Snapshot("db", HORIZON, HORIZON), [UserChanges([], False)]

    async def rows(
        self, *_keys: object, before: Any = None, **_options: object
    ) -> Mapping[RowKey, StoredRow | None]:
        settled = self.version < before["alice"]
        return {KEY: StoredRow(KEY, str(self.version), settled, "t", TEXT)}


async def verdict_on(version: int) -> Verdict:
    """The verdict of a first look on a row that an event showed, and devices hold."""
    shown, state = ShownRows(10_000), UserState(0.0)
    shown.add_user("alice")
    shown.created(KEY, TEXT, "t")
    sender = RowSender(Hub(), Metrics(), lambda: 0)
    deletions = Deletions(KeptIds(10_000, 60.0), shown, sender)
    horizons = Horizons(60.0)
    reader = LookReader(Table(version), shown, horizons, deletions, RecoverySettings())
    look = await reader.read([("alice", state)], shown.sequence, 0.0, digest=False)
    row = look.unverified["alice"][KEY]
    assert row is not None
    return Judge(shown, state, shown.sequence, 0.0, 5.0).judge_shown(row)


async def test_a_first_look_verifies_a_row_that_its_snapshot_has() -> None:
    assert await verdict_on(HORIZON - 1) is Verdict.HELD


async def test_a_row_that_was_stored_after_the_snapshot_is_not_verified() -> None:
    """It may be deleted before the next look, which then would not miss it."""
    assert await verdict_on(HORIZON) is Verdict.WAIT
