"""Logs: one event is one line on one stream, without secrets.

Theory of operation. An `Output` owns the stream, the level and the flood guard.
Loggers made from it (`Output.logger`) and, within `Output.attached`, the standard
library's (websockets, psycopg, redis, asyncio; WARNING and above) write to it. A line
is JSON for machines or plain text for a terminal.

- A hostile client cannot fill the disk: the first `burst` lines of one event within a
  second are written. The others are one line ``suppressed`` with their count, every ten
  seconds.
- `redact` hides fields named like secrets or note contents, and tokens inside texts.
  Input cannot forge a line: texts are cut, control characters escaped. Of an exception
  only type, first line and places are written: a database's DETAIL quotes the row.
- A library's line is written once a minute: while a database is away, its pool says
  so twice a second.
- Writing never raises into the caller; `Output.lost` counts what could not be written.

Security events carry ``security=True``: ``log.warning("origin_refused",
security=True)``. Event names are constants; values are fields.
"""

import logging
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, TextIO, cast

import structlog
from structlog.typing import FilteringBoundLogger

from .redact import BurstLimiter, describe_exception, redact, scrub

__all__ = ["FilteringBoundLogger", "Output"]

_REPEAT_S = 60.0
_MOST_TEXTS = 256
_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}


class Output:
    """Writes all lines.

    `stream` is standard error, `now` the wall clock in seconds since 1970. The others
    are the settings of `[log]`; `form` is its `format`.
    """

    def __init__(
        self,
        stream: TextIO,
        now: Callable[[], float],
        *,
        level: str,
        form: str,
        burst: int,
    ) -> None:
        self.lost = 0
        self._stream = stream
        self._now = now
        self._threshold = _LEVELS[level]
        self._burst = BurstLimiter(burst)
        self._render = _renderer(form, stream.isatty())
        # Keys are fetched in a thread, which may log too.
        self._lock = threading.Lock()

    def logger(self, **bound: object) -> FilteringBoundLogger:
        """Return a logger that writes here, with `bound` in each line."""
        logger = structlog.wrap_logger(
            _Sink(self.write),
            processors=[_named],
            wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG),
        )
        return cast("FilteringBoundLogger", logger.bind(**bound))

    def set_level(self, level: str) -> None:
        """Change the level of all loggers at once; a name in `_LEVELS`."""
        self._threshold = _LEVELS[level]

    def write(self, level: str, event: str, fields: Mapping[str, object]) -> None:
        """Write one line, unless its level or its burst limit forbids it."""
        if _LEVELS[level] < self._threshold:
            return
        now = self._now()
        with self._lock:
            # A flood may be of refusals at level info: requests, closes.
            lasting = level != "debug"
            if self._burst.allow(event, now, lasting=lasting):
                self._line(level, event, fields, now)
            self._summarise(now)

    def summarise(self) -> None:
        """Write counts of suppressed lines if due; call it every few seconds."""
        with self._lock:
            self._summarise(self._now())

    @contextmanager
    def attached(self) -> Iterator[None]:
        """While entered, write the standard library's warnings and errors too."""
        bridge = _Bridge(self)
        root = logging.getLogger()
        root.addHandler(bridge)
        try:
            yield
        finally:
            root.removeHandler(bridge)
            with self._lock:
                self._summarise(self._now(), all_of_it=True)

    def _summarise(self, now: float, *, all_of_it: bool = False) -> None:
        for name, count in self._burst.take_suppressed(now, all_of_it=all_of_it):
            self._line("warning", "suppressed", {"lines_of": name, "count": count}, now)

    def _line(
        self, level: str, event: str, fields: Mapping[str, object], now: float
    ) -> None:
        when = datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds")
        try:
            line = self._render({
                "timestamp": when.replace("+00:00", "Z"),
                "level": level,
                "event": scrub(event),
                **redact(fields),
            })  # fmt: skip
            self._stream.write(line + "\n")
            self._stream.flush()
        except Exception:
            # A line or stream that fails must not stop the daemon.
            self.lost += 1


class _Sink:
    """The end of structlog's chain: passes lines to `Output.write`."""

    def __init__(self, write: Callable[[str, str, Mapping[str, object]], None]) -> None:
        self._write = write

    def msg(self, level: str, fields: dict[str, object]) -> None:
        exc = _exception(fields.pop("exc_info", None))
        if exc is not None:
            fields["raised"] = describe_exception(exc)
        self._write(level, str(fields.pop("event", "")), fields)

    debug = info = warning = error = critical = msg


class _Bridge(logging.Handler):
    """Passes records of the standard library's logging to an `Output`."""

    def __init__(self, output: Output) -> None:
        super().__init__(logging.WARNING)
        self._output = output
        self._logged_at: dict[tuple[str, str], float] = {}

    def _repeats(self, record: logging.LogRecord, text: str) -> bool:
        """Whether the same logger wrote this text within the last minute."""
        logged_at, key = self._logged_at, (record.name, text)
        if 0 <= record.created - logged_at.get(key, -_REPEAT_S) < _REPEAT_S:
            return True
        if len(logged_at) >= _MOST_TEXTS:
            logged_at.clear()
        logged_at[key] = record.created
        return False

    def emit(self, record: logging.LogRecord) -> None:
        fields: dict[str, object] = {}
        exc = _exception(record.exc_info)
        if exc is not None:
            fields["raised"] = describe_exception(exc)
        try:
            text = record.getMessage()
        except Exception:
            text = str(record.msg)
        fields["text"] = text = text.partition("\n")[0]
        if self._repeats(record, text):
            return
        level = record.levelname.lower()
        known = level if level in _LEVELS else "warning"
        self._output.write(known, record.name, fields)


def _named(
    _: object, level: str, fields: MutableMapping[str, Any]
) -> tuple[tuple[str, dict[str, object]], dict[str, object]]:
    """The last processor of structlog's chain: (args, kwargs) for `_Sink.msg`."""
    return (level, dict(fields)), {}


def _exception(exc_info: object) -> BaseException | None:
    """The exception in any form of `exc_info`."""
    if isinstance(exc_info, tuple):
        return exc_info[1] if isinstance(exc_info[1], BaseException) else None
    if isinstance(exc_info, BaseException):
        return exc_info
    return sys.exc_info()[1] if exc_info else None


def _renderer(form: str, is_terminal: bool) -> Callable[[dict[str, object]], str]:
    if form == "console" or (form == "auto" and is_terminal):
        console = structlog.dev.ConsoleRenderer(
            colors=is_terminal, sort_keys=False, pad_event_to=0
        )
        return lambda fields: console(None, "", fields)
    dump = structlog.processors.JSONRenderer()
    return lambda fields: str(dump(None, "", fields))
