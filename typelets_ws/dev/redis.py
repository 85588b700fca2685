"""A Redis for development: `redis-server` if it is installed, else fakeredis.

Both listen on loopback only and end with this process. fakeredis runs inside it.
"""

import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Final, Self

__all__ = ["RedisServer", "RedisServerError"]

START_TIMEOUT_S: Final = 10.0
STOP_TIMEOUT_S: Final = 5.0


class RedisServerError(Exception):
    """No Redis could be started; the text has the reason."""


class RedisServer:
    """A Redis on loopback, on a free port that stays its own while it is stopped.

    `kind` names what it is.
    """

    def __init__(self) -> None:
        self._reservation = _reserve_port()
        self.port: int = self._reservation.getsockname()[1]
        self.kind = ""
        self.is_running = False
        """Whether it was started, and not stopped since."""
        self._process: subprocess.Popen[bytes] | None = None
        self._stop: Callable[[], None] = lambda: None

    @property
    def runs_scripts(self) -> bool:
        """True if it runs Lua scripts, which the limits over all processes need.

        fakeredis runs them only with `lupa`, and closes the connection otherwise.
        """
        return self.kind == "redis-server" or find_spec("lupa") is not None

    @property
    def url(self) -> str:
        """The URL of the server."""
        return f"redis://127.0.0.1:{self.port}/0"

    def __enter__(self) -> Self:
        self.start()
        return self

    def start(self) -> None:
        """Start an empty server unless it runs. Raises `RedisServerError`."""
        if self.is_running:
            return
        program = shutil.which("redis-server")
        if program is not None:
            self._start_server(program)
        else:
            self._start_fake()
        self.is_running = True

    def stop(self) -> None:
        """Stop the server unless it is stopped; its connections end."""
        if self.is_running:
            self.is_running = False
            self._stop()

    def __exit__(self, *_exception: object) -> None:
        self.stop()
        self._reservation.close()

    def _start_server(self, program: str) -> None:
        self.kind = "redis-server"
        setpriv = shutil.which("setpriv")
        bound = [setpriv, "--pdeathsig", "TERM"] if setpriv else []
        options = ["--port", str(self.port), "--bind", "127.0.0.1"]
        options += ["--save", "", "--appendonly", "no", "--loglevel", "warning"]
        process = subprocess.Popen(  # noqa: S603 - our words
            [*bound, program, *options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            # Ctrl-C is for this process; it stops the server after the drain.
            start_new_session=True,
        )

        def stop() -> None:
            process.terminate()
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

        self._stop = stop
        self._await_answer(lambda: process.poll() is None)

    def _start_fake(self) -> None:
        try:
            from fakeredis import TcpFakeServer  # noqa: PLC0415 - optional
        except ImportError:
            raise RedisServerError(
                "neither redis-server nor fakeredis is there: install redis-server, "
                "or typelets-ws[dev]"
            ) from None
        self.kind = "fakeredis"
        try:
            server = TcpFakeServer(("127.0.0.1", self.port), server_type="redis")
        except OSError as exc:
            raise RedisServerError(
                f"fakeredis cannot listen on port {self.port}: {exc.strerror}"
            ) from None
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()

        def stop() -> None:
            server.shutdown()
            server.server_close()

        self._stop = stop
        self._await_answer(lambda: True)

    def _await_answer(self, alive: Callable[[], bool]) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline and alive():
            try:
                with socket.create_connection(("127.0.0.1", self.port), 1) as link:
                    # As an array: fakeredis does not read inline commands.
                    link.sendall(b"*1\r\n$4\r\nPING\r\n")
                    if link.recv(64).startswith(b"+PONG"):
                        return
            except OSError:
                time.sleep(0.02)
        self._stop()
        raise RedisServerError(f"{self.kind} does not answer on port {self.port}")


def _reserve_port() -> socket.socket:
    """A socket on a free port, which the system gives to nobody else while it is open.

    Servers may still listen there: they and this one have SO_REUSEADDR, and this one
    does not listen.
    """
    reservation = socket.socket()
    reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    reservation.bind(("127.0.0.1", 0))
    return reservation
