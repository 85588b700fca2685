"""`typelets-ws alerts`: a Prometheus rule file, made from the metric definitions.

Invariant: every series named here is taken from a `Metrics` or `ProcessMetrics`, so a
metric that is renamed or removed breaks the import of a rule, not an alert at night.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from .series_names import SeriesNames

__all__ = ["Alert", "alerts", "as_rule_file"]


@dataclass(frozen=True, slots=True)
class Alert:
    """One rule. `minutes`: how long `expr` must hold."""

    name: str
    expr: str
    minutes: int
    severity: str
    summary: str


def alerts(names: SeriesNames) -> Sequence[Alert]:
    """All rules; severity `page` wakes an operator, `ticket` waits for the morning."""
    return (
        *_outages(names),
        *_loads(names),
        *_clients(names),
        *_recovery(names),
        *_operations(names),
    )


def _outages(n: SeriesNames) -> Sequence[Alert]:
    m = n.metrics
    return (
        Alert(
            "Absent", f"absent({n.of(m.build_info)})", 2, "page",
            "No process is scraped.",
        ),
        Alert(
            "PostgresDown", f"{n.of(m.postgres_up)} == 0", 1, "page",
            "Postgres does not answer: updates are refused with UNAVAILABLE.",
        ),
        Alert(
            "RedisDown", f"min by (instance) ({n.of(m.redis_up)}) == 0", 1, "page",
            "Redis does not answer: devices hear nothing of other processes.",
        ),
        Alert(
            "SharedLimitsDown", f"{n.of(m.shared_limits_up)} == 0", 5, "ticket",
            "Device limits count per process only.",
        ),
        Alert(
            "PublishFailures", f"{n.rate(m.publish_failures)} > 0", 5, "page",
            "Redis refuses events or cannot keep up.",
        ),
        Alert(
            "Gaps", f"sum by (instance) (increase({n.of(m.gaps)}[15m])) > 3", 1,
            "ticket", "The connection to Redis breaks again and again.",
        ),
    )  # fmt: skip


def _loads(n: SeriesNames) -> Sequence[Alert]:
    m = n.metrics
    return (
        Alert(
            "SlowDelivery", f"{n.quantile(0.99, m.lag)} > 1", 5, "page",
            "1 % of events reach their devices after more than 1 s.",
        ),
        Alert(
            "LoopLag", f"{n.quantile(0.99, m.loop_lag)} > 0.25", 5, "page",
            "The process has too much to do: add one.",
        ),
        Alert(
            "SlowQueries", f"{n.quantile(0.99, m.queries)} > 0.5", 5, "page",
            "1 % of statements take more than 0.5 s.",
        ),
        Alert(
            "QueryFailures", f"{n.rate(m.query_failures)} > 0.1", 5, "page",
            "Statements fail; the label `reason` says why.",
        ),
        Alert(
            "PoolExhausted", f"{n.of(m.pool.waiting)} > 0", 2, "ticket",
            "Statements wait for a connection: raise database.pool_max.",
        ),
        Alert(
            "FileDescriptors",
            f"{n.process('open_fds')} / {n.process('max_fds')} > 0.9", 5, "page",
            "Nearly no file descriptor is left: raise LimitNOFILE.",
        ),
    )  # fmt: skip


def _clients(n: SeriesNames) -> Sequence[Alert]:
    m = n.metrics
    refused = f'{n.of(m.handshakes)}{{status="503"}}'
    rejected = f'{n.of(m.authentications)}{{result!="ok"}}'
    return (
        Alert(
            "HandshakesRefused", f"sum by (instance) (rate({refused}[5m])) > 0.1", 5,
            "page", "A limit on connections is reached; the log says which.",
        ),
        Alert(
            "AuthenticationFailures",
            f"sum by (instance) (rate({rejected}[10m])) / {n.rate(m.authentications)}"
            f" > 0.5 and {n.rate(m.authentications)} > 0.1", 10, "page",
            "Most tokens are refused: keys, clocks, or an attack.",
        ),
        Alert(
            "SecurityEvents", f"{n.rate(m.security_events)} > 1", 10, "ticket",
            "Forged signatures, refused tokens or unknown origins.",
        ),
        Alert(
            "Evictions", f"{n.rate(m.evictions)} > 0.1", 15, "ticket",
            "Devices are closed for their behaviour; the label `reason` says why.",
        ),
    )  # fmt: skip


def _recovery(n: SeriesNames) -> Sequence[Alert]:
    m = n.metrics
    return (
        Alert(
            "SlowAudit", f"{n.of(m.audit_round)} > 300", 10, "ticket",
            "A round of the audit takes more than 5 minutes: so late is found what was "
            "not published.",
        ),
        Alert(
            "UnannouncedChanges", f"{n.rate(m.unannounced_changes)} > 0.1", 15,
            "ticket", "The REST service writes rows that it does not publish.",
        ),
    )  # fmt: skip


def _operations(n: SeriesNames) -> Sequence[Alert]:
    m = n.metrics
    failed = f'{n.of(m.key_fetches)}{{result!="ok"}}'
    start = n.process("start_time_seconds")
    return (
        Alert(
            "ReloadFailed", f"{n.of(m.reload_successful)} == 0", 1, "ticket",
            "The last reload was refused: the old settings are in use.",
        ),
        Alert(
            "KeyFetchFailures", f"sum by (instance) (increase({failed}[30m])) > 5", 1,
            "ticket", "Clerk's keys cannot be fetched: new keys are not known.",
        ),
        Alert(
            "Restarts", f"changes({start}[15m]) > 3", 1, "page",
            "The process restarts again and again.",
        ),
    )  # fmt: skip


def as_rule_file(names: SeriesNames) -> str:
    """YAML for `rule_files`; texts are JSON strings, which YAML reads as they are."""
    lines = ["groups:", "  - name: typelets-ws", "    rules:"]
    for alert in alerts(names):
        lines += [
            f"      - alert: TypeletsWs{alert.name}",
            f"        expr: {json.dumps(alert.expr)}",
            f"        for: {alert.minutes}m",
            f"        labels: {{severity: {alert.severity}}}",
            f"        annotations: {{summary: {json.dumps(alert.summary)}}}",
        ]
    return "\n".join(lines) + "\n"
