"""The objects that the dispatchers and handlers of one process share.

Invariant: nothing here is replaced while the daemon runs. Settings are read from `live`
at each use, so a reload holds from the next message on.
Tested by tests/e2e/test_reload.py.

Apart from `websocket.state.ServerState`, which would have 13 arguments with these, and
which `session` may not import.
"""

from collections.abc import Callable
from dataclasses import dataclass

from ..config.live import LiveConfig
from ..delivery.hub import Device
from ..delivery.recovery import Recovery
from ..ports import Clock, OnPublished, Store
from ..telemetry.telemetry import Telemetry
from .authenticator import Authenticator

__all__ = ["Context"]


@dataclass(slots=True)
class Context:
    """`publish` sends an event to all processes; handlers use the rest."""

    store: Store
    authenticator: Authenticator
    recovery: Recovery
    publish: Callable[[str, bytes, OnPublished | None], None]
    live: LiveConfig
    clock: Clock
    telemetry: Telemetry

    def observe(self, name: str, result: str, device: Device) -> None:
        """Count a message by type and result; log it at level debug."""
        self.telemetry.metrics.messages.labels(name, result).inc()
        if self.live.current.log.level == "debug":
            self.telemetry.log.debug(
                "message_handled", type=name, result=result, **device.log_fields
            )
