"""The series that exist before anything is counted in them.

A counter that appears with its first count hides that count from `rate()` and
`increase()`: Prometheus needs a 0 before it. So each label value that is known is a
series from the start. Values of enumerations come from there; the rest is listed here,
and `tests/e2e/test_metrics.py` fails when a counted value is missing.
"""

from itertools import product
from typing import Final

from .ports import TokenRejectReason
from .protocol import client_messages, event_decoding, events
from .protocol.errors import CloseCode, Code
from .protocol.fields import FILTERED_NAMES
from .session.signing import SignatureVerdict
from .telemetry.metrics import Metrics
from .websocket.limiter import LimiterVerdict

__all__ = ["declare"]


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


STATUSES: Final = (
    *("101", "200", "400", "403", "404", "405", "414", "426", "431", "503", "505"),
    *("lost", "tls_failed"),
)
"""An HTTP status, or why a socket got no answer."""
CLOSES: Final = {
    "1006": ("lost",),
    "client": ("client",),
    str(CloseCode.GOING_AWAY): ("gone",),
    str(CloseCode.INVALID_DATA): ("invalid_utf8",),
    str(CloseCode.PROTOCOL_ERROR): ("protocol_error",),
    str(CloseCode.POLICY_VIOLATION): ("unfinished_message",),
    str(CloseCode.MESSAGE_TOO_BIG): ("message_too_big", "too_many_fragments"),
    str(CloseCode.RESTARTING): ("restarting",),
    str(CloseCode.TOO_SLOW): (
        "unauthenticated",
        "unsent_bytes",
        "stalled",
        "memory",
        "limits_unavailable",
    ),
    str(CloseCode.UNAUTHENTICATED): (
        "auth_failed",
        "other_user",
        "session_revoked",
        "user_disconnected",
    ),
    str(CloseCode.AUTH_TIMEOUT): ("auth_timeout",),
    str(CloseCode.TOO_MANY): ("flood", "too_many_devices"),
}
EVICTIONS: Final = _words("unsent_bytes stalled memory ping_timeout handshake_timeout")
LOST_LINK: Final = ("lost", "timeout", "garbled", "unexpected", "readonly", "refused")
PUBLISH_FAILURES: Final = (*LOST_LINK, "failover", "promoted", "down", "full", "closed")
GAPS: Final = (
    *LOST_LINK,
    "failover",
    "promoted",
    "late",
    "unproven",
    "deaf",
    "unreachable",
    "publish_failed",
)
HEALS: Final = ("audit", "sign_in", "conflict", "requested", "database_changed")
REDIS_COMMANDS: Final = _words(
    """ping publish spublish subscribe unsubscribe set exists del sadd srem expire
    script eval evalsha hello"""
)
KEY_FETCHES: Final = _words(
    "ok timeout unreachable http_4xx http_5xx junk no_keys too_large"
)
QUERY_FAILURES: Final = _words(
    "timeout pool_full disconnected conflict read_only refused closed"
)


def declare(metrics: Metrics) -> None:
    """Create every known series, at 0."""
    for status in STATUSES:
        metrics.handshakes.labels(status)
    for result in ("ok", "too_many_devices", "limits_unavailable", *TokenRejectReason):
        metrics.authentications.labels(str(result))
    for code, reasons in CLOSES.items():
        for reason in reasons:
            metrics.closes.labels(code, reason)
    refused = [
        str(verdict) for verdict in LimiterVerdict if verdict != LimiterVerdict.OPEN
    ]
    for reason in (*refused, *EVICTIONS):
        metrics.evictions.labels(reason)
    _declare_security(metrics)
    _declare_messages(metrics)
    _declare_recovery(metrics)
    _declare_outside(metrics)


def _declare_security(metrics: Metrics) -> None:
    verdicts = [str(v) for v in SignatureVerdict if v is not SignatureVerdict.OK]
    for kind in (
        "origin",
        "auth_rejected",
        "flood",
        "other_user",
        "too_many_devices",
        *(f"signature_{verdict}" for verdict in verdicts),
    ):
        metrics.security_events.labels(kind)


def _declare_messages(metrics: Metrics) -> None:
    kinds = [str(k.__struct_config__.tag) for k in client_messages.CLIENT_MESSAGES]
    codes = [str(code) for code in Code]
    for kind, result in product((*kinds, "unknown"), ("ok", *codes)):
        metrics.messages.labels(kind, result)
    for result in (
        *("auth_failed", "other_user", "too_many_devices", "gone"),
        "limits_unavailable",
    ):
        metrics.messages.labels("auth", result)
    for kind in kinds:
        metrics.handling.labels(kind)
    for name in (*sorted(FILTERED_NAMES), "other"):
        metrics.filtered_fields.labels(name)


def _declare_recovery(metrics: Metrics) -> None:
    unread = [f"event_{reason}" for reason in event_decoding.EventRejectReason]
    for reason in (*HEALS, *GAPS, *unread):
        metrics.heals.labels(reason)
        metrics.healed_rows.labels(reason)
    for table in ("notes", "folders"):
        metrics.unannounced_changes.labels(table)


def _declare_outside(metrics: Metrics) -> None:
    for event in events.EVENTS:
        metrics.events.labels(str(event.__struct_config__.tag), "ok")
    for result in (*event_decoding.EventRejectReason, "refused", "failed"):
        metrics.events.labels("unknown", str(result))
    for reason in GAPS:
        metrics.gaps.labels(reason)
    for reason in PUBLISH_FAILURES:
        metrics.publish_failures.labels(reason)
    for command in REDIS_COMMANDS:
        metrics.redis_commands.labels(command)
    for link in ("events", "commands"):
        metrics.redis_up.labels(link)
    for result in KEY_FETCHES:
        metrics.key_fetches.labels(result)
    for reason in QUERY_FAILURES:
        metrics.query_failures.labels(reason)
    for state in ("authenticated", "unauthenticated"):
        metrics.connections.labels(state)
