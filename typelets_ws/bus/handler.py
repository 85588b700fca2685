"""The handler of the bus: one object that receives events and reports of gaps.

Invariants. All four methods are called on the loop and never wait. Events of one user
arrive in the order in which Redis delivered them.
Tested by tests/integration/bus/test_bus.py.
"""

from collections.abc import Collection
from typing import Protocol

__all__ = ["EventHandler"]


class EventHandler(Protocol):
    """Receives events of subscribed users; `delivery.relay.Relay` is the daemon's."""

    def on_event(self, user_id: str, payload: bytes) -> None:
        """One event of a subscribed user. Must be quick."""

    def on_batch_end(self) -> None:
        """All events that one read from Redis held were passed to `on_event`.

        Called in the same loop iteration: nothing else runs in between.
        """

    def on_gap(self, user_ids: Collection[str], reason: str) -> None:
        """These users may have missed events.

        Reasons: ``lost timeout deaf garbled refused unexpected readonly failover
        promoted`` (how a connection ended), ``unproven late`` (why a probe proved
        nothing), ``unreachable`` (there was no connection yet), ``publish_failed``
        (another process could not publish).
        """

    def on_unpublished(self, user_id: str, event: bytes) -> None:
        """Other processes do not get this event now: deliver it to local devices.

        Called once for each such event. The user is resynchronised later.
        """
