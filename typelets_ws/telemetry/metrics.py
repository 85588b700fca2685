"""All metrics of the daemon, with their Prometheus names and bounded labels.

A label value is always a constant of this package (a code, a kind, a reason), never
text from outside: 10,000 users add no series. One `Metrics`
per daemon with its own registry, so that tests run several side by side.
"""

import platform
from typing import cast

import prometheus_client
from prometheus_client import CollectorRegistry, Gauge

from .. import __version__
from .counters import Counter, Histogram
from .pool_metrics import PoolMetrics

__all__ = ["Metrics"]

_FAST = (0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1, 2, 5)


class Metrics:
    """The series, as attributes; `registry` renders them."""

    def __init__(self, *, fast_counters: bool = True) -> None:
        self.registry = CollectorRegistry()
        self._fast = fast_counters
        self._connections()
        self._messages()
        self._events()
        self._recovery()
        self._outside()
        self._process()

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        name = f"typelets_ws_{name}"
        if self._fast:
            return Counter(name, text, labels, self.registry)
        plain = prometheus_client.Counter(name, text, labels, registry=self.registry)
        return cast("Counter", plain)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"typelets_ws_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, *labels: str) -> Histogram:
        name = f"typelets_ws_{name}"
        if self._fast:
            return Histogram(name, text, labels, self.registry, _FAST)
        plain = prometheus_client.Histogram(
            name, text, labels, registry=self.registry, buckets=_FAST
        )
        return cast("Histogram", plain)

    def _connections(self) -> None:
        self.connections = self._gauge(
            "connections", "Open WebSocket connections.", "state"
        )
        self.users = self._gauge("users", "Users with a device on this process.")
        self.handshakes = self._counter(
            "handshakes", "Handshakes and HTTP answers by status.", "status"
        )
        self.authentications = self._counter(
            "authentications", "auth messages by result.", "result"
        )
        self.closes = self._counter(
            "closes", "Connections ended, by close code and reason.", "code", "reason"
        )
        self.evictions = self._counter(
            "evictions", "Connections we ended for their behaviour.", "reason"
        )
        self.security_events = self._counter(
            "security_events", "Refusals that may be an attack.", "kind"
        )

    def _messages(self) -> None:
        self.messages = self._counter(
            "messages", "Client messages by type and result.", "type", "result"
        )
        self.handling = self._histogram(
            "handling_seconds", "From a message's turn to its reply.", "type"
        )
        self.filtered_fields = self._counter(
            "filtered_fields", "Fields of note_update that were left out.", "field"
        )
        self.received_bytes = self._counter(
            "received_bytes", "Payload bytes received in messages."
        )
        self.sent_bytes = self._counter("sent_bytes", "Frame bytes handed to sockets.")

    def _events(self) -> None:
        self.events = self._counter(
            "events", "Events from Redis by kind and result.", "event", "result"
        )
        self.deliveries = self._counter(
            "deliveries", "Sync messages handed to devices."
        )
        self.lag = self._histogram(
            "publish_to_delivery_seconds", "publishedAt to delivery, where it is known."
        )
        self.gaps = self._counter(
            "gaps", "Times events may have been missed, by reason.", "reason"
        )
        self.redis_node_up = self._gauge(
            "redis_node_up",
            "1 while a connection to this server is open.",
            "link",
            "node",
        )
        self.redis_failovers = self._counter(
            "redis_failovers", "Times another server became the master."
        )
        self.refused_channels = self._counter(
            "redis_refused_channels", "Times Redis refused a user's channel."
        )
        self.resyncs = self._counter("resyncs", "resync_required messages sent.")
        self.repairs = self._counter(
            "order_repairs", "note_sync that came late and were brought up to date."
        )
        self.publish_failures = self._counter(
            "publish_failures", "Own events that Redis did not take.", "reason"
        )

    def _recovery(self) -> None:
        self.recovery_up = self._gauge(
            "recovery_up", "1 while missed changes are found in Postgres."
        )
        self.heals = self._counter(
            "heals", "Users whose devices were brought up to date, by reason.", "reason"
        )
        self.healed_rows = self._counter(
            "healed_rows", "Rows sent because devices did not hold them.", "reason"
        )
        self.unannounced_changes = self._counter(
            "unannounced_changes", "Unpublished changes, by table.", "table"
        )
        self.audit_round = self._gauge(
            "audit_round_seconds",
            "Age of the oldest look at a user's rows: the bound on staleness.",
        )
        self.syncs = self._counter("syncs", "Pages sent to clients that sync.")

    def _outside(self) -> None:
        self.redis_up = self._gauge("redis_up", "1 while Redis answers.", "link")
        self.redis_commands = self._counter(
            "redis_commands", "Commands sent to Redis.", "command"
        )
        self.redis_probe = self._histogram(
            "redis_probe_seconds", "Round trip of the loopback probe."
        )
        self.subscriptions = self._gauge(
            "redis_subscriptions", "Channels this process is subscribed to."
        )
        self.shared_limits_up = self._gauge(
            "shared_limits_up", "1 while limits count over all processes."
        )
        self.key_fetches = self._counter(
            "key_fetches", "Fetches of Clerk's keys by result.", "result"
        )
        self.token_age = Histogram(
            "typelets_ws_token_age_seconds",
            "now - iat of accepted tokens: clock skew shows here.",
            (),
            self.registry,
            (-5, -1, 0, 1, 5, 15, 30, 60, 65, 120, 600),
        )
        self.postgres_up = self._gauge("postgres_up", "1 while Postgres answers.")
        self.postgres_pool = self._gauge(
            "postgres_pool", "The pool's own statistics.", "stat"
        )
        self.pool = PoolMetrics(self.registry)
        self.queries = self._histogram(
            "query_seconds", "Database statements by name.", "query"
        )
        self.query_failures = self._counter(
            "query_failures", "Statements that failed, by reason.", "reason"
        )

    def _process(self) -> None:
        self.loop_lag = self._histogram(
            "event_loop_lag_seconds", "How late the sweep ran."
        )
        self.tasks = self._gauge("tasks", "Tasks of the event loop.")
        self.build_info = self._gauge(
            "build_info", "1; the labels say what is running.", "version", "python"
        )
        self.build_info.labels(__version__, platform.python_version()).set(1)
        self.reload_successful = self._gauge(
            "config_last_reload_successful", "1 unless the last reload was refused."
        )
        self.reload_time = self._gauge(
            "config_last_reload_success_timestamp_seconds",
            "When the settings in use were read, since the epoch.",
        )
