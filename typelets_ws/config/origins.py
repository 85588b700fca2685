"""Origins of web pages and native apps, in one canonical form. Pure.

Invariant: two texts that name one origin (RFC 6454 section 4) give one text: scheme and
host in lower case, no default port. Text that a browser never sends gives None, so
that no path, wildcard or user name is ever compared. (spec section 1)
Tested by tests/unit/config/test_origins.py.
"""

import re
from collections.abc import Iterable
from typing import Final

__all__ = ["AllowedOrigins", "canonical_origin"]

_ORIGIN: Final = re.compile(
    r"([a-z][a-z0-9+.-]*)://([a-z0-9._-]+|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?"
)
_DEFAULT_PORTS: Final = {"http": 80, "https": 443, "ws": 80, "wss": 443}
_WITHOUT_HOST: Final = frozenset({"null", "file://"})
"""The origin sent by sandboxed frames and by files of a native app."""
_MAX_PORT: Final = 65_535
_MAX_LENGTH: Final = 512


def canonical_origin(text: str) -> str | None:
    """Return the canonical spelling of an origin, or None for other text."""
    lower = text.strip().lower()
    if lower in _WITHOUT_HOST:
        return lower
    found = _ORIGIN.fullmatch(lower) if len(lower) <= _MAX_LENGTH else None
    if found is None:
        return None
    scheme, host, port = found.groups()
    if port is None or int(port) == _DEFAULT_PORTS.get(scheme):
        return f"{scheme}://{host}"
    return f"{scheme}://{host}:{int(port)}" if int(port) <= _MAX_PORT else None


class AllowedOrigins:
    """The origins of `server.allowed_origins`; an empty list allows all."""

    def __init__(self, origins: Iterable[str]) -> None:
        self._allowed = frozenset(map(canonical_origin, origins))

    def allows(self, origin: str | None) -> bool:
        """Whether a handshake with this `Origin` may go on; None: without one."""
        if origin is None or not self._allowed or origin in self._allowed:
            return True
        canonical = canonical_origin(origin)
        return canonical is not None and canonical in self._allowed
