"""Starting, draining, and restarting under load, with the installed command."""

import asyncio
import os
import signal
import socket
import sys
import time
import urllib.error
import urllib.request
from contextlib import ExitStack

import pytest
from websockets.asyncio.client import connect

from tests.daemon import Device, eventually
from tests.e2e.crowd import crowd
from tests.e2e.supervisor import Process, Supervisor, supervised, wait_until
from tests.postgres import Database
from tests.redis import RedisServer, link_proxy
from tests.tokens import mint
from tests.within import PATIENCE_S, allowed_s, starved_s, within
from typelets_ws.daemon import HANDOVER_LINGER_S

DEVICES = 2_000
USERS = 200


def ready_status(supervisor: Supervisor) -> int:
    url = f"http://127.0.0.1:{supervisor.admin_port}/ready"
    try:
        with urllib.request.urlopen(url, timeout=PATIENCE_S) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as answer:
        return answer.code


async def test_a_restart_under_load_refuses_no_one_and_everybody_is_back(
    redis_server: RedisServer, database: Database
) -> None:
    drain_s, backoff_s = 3.0, 1.0

    with supervised(
        redis_server.url, database.url, server={"drain_seconds": drain_s}
    ) as supervisor:
        supervisor.listen()
        first = supervisor.start()
        await first.heard("READY=1")
        tokens = [mint(f"user_{n}", expires_in=600) for n in range(USERS)]
        async with crowd(supervisor.port, tokens, DEVICES, backoff_s) as devices:
            await eventually(lambda: devices.authenticated == DEVICES)
            before = starved_s()
            began = asyncio.get_running_loop().time()
            first.send(signal.SIGTERM)
            assert await first.ended() == 0, first.text
            down = asyncio.get_running_loop().time()
            second = supervisor.start()
            await second.heard("READY=1")
            up = asyncio.get_running_loop().time()
            await eventually(lambda: devices.authenticated == DEVICES)
            back = asyncio.get_running_loop().time()
            starved = starved_s() - before

            assert not devices.trouble
            assert devices.closes == {1012: DEVICES}
            assert len(devices.away) == DEVICES
            # Evenly: about as many in each quarter of the window. Without a free core
            # a quarter begins late.
            quarters = [0, 0, 0, 0]
            for moment in devices.closed_at:
                quarters[min(3, int((moment - began) / drain_s * 4))] += 1
            shown = 0.7 * max(0.0, 1 - starved / drain_s)
            assert min(quarters) >= DEVICES / 4 * shown, quarters
            # No device was away longer than the restart itself and its own backoff.
            assert back - up < allowed_s(backoff_s + 3, starved)
            longest = drain_s + (up - down) + backoff_s + 3
            assert max(devices.away) < allowed_s(longest, starved)
            # A device that waits for a core answers its Close late.
            late = DEVICES * min(1.0, starved / HANDOVER_LINGER_S)
            assert first.logged("drained")[0]["left"] <= late


async def test_ready_is_reported_after_the_first_probes_and_a_start_waits_for_them(
    redis_server: RedisServer, database: Database
) -> None:
    async with link_proxy(redis_server.port) as link:
        await link.refuse()
        with supervised(link.url, database.url) as supervisor:
            process = supervisor.start()
            await process.heard("EXTEND_TIMEOUT_USEC=", 3)
            notes = process.hear()
            assert "READY=1" not in notes
            assert any(n.startswith("STATUS=") and "redis" in n for n in notes)
            assert await asyncio.to_thread(ready_status, supervisor) == 503
            # One line for the outage, and it is served all the same.
            assert len(process.logged("redis_down")) == 1
            assert len(process.logged("listening")) == 1
            await link.heal()
            await process.heard("READY=1")
            assert await asyncio.to_thread(ready_status, supervisor) == 200
            process.send(signal.SIGTERM)
            assert await process.ended() == 0
            assert process.hear()[-1] != "READY=1"
            assert process.said("STOPPING=1") == 1


async def test_a_drain_closes_the_port_turns_readiness_red_and_feeds_the_watchdog(
    redis_server: RedisServer, database: Database
) -> None:

    with supervised(
        redis_server.url, database.url, server={"drain_seconds": 2.0}
    ) as supervisor:
        process = supervisor.start(WATCHDOG_USEC="600000")
        await process.heard("READY=1")
        async with connect(supervisor.url) as early, connect(supervisor.url) as late:
            process.send(signal.SIGTERM)
            await process.heard("STOPPING=1")
            fed = process.said("WATCHDOG=1")
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection("127.0.0.1", supervisor.port)
            assert await asyncio.to_thread(ready_status, supervisor) == 503
            await process.heard("WATCHDOG=1", fed + 3)
            for socket_ in (early, late):
                assert await Device(socket_).closed() == 1012
        assert await process.ended() == 0


def test_a_handshake_begun_before_the_drain_is_served_and_then_sent_away(
    redis_server: RedisServer, database: Database
) -> None:
    with (
        supervised(redis_server.url, database.url) as supervisor,
        socket.socket() as raw,
    ):
        process = supervisor.start()
        process.await_note("READY=1")
        raw.connect(("127.0.0.1", supervisor.port))
        raw.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n")
        # Another's answer proves that ours has been accepted.
        ready_on_port(supervisor)
        process.send(signal.SIGTERM)
        wait_until(lambda: process.logged("draining"))
        raw.sendall(
            b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        raw.settimeout(PATIENCE_S)
        answer = b""
        while chunk := raw.recv(4096):
            answer += chunk
        assert answer.startswith(b"HTTP/1.1 101")
        assert b"\x03\xf4restarting" in answer  # 1012
        raw.close()
        assert process.wait() == 0


def ready_on_port(supervisor: Supervisor) -> None:
    url = f"http://127.0.0.1:{supervisor.port}/health"
    with urllib.request.urlopen(url, timeout=PATIENCE_S) as answer:
        assert answer.status == 200


async def test_what_is_being_handled_at_the_end_is_finished_and_answered(
    redis_server: RedisServer, database: Database
) -> None:

    with supervised(redis_server.url, database.url) as supervisor:
        process = supervisor.start()
        await process.heard("READY=1")
        user = database.add_user("user_1")
        note = database.add_note(user)
        async with connect(supervisor.url) as socket_:
            device = Device(socket_)
            await device.receive()
            await device.auth(mint(user))
            with database.locked(note):
                await device.send(
                    {
                        "type": "note_update",
                        "noteId": note,
                        "changes": {"title": "last words"},
                    }
                )
                await eventually(lambda: database.waiting_for_locks() == 1)
                process.send(signal.SIGTERM)
                await eventually(lambda: bool(process.logged("draining")))
            answer = await device.receive()
            assert answer["type"] == "note_update_success"
            assert await device.closed() == 1012
        assert await process.ended() == 0
        assert database.note(note)["title"] == "last words"


async def test_a_second_signal_ends_at_once_with_0(
    redis_server: RedisServer, database: Database
) -> None:

    with supervised(
        redis_server.url,
        database.url,
        server={"drain_seconds": 60.0},
        database={"statement_timeout_ms": 20_000, "wait_ms": 20_000},
    ) as supervisor:
        process = supervisor.start()
        await process.heard("READY=1")
        user = database.add_user("user_1")
        note = database.add_note(user)
        async with connect(supervisor.url) as one, connect(supervisor.url) as two:
            device = Device(one)
            await device.receive()
            await device.auth(mint(user))
            with database.locked(note):
                change = {"type": "note_update", "noteId": note}
                await device.send({**change, "changes": {"title": "x"}})
                await eventually(lambda: database.waiting_for_locks() == 1)
                process.send(signal.SIGTERM)
                await process.heard("STOPPING=1")
                process.send(signal.SIGTERM)
                with within(1):
                    assert await process.ended() == 0, process.text
            for socket_ in (one, two):
                assert await Device(socket_).closed() == 1012


async def test_without_uvloop_the_stock_loop_serves_reloads_and_drains(
    redis_server: RedisServer, database: Database
) -> None:
    program = "import sys; sys.modules['uvloop'] = None; import typelets_ws.__main__"

    with supervised(redis_server.url, database.url) as supervisor:
        supervisor.listen()
        process = supervisor.start(sys.executable, "-c", program)
        await process.heard("READY=1")
        async with connect(supervisor.url) as socket_:
            device = Device(socket_)
            await device.receive()
            assert (await device.auth(mint("alice")))["type"] == "auth_success"
            supervisor.write(limits={"message_bytes": 10})
            process.send(signal.SIGHUP)
            await process.heard("READY=1", 2)
            assert (await device.ask({"type": "ping"}))["code"] == "MESSAGE_TOO_LARGE"
            process.send(signal.SIGTERM)
            assert await device.closed() == 1012
        assert await process.ended() == 0, process.text


async def test_a_second_signal_does_not_wait_for_a_postgres_that_says_nothing(
    redis_server: RedisServer, database: Database
) -> None:

    with supervised(
        redis_server.url,
        database.url,
        server={"drain_seconds": 60.0},
        database={"statement_timeout_ms": 20_000, "wait_ms": 20_000},
    ) as supervisor:
        process = supervisor.start()
        await process.heard("READY=1")
        user = database.add_user("user_1")
        note = database.add_note(user)
        async with connect(supervisor.url) as socket_:
            device = Device(socket_)
            await device.receive()
            await device.auth(mint(user))
            with database.locked(note), ExitStack() as stack:
                change = {"type": "note_update", "noteId": note}
                await device.send({**change, "changes": {"title": "x"}})
                await eventually(lambda: database.waiting_for_locks() == 1)
                for row in database.execute(
                    "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
                ):
                    os.kill(row["pid"], signal.SIGSTOP)
                    stack.callback(os.kill, row["pid"], signal.SIGCONT)
                process.send(signal.SIGTERM)
                await process.heard("STOPPING=1")
                process.send(signal.SIGTERM)
                with within(2):
                    assert await process.ended() == 0, process.text
            assert await device.closed() == 1012


@pytest.mark.parametrize("stuck", ["loop", "subscriber"])
def test_the_watchdog_is_not_fed_by_a_process_that_is_stuck(
    redis_server: RedisServer, database: Database, stuck: str
) -> None:
    """A stuck loop is one that does not run; a deaf subscriber one whose link is a
    black hole that takes even what reconnects.

    The probe's own timeout is long: on a busy machine a late probe would replace the
    subscriber, and one that is just connecting is not stuck."""

    def fed_within(process: Process, seconds: float) -> int:
        before = process.said("WATCHDOG=1")
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(0.05)
        return process.said("WATCHDOG=1") - before

    with supervised(
        redis_server.url,
        database.url,
        redis={"probe_interval_s": 0.1, "probe_timeout_s": 20.0},
    ) as supervisor:
        process = supervisor.start(WATCHDOG_USEC="400000")
        process.await_note("READY=1")
        process.await_note("WATCHDOG=1", 3)
        if stuck == "loop":
            process.send(signal.SIGSTOP)
            process.hear()
            assert fed_within(process, 1.0) <= 1
            process.send(signal.SIGCONT)
            process.await_note("WATCHDOG=1", process.said("WATCHDOG=1") + 2)
        else:
            with redis_server.frozen():
                wait_until(lambda: process.logged("subscriber_stuck"))
                assert fed_within(process, 1.0) == 0
            process.await_note("WATCHDOG=1", process.said("WATCHDOG=1") + 2)
        process.send(signal.SIGTERM)
        assert process.wait() == 0
