"""The installed command as a real process, started as systemd starts it.

A `Supervisor` speaks systemd's side: it hears notifications on a datagram socket,
holds the listening socket over restarts, and passes it on. A `Process` is one run
of `typelets-ws serve` with its notifications and its log.
"""

import asyncio
import compileall
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typelets_ws
from tests.daemon import PATIENT, configured
from tests.redis import free_port
from tests.tokens import public_pem
from tests.within import PATIENCE_S

COMMAND = str(Path(sys.executable).parent / "typelets-ws")
PACKAGE = Path(typelets_ws.__file__).parent
# sd_listen_fds(3): the pid must be the daemon's own, so the shell becomes it.
ACTIVATED = 'export LISTEN_PID=$$ LISTEN_FDS=1; exec 3<&"$0"; exec "$@"'


def toml(sections: Mapping[str, Mapping[str, object]]) -> str:
    """A configuration file; JSON's texts, numbers and lists are TOML's too."""
    lines = []
    for section, keys in sections.items():
        lines += [f"[{section}]", *(f"{k} = {json.dumps(v)}" for k, v in keys.items())]
    return "\n".join(lines) + "\n"


def settings(
    redis_url: str, database_url: str, **sections: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """The sections of a file for a daemon of the tests, on free ports."""
    made: dict[str, dict[str, Any]] = {
        "server": {"port": quiet_port(), "drain_seconds": 0.0},
        "admin": {"port": quiet_port()},
        "auth": {"jwt_key": public_pem()},
        "limits": {
            "accepts_per_second": 100_000,
            "per_address": 20_000,
            "abort_s": 0.5,
        },
        "redis": {**PATIENT["redis"], "url": redis_url, "probe_interval_s": 0.3},
        "database": {**PATIENT["database"], "url": database_url},
        "log": {"format": "json"},
    }
    for section, keys in sections.items():
        made.setdefault(section, {}).update(keys)
    configured(**made)  # refused here, not in the process
    return made


def quiet_port() -> int:
    """A free port no outgoing connection is given, so that it can be taken again."""
    return free_port()


def wait_until(condition: Callable[[], object], patience: float = PATIENCE_S) -> None:
    end = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < end, "it did not come to pass in time"
        time.sleep(0.01)


class Process:
    """One run of the command."""

    def __init__(
        self,
        command: Sequence[str],
        environ: Mapping[str, str],
        log: Path,
        notify: socket.socket | None = None,
        pass_fd: int | None = None,
    ) -> None:
        self._notify = notify
        self._log = log
        self.notes: list[tuple[float, str]] = []
        with log.open("wb") as stream:
            self._process = subprocess.Popen(
                command,
                env={**os.environ, **environ},
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                pass_fds=[] if pass_fd is None else [pass_fd],
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    @property
    def cpu_s(self) -> float:
        """CPU time so far, of a process that runs."""
        stat = Path(f"/proc/{self.pid}/stat").read_text().rpartition(") ")[2].split()
        return (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")

    @property
    def text(self) -> str:
        return self._log.read_text()

    @property
    def lines(self) -> list[dict[str, Any]]:
        """The log's lines so far; only whole ones that are JSON."""
        whole = self.text.rpartition("\n")[0].splitlines()
        return [json.loads(line) for line in whole if line.startswith("{")]

    def logged(self, event: str) -> list[dict[str, Any]]:
        return [line for line in self.lines if line["event"] == event]

    def hear(self) -> list[str]:
        """All assignments that were notified so far, in order."""
        assert self._notify is not None
        while True:
            try:
                data = self._notify.recv(65_536)
            except BlockingIOError:
                return [note for _, note in self.notes]
            now = time.monotonic()
            self.notes += [(now, line) for line in data.decode().splitlines()]

    def said(self, word: str) -> int:
        """How often an assignment that begins like this was notified."""
        return sum(note.startswith(word) for note in self.hear())

    def await_note(self, word: str, times: int = 1) -> None:
        wait_until(lambda: self.said(word) >= times or not self.running)
        assert self.said(word) >= times, self.text

    async def heard(self, word: str, times: int = 1) -> None:
        """`await_note` without standing in the loop's way."""
        await asyncio.to_thread(self.await_note, word, times)

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def wait(self, patience: float = PATIENCE_S) -> int:
        return self._process.wait(patience)

    async def ended(self, patience: float = PATIENCE_S) -> int:
        return await asyncio.to_thread(self.wait, patience)

    def kill(self) -> None:
        if self.running:
            self._process.kill()
        self._process.wait()

    def forget(self) -> None:
        """Give back the socket and the log of a run that has ended."""
        assert self._notify is not None
        self._notify.close()
        self._log.unlink()


class Supervisor:
    """systemd, as far as a service sees it."""

    def __init__(self, place: Path, sections: dict[str, dict[str, Any]]) -> None:
        self.place = place
        self.sections = sections
        self.config = place / "config.toml"
        self.socket: socket.socket | None = None
        self._processes: list[Process] = []
        self._notifies: list[socket.socket] = []
        self.write()

    @property
    def port(self) -> int:
        return int(self.sections["server"]["port"])

    @property
    def admin_port(self) -> int:
        return int(self.sections["admin"]["port"])

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/"

    def metrics_text(self) -> str:
        """The metrics as Prometheus reads them."""
        url = f"http://127.0.0.1:{self.admin_port}/metrics"
        with urllib.request.urlopen(url, timeout=PATIENCE_S) as answer:
            return str(answer.read().decode())

    def figures(self) -> dict[str, float]:
        """The metrics without labels, by name."""
        lines = self.metrics_text().splitlines()
        pairs = (line.split() for line in lines if line[0] != "#" and "{" not in line)
        return {name: float(value) for name, value, *_ in pairs}

    def write(self, **sections: Mapping[str, Any]) -> None:
        """The configuration file, with these keys changed."""
        for section, keys in sections.items():
            self.sections.setdefault(section, {}).update(keys)
        self.config.write_text(toml(self.sections))

    def listen(self) -> None:
        """Hold the port, as a .socket unit does."""
        self.socket = socket.create_server(("127.0.0.1", self.port), backlog=4096)

    def start(
        self, *program: str, options: Sequence[str] = (), **environ: str
    ) -> Process:
        """Start the service; returns at once. `program`: in place of the command."""
        number = len(self._processes)
        address = self.place / f"notify-{number}"
        notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        notify.bind(str(address))
        notify.setblocking(False)
        self._notifies.append(notify)
        arguments = ["serve", *options, "-c", str(self.config)]
        command = [*(program or [COMMAND]), *arguments]
        fd = None
        if self.socket is not None:
            fd = self.socket.fileno()
            command = ["bash", "-c", ACTIVATED, str(fd), *command]
        log = self.place / f"log-{number}"
        environ = {"NOTIFY_SOCKET": str(address), **environ}
        process = Process(command, environ, log, notify, fd)
        self._processes.append(process)
        return process

    def close(self) -> None:
        for process in self._processes:
            process.kill()
        for each in (*self._notifies, self.socket):
            if each is not None:
                each.close()


@contextmanager
def supervised(
    redis_url: str, database_url: str, **sections: Mapping[str, Any]
) -> Iterator[Supervisor]:
    """A supervisor with a configuration for these servers; nothing runs yet."""
    # As pip and the Debian package leave it. Each start would compile it where
    # PYTHONDONTWRITEBYTECODE is set: half a second of a core.
    compileall.compile_dir(PACKAGE, quiet=1)
    # Not pytest's directory: the path of a socket has 108 bytes at most.
    with tempfile.TemporaryDirectory(prefix="typelets-") as place:
        made = settings(redis_url, database_url, **sections)
        supervisor = Supervisor(Path(place), made)
        try:
            yield supervisor
        finally:
            supervisor.close()
