"""Publishes users' events, and resynchronises the users whose event was not taken.

Invariants. Events reach Redis in the order of `publish`. Every event that Redis did
not surely take is passed to `on_unpublished`, in the same order. Its user gets a
`resync_required` on every process once Redis is back. A demoted master acknowledges
events that reach no other process: all that was acknowledged since the last proof but
one counts as not taken when a connection ends. Duplicates are harmless, silence is not.
Tested by tests/integration/bus/test_bus_faults.py.
"""

from collections import deque
from collections.abc import Callable
from functools import partial
from itertools import islice
from typing import Any

import hiredis
import msgspec

from ..config.model import Redis as Config
from ..ports import Clock, OnPublished
from ..redis.client import RedisClient
from ..redis.connection import RedisUnavailableError, redis_key
from ..telemetry.telemetry import Telemetry

__all__ = ["RESYNC_EVERYBODY", "EventPublisher"]

OnUnpublished = Callable[[str, bytes], None]

MOST_BYTES = 64 * 1_048_576
"""Events are up to 1 MiB: their number alone would not bound the memory."""
RESYNC_BATCH = 256
EVERY_USER = ""
"""In place of more users than are remembered."""
RESYNC_EVERYBODY = b'{"event":"resync_everybody","reason":"publish_failed"}'
"""On the control channel, when more users are concerned than are remembered."""


class EventPublisher:
    """Publishes events, and resynchronises users whose events were not published.

    `on_unpublished(user_id, event)` is called for each event that Redis did not take;
    it may still be delivered to the devices on this process. When the queue is full,
    earlier events are still on their way, and such an event overtakes them; the
    resynchronisation that follows repairs that.
    """

    def __init__(
        self,
        config: Config,
        commands: RedisClient,
        *,
        clock: Clock,
        telemetry: Telemetry,
        on_unpublished: OnUnpublished,
    ) -> None:
        self._most = config.publish_queue
        self._command = b"SPUBLISH" if config.sharded else b"PUBLISH"
        self._users = f"{config.prefix}user:".encode()
        self._control = f"{config.prefix}control".encode()
        self._commands = commands
        self._clock = clock
        self._telemetry = telemetry
        self._on_unpublished = on_unpublished
        self._waiting = 0
        self._waiting_bytes = 0
        # Ordered: users are resynchronised in the order of the failures.
        self._unsynced_users: dict[str, None] = {}
        self._all_unsynced = False
        self._resyncs_pending = 0
        self._repaired = False
        # Users of acknowledged events: before the last proof, since, and during.
        self._unproven: deque[dict[str, None]] = deque([{}, {}], maxlen=3)

    def publish(
        self, user_id: str, event: bytes, on_published: OnPublished | None = None
    ) -> None:
        """Send one event to all processes. Never raises, never waits.

        `on_published` is called with whether Redis has taken it, at once or later.
        """
        if self._waiting >= self._most or self._waiting_bytes + len(event) > MOST_BYTES:
            self._failed(user_id, event, "full", on_published)
            return
        self._waiting += 1
        self._waiting_bytes += len(event)
        self._commands.send(
            partial(self._answered, user_id, event, on_published),
            self._command,
            redis_key(self._users, user_id),
            event,
        )

    def publish_resyncs(self) -> None:
        """Publish `resync_required` for users who missed events; Redis must be up."""
        if self._resyncs_pending or not self._commands.up:
            return
        if self._all_unsynced:
            self._all_unsynced = False
            self._resyncs_pending = 1
            self._commands.send(
                self._on_resync_everybody_published,
                b"PUBLISH",
                self._control,
                RESYNC_EVERYBODY,
            )
            return
        some = list(islice(self._unsynced_users, RESYNC_BATCH))
        self._resyncs_pending = len(some)
        self._repaired = False
        event = self._resync_required() if some else b""
        for user_id in some:
            del self._unsynced_users[user_id]
            channel = redis_key(self._users, user_id)
            self._commands.send(
                partial(self._on_resync_published, user_id),
                self._command,
                channel,
                event,
            )

    def begin_proof(self) -> None:
        """A probe is sent: what is acknowledged from now on is not proven by it."""
        if len(self._unproven) == 3:
            # The last probe proved nothing.
            latest = self._unproven.pop()
            self._unproven[-1] |= latest
        self._unproven.append({})

    def proven(self) -> None:
        """The probe came back, over connections that lead to a master.

        One generation more is kept: sentinels may name a new master to others first.
        """
        if len(self._unproven) == 3:
            self._unproven.popleft()

    def lost(self) -> None:
        """A connection ended: owe all users whose events are not proven."""
        for generation in self._unproven:
            users = list(generation)
            generation.clear()
            if EVERY_USER in users:
                self._owe_everybody()
            for user_id in users:
                self._mark_unsynced(user_id)

    def _acknowledged(self, user_id: str) -> None:
        latest = self._unproven[-1]
        if EVERY_USER in latest:
            return
        latest[user_id] = None
        if len(latest) > self._most:
            latest.clear()
            latest[EVERY_USER] = None

    def _answered(
        self, user_id: str, event: bytes, on_published: OnPublished | None, reply: Any
    ) -> None:
        self._waiting -= 1
        self._waiting_bytes -= len(event)
        if reply.__class__ is int:
            self._acknowledged(user_id)
            if on_published is not None:
                on_published(True)
        else:
            self._failed(user_id, event, _reason(reply), on_published)

    def _failed(
        self, user_id: str, event: bytes, reason: str, on_published: OnPublished | None
    ) -> None:
        self._telemetry.metrics.publish_failures.labels(reason=reason).inc()
        if on_published is not None:
            on_published(False)
        self._mark_unsynced(user_id)
        try:
            self._on_unpublished(user_id, event)
        except Exception:
            self._telemetry.log.exception("unpublished_handler_failed")

    def _mark_unsynced(self, user_id: str) -> None:
        if self._all_unsynced:
            return
        self._unsynced_users[user_id] = None
        if len(self._unsynced_users) > self._most:
            self._owe_everybody()

    def _owe_everybody(self) -> None:
        self._unsynced_users.clear()
        self._all_unsynced = True

    def _on_resync_published(self, user_id: str, reply: Any) -> None:
        self._resyncs_pending -= 1
        if isinstance(reply, Exception):
            self._mark_unsynced(user_id)
        else:
            self._repaired = True
            self._acknowledged(user_id)
        # A user who is refused must not keep the others waiting.
        if not self._resyncs_pending and self._repaired:
            self.publish_resyncs()

    def _on_resync_everybody_published(self, reply: Any) -> None:
        self._resyncs_pending = 0
        if isinstance(reply, Exception):
            self._unsynced_users.clear()
            self._all_unsynced = True
        else:
            self._acknowledged(EVERY_USER)
            self.publish_resyncs()

    def _resync_required(self) -> bytes:
        return msgspec.json.encode({
            "event": "resync_required",
            "reason": "publish_failed",
            "publishedAt": self._clock.now_ms(),
        })  # fmt: skip


def _reason(reply: object) -> str:
    if isinstance(reply, RedisUnavailableError):
        return reply.reason
    assert isinstance(reply, hiredis.ReplyError)
    return "refused"
