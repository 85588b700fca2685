"""Adapters for unit tests: they answer at once, or when the test says so."""

import asyncio
import itertools
import json
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, TextIO, cast

import msgspec
import structlog

from typelets_ws.config.live import LiveConfig
from typelets_ws.config.model import Config, Limits, RecoverySettings
from typelets_ws.delivery.hub import Hub
from typelets_ws.delivery.recovery import Recovery
from typelets_ws.delivery.resync import ResyncSender
from typelets_ws.delivery.revocations import RevokedSessions
from typelets_ws.delivery.senders import RowSender
from typelets_ws.ports import (
    AcquireResult,
    Clock,
    Conflict,
    FieldChanges,
    Identity,
    LimitsUnavailableError,
    Missing,
    OnPublished,
    StoreError,
    TokenError,
    TokenRejectReason,
    VersionedRow,
)
from typelets_ws.protocol.errors import CloseCode, Disconnect
from typelets_ws.recovery_ports import (
    Changes,
    Extent,
    RowKey,
    Since,
    Snapshot,
    StoredRow,
    UserChanges,
)
from typelets_ws.session.authenticator import Authenticator
from typelets_ws.session.context import Context
from typelets_ws.session.presence import Presence
from typelets_ws.session.session import Session
from typelets_ws.session.signing import NonceRegistry
from typelets_ws.session.user_rates import UserRates
from typelets_ws.telemetry.log import FilteringBoundLogger, Output
from typelets_ws.telemetry.metrics import Metrics
from typelets_ws.telemetry.telemetry import Telemetry
from typelets_ws.wire.frames import Frame

NOW_MS = 1_700_000_000_000
NOTE = "00000000-0000-4000-8000-000000000001"
FOLDER = "00000000-0000-4000-9000-000000000001"
UNOWNED = "00000000-0000-4000-8000-0000000000ff"


class FakeClerk:
    """A token is "user" or "user/session"; the name of a `RejectReason` is refused."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.gate.set()

    async def verify(self, token: str) -> Identity:
        await self.gate.wait()
        if token in set(TokenRejectReason):
            raise TokenError(TokenRejectReason(token))
        user, _, session = token.partition("/")
        return Identity(user, session or None, 0.0)


class FakeSubscriptions:
    def __init__(self) -> None:
        self.held: set[str] = set()
        self.gate = asyncio.Event()
        self.gate.set()

    async def subscribe(self, user_id: str) -> bool:
        await self.gate.wait()
        self.held.add(user_id)
        return True

    def unsubscribe(self, user_id: str) -> None:
        self.held.discard(user_id)


class FakeShared:
    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.slots: dict[str, set[str]] = {}
        self.revoked: set[str] = set()
        self.used: Counter[tuple[str, bytes]] = Counter()
        self.gate = asyncio.Event()
        self.gate.set()
        self.failing = False

    async def acquire(
        self, user_id: str, connection_id: str, session_id: str | None
    ) -> AcquireResult:
        await self._answer()
        if session_id in self.revoked:
            return AcquireResult.REVOKED
        places = self.slots.setdefault(user_id, set())
        if len(places) >= self.limit and connection_id not in places:
            return AcquireResult.FULL
        places.add(connection_id)
        return AcquireResult.GRANTED

    def revoke_session(self, session_id: str, ttl_ms: int) -> None:
        assert ttl_ms > 0
        self.revoked.add(session_id)

    async def is_revoked(self, session_id: str) -> bool:
        await self._answer()
        return session_id in self.revoked

    def release(self, user_id: str, connection_id: str) -> None:
        places = self.slots.get(user_id, set())
        places.discard(connection_id)
        if not places:
            self.slots.pop(user_id, None)

    async def claim_nonce(self, user_id: str, nonce: bytes, ttl_ms: int) -> bool:
        assert ttl_ms > 0
        await self._answer()
        self.used[user_id, nonce] += 1
        return self.used[user_id, nonce] == 1

    async def _answer(self) -> None:
        await self.gate.wait()
        if self.failing:
            raise LimitsUnavailableError


class FakeStore:
    """`NOTE` and `FOLDER` belong to alice; `answer` is what an update comes to.

    `tests/contract/test_store.py` holds it to what Postgres does.
    """

    def __init__(self) -> None:
        self.notes = {NOTE: "alice"}
        self.folders = {FOLDER: "alice"}
        self.answer: VersionedRow | Missing | Exception | None = None
        self.written: list[FieldChanges] = []
        self.rows: dict[str, VersionedRow] = {}
        self.gate = asyncio.Event()
        self.gate.set()
        self.down = False
        self._versions = itertools.count(1)

    def add_note(self, note_id: str, owner: str) -> str:
        self.notes[note_id] = owner
        return note_id

    def add_folder(self, folder_id: str, owner: str) -> str:
        self.folders[folder_id] = owner
        return folder_id

    async def update_note(
        self, user_id: str, note_id: str, changes: FieldChanges
    ) -> VersionedRow | Missing:
        await self.gate.wait()
        if isinstance(self.answer, Exception):
            raise self.answer
        if self.answer is not None:
            return self.answer
        if await self._owner(self.notes, note_id) != user_id:
            return Missing.NOTE
        folder_id = changes.get("folderId")
        if folder_id is not None and self.folders.get(str(folder_id)) != user_id:
            return Missing.FOLDER
        self.written.append(changes)
        at = f"2026-01-01T00:00:00.{next(self._versions):03d}Z"
        row = {"id": note_id, **changes, "updatedAt": at}
        text = json.dumps(row, separators=(",", ":")).encode()
        self.rows[note_id] = VersionedRow(text, at)
        return self.rows[note_id]

    async def update_note_based(
        self, user_id: str, note_id: str, changes: FieldChanges, base: str
    ) -> VersionedRow | Missing | Conflict:
        await self.gate.wait()
        row = self.rows.get(note_id)
        mine = await self._owner(self.notes, note_id) == user_id
        if mine and row is not None and row.updated_at != base:
            return Conflict(row.row, row.updated_at)
        return await self.update_note(user_id, note_id, changes)

    async def note_owner(self, note_id: str) -> str | None:
        await self.gate.wait()
        return await self._owner(self.notes, note_id)

    async def folder_owner(self, folder_id: str) -> str | None:
        return await self._owner(self.folders, folder_id)

    async def _owner(self, owners: Mapping[str, str], row_id: str) -> str | None:
        if self.down:
            raise StoreError("down")
        return owners.get(row_id)


class FakeTransport:
    """A connection: what it was sent, how it was closed."""

    def __init__(self, connection_id: str) -> None:
        self.connection_id = connection_id
        self.session_id: str | None = None
        self.open, self.behind = True, False
        self.sent: list[bytes] = []
        self.closed_with: Disconnect | None = None
        self.is_authenticated = self.paused = False
        self.resyncs: list[str] = []
        self.tokens_refused = self.accounted = 0
        self.since_ms = 0
        self.spawn: Callable[[Coroutine[Any, Any, None]], object] = lambda _: None
        self.log_fields = {"connection": connection_id, "address": "192.0.2.1"}

    def send_frame(self, frame: Frame) -> None:
        self.sent.append(frame.plain)

    def close(self, code: CloseCode, reason: str) -> None:
        self.disconnect(Disconnect(code, reason))

    def token_refused(self) -> None:
        self.tokens_refused += 1

    def ask_resync(self, reason: str, delay: float) -> None:
        self.resyncs.append(reason)

    def send_message(self, text: bytes) -> None:
        self.sent.append(text)

    def disconnect(self, disconnect: Disconnect) -> None:
        if disconnect.answer is not None:
            self.sent.append(disconnect.answer)
        self.closed_with, self.open = disconnect, False

    def authenticated(self) -> None:
        self.is_authenticated = True

    def account(self) -> None:
        self.accounted += 1

    def pause_reading(self) -> None:
        self.paused = True

    async def drained(self) -> None:
        await asyncio.sleep(0)

    def resume_reading(self) -> None:
        self.paused = False


class Log(structlog.testing.CapturingLogger):
    """A logger whose lines can be looked at: event and fields of each."""

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [dict(call.kwargs) for call in self.calls]

    def bound(self) -> FilteringBoundLogger:
        return cast(
            FilteringBoundLogger,
            structlog.wrap_logger(
                self,
                processors=[lambda _logger, _method, fields: ((), fields)],
                wrapper_class=structlog.make_filtering_bound_logger(0),
            ),
        )


class NoChanges:
    """A database without recovery, whose rows are those of `rows`."""

    def __init__(self) -> None:
        self.stored: dict[RowKey, StoredRow] = {}

    async def supported(self) -> str | None:
        return "old_server"

    async def horizon(self) -> Snapshot:
        raise StoreError("refused")

    async def changed(
        self, wanted: Sequence[Since], extent: Extent
    ) -> tuple[Snapshot, list[UserChanges]]:
        raise StoreError("refused")

    async def rows(
        self,
        keys: Sequence[RowKey],
        *,
        before: Mapping[str, int] | None = None,
        versions: bool = True,
    ) -> Mapping[RowKey, StoredRow | None]:
        return {key: self.stored.get(key) for key in keys}


class NoHorizons:
    """No other process has left a horizon."""

    def remember(self, identity: str, horizon: int) -> None: ...

    async def recall(self, identity: str) -> list[tuple[float, int]] | None:
        return []


def make_recovery(
    changes: Changes,
    hub: Hub,
    settings: RecoverySettings,
    telemetry: Telemetry,
    clock: Clock,
) -> Recovery:
    """Recovery of one process, with no other one beside it."""
    return Recovery(
        changes,
        RowSender(hub, telemetry.metrics, clock.now_ms),
        ResyncSender(hub, 0.0, lambda: 0.0),
        NoHorizons(),
        settings,
        telemetry,
        clock.monotonic,
    )


def make_logger(stream: TextIO, now: Callable[[], float]) -> FilteringBoundLogger:
    """Writes every line to the stream, as JSON."""
    return Output(stream, now, level="debug", form="json", burst=50).logger()


def live(**limits: int | float) -> LiveConfig:
    """Settings in force with these limits."""
    return LiveConfig(Config(limits=msgspec.convert(limits, Limits)))


class Stubs:
    """All the collaborators, wired; `now_ms` moves by hand."""

    def __init__(self, **limits: int) -> None:
        self.limits = Limits(**limits)
        self.now_ms = NOW_MS
        self.clerk, self.subscriptions = FakeClerk(), FakeSubscriptions()
        self.shared = FakeShared(self.limits.devices_per_user)
        self.store, self.hub, self.metrics = FakeStore(), Hub(), Metrics()
        self.revoked = RevokedSessions(60.0, 3, self.shared)
        self.live = LiveConfig(Config(limits=self.limits))
        self.log = Log()
        self.telemetry = Telemetry(self.metrics, self.log.bound())
        self.clock = Clock(lambda: self.now_ms / 1000, lambda: self.now_ms / 1000)
        self.changes = NoChanges()
        self.recovery = make_recovery(
            self.changes,
            self.hub,
            RecoverySettings(enabled=False),
            self.telemetry,
            self.clock,
        )
        self.presence = Presence(
            self.hub, self.recovery, self.subscriptions, self.shared, self.live
        )
        self.authenticator = Authenticator(
            self.clerk,
            self.presence,
            self.revoked,
            NonceRegistry(self.live),
            UserRates(self.live),
            self.clock,
            self.telemetry,
        )

    def session(self, connection_id: str = "c1") -> Session:
        return Session(connection_id, self.live)

    def figure(self, name: str, **labels: str) -> float:
        """The value of a metric, 0 when it was never touched."""
        found = self.metrics.registry.get_sample_value(f"typelets_ws_{name}", labels)
        return found or 0.0

    def context(
        self, publish: Callable[[str, bytes, OnPublished | None], None] | None = None
    ) -> Context:
        return Context(
            self.store,
            self.authenticator,
            self.recovery,
            publish or (lambda _user, _event, _done: None),
            self.live,
            self.clock,
            self.telemetry,
        )
