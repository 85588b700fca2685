"""`typelets-ws alerts`: a Prometheus rule file, made from the metric definitions.

Invariant: no expression names a series. `$postgres_up` is the series of the attribute
`postgres_up` of `Metrics`, `$process_open_fds` one of `ProcessMetrics`. A metric that
is renamed or removed breaks a test, not an alert at night.
Tested by tests/unit/monitoring/test_monitoring.py.
"""

import json
from collections.abc import Iterator
from typing import Final, Literal, NamedTuple

from .series_names import SeriesNames

__all__ = ["ALERTS", "Alert", "as_rule_file", "expressions"]


class Alert(NamedTuple):
    """One rule. `minutes`: how long `expr` must hold.

    Severity `page` wakes an operator, `ticket` waits for the morning.
    """

    name: str
    expr: str
    minutes: int
    severity: Literal["page", "ticket"]
    summary: str


def _rate(selector: str, window: str = "5m") -> str:
    """Counts a second of each process."""
    return f"sum by (instance) (rate({selector}[{window}]))"


def _increase(selector: str, window: str) -> str:
    return f"sum by (instance) (increase({selector}[{window}]))"


def _p99(histogram: str) -> str:
    rate = f"rate({histogram}[5m])"
    return f"histogram_quantile(0.99, sum by (instance, le) ({rate}))"


_REJECTED: Final = _rate('$authentications{result!="ok"}', "10m")
_AUTHENTICATIONS: Final = _rate("$authentications", "10m")

ALERTS: Final = (
    Alert("Absent", "absent($build_info)", 2, "page", "No process is scraped."),
    Alert(
        "PostgresDown", "$postgres_up == 0", 1, "page",
        "Postgres does not answer: updates are refused with UNAVAILABLE.",
    ),
    Alert(
        "RedisDown", "min by (instance) ($redis_up) == 0", 1, "page",
        "Redis does not answer: devices hear nothing of other processes.",
    ),
    Alert(
        "SharedLimitsDown", "$shared_limits_up == 0", 5, "ticket",
        "Device limits count per process only.",
    ),
    Alert(
        "PublishFailures", f"{_rate('$publish_failures')} > 0", 5, "page",
        "Redis refuses events or cannot keep up.",
    ),
    Alert(
        "Gaps", f"{_increase('$gaps', '15m')} > 3", 1, "ticket",
        "The connection to Redis breaks again and again.",
    ),
    Alert(
        "SlowDelivery", f"{_p99('$lag')} > 1", 5, "page",
        "1 % of events reach their devices after more than 1 s.",
    ),
    Alert(
        "LoopLag", f"{_p99('$loop_lag')} > 0.25", 5, "page",
        "The process has too much to do: add one.",
    ),
    Alert(
        "SlowQueries", f"{_p99('$queries')} > 0.5", 5, "page",
        "1 % of statements take more than 0.5 s.",
    ),
    Alert(
        "QueryFailures", f"{_rate('$query_failures')} > 0.1", 5, "page",
        "Statements fail; the label `reason` says why.",
    ),
    Alert(
        "PoolExhausted", "$pool.waiting > 0", 2, "ticket",
        "Statements wait for a connection: raise database.pool_max.",
    ),
    Alert(
        "FileDescriptors", "$process_open_fds / $process_max_fds > 0.9", 5, "page",
        "Nearly no file descriptor is left: raise LimitNOFILE.",
    ),
    Alert(
        "HandshakesRefused", f"""{_rate('$handshakes{status="503"}')} > 0.1""", 5,
        "page", "A limit on connections is reached; the log says which.",
    ),
    Alert(
        "AuthenticationFailures",
        f"{_REJECTED} / {_AUTHENTICATIONS} > 0.5 and {_AUTHENTICATIONS} > 0.1", 10,
        "page", "Most tokens are refused: keys, clocks, or an attack.",
    ),
    Alert(
        "SecurityEvents", f"{_rate('$security_events')} > 1", 10, "ticket",
        "Forged signatures, refused tokens or unknown origins.",
    ),
    Alert(
        "Evictions", f"{_rate('$evictions')} > 0.1", 15, "ticket",
        "Devices are closed for their behaviour; the label `reason` says why.",
    ),
    Alert(
        "RecoveryOff", "$recovery_up == 0", 5, "ticket",
        "Missed changes are not found in Postgres; the log's recovery_off says why.",
    ),
    Alert(
        "SlowAudit", "$audit_round > 300", 10, "ticket",
        "A round of the audit takes more than 5 minutes: so late is found what was not "
        "published.",
    ),
    Alert(
        "UnannouncedChanges", f"{_rate('$unannounced_changes')} > 0.1", 15, "ticket",
        "The REST service writes rows that it does not publish.",
    ),
    Alert(
        "ReloadFailed", "$reload_successful == 0", 1, "ticket",
        "The last reload was refused: the old settings are in use.",
    ),
    Alert(
        "KeyFetchFailures", f"""{_increase('$key_fetches{result!="ok"}', '30m')} > 5""",
        1, "ticket", "Clerk's keys cannot be fetched: new keys are not known.",
    ),
    Alert(
        "Restarts", "changes($process_start_time_seconds[15m]) > 3", 1, "page",
        "The process restarts again and again.",
    ),
)  # fmt: skip


def expressions(names: SeriesNames) -> Iterator[tuple[Alert, str]]:
    """Each rule with its expression in PromQL.

    Raises `AttributeError` or `KeyError` for a metric that is not exported.
    """
    for alert in ALERTS:
        yield alert, names.resolve(alert.expr)


def as_rule_file(names: SeriesNames) -> str:
    """YAML for `rule_files`; texts are JSON strings, which YAML reads as they are."""
    lines = ["groups:", "  - name: typelets-ws", "    rules:"]
    for alert, expr in expressions(names):
        lines += [
            f"      - alert: TypeletsWs{alert.name}",
            f"        expr: {json.dumps(expr)}",
            f"        for: {alert.minutes}m",
            f"        labels: {{severity: {alert.severity}}}",
            f"        annotations: {{summary: {json.dumps(alert.summary)}}}",
        ]
    return "\n".join(lines) + "\n"
