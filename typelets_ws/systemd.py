"""systemd's protocol: notifications, the watchdog, passed sockets.

sd_notify(3) is a datagram to the socket named by NOTIFY_SOCKET, sd_listen_fds(3)
passes sockets from descriptor 3 on; both are a few lines each, so no library.
"""

import os
import socket
from collections.abc import Callable, Mapping
from typing import Final

__all__ = ["Systemd"]

FIRST_SOCKET: Final = 3
"""SD_LISTEN_FDS_START."""
STATUS_S: Final = 5.0


class Systemd:
    """The requests of systemd, from the environment.

    Outside systemd every method does nothing.
    """

    def __init__(
        self, environ: Mapping[str, str], pid: int, monotonic: Callable[[], float]
    ) -> None:
        self._address = environ.get("NOTIFY_SOCKET", "")
        self._monotonic = monotonic
        passed = environ.get("LISTEN_PID") == str(pid)
        self._sockets = int(environ.get("LISTEN_FDS", "0")) if passed else 0
        watched = environ.get("WATCHDOG_PID", str(pid)) == str(pid)
        watchdog_us = int(environ.get("WATCHDOG_USEC", "0")) if watched else 0
        self.interval_s = min(STATUS_S, watchdog_us / 2e6) if watchdog_us else STATUS_S
        """How often to notify: at least twice per watchdog period."""

        self._ready = False

    def ready(self) -> None:
        """Report that the start is complete."""
        self._ready = True
        self.notify("READY=1")

    def reloading(self) -> None:
        """Report that a reload begins; Type=notify-reload requires its time."""
        if self._ready:
            moment = int(self._monotonic() * 1_000_000)
            self.notify("RELOADING=1", f"MONOTONIC_USEC={moment}")

    def reloaded(self) -> None:
        """Report that the reload is complete, unless the start is not."""
        if self._ready:
            self.notify("READY=1")

    def notify(self, *lines: str) -> None:
        """Send assignments such as READY=1; a missing or busy receiver is ignored."""
        if not self._address:
            return
        # sd_notify(3): only a leading @ names an abstract socket.
        address = self._address
        if address.startswith("@"):
            address = f"\0{address[1:]}"
        with socket.socket(
            socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC
        ) as s:
            # A supervisor that does not read must not block the event loop.
            s.setblocking(False)
            try:
                s.sendto("\n".join(lines).encode(), address)
            except OSError:
                return

    def sockets(self) -> list[socket.socket]:
        """Return the listening sockets that were passed; call it once."""
        found = []
        for fd in range(FIRST_SOCKET, FIRST_SOCKET + self._sockets):
            os.set_inheritable(fd, False)
            found.append(socket.socket(fileno=fd))
        self._sockets = 0
        return found
