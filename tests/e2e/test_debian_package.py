"""The Debian package through an operator's day, on a machine with systemd.

Installed, configured, checked, started, reloaded with a good and a bad file, restarted,
rolled and upgraded under load while a table is migrated and a publish fails, rolled
back, removed, purged. Each step is the README's command, by systemctl and apt-get.
"""

import asyncio
import json
import os
import re
import shlex
import shutil
import socket
import statistics
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tests.daemon import eventually
from tests.e2e.crowd import crowd
from tests.e2e.machine import Machine, booted
from tests.e2e.proxies import listens, nginx
from tests.e2e.readers import EventReader, Events, assert_none_lost, publishing
from tests.e2e.supervisor import quiet_port, toml
from tests.loops import run
from tests.notes import whole_note
from tests.postgres import Database
from tests.readme import ROOT
from tests.redis import RedisServer, free_port, link_proxy
from tests.tokens import mint, public_pem
from tests.within import PATIENCE_S
from typelets_ws import __version__
from typelets_ws.publisher import AsyncPublisher

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

CONFIG = "/etc/typelets-ws/config.toml"
ENVIRONMENT = "/etc/typelets-ws/environment"
ONE = "typelets-ws.service"
DEVICES = 20
APT = "apt-get -qq -o Dpkg::Options::=--force-unsafe-io --allow-downgrades install -y"


def output(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The package, and the same as a later version."""
    for program in ("dpkg-deb", "unshare"):
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
def machine(packages: tuple[Path, Path], database: Database) -> Iterator[Machine]:
    """With the packages in /srv/packages and Postgres' socket in /srv/postgres."""
    postgres = Path(str(conninfo_to_dict(database.url)["host"]))
    # The service's user may reach the test server's socket.
    postgres.chmod(0o711)
    binds = {packages[0].parent: "/srv/packages", postgres: "/srv/postgres"}
    with booted(binds) as made:
        yield made


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
    machine: Machine,
    redis_server: RedisServer,
    database: Database,
    tmp_path: Path,
) -> None:
    first, later = (f"/srv/packages/{package.name}" for package in packages)
    port = quiet_port()
    listen = f"[Socket]\nListenStream=\nListenStream=127.0.0.1:{port}\n"
    machine.write("/etc/systemd/system/typelets-ws.socket.d/port.conf", listen)
    install(machine, first)
    configure(machine, redis_server, database)

    # One process, whose port systemd holds.
    machine.run(f"systemctl enable --now typelets-ws.socket {ONE}")
    assert "0 devices" in machine.run(f"systemctl status {ONE}")
    a_user(machine, port)
    reloads(machine)
    run(a_restart(machine, port, redis_server, database))
    machine.run(f"systemctl disable --now typelets-ws.socket {ONE}")

    # Several, each on a port of its own.
    instances = [instance_port() for _ in range(2)]
    units = " ".join(f"typelets-ws@{each}.service" for each in instances)
    machine.run(f"systemctl enable --now {units}")
    with nginx(tmp_path, [int(each) for each in instances]) as proxy:
        run(upgrade_under_load(machine, later, proxy, redis_server, database))
    for each in instances:
        status = machine.run(f"typelets-ws status --instance {each}")
        assert re.search(r"^ready +yes$", status, re.MULTILINE)
    roll_back_and_remove(machine, first, units)


def install(machine: Machine, package: str) -> None:
    """Nothing runs yet, and what to do next is printed."""
    said = machine.run(f"{APT} {package}")
    assert "typelets-ws check-config --connect" in said
    assert __version__ in machine.run("typelets-ws --version")
    assert "typelets-ws:" in machine.run("getent passwd typelets-ws")
    assert machine.run(f"stat -c '%a %U' {ENVIRONMENT}").strip() == "600 root"
    assert "nothing to check tokens with" in machine.run("typelets-ws check-config", 78)
    # A start that cannot work fails at once, says why, and is not tried again.
    machine.run(f"systemctl start {ONE}", 1)
    assert machine.run(f"systemctl is-active {ONE}", 3).strip() == "failed"
    assert "nothing to check tokens with" in machine.journal(ONE)
    machine.run(f"systemctl reset-failed {ONE}")


def configure(machine: Machine, redis_server: RedisServer, database: Database) -> None:
    """The commands find both files by themselves."""
    config: dict[str, dict[str, object]] = {
        "server": {"drain_seconds": -1.0},
        "admin": {"port": quiet_port()},
        "recovery": {"quiet_s": 0.3},
    }
    machine.write(CONFIG, toml(config))
    user = conninfo_to_dict(database.url_as("typelets_ws"))["user"]
    key = public_pem().replace("\n", "\\n")
    machine.write(
        ENVIRONMENT,
        f"DATABASE_URL='postgresql:///postgres?host=/srv/postgres&user={user}'\n"
        f"REDIS_URL={redis_server.url}\nCLERK_JWT_KEY='{key}'\n",
    )
    checked = machine.run("typelets-ws check-config --connect")
    assert re.findall(r"^ok +(\w+):", checked, re.MULTILINE) == [
        "database",
        "redis",
        "keys",
    ]
    assert "no answer from" in machine.run("typelets-ws status", 1)


def a_user(machine: Machine, port: int) -> None:
    """A publication, a status, and a disconnection."""
    user = "alice"
    deleted = '{"noteId": "00000000-0000-4000-8000-000000000001"}'
    publish = f"typelets-ws publish --user {user} note_deleted {shlex.quote(deleted)}"
    assert "no process heard it" in machine.run(publish, 1)
    with connect(f"ws://127.0.0.1:{port}/", compression=None) as device:
        device.recv(PATIENCE_S)
        device.send(json.dumps({"type": "auth", "token": mint(user)}))
        assert json.loads(device.recv(PATIENCE_S))["type"] == "auth_success"
        assert "1 process(es) heard it" in machine.run(publish)
        while json.loads(device.recv(PATIENCE_S))["type"] != "note_deleted_sync":
            pass
        assert "1 connection(s)" in machine.run(f"typelets-ws status --user {user}")
        machine.run(f"typelets-ws disconnect --user {user}")
        with suppress(ConnectionClosed):
            while True:
                device.recv(PATIENCE_S)
        assert device.close_code == 4401


def reloads(machine: Machine) -> None:
    """A good file is taken; a bad one makes `systemctl reload` fail, and is not."""
    machine.run(f"printf '[limits]\\nrate_messages = 290\\n' >> {CONFIG}")
    machine.run(f"systemctl reload {ONE}")
    # systemd does not wait for what a process does with its SIGHUP.
    run(eventually(lambda: '"event": "reloaded"' in machine.journal(ONE)))
    machine.run(f"echo 'rate_messages_typo = 1' >> {CONFIG}")
    machine.run(f"systemctl reload {ONE}", 1)
    assert "rate_messages_typo: unknown key" in machine.journal(ONE)
    assert "Active: active (running)" in machine.run(f"systemctl status {ONE}")
    machine.run(f"sed -i /typo/d {CONFIG}; systemctl reload {ONE}")


async def a_restart(
    machine: Machine, port: int, redis_server: RedisServer, database: Database
) -> None:
    """No device is refused and no event is lost; prints how long devices were away."""
    users = [database.add_user(f"user_{number}") for number in range(5)]
    tokens = [mint(user, expires_in=600) for user in users]
    async with crowd(port, tokens, DEVICES, 0, EventReader) as devices:
        await eventually(lambda: devices.authenticated == DEVICES)
        async with publishing(users, redis_server.url, database.url) as events:
            began = time.monotonic()
            await asyncio.to_thread(machine.run, f"systemctl restart {ONE}")
            took = time.monotonic() - began
            await eventually(lambda: devices.authenticated == DEVICES)
        await assert_none_lost(devices, events)
        away = statistics.median(devices.away)
        print(f"systemctl restart took {took:.2f} s, devices were away {away:.2f} s")
        assert not devices.trouble, devices.trouble
        assert devices.closes == {1012: DEVICES}


def instance_port() -> str:
    """A port of four digits, free as that of the metrics is."""
    while True:
        instance = free_port() - 10_000
        if 2_000 <= instance <= 9_999:
            with suppress(OSError):
                socket.create_server(("127.0.0.1", instance)).close()
                return str(instance)


async def upgrade_under_load(
    machine: Machine,
    package: str,
    proxy: int,
    redis_server: RedisServer,
    database: Database,
) -> None:
    """The package restarts both processes, one after the other. Then a table is
    migrated and a publish fails. No device is refused, and each ends with all rows."""
    users = [database.add_user(f"roller_{number}") for number in range(5)]
    tokens = [mint(user, expires_in=600) for user in users]
    await eventually(lambda: listens(proxy))
    # Shorter than by default: two drains of 20 s prove no more.
    await asyncio.to_thread(
        machine.run,
        f"sed -i 's/drain_seconds = .*/drain_seconds = 1.0/' {CONFIG}; "
        "systemctl reload 'typelets-ws@*.service'",
    )
    async with crowd(proxy, tokens, DEVICES, 0, EventReader) as devices:
        await eventually(lambda: devices.authenticated == DEVICES)
        async with publishing(users, redis_server.url, database.url) as events:
            await asyncio.to_thread(machine.run, f"{APT} {package}")
            await eventually(lambda: devices.authenticated == DEVICES)
            assert len(devices.away) >= DEVICES
            await asyncio.to_thread(migrate, database)
            migrated = events.count
            await eventually(lambda: events.count > migrated + 25)
            await fail_a_publish(redis_server, database, users[0], events)
        await assert_none_lost(devices, events)
        assert not devices.trouble, devices.trouble
        assert set(devices.closes) == {1012}


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


def roll_back_and_remove(machine: Machine, first: str, units: str) -> None:
    """Settings outlive an upgrade, a step back and a removal; purge leaves nothing."""
    assert "+later" in machine.run("dpkg-query -W typelets-ws")
    assert "quiet_s" in machine.run(f"cat {CONFIG}")
    machine.run("typelets-ws check-config --connect --quiet")
    machine.run(f"{APT} {first}")
    assert "+later" not in machine.run("dpkg-query -W typelets-ws")
    machine.run("test ! -e /opt/typelets-ws/later")
    machine.run(f"systemctl is-active {units}")

    machine.run("apt-get -qq remove -y typelets-ws")
    assert "active" not in machine.run(f"systemctl is-active {units}", 3).split()
    machine.run("test ! -e /opt/typelets-ws && test ! -e /usr/bin/typelets-ws")
    assert "quiet_s" in machine.run(f"cat {CONFIG}")
    machine.run("apt-get -qq purge -y typelets-ws")
    machine.run("test ! -e /etc/typelets-ws")
    machine.run("getent passwd typelets-ws", 2)
