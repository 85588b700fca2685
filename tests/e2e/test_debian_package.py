"""The Debian package through an operator's day, in a copy of this system: installed,
configured, checked, started, reloaded, upgraded, removed, purged.

The copy is an overlay over the root of this machine, entered by chroot: what the
package does to /etc, /opt and the users stays there. Nothing of it runs under systemd,
so the units' commands are run by hand, as the user they name.
"""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tests.e2e.supervisor import quiet_port, wait_until
from tests.postgres import Database
from tests.readme import ROOT
from tests.redis import RedisServer
from tests.tokens import mint, public_pem
from typelets_ws import __version__

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

CONFIG = "/etc/typelets-ws/config.toml"
ENVIRONMENT = "/etc/typelets-ws/environment"
AS_SERVICE = "setpriv --reuid=typelets-ws --regid=typelets-ws --clear-groups"


def output(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@dataclass
class System:
    """A copy of this system; what is written stays in `place`."""

    place: Path

    def command(self, line: str) -> list[str]:
        """A command that runs `line` in the copy, in place of itself."""
        root = self.place / "root"
        lower, upper = "lowerdir=/", f"upperdir={self.place}/upper"
        options = f"{lower},{upper},workdir={self.place}/work"
        script = (
            f"mount -t overlay overlay -o {options} {root} && "
            f"mount -t proc proc {root}/proc && mount --bind /dev {root}/dev && "
            # An overlay shows a socket of the lower system, and does not reach it.
            f"mount --bind /tmp {root}/tmp && "
            f"exec chroot {root} bash -c {shlex.quote('exec ' + line)}"
        )
        return ["unshare", "--mount", "bash", "-c", script]

    def run(self, line: str, code: int = 0) -> str:
        """Run a shell line; returns what it said on both streams."""
        done = subprocess.run(
            self.command(f"bash -c {shlex.quote(line)}"),
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == code, done.stdout
        return done.stdout

    def write(self, path: str, text: str) -> None:
        (self.place / "text").write_text(text)
        self.run(f"cat {self.place}/text > {path}")


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The package, and the same as a later version."""
    for program in ("dpkg-deb", "unshare", "setpriv"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed: this is for Debian")
    place = tmp_path_factory.mktemp("packages")
    environ = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    subprocess.run([ROOT / "scripts" / "package", place], env=environ, check=True)
    (first,) = place.glob("*.deb")
    tree = place / "tree"
    output("dpkg-deb", "-R", first, tree)
    control = tree / "DEBIAN" / "control"
    text = control.read_text()
    version = re.search(r"^Version: (.*)$", text, re.MULTILINE)
    assert version
    later = f"{version[1]}+later"
    control.write_text(text.replace(f"Version: {version[1]}", f"Version: {later}"))
    (tree / "opt" / "typelets-ws" / "later").write_text("")
    second = place / "later.deb"
    output("dpkg-deb", "--root-owner-group", "-b", tree, second)
    return first, second


@pytest.fixture
def system(packages: tuple[Path, Path], tmp_path: Path) -> Iterator[System]:
    if os.geteuid() != 0:
        pytest.skip("only root can make a copy of the system")
    for name in ("upper", "work", "root"):
        (tmp_path / name).mkdir()
    made = System(tmp_path)
    probe = subprocess.run(made.command("true"), capture_output=True, check=False)
    if probe.returncode:
        pytest.skip(f"no overlay can be mounted here: {probe.stderr.decode()[:200]}")
    yield made
    shutil.rmtree(tmp_path, ignore_errors=True)


def test_the_package_holds_what_it_should(packages: tuple[Path, Path]) -> None:
    first, _ = packages
    architecture = output("dpkg", "--print-architecture").strip()
    assert first.name == f"typelets-ws_{__version__}_{architecture}.deb"
    listed = output("dpkg-deb", "-c", first)
    for path in (
        "./lib/systemd/system/typelets-ws.service",
        "./lib/systemd/system/typelets-ws.socket",
        "./lib/systemd/system/typelets-ws@.service",
        "./etc/typelets-ws/config.example.toml",
        "./usr/bin/typelets-ws -> /opt/typelets-ws/bin/typelets-ws",
        "./usr/share/doc/typelets-ws/copyright",
    ):
        assert path in listed, path
    assert "/pip/" not in listed
    assert "root/root" in listed.splitlines()[0]
    assert str(ROOT) not in listed


def test_an_operators_day(
    packages: tuple[Path, Path],
    system: System,
    redis_server: RedisServer,
    database: Database,
) -> None:
    first, later = packages
    port, admin = quiet_port(), quiet_port()
    # The service's user may reach the test server's socket.
    Path(str(conninfo_to_dict(database.url)["host"])).chmod(0o711)

    # Install: nothing runs yet, and what to do next is printed.
    said = system.run(f"dpkg -i {first}")
    assert "typelets-ws check-config --connect" in said
    assert __version__ in system.run("typelets-ws --version")
    assert "typelets-ws:" in system.run("getent passwd typelets-ws")
    assert system.run(f"stat -c '%a %U' {ENVIRONMENT}").strip() == "600 root"
    assert "nothing to check tokens with" in system.run("typelets-ws check-config", 78)

    # Configure: the commands find both files by themselves.
    system.write(CONFIG, f"[server]\nport = {port}\n[admin]\nport = {admin}\n")
    key = public_pem().replace("\n", "\\n")
    system.write(
        ENVIRONMENT,
        f"DATABASE_URL='{database.url_as('typelets_ws')}'\n"
        f"REDIS_URL={redis_server.url}\nCLERK_JWT_KEY='{key}'\n",
    )
    checked = system.run("typelets-ws check-config --connect")
    assert re.findall(r"^ok +(\w+):", checked, re.MULTILINE) == [
        "database",
        "redis",
        "keys",
    ]
    assert "no answer from" in system.run("typelets-ws status", 1)

    # Start, as the unit does: variables from the file, then the user's rights alone.
    environment = f"set -a; . {ENVIRONMENT}; set +a"
    service = system.run("grep ^ExecStart= /lib/systemd/system/typelets-ws.service")
    start = service.strip().partition("=")[2]
    log = system.place / "log"
    with log.open("wb") as stream:
        daemon = subprocess.Popen(
            system.command(
                f"bash -c {shlex.quote(f'{environment}; exec {AS_SERVICE} {start}')}"
            ),
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
            stdout=stream,
            stderr=stream,
        )
    try:
        wait_until_ready(admin, log)
        day_of(system, daemon, port, log)
    finally:
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(30) == 0, log.read_text()

    # Upgrade and roll back: the settings stay.
    system.run(f"dpkg -i {later}")
    assert "+later" in system.run("dpkg-query -W typelets-ws")
    assert f"port = {port}" in system.run(f"cat {CONFIG}")
    system.run("typelets-ws check-config --connect --quiet")
    system.run(f"dpkg -i {first}")
    assert "+later" not in system.run("dpkg-query -W typelets-ws")
    system.run("test ! -e /opt/typelets-ws/later")

    # Remove: settings stay. Purge: nothing stays.
    system.run("dpkg -r typelets-ws")
    system.run("test ! -e /opt/typelets-ws && test ! -e /usr/bin/typelets-ws")
    assert f"port = {port}" in system.run(f"cat {CONFIG}")
    system.run("dpkg -P typelets-ws")
    system.run("test ! -e /etc/typelets-ws")
    system.run("getent passwd typelets-ws", 2)


def wait_until_ready(admin: int, log: Path) -> None:
    def ready() -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{admin}/ready") as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    try:
        wait_until(ready, 30)
    except AssertionError:
        pytest.fail(log.read_text())


def day_of(
    system: System, daemon: "subprocess.Popen[bytes]", port: int, log: Path
) -> None:
    """A user, a status, a publication, a good reload and a bad one."""
    user = "alice"
    deleted = '{"noteId": "00000000-0000-4000-8000-000000000001"}'
    publish = f"typelets-ws publish --user {user} note_deleted {shlex.quote(deleted)}"
    assert "no process heard it" in system.run(publish, 1)
    with connect(f"ws://127.0.0.1:{port}/", compression=None) as device:
        device.recv(5)
        device.send(json.dumps({"type": "auth", "token": mint(user)}))
        assert json.loads(device.recv(5))["type"] == "auth_success"
        assert "1 process(es) heard it" in system.run(publish)
        while json.loads(device.recv(5))["type"] != "note_deleted_sync":
            pass
        assert "1 connection(s)" in system.run(f"typelets-ws status --user {user}")

        system.run(f"echo '[limits]' >> {CONFIG}; echo 'rate_messages = 7' >> {CONFIG}")
        reload(daemon, log, "reloaded")
        system.run(f"echo 'rate_messages_typo = 1' >> {CONFIG}")
        # The unit runs the check first, so that `systemctl reload` fails.
        assert "unknown key" in system.run("typelets-ws check-config --quiet", 78)
        reload(daemon, log, "reload_refused")
        device.send(json.dumps({"type": "ping"}))
        while json.loads(device.recv(5))["type"] != "pong":
            pass
        system.run(f"sed -i /typo/d {CONFIG}")
        system.run(f"typelets-ws disconnect --user {user}")
        with suppress(ConnectionClosed):
            while True:
                device.recv(5)
        assert device.close_code == 4401


def reload(daemon: "subprocess.Popen[bytes]", log: Path, event: str) -> None:
    daemon.send_signal(signal.SIGHUP)
    wait_until(lambda: f'"event": "{event}"' in log.read_text())
