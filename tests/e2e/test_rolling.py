"""Restarts as the shipped units do them: how long a device is away, that no device is
refused, and that no change is lost. The commands and variables are the units'."""

import signal
import statistics
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, asynccontextmanager
from pathlib import Path

import pytest

from tests.daemon import eventually
from tests.e2e.crowd import Crowd, crowd
from tests.e2e.proxies import caddy, haproxy, listens, nginx
from tests.e2e.readers import EventReader, assert_none_lost, publishing
from tests.e2e.supervisor import Process, Supervisor, supervised
from tests.postgres import Database
from tests.redis import RedisServer
from tests.tokens import mint
from tests.within import allowed_s, starved_s

pytestmark = pytest.mark.timeout(300)

DEVICES, USERS = 200, 50
MEDIAN_S, P99_S = 2.0, 5.0
RECOVERY = {"enabled": True, "quiet_s": 0.3, "audit_s": 600.0}
"""The audit finds a lost event by itself, but not within the test."""


async def restart(
    supervisor: Supervisor, process: Process
) -> tuple[Process, Callable[[], float]]:
    """`systemctl restart`: stop, then start as the unit does.

    Returns the new process, and a function: for how many seconds it did not run until
    now. Tests share their cores.
    """
    process.send(signal.SIGTERM)
    assert await process.ended() == 0, process.text
    began = time.monotonic()
    following = supervisor.start(options=["--check"])

    def waited() -> float:
        return max(0.0, time.monotonic() - began - following.cpu_s)

    return following, waited


def assert_short(
    devices: Crowd, *, waited_s: float = 0.0, starved: float = 0.0
) -> None:
    """Where the programs waited for a core, so did the devices.

    `starved`: for how long some task of the machine waited, where it is not known
    which.
    """
    away = sorted(max(0.0, each - waited_s) for each in devices.away)
    median, most = statistics.median(away), away[-1]
    shown = (
        f"median {median:.2f} s, most {most:.2f} s, less {waited_s:.2f} s of waiting"
    )
    print(f"{len(away)} devices away: {shown}")
    assert not devices.trouble, devices.trouble
    assert set(devices.closes) == {1012}, devices.closes
    assert median < allowed_s(MEDIAN_S, starved), shown
    assert away[len(away) * 99 // 100] < allowed_s(P99_S, starved), shown


@asynccontextmanager
async def readers(
    port: int, redis_server: RedisServer, database: Database
) -> AsyncIterator[Crowd]:
    """Devices that read events which are published meanwhile; each ends with all."""
    users = [database.add_user(f"user_{number}") for number in range(USERS)]
    tokens = [mint(user, expires_in=600) for user in users]
    async with crowd(port, tokens, DEVICES, 0, EventReader) as devices:
        await eventually(lambda: devices.authenticated == DEVICES)
        async with publishing(users, redis_server.url, database.url) as events:
            await eventually(lambda: events.count > USERS // 2)
            yield devices
            count = events.count
            await eventually(lambda: events.count > count + USERS // 2)
        await assert_none_lost(devices, events)


async def test_one_process_whose_port_systemd_holds(
    redis_server: RedisServer, database: Database
) -> None:
    with supervised(redis_server.url, database.url, recovery=RECOVERY) as supervisor:
        supervisor.write(server={"drain_seconds": -1.0}, limits={"abort_s": 2.0})
        supervisor.listen()
        process = supervisor.start()
        await process.heard("READY=1")
        async with readers(supervisor.port, redis_server, database) as devices:
            process, waited = await restart(supervisor, process)
            await eventually(lambda: len(devices.away) == DEVICES)
            waited_s = waited()
            await process.heard("READY=1")
            assert_short(devices, waited_s=waited_s)


@pytest.mark.parametrize("proxy", [nginx, caddy, haproxy])
async def test_two_processes_behind_a_proxy_restarted_one_after_the_other(
    proxy: Callable[[Path, Sequence[int]], AbstractContextManager[int]],
    redis_server: RedisServer,
    database: Database,
    tmp_path: Path,
) -> None:
    with ExitStack() as stack:
        pair = [
            stack.enter_context(
                supervised(
                    redis_server.url,
                    database.url,
                    recovery=RECOVERY,
                    server={"drain_seconds": 1.5, "trusted_proxies": ["127.0.0.1"]},
                )
            )
            for _ in range(2)
        ]
        processes = [supervisor.start() for supervisor in pair]
        for process in processes:
            await process.heard("READY=1")
        ports = [supervisor.port for supervisor in pair]
        port = stack.enter_context(proxy(tmp_path, ports))
        await eventually(lambda: listens(port))
        async with readers(port, redis_server, database) as devices:
            before = starved_s()
            for supervisor, process in zip(pair, processes, strict=True):
                following, _ = await restart(supervisor, process)
                await following.heard("READY=1")
                await eventually(lambda: devices.authenticated == DEVICES)
            assert len(devices.away) >= DEVICES
            assert_short(devices, starved=starved_s() - before)
