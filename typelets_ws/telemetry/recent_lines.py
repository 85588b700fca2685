"""The latest log lines about users, kept to answer why one of them is not connected.

Invariants: at most `limit` lines are kept, the oldest goes first; a line is kept when
it has a `user` and is above debug; what is kept was redacted as in the log.
Tested by tests/unit/telemetry/test_recent_lines.py.
"""

from collections import deque
from collections.abc import Callable, Mapping
from typing import Final, cast

import structlog
from structlog.typing import FilteringBoundLogger

from .redact import redact

__all__ = ["RecentLines"]

SHOWN: Final = 20


class RecentLines:
    """`now_ms` is the wall clock, ms since the epoch."""

    def __init__(self, limit: int, now_ms: Callable[[], int]) -> None:
        self._lines: deque[dict[str, object]] = deque(maxlen=limit)
        self._now_ms = now_ms

    def kept_from(self, log: FilteringBoundLogger) -> FilteringBoundLogger:
        """Return a logger that writes to `log` and keeps lines about users here."""
        logger = structlog.wrap_logger(
            _Both(log, self._keep),
            processors=[lambda _, level, fields: ((level, dict(fields)), {})],
            wrapper_class=structlog.make_filtering_bound_logger("debug"),
        )
        return cast("FilteringBoundLogger", logger)

    def about(self, user_id: str) -> list[Mapping[str, object]]:
        """The user's latest lines, newest first; `at` is in ms since 1970."""
        found = (line for line in reversed(self._lines) if line["user"] == user_id)
        return [line for line, _ in zip(found, range(SHOWN), strict=False)]

    def _keep(self, level: str, fields: Mapping[str, object]) -> None:
        if level != "debug" and "user" in fields:
            kept = {key: fields[key] for key in fields if key != "exc_info"}
            self._lines.append({"at": self._now_ms(), "level": level, **redact(kept)})


class _Both:
    """The end of a structlog chain with two receivers."""

    def __init__(
        self,
        log: FilteringBoundLogger,
        keep: Callable[[str, Mapping[str, object]], None],
    ) -> None:
        self._log = log
        self._keep = keep

    def msg(self, level: str, fields: dict[str, object]) -> None:
        self._keep(level, fields)
        getattr(self._log, level)(**fields)

    debug = info = warning = error = critical = msg
