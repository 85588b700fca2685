"""Whether events are known to arrive, and which users may have missed some.

A period of doubt begins when a connection to Redis ends, when a probe is refused or
does not come back, and when a server is found to be no master. It ends with a proof:
a probe through every master, accepted and heard on connections that lead to a master.

Invariants. Every period of doubt ends with one `on_gap` for every user who is heard
then. A user who is heard again later is reported at that moment. While there is doubt
nothing is reported: a server that proves nothing causes no resynchronisation.
Tested by tests/integration/bus/test_bus_faults.py.
"""

from collections.abc import Callable, Collection

from ..telemetry.telemetry import Telemetry
from .handler import EventHandler

__all__ = ["BusHealth"]


class BusHealth:
    """The state of doubt. `heard_users` returns the users who are subscribed now."""

    def __init__(
        self,
        telemetry: Telemetry,
        handler: EventHandler,
        heard_users: Callable[[], Collection[str]],
    ) -> None:
        self._telemetry = telemetry
        self._handler = handler
        self._heard_users = heard_users
        self._reason: str | None = "unreachable"
        self._was_proven = False
        self._doubts = 0
        self._doubts_at_probe = 0
        self._recovered: dict[str, None] = {}

    @property
    def proven(self) -> bool:
        """True since the last proof, until there is doubt again."""
        return self._reason is None

    def doubt(self, reason: str) -> None:
        """Begin a period of doubt; its first reason is the one reported."""
        self._doubts += 1
        if self._reason is None:
            self._reason = reason

    def begin_proof(self) -> None:
        """A probe is sent: doubt from now on is not resolved by it."""
        self._doubts_at_probe = self._doubts

    def prove(self) -> None:
        """The probe came back: end the doubt and report all users who are heard."""
        if self._reason is None or self._doubts != self._doubts_at_probe:
            return
        reason, self._reason = self._reason, None
        users, self._recovered = self._recovered, {}
        if self._was_proven:
            users |= dict.fromkeys(self._heard_users())
        self._was_proven = True
        self.report(list(users), reason)

    def recovered(self, user_ids: Collection[str], reason: str) -> None:
        """Report users who are heard again, now or with the next proof."""
        if self._reason is None:
            self.report(user_ids, reason)
        else:
            self._recovered |= dict.fromkeys(user_ids)

    def report(self, user_ids: Collection[str], reason: str) -> None:
        """Call `on_gap`; an exception of it is logged."""
        if not user_ids:
            return
        self._telemetry.metrics.gaps.labels(reason=reason).inc()
        try:
            self._handler.on_gap(user_ids, reason)
        except Exception:
            self._telemetry.log.exception("gap_handler_failed")
