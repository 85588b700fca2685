"""The Redis of `dev`, both kinds of it: with a whole daemon on top."""

import socket
import uuid
from contextlib import ExitStack
from pathlib import Path

import pytest
import redis

from tests.daemon import daemon, publish
from tests.postgres import Database
from tests.redis import TIMEOUTS
from typelets_ws.dev.redis import RedisServer, RedisServerError

KINDS = ["redis-server", "fakeredis"]


@pytest.fixture(params=KINDS)
def kind(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> str:
    """With fakeredis, nothing is installed on this machine."""
    if request.param == "fakeredis":
        monkeypatch.setenv("PATH", str(tmp_path))
    return str(request.param)


def test_it_answers_on_loopback_and_ends(kind: str) -> None:
    with RedisServer() as server:
        assert server.kind == kind
        assert server.url == f"redis://127.0.0.1:{server.port}/0"
        with redis.Redis.from_url(server.url, **TIMEOUTS) as link:
            assert link.set("key", "value")
            assert link.get("key") == b"value"
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", server.port), 1)


def test_it_can_be_stopped_and_started_on_the_same_port(kind: str) -> None:
    with RedisServer() as server, redis.Redis.from_url(server.url, **TIMEOUTS) as link:
        link.set("key", "value")
        server.stop()
        server.stop()
        with pytest.raises(redis.ConnectionError):
            link.ping()
        server.start()
        server.start()
        assert link.get("key") is None


def test_its_port_is_given_to_nobody_while_it_is_stopped(kind: str) -> None:
    """No client has been here: an ended connection would keep the port as well."""
    with RedisServer() as server:
        server.stop()
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", server.port))


def test_what_it_says_of_scripts_is_true(kind: str) -> None:
    with RedisServer() as server, redis.Redis.from_url(server.url, **TIMEOUTS) as link:
        try:
            link.eval("return 1", 0)
        except redis.RedisError:
            assert not server.runs_scripts
        else:
            assert server.runs_scripts


@pytest.mark.parametrize("scripts", [False, True])
async def test_a_daemon_runs_on_it(
    kind: str, scripts: bool, database: Database
) -> None:
    with RedisServer() as server:
        if scripts and not server.runs_scripts:
            pytest.skip("this fakeredis has no lupa")
        note_id = database.add_note(database.add_user("alice"))
        limits = {"shared_limits": scripts}
        async with (
            daemon(server.url, database.url, redis=limits) as running,
            running.device("alice") as phone,
            running.device("alice") as laptop,
        ):
            gone = {"event": "note_deleted", "noteId": str(uuid.uuid4())}
            await publish(server.url, "alice", gone)
            for device in (phone, laptop):
                assert (await device.receive())["type"] == "note_deleted_sync"
            update = {
                "type": "note_update",
                "noteId": note_id,
                "changes": {"title": "x"},
            }
            answer = await phone.ask(phone.signed(update))
            assert answer["type"] == "note_update_success"
            assert (await laptop.receive())["type"] == "note_sync"
            again = phone.signed(update, nonce="once")
            assert (await phone.ask(again))["type"] == "note_update_success"
            assert (await phone.ask(again))[
                "message"
            ] == "Message authentication failed"
            revoked = {"event": "session_revoked", "sessionId": "sess_1"}
            await publish(server.url, "alice", revoked)
            assert running.logged("redis_down") == []


def test_a_port_that_is_taken_is_named(kind: str) -> None:
    with ExitStack() as stack:
        server = RedisServer()
        stack.push(server)
        stack.enter_context(socket.create_server(("127.0.0.1", server.port)))
        with pytest.raises(RedisServerError, match=rf"^{kind} .* port {server.port}\b"):
            server.start()
