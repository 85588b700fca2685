"""Readiness and liveness of one daemon (spec section 7).

Ready: Postgres and Redis answer, a probe came back through Redis lately, and the
daemon is not draining. Alive: the loop runs and the subscriber is not stuck. A Redis
that is unreachable makes the daemon unready; it is no reason for a restart.
"""

from dataclasses import dataclass, field
from typing import Final

from .bus.bus import Bus
from .config.live import LiveConfig
from .ports import Clock
from .redis.limits import SharedLimits

__all__ = ["Health"]

PROBE_AGE_S: Final = 30.0
"""Spec section 7: ready only while a probe came back in the last 30 s."""
STUCK_PROBES: Final = 18
"""Probes in a row that may be missed before the subscriber is stuck: 90 s."""


@dataclass(slots=True)
class Health:
    """The state of one daemon; fulfils `ports.Health`."""

    live: LiveConfig
    clock: Clock
    bus: Bus
    limits: SharedLimits
    draining: bool = False
    postgres_answers: bool = False
    started: float = field(init=False)

    def __post_init__(self) -> None:
        self.started = self.clock.monotonic()

    def uptime(self) -> float:
        """Seconds since the start."""
        return self.clock.monotonic() - self.started

    def unready_reasons(self) -> list[str]:
        """Why the daemon is not ready; empty when it is."""
        found = []
        if self.draining:
            found.append("draining")
        if not self.postgres_answers:
            found.append("postgres does not answer")
        if not self.bus.commands.up:
            node = self.bus.commands.node
            found.append(f"redis does not answer{node and f' ({node})'}")
        age = self.bus.probe_age()
        proven = self.bus.listening and self.bus.proven
        if age is None or age > PROBE_AGE_S or not proven:
            found.append("no probe came back through redis")
        if self.limits.refused:
            found.append("redis refuses commands of the shared limits")
        return found

    def alive(self) -> bool:
        """False when the subscriber is connected but no probe came back for long."""
        age = self.bus.probe_age()
        stuck = STUCK_PROBES * self.live.current.redis.probe_interval_s
        return not (self.bus.listening and age is not None and age > stuck)
