"""The first device of a user: it is healed, unless it syncs by itself.

Invariant: a sign-in is cancelled only while the device that syncs is the user's only
one here, and before a look has begun to send rows. Further devices: `newcomers`.
Tested by tests/integration/delivery/test_returning.py.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from .cursors import Cursor, encode
from .horizons import Horizons
from .hub import Hub
from .user_states import SIGN_IN, UserStates

__all__ = ["SYNCING_S", "SignIns"]

SYNCING_S: Final = 10.0
"""For the next page of a client that syncs after it has signed in, or its `sync`."""


@dataclass(frozen=True, slots=True)
class SignIns:
    """Postpones and cancels the heal of a user's first device.

    `monotonic` in seconds.
    """

    hub: Hub
    states: UserStates
    horizons: Horizons
    monotonic: Callable[[], float]

    def postpone(self, user_id: str, connection_id: str) -> None:
        """The device is syncing by itself; heal it later if it is the only one."""
        state = self.states.get(user_id)
        only = self._is_only(user_id, connection_id)
        if state is not None and state.reason == SIGN_IN and only:
            state.due = None
            self.states.schedule(user_id, self.monotonic() + SYNCING_S)

    def cancel(self, user_id: str, connection_id: str) -> None:
        """The device has synced; if it is the only one, nothing is left to replay."""
        state, now = self.states.get(user_id), self.monotonic()
        if state is None or state.reason != SIGN_IN:
            return
        if not self._is_only(user_id, connection_id):
            return
        horizon = self.horizons.before(now - state.looked_at, now)
        if horizon is not None and state.horizon is None and state.after is None:
            state.horizon = horizon
            state.cursor = encode(self.horizons.identity, Cursor(horizon))
            state.reason = state.due = None
            state.begun = True

    def _is_only(self, user_id: str, connection_id: str) -> bool:
        """Whether the user has this device here and no other."""
        devices = self.hub.devices_of(user_id)
        return [device.connection_id for device in devices] == [connection_id]
