"""Restarts as the shipped units do them: how long a device is away, and that no
device is refused and no change is lost. The commands and variables are the units'."""

import asyncio
import configparser
import os
import shlex
import shutil
import signal
import statistics
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path

import pytest

from tests.daemon import eventually
from tests.e2e.crowd import Crowd, crowd
from tests.e2e.supervisor import COMMAND, Process, Supervisor, quiet_port, supervised
from tests.postgres import Database
from tests.readme import blocks
from tests.redis import RedisServer
from tests.tokens import mint

UNITS = Path(__file__).parents[2] / "systemd"
DEVICES = 500
MEDIAN_S, P99_S = 2.0, 5.0


def before_start(unit: str, supervisor: Supervisor, port: int) -> list[list[str]]:
    """The commands systemd runs before ExecStart, for this daemon."""
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(UNITS / unit)
    line = parser["Service"].get("ExecStartPre", "")
    line = line.replace("/opt/typelets-ws/bin/typelets-ws", COMMAND)
    line = line.replace("/etc/typelets-ws/config.toml", str(supervisor.config))
    line = line.replace("--instance %i", "").replace("%i", str(port))
    return [shlex.split(line)] if line else []


async def restart(unit: str, supervisor: Supervisor, process: Process) -> Process:
    """`systemctl restart`: stop, the commands before the start, start, ready."""
    process.send(signal.SIGTERM)
    assert await process.ended() == 0, process.text
    for command in before_start(unit, supervisor, supervisor.port):
        done = await asyncio.to_thread(subprocess.run, command, capture_output=True)
        assert done.returncode == 0, done.stderr
    following = supervisor.start()
    await following.heard("READY=1")
    return following


def assert_short(devices: Crowd, start_s: float = 0.0) -> None:
    """`start_s`: what Python took to start on this machine, beyond 1 s."""
    away = sorted(max(0.0, each - start_s) for each in devices.away)
    shown = f"median {statistics.median(away):.2f} s, most {away[-1]:.2f} s"
    print(f"{len(away)} devices away: {shown}")
    assert not devices.trouble, devices.trouble
    assert set(devices.closes) == {1012}, devices.closes
    assert statistics.median(away) < MEDIAN_S, shown
    assert away[len(away) * 99 // 100] < P99_S, shown


async def test_one_process_whose_port_systemd_holds(
    redis_server: RedisServer, database: Database
) -> None:
    with supervised(redis_server.url, database.url) as supervisor:
        supervisor.write(server={"drain_seconds": -1.0}, limits={"abort_s": 2.0})
        supervisor.listen()
        process = supervisor.start()
        await process.heard("READY=1")
        tokens = [mint(f"user_{n}", expires_in=600) for n in range(100)]
        async with crowd(supervisor.port, tokens, DEVICES, backoff=0) as devices:
            await eventually(lambda: devices.authenticated == DEVICES, 20)
            following = await restart("typelets-ws.service", supervisor, process)
            await eventually(lambda: devices.authenticated == DEVICES, 20)
            assert len(devices.away) == DEVICES
            ended, listens = (
                datetime.fromisoformat(each.logged(event)[0]["timestamp"])
                for each, event in ((process, "stopped"), (following, "listening"))
            )
            start_s = (listens - ended).total_seconds()
            # Tests share their cores: a start then takes what it does not alone.
            assert_short(devices, max(0.0, start_s - 1.0))


NGINX = """
daemon off;
pid {place}/nginx.pid;
error_log {place}/error.log;
worker_processes 1;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  client_body_temp_path {place}/body;
  proxy_temp_path {place}/proxy;
  fastcgi_temp_path {place}/fastcgi;
  uwsgi_temp_path {place}/uwsgi;
  scgi_temp_path {place}/scgi;
{site}
}}
"""


@contextmanager
def nginx_of_the_readme(place: Path, ports: list[int]) -> Iterator[int]:
    """The README's nginx configuration, without TLS, in front of these ports."""
    program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        if "CI" in os.environ:
            pytest.fail("nginx is not installed")
        pytest.skip("nginx is not installed")
    (site,) = (block.text for block in blocks() if block.language == "nginx")
    port = quiet_port()
    for ours, theirs in zip(("8771", "8772"), ports, strict=True):
        assert f"server 127.0.0.1:{ours}" in site
        site = site.replace(f"127.0.0.1:{ours}", f"127.0.0.1:{theirs}")
    lines = [line for line in site.splitlines() if "ssl_" not in line]
    site = "\n".join(lines).replace("listen 443 ssl", f"listen 127.0.0.1:{port}")
    config = place / "nginx.conf"
    config.write_text(NGINX.format(place=place, site=site))
    process = subprocess.Popen([program, "-c", config, "-p", place])
    try:
        yield port
    finally:
        process.send_signal(signal.SIGQUIT)
        process.terminate()
        process.wait(10)


async def test_two_processes_behind_nginx_restarted_one_after_the_other(
    redis_server: RedisServer, database: Database, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        pair = [
            stack.enter_context(supervised(redis_server.url, database.url))
            for _ in range(2)
        ]
        for supervisor in pair:
            supervisor.write(server={"drain_seconds": 2.0})
        processes = [supervisor.start() for supervisor in pair]
        for process in processes:
            await process.heard("READY=1")
        ports = [supervisor.port for supervisor in pair]
        port = stack.enter_context(nginx_of_the_readme(tmp_path, ports))
        await eventually(lambda: _listens(port))
        tokens = [mint(f"user_{n}", expires_in=600) for n in range(100)]
        async with crowd(port, tokens, DEVICES, backoff=0) as devices:
            await eventually(lambda: devices.authenticated == DEVICES, 20)
            for supervisor, process in zip(pair, processes, strict=True):
                await restart("typelets-ws@.service", supervisor, process)
                await eventually(lambda: devices.authenticated == DEVICES, 20)
            assert len(devices.away) >= DEVICES
            assert_short(devices)


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True
