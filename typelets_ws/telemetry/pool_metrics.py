"""The Postgres pool as metrics: counts, limits, totals and times apart.

`postgres_pool{stat}` mixes all of these in one series with units in a label. It stays
for dashboards of the first release; these have one unit each (Prometheus, "metric and
label naming").
"""

from collections.abc import Mapping
from typing import Final

from prometheus_client import CollectorRegistry, Gauge

from .counters import Counter

__all__ = ["PoolMetrics"]

_GAUGES: Final = {
    "pool_min": ("connections_min", "Connections kept open."),
    "pool_max": ("connections_max", "Connections at most."),
    "requests_waiting": ("requests_waiting", "Statements that wait for a connection."),
}
_COUNTERS: Final = {
    "requests_num": ("requests", "Connections asked for."),
    "requests_queued": ("requests_queued", "Of them, had to wait."),
    "requests_errors": ("request_errors", "Of them, waited too long or were refused."),
    "connections_num": ("connects", "Attempts to connect."),
    "connections_errors": ("connect_errors", "Of them, failed."),
    "connections_lost": ("connections_lost", "Connections that broke while idle."),
}
_SECONDS: Final = {
    "requests_wait_ms": ("wait_seconds", "Time spent waiting for a connection."),
    "usage_ms": ("usage_seconds", "Time connections were in use."),
    "connections_ms": ("connect_seconds", "Time spent connecting."),
}


class PoolMetrics:
    """Metrics that `observe` sets from the pool's statistics."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str) -> Counter:
            return Counter(f"typelets_ws_postgres_{name}", text, (), registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(
                f"typelets_ws_postgres_{name}", text, labels, registry=registry
            )

        self.connections = gauge(
            "connections", "Connections to Postgres that are open.", "state"
        )
        self._gauges = {stat: gauge(*named) for stat, named in _GAUGES.items()}
        self._counters = {stat: counter(*named) for stat, named in _COUNTERS.items()}
        self._seconds = {stat: counter(*named) for stat, named in _SECONDS.items()}
        self.waiting = self._gauges["requests_waiting"]
        self.observe({})

    def observe(self, stats: Mapping[str, int]) -> None:
        """Set the metrics; `stats` has psycopg's names, a missing one is 0."""
        idle = stats.get("pool_available", 0)
        in_use = max(0, stats.get("pool_size", 0) - idle)
        self.connections.labels("idle").set(idle)
        self.connections.labels("in_use").set(in_use)
        for stat, gauge in self._gauges.items():
            gauge.set(stats.get(stat, 0))
        for stat, counter in self._counters.items():
            counter.labels().value = stats.get(stat, 0)
        for stat, counter in self._seconds.items():
            counter.labels().value = stats.get(stat, 0) / 1000
