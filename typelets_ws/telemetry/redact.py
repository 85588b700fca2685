"""Removes tokens, secrets, note contents and control characters from log lines.

Pure functions over one line's fields, and `BurstLimiter`. This is the second defence:
callers pass only ids and counts. Tested by tests/unit/telemetry/test_redact.py.
"""

import math
import re
from collections.abc import Iterator, Mapping, MutableMapping
from pathlib import PurePath
from traceback import walk_tb

from msgspec import Struct

__all__ = ["BurstLimiter", "describe_exception", "redact", "scrub"]

_HIDDEN_WORDS = (
    "token", "secret", "authorization", "signature", "payload", "content", "title",
    "password", "cookie", "changes", "body", "jwt", "nonce",
    "notedata", "folderdata", "updatednote", "updatedfolder",
)  # fmt: skip
_SECRET_PATTERN = re.compile(
    r"eyJ[\w-]{5,}[\w.-]*"  # a JWT, whole or in part
    r"|sk_(?:live|test)_\w+"  # Clerk's secret key
    r"|(?<=://)[^\s/?#]+(?=@)"  # user and password of an address
    r"|\b[0-9a-fA-F]{64}\b"  # a session secret
    r"|(?i:(?:bearer\s+|password=)\S+)"
)
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_LONGEST = 500
_MOST_ITEMS = 20
_DEEPEST = 4
_MOST_NAMES = 256
_SUMMARY_S = 10.0


def redact(fields: Mapping[str, object]) -> dict[str, object]:
    """Return a copy of a line's fields without secrets."""
    return {key: _safe(key, value, _DEEPEST) for key, value in fields.items()}


def scrub(text: str) -> str:
    """Return `text` on one line, at most 500 characters, secrets replaced."""
    # Cut before and after: patterns see at most 2,000 characters, and whole tokens.
    text = _SECRET_PATTERN.sub("(hidden)", text[: 4 * _LONGEST])
    text = _CONTROL.sub(lambda found: ascii(found[0])[1:-1], text)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."


def describe_exception(exc: BaseException) -> list[str]:
    """Return an exception, its causes and its group's members, one text each.

    Type, first line, and places; neither locals nor source lines, and nothing
    after the first line: databases quote the row there.
    """
    return [_describe(each) for each in _related(exc, set())][:_MOST_ITEMS]


def _safe(key: str, value: object, depth: int) -> object:
    if value is None or isinstance(value, int | float):
        return _number(value)
    word = key.replace("_", "").lower()
    if any(hidden in word for hidden in _HIDDEN_WORDS):
        return "(hidden)"
    if isinstance(value, bytes | bytearray | memoryview):
        return f"({len(value)} bytes)"
    if isinstance(value, BaseException):
        return describe_exception(value)
    if isinstance(value, Mapping | list | tuple | set | frozenset):
        return _collection(key, value, depth)
    if isinstance(value, Struct):
        return f"({type(value).__name__})"
    return scrub(str(value))


def _number(value: int | float | None) -> object:
    """JSON has no NaN, and str() of a huge int raises."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, int) and value.bit_length() > 64:
        return "(huge)"
    return value


def _collection(
    key: str,
    value: Mapping[object, object]
    | list[object]
    | tuple[object, ...]
    | set[object]
    | frozenset[object],
    depth: int,
) -> object:
    if depth == 0:
        return "(...)"
    if isinstance(value, Mapping):
        pairs = list(value.items())[:_MOST_ITEMS]
        return {scrub(str(k)): _safe(str(k), v, depth - 1) for k, v in pairs}
    return [_safe(key, each, depth - 1) for each in list(value)[:_MOST_ITEMS]]


def _related(exc: BaseException, seen: set[int]) -> Iterator[BaseException]:
    if id(exc) in seen or len(seen) >= _MOST_ITEMS:
        return
    seen.add(id(exc))
    yield exc
    if isinstance(exc, BaseExceptionGroup):
        for each in exc.exceptions:
            yield from _related(each, seen)
    context = None if exc.__suppress_context__ else exc.__context__
    cause = exc.__cause__ or context
    if cause is not None:
        yield from _related(cause, seen)


def _describe(exc: BaseException) -> str:
    first, *_ = str(exc).splitlines() or [""]
    places = [
        f"{PurePath(frame.f_code.co_filename).name}:{line} {frame.f_code.co_name}"
        for frame, line in walk_tb(exc.__traceback__)
    ]
    at = f" (at {', '.join(places[-8:])})" if places else ""
    return f"{type(exc).__name__}: {scrub(first)}{at}"


class BurstLimiter:
    """Allows the first lines of one name in each second and counts the others.

    With `lasting`, a name whose lines were counted is not written again before the
    summary: a flood of refusals is one burst and one summary in ten seconds. `now` is
    in seconds; a clock that is set back only starts a new second.
    """

    def __init__(self, first: int) -> None:
        self._first = first
        self._second = 0
        self._seen: dict[str, int] = {}
        self._suppressed: dict[str, int] = {}
        self._since = 0.0

    def allow(self, name: str, now: float, *, lasting: bool = False) -> bool:
        """Return whether this line may be written; if not, it is counted."""
        if lasting and name in self._suppressed:
            _count(self._suppressed, name)
            return False
        if int(now) != self._second:
            self._second = int(now)
            self._seen.clear()
        if _count(self._seen, name) <= self._first:
            return True
        if not self._suppressed:
            self._since = now
        _count(self._suppressed, name)
        return False

    def take_suppressed(
        self, now: float, *, all_of_it: bool = False
    ) -> list[tuple[str, int]]:
        """Return and clear the names and counts suppressed, once in ten seconds."""
        passed = now - self._since
        if not self._suppressed or (0 <= passed < _SUMMARY_S and not all_of_it):
            return []
        found = list(self._suppressed.items())
        self._suppressed.clear()
        return found


def _count(counts: MutableMapping[str, int], name: str) -> int:
    # Names should be constants; a caller that varies them must not exhaust the memory.
    if name not in counts and len(counts) >= _MOST_NAMES:
        name = "(others)"
    counts[name] = counts.get(name, 0) + 1
    return counts[name]
