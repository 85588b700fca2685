"""One TLS context for the connections of a pool, until a certificate's file changes.

Invariant: a file that was replaced counts from the next connection on. redis-py makes a
context for each connection: 46 ms of a core, most of it for the system's authorities.
Tested by tests/integration/redis/test_tls.py.
"""

import os
import ssl
from typing import Final

from redis.asyncio.connection import RedisSSLContext

__all__ = ["SharedContext"]

_SYSTEM: Final = ssl.get_default_verify_paths()


class SharedContext:
    """Keeps the newest context, and the state of the files that it was made of."""

    def __init__(self) -> None:
        self._context: ssl.SSLContext | None = None
        self._files: list[tuple[int, int]] = []

    def get(self, wanted: RedisSSLContext) -> ssl.SSLContext:
        """The context of a connection; raises OSError for a file that is not there."""
        own = (wanted.ca_certs, wanted.ca_path, wanted.certfile, wanted.keyfile)
        paths = (*own, _SYSTEM.cafile, _SYSTEM.capath)
        found = [os.stat(path) for path in paths if path]
        files = [(each.st_ino, each.st_mtime_ns) for each in found]
        if self._context is None or files != self._files:
            self._context, self._files = wanted.get(), files
        return self._context
