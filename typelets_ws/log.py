"""Logs: one event, one line, on one stream, and never a secret in it.

Theory of operation. An `Output` owns the stream, the level and the flood guard.
Loggers made from it (`Output.logger`) and, within `Output.attached`, the standard
library's (websockets, psycopg, redis, asyncio; WARNING and above) end in the same
place. A line is JSON for machines or plain text for a terminal.

- The first `burst` lines of one event within a second are written, the rest are
  counted and told every ten seconds as one line ``suppressed``: a hostile client
  fills no disk.
- `guarded` goes over every value: fields named like secrets or note contents are
  hidden, tokens inside texts too, texts are cut and control characters escaped, so
  that nobody can forge a line. Of an exception only type, first line and places are
  written: a database's DETAIL quotes the row.
- Writing never raises into the caller; `Output.lost` counts what could not be written.

Events of security carry ``security=True``: ``log.warning("origin_refused",
security=True)``. Event names are constants: what varies is a field.
"""

import logging
import sys
import threading
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, TextIO

import structlog
from structlog.typing import FilteringBoundLogger, WrappedLogger

from .config import Log
from .log_guard import Burst, guarded, scrub, told

__all__ = ["FilteringBoundLogger", "Output", "make_logger", "scrub"]

_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}


class Output:
    """The one place where lines go.

    `stream` is standard error, `now` the wall clock in seconds since 1970.
    """

    def __init__(
        self, config: Log, stream: TextIO, now: Callable[[], float]
    ) -> None:
        console = stream.isatty() if config.format == "auto" else (
            config.format == "console"
        )
        self.lost = 0
        self._stream = stream
        self._now = now
        self._threshold = _LEVELS[config.level]
        self._burst = Burst(config.burst)
        self._render = (
            structlog.dev.ConsoleRenderer(colors=stream.isatty(), sort_keys=False)
            if console
            else structlog.processors.JSONRenderer()
        )
        # Keys are fetched in a thread, which may log too.
        self._lock = threading.Lock()

    def logger(self, **bound: object) -> FilteringBoundLogger:
        """A logger that ends here, with `bound` in each of its lines."""
        logger: FilteringBoundLogger = structlog.wrap_logger(
            None,
            processors=[self._process],
            wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG),
        )
        return logger.bind(**bound)

    def set_level(self, level: str) -> None:
        """Change the level of all loggers at once; as in `Log.level`."""
        self._threshold = _LEVELS[level]
