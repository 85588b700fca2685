"""Connect to a host name with several addresses within one timeout (RFC 8305).

Invariants. A new attempt starts every `ATTEMPT_DELAY_S`, earlier when one fails or when
there are many addresses; the first one that accepts wins and all other sockets are
closed. An address that swallows packets costs 0.25 s at most, not the whole timeout.
For threads: on the event loop, `loop.create_connection(happy_eyeballs_delay=...)` does
the same. Tested by tests/integration/clerk/test_happy_eyeballs.py.
"""

import os
import selectors
import socket
import time
from typing import Any, Final

__all__ = ["ATTEMPT_DELAY_S", "connect"]

ATTEMPT_DELAY_S: Final = 0.25
"""RFC 8305 section 5."""
_Target = tuple[int, Any]


def connect(address: tuple[str, int], timeout_s: float) -> socket.socket:
    """Return a connected socket with `timeout_s` as its timeout.

    Raises `OSError`: the first address's when all refuse, `TimeoutError` when none
    has accepted in time, `socket.gaierror` for an unknown name.
    """
    deadline = time.monotonic() + timeout_s
    found = socket.getaddrinfo(*address, type=socket.SOCK_STREAM)
    targets = alternating([(family, where) for family, _, _, _, where in found])
    with _Attempts() as attempts:
        while targets or attempts.pending:
            if targets:
                attempts.start(targets.pop(0))
            left_s = deadline - time.monotonic()
            # Each address that is left gets a share of the time that is left.
            share_s = min(ATTEMPT_DELAY_S, left_s / (len(targets) + 1))
            wait_s = share_s if targets else left_s
            if wait_s <= 0:
                break
            winner = attempts.wait(wait_s)
            if winner is not None:
                winner.settimeout(timeout_s)
                return winner
    if attempts.failures and not attempts.pending:
        raise attempts.failures[0]
    raise TimeoutError("timed out")


def alternating(targets: list[_Target]) -> list[_Target]:
    """The targets in the resolver's order, but the families by turns."""
    first = [target for target in targets if target[0] == targets[0][0]]
    others = [target for target in targets if target[0] != targets[0][0]]
    ordered: list[_Target] = []
    while first or others:
        ordered += first[:1] + others[:1]
        del first[:1], others[:1]
    return ordered


class _Attempts:
    """Sockets that are connecting; all that are left are closed at the end."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self.pending: set[socket.socket] = set()
        self.failures: list[OSError] = []

    def __enter__(self) -> "_Attempts":
        return self

    def __exit__(self, *_exception: object) -> None:
        self._selector.close()
        for sock in self.pending:
            sock.close()

    def start(self, target: _Target) -> None:
        """Begin to connect; a failure is noted in `failures`."""
        family, where = target
        try:
            sock = socket.socket(family, socket.SOCK_STREAM)
        except OSError as exc:
            self.failures.append(exc)
            return
        sock.setblocking(False)
        try:
            sock.connect(where)
        except BlockingIOError:
            pass
        except OSError as exc:
            sock.close()
            self.failures.append(exc)
            return
        self.pending.add(sock)
        self._selector.register(sock, selectors.EVENT_WRITE)

    def wait(self, seconds: float) -> socket.socket | None:
        """Return the first socket that has connected; None after `seconds` at most.

        Returns None at once when an attempt failed.
        """
        if not self.pending:
            return None
        for key, _ in self._selector.select(seconds):
            sock = key.fileobj
            assert isinstance(sock, socket.socket)
            self._selector.unregister(sock)
            self.pending.discard(sock)
            error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if not error:
                return sock
            sock.close()
            self.failures.append(OSError(error, os.strerror(error)))
        return None
