"""The Debian package through an operator's day, in a copy of this system: installed,
configured, checked, started, reloaded, rolled and upgraded under load while a table is
migrated and a publish fails, rolled back, removed, purged.

The copy is an overlay over the root of this machine, entered by chroot: what the
package does to /etc, /opt and the users stays there. Nothing of it runs under systemd,
so the units' commands are run by hand, as the user they name.
"""

import asyncio
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tests.daemon import eventually, run
from tests.e2e.crowd import crowd
from tests.e2e.proxies import listens, nginx
from tests.e2e.readers import Events, Reader, assert_none_lost, publishing
from tests.e2e.supervisor import quiet_port, toml, wait_until
from tests.notes import whole_note
from tests.postgres import Database
from tests.readme import ROOT
from tests.redis import CHANCE, RedisServer, link_proxy
from tests.tokens import mint, public_pem
from typelets_ws import __version__
from typelets_ws.publisher import AsyncPublisher

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

CONFIG = "/etc/typelets-ws/config.toml"
ENVIRONMENT = "/etc/typelets-ws/environment"
FAST = "--force-unsafe-io"
"""dpkg does not wait for the disk."""
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
    output("dpkg-deb", "--root-owner-group", "-Znone", "-b", tree, second)
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


class Service:
    """A unit's process in the copy: its ExecStart, as the unit's user and environment.

    systemd reads the variables of the file as root, and then gives up all rights.
    """

    def __init__(self, system: System, unit: str, instance: str = "") -> None:
        self.system = system
        path = f"/lib/systemd/system/{unit}"
        self._unit = system.run(f"cat {path}").replace("%i", instance)
        self.log = system.place / f"{unit}-{instance}-{time.monotonic_ns()}.log"
        found = re.search(r"^Environment=(.*)$", self._unit, re.MULTILINE)
        self._environment = f"set -a; {found[1] if found else ''}; . {ENVIRONMENT}"
        self.process = self.start()

    def lines(self, key: str) -> list[str]:
        return re.findall(rf"^{key}=(.*)$", self._unit, re.MULTILINE)

    def start(self) -> "subprocess.Popen[bytes]":
        for line in self.lines("ExecStartPre"):
            self.system.run(f"{self._environment}; {line}")
        (line,) = self.lines("ExecStart")
        script = f"{self._environment}; exec {AS_SERVICE} {line}"
        with self.log.open("ab") as stream:
            return subprocess.Popen(
                self.system.command(f"bash -c {shlex.quote(script)}"),
                env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
                stdout=stream,
                stderr=stream,
            )

    def reload(self, event: str) -> None:
        self.process.send_signal(signal.SIGHUP)
        wait_until(lambda: f'"event": "{event}"' in self.log.read_text())

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(30) == 0, self.log.read_text()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def wait_until_ready(self, admin: int) -> None:
        def ready() -> bool:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{admin}/ready") as found:
                    return bool(found.status == 200)
            except OSError:
                return False

        try:
            wait_until(ready, 30)
        except AssertionError:
            pytest.fail(self.log.read_text())


def test_an_operators_day(
    packages: tuple[Path, Path],
    system: System,
    redis_server: RedisServer,
    database: Database,
    tmp_path: Path,
) -> None:
    first, later = packages
    # The service's user may reach the test server's socket.
    Path(str(conninfo_to_dict(database.url)["host"])).chmod(0o711)
    install(system, first)
    port, admin = configure(system, redis_server, database)

    service = Service(system, "typelets-ws.service")
    try:
        service.wait_until_ready(admin)
        day_of(system, service, port)
        service.stop()
    finally:
        service.kill()

    instances = [instance_port() for _ in range(2)]
    pair = [Service(system, "typelets-ws@.service", each) for each in instances]
    try:
        for each, instance in zip(pair, instances, strict=True):
            each.wait_until_ready(10_000 + int(instance))
        with nginx(tmp_path, [int(each) for each in instances]) as proxy:
            run(upgrade_under_load(system, later, pair, proxy, redis_server, database))
        for each, instance in zip(pair, instances, strict=True):
            assert "authenticated" in system.run(
                f"typelets-ws status --instance {instance}"
            )
            each.stop()
    finally:
        for each in pair:
            each.kill()

    roll_back_and_remove(system, first, port)


def install(system: System, package: Path) -> None:
    """Nothing runs yet, and what to do next is printed."""
    said = system.run(f"dpkg {FAST} -i {package}")
    assert "typelets-ws check-config --connect" in said
    assert __version__ in system.run("typelets-ws --version")
    assert "typelets-ws:" in system.run("getent passwd typelets-ws")
    assert system.run(f"stat -c '%a %U' {ENVIRONMENT}").strip() == "600 root"
    assert "nothing to check tokens with" in system.run("typelets-ws check-config", 78)


def configure(
    system: System, redis_server: RedisServer, database: Database
) -> tuple[int, int]:
    """The commands find both files by themselves. Returns both ports."""
    port, admin = quiet_port(), quiet_port()
    config: dict[str, dict[str, object]] = {
        "server": {"port": port, "drain_seconds": 1.0},
        "admin": {"port": admin},
        "recovery": {"quiet_s": 0.3},
    }
    system.write(CONFIG, toml(config))
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
    return port, admin


def day_of(system: System, service: Service, port: int) -> None:
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

        system.run(
            f"echo '[limits]' >> {CONFIG}; echo 'rate_messages = 290' >> {CONFIG}"
        )
        service.reload("reloaded")
        system.run(f"echo 'rate_messages_typo = 1' >> {CONFIG}")
        # The unit runs the check first, so that `systemctl reload` fails.
        assert "unknown key" in system.run("typelets-ws check-config --quiet", 78)
        service.reload("reload_refused")
        device.send(json.dumps({"type": "ping"}))
        while json.loads(device.recv(5))["type"] != "pong":
            pass
        system.run(f"sed -i /typo/d {CONFIG}")
        system.run(f"typelets-ws disconnect --user {user}")
        with suppress(ConnectionClosed):
            while True:
                device.recv(5)
        assert device.close_code == 4401


def instance_port() -> str:
    """A port of four digits, free as that of the metrics is."""
    while True:
        instance = CHANCE.randrange(2_000, 9_999)
        try:
            for port in (instance, 10_000 + instance):
                socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        return str(instance)


async def upgrade_under_load(
    system: System,
    package: Path,
    pair: list[Service],
    proxy: int,
    redis_server: RedisServer,
    database: Database,
) -> None:
    """Both processes are upgraded, a table is migrated and a publish fails, while
    events are published. No device is refused, and each ends with all rows."""
    users = [database.add_user(f"user_{number}") for number in range(5)]
    tokens = [mint(user, expires_in=600) for user in users]
    await eventually(lambda: listens(proxy))
    async with crowd(proxy, tokens, 20, 0, Reader) as devices:
        await eventually(lambda: devices.authenticated == 20, 20)
        async with publishing(users, redis_server.url, database.url) as events:
            await asyncio.to_thread(system.run, f"dpkg {FAST} -i {package}")
            for each in pair:
                await asyncio.to_thread(each.stop)
                each.process = await asyncio.to_thread(each.start)
                await eventually(lambda: devices.authenticated == 20, 20)
            await asyncio.to_thread(migrate, database)
            migrated = events.count
            await eventually(lambda: events.count > migrated + 25)
            await fail_a_publish(redis_server, database, users[0], events)
        await assert_none_lost(devices, events)
        assert not devices.trouble, devices.trouble
        assert set(devices.closes) == {1012}
        assert len(devices.away) >= 20


def migrate(database: Database) -> None:
    """A migration of the REST service, and back: the statements' results change."""
    for kind in ("varchar(500)", "text"):
        database.execute(f"ALTER TABLE notes ALTER COLUMN title TYPE {kind}")


async def fail_a_publish(
    redis_server: RedisServer, database: Database, user: str, events: Events
) -> None:
    """The request does not fail, and the devices get the row when Redis is back."""
    async with link_proxy(redis_server.port) as link, AsyncPublisher(link.url) as rest:
        await link.refuse()
        note = database.add_note(user, title="unpublished")
        events.of[user].add("unpublished")
        row = whole_note(user, id=note, title="unpublished")
        assert await rest.notify_note_created(user, row) == 0
        assert rest.failures == 1
        await link.heal()
        await eventually(lambda: rest.pending == 0)


def roll_back_and_remove(system: System, first: Path, port: int) -> None:
    """Settings outlive an upgrade, a step back and a removal; purge leaves nothing."""
    assert "+later" in system.run("dpkg-query -W typelets-ws")
    assert f"port = {port}" in system.run(f"cat {CONFIG}")
    system.run("typelets-ws check-config --connect --quiet")
    system.run(f"dpkg {FAST} -i {first}")
    assert "+later" not in system.run("dpkg-query -W typelets-ws")
    system.run("test ! -e /opt/typelets-ws/later")

    system.run("dpkg -r typelets-ws")
    system.run("test ! -e /opt/typelets-ws && test ! -e /usr/bin/typelets-ws")
    assert f"port = {port}" in system.run(f"cat {CONFIG}")
    system.run("dpkg -P typelets-ws")
    system.run("test ! -e /etc/typelets-ws")
    system.run("getent passwd typelets-ws", 2)
