"""Spec section 2 over real sockets: who gets in, and who stays."""

import asyncio
import base64
import hashlib
import hmac
import json
import time
from contextlib import suppress

import jwt
import pytest
from websockets.exceptions import ConnectionClosed

from tests.daemon import Boot, Device, RunningDaemon, publish
from tests.redis import RedisServer
from tests.tokens import KeyServer, jwk, key_pair, mint, public_pem
from typelets_ws.dev.samples import note_id
from typelets_ws.protocol.client_messages import CLIENT_MESSAGES

EXPIRED = {"message": "Token expired", "reason": "token-expired"}
FAILED = {"message": "Authentication failed", "reason": "auth-failed"}
NOTE = note_id(1, 1)
WIRE_TYPES = {str(kind.__struct_config__.tag) for kind in CLIENT_MESSAGES}


async def test_auth_success_has_everything_a_client_needs(boot: Boot) -> None:
    async with boot() as server, server.device() as device:
        token = mint("alice")
        before = int(time.time() * 1000)
        answer = await device.auth(token)
        after = int(time.time() * 1000)
        assert answer["type"] == "auth_success"
        assert answer["message"] == "Authentication successful"
        assert answer["userId"] == "alice"
        assert len(answer["connectionId"]) >= 12
        possible = {
            hashlib.sha256(f"{token}:alice:{ms // 300_000 * 300_000}".encode())
            .hexdigest()
            for ms in (before, after)
        }  # fmt: skip
        assert answer["sessionSecret"] in possible


@pytest.mark.parametrize(
    "token",
    [
        mint("alice", key=key_pair("stranger")),
        mint("alice", without=["exp"]),
        mint("alice", without=["sub"]),
        mint("alice", claims={"sub": ""}),
        mint("alice", claims={"iss": "https://clerk.evil.example"}),
        jwt.encode({"sub": "alice", "exp": 9e9, "iat": 0, "nbf": 0}, "", "none"),
        mint("alice", key=key_pair("stranger"), expires_in=-100),
        "junk",
        "",
    ],
    ids=[
        "wrong-key",
        "no-exp",
        "no-sub",
        "empty-sub",
        "issuer",
        "none",
        "forged-expired",
        "junk",
        "empty",
    ],
)
async def test_a_bad_token_closes_4401_and_tells_no_reason(
    boot: Boot, token: str
) -> None:
    auth = {"issuer": "https://clerk.example.com"}
    async with boot(auth=auth) as server, server.device() as device:
        answer = await device.auth(token)
        assert answer == {"type": "auth_failed", **FAILED}
        assert await device.closed() == 4401
        assert len(server.logged("auth_rejected")) == 1


async def test_an_expired_token_may_be_replaced_on_the_same_socket(boot: Boot) -> None:
    async with boot() as server, server.device() as device:
        stale = mint("alice", expires_in=-60)
        assert await device.auth(stale) == {"type": "auth_failed", **EXPIRED}
        assert await device.auth(stale) == {"type": "auth_failed", **EXPIRED}
        assert (await device.auth(mint("alice")))["type"] == "auth_success"


async def test_the_third_expired_token_is_the_last(boot: Boot) -> None:
    async with boot() as server, server.device() as device:
        for _ in range(3):
            answer = await device.auth(mint("alice", expires_in=-60))
            assert answer["reason"] == "token-expired"
        assert await device.closed() == 4401


async def test_before_auth_everything_but_auth_and_ping_is_refused(boot: Boot) -> None:
    async with boot() as server, server.device() as device:
        for name in sorted(WIRE_TYPES - {"auth", "ping"}):
            refusal = await device.ask({"type": name, "requestId": name})
            assert refusal["message"] == "Authentication required", name
            assert refusal["code"] == "AUTH_REQUIRED"
            assert refusal["requestId"] == name
        assert (await device.ask({"type": "ping"}))["type"] == "pong"
        assert (await device.ask({"type": "?"}))["code"] == "UNKNOWN_TYPE"
        assert (await device.auth(mint("alice")))["type"] == "auth_success"


async def test_auth_must_come_in_time_any_else_comes(boot: Boot) -> None:
    # So many pings would otherwise run into the rate limit before the deadline.
    auth, limits = {"auth_timeout_ms": 1_500}, {"rate_messages": 10**6}
    async with (
        boot(auth=auth, limits=limits) as server,
        server.device() as device,
        server.device("bob") as other,
    ):

        async def ping() -> None:
            with suppress(ConnectionClosed):
                while True:
                    await device.send({"type": "ping"})
                    await asyncio.sleep(0.01)

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(ping())
            while (last := await device.receive())["type"] == "pong":
                pass
        assert last["message"] == ("Authentication timeout. Connection will be closed.")
        assert await device.closed() == 4408
        assert await other.barrier() == []


async def test_auth_again_replaces_the_secret_and_is_no_other_device(
    boot: Boot, redis_server: RedisServer
) -> None:
    limits = {"devices_per_user": 1}
    async with boot(limits=limits) as server, server.device("alice") as device:
        first = device.secret, device.connection_id
        answer = await device.auth(mint("alice", claims={"jti": "another"}))
        assert answer["type"] == "auth_success"
        assert device.connection_id == first[1]
        assert device.secret != first[0]
        assert server.daemon.hub.count("alice") == 1
        await publish(redis_server.url, "alice", deleted())
        assert (await device.receive())["type"] == "note_deleted_sync"
        assert await device.barrier() == []


def deleted() -> dict[str, str]:
    return {"event": "note_deleted", "noteId": NOTE}


async def test_nothing_of_the_first_user_reaches_the_second(
    boot: Boot, redis_server: RedisServer
) -> None:
    async with (
        boot() as server,
        server.device("alice") as device,
        server.device("alice") as other,
    ):
        answer = await device.auth(mint("bob"))
        assert answer == {"type": "auth_failed", **FAILED}
        assert await device.closed() == 4401
        await publish(redis_server.url, "alice", deleted())
        assert (await other.receive())["type"] == "note_deleted_sync"
        assert server.daemon.hub.count("bob") == 0
        assert server.daemon.hub.count("alice") == 1


async def test_a_failed_auth_leaves_a_live_connection_as_it_was(
    boot: Boot, redis_server: RedisServer
) -> None:
    async with boot() as server, server.device("alice") as device:
        assert (await device.auth(mint("alice", expires_in=-60)))[
            "reason"
        ] == "token-expired"
        assert (await device.auth("junk"))["reason"] == "auth-failed"
        await publish(redis_server.url, "alice", deleted())
        assert (await device.receive())["type"] == "note_deleted_sync"
        # A good one in between resets the count.
        assert (await device.auth(mint("alice")))["type"] == "auth_success"
        for _ in range(3):
            assert (await device.auth("junk"))["type"] == "auth_failed"
        assert await device.closed() == 4401


async def test_a_connection_outlives_its_token(
    boot: Boot, redis_server: RedisServer
) -> None:
    later_s = 0.0
    async with (
        boot(wall=lambda: time.time() + later_s) as server,
        server.device() as device,
        server.device() as late,
    ):
        token = mint("alice")
        assert (await device.auth(token))["type"] == "auth_success"
        later_s = 3_600.0
        await publish(redis_server.url, "alice", deleted())
        assert (await device.receive())["type"] == "note_deleted_sync"
        assert (await late.auth(token))["reason"] == "token-expired"


async def test_what_is_pipelined_behind_auth_waits_for_its_outcome(boot: Boot) -> None:
    """The keys come slowly; 60 messages and a large one are sent right behind."""
    with KeyServer() as keys:
        keys.hold()
        auth = {"jwt_key": "", "jwks_url": keys.url}
        async with boot(auth=auth) as server, server.device() as device:
            await device.send({"type": "auth", "token": mint("alice")})
            for number in range(60):
                await device.send(
                    {"type": "leave_note", "noteId": NOTE, "requestId": str(number)}
                )
            large = {
                "type": "note_created",
                "noteData": {"id": NOTE, "text": "x" * 200_000},
            }
            await device.send(large)
            keys.release()
            assert (await device.receive())["type"] == "auth_success"
            for number in range(60):
                assert (await device.receive())["requestId"] == str(number)
            assert await device.barrier() == []


async def test_behind_a_failing_auth_nothing_is_done(boot: Boot) -> None:
    async with boot() as server, server.device() as device:
        await device.send({"type": "auth", "token": mint("a", expires_in=-60)})
        await device.send({"type": "leave_note", "noteId": NOTE})
        assert (await device.receive())["type"] == "auth_failed"
        assert (await device.receive())["code"] == "AUTH_REQUIRED"


async def test_unknown_kids_cause_one_fetch_however_many_come(boot: Boot) -> None:
    async def attempt(server: RunningDaemon, number: int) -> None:
        async with server.device() as device:
            stranger = key_pair("stranger")
            answer = await device.auth(mint("x", key=stranger, kid=f"k{number}"))
            assert answer["type"] == "auth_failed"

    with KeyServer() as keys:
        auth = {"jwt_key": "", "jwks_url": keys.url}
        async with boot(auth=auth, limits={"refused_tokens": 100}) as server:
            async with server.device("alice") as device:
                assert device.user_id == "alice"
            before = keys.count
            await asyncio.gather(*(attempt(server, n) for n in range(40)))
            assert keys.count - before <= 1


async def test_a_key_rotated_under_the_same_kid_is_found(boot: Boot) -> None:
    with KeyServer() as keys:
        auth = {"jwt_key": "", "jwks_url": keys.url}
        async with boot(auth=auth) as server:
            async with server.device("alice") as device:
                assert device.user_id == "alice"
            keys.serve_keys(jwk(key_pair("new")))
            async with server.device("alice", key=key_pair("new")) as device:
                assert device.user_id == "alice"
            keys.status = 500
            async with server.device("alice", key=key_pair("new")) as device:
                assert device.user_id == "alice"


async def test_hs256_with_the_public_key_is_refused(boot: Boot) -> None:
    async with boot() as server, server.device() as device:
        now = int(time.time())
        claims = {"sub": "alice", "exp": now + 60, "iat": now, "nbf": now}
        # PyJWT itself refuses to sign with a PEM, so it is done by hand here.
        token = forged_hs256(claims, public_pem())
        assert (await device.auth(token))["type"] == "auth_failed"


def forged_hs256(claims: dict[str, object], pem: str) -> str:
    def part(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

    head = part(json.dumps({"alg": "HS256", "typ": "JWT"}).encode())
    body = part(json.dumps(claims).encode())
    mac = hmac.new(pem.encode(), f"{head}.{body}".encode(), hashlib.sha256)
    return f"{head}.{body}.{part(mac.digest())}"


async def test_request_ids_are_echoed(boot: Boot) -> None:
    async with boot() as server, server.device() as device:
        good: Device = device
        message = {"type": "auth", "token": mint("alice"), "requestId": "r1"}
        assert (await good.ask(message))["requestId"] == "r1"
