"""Spec section 4 over real sockets, and what the real web client does (field notes).

`judge` and the canonical forms have their own tests; here it is whole daemons.
"""

import asyncio
import json
import time
from typing import Any

import pytest

from tests.daemon import Boot, Device, RunningDaemon
from tests.integration.scene import ALICE, BOB
from tests.postgres import Database
from tests.redis import RedisServer
from tests.tokens import mint

REJECTED = ("Message authentication failed", "SIGNATURE_REJECTED")


@pytest.fixture(autouse=True)
def note(database: Database) -> str:
    database.add_user(ALICE)
    database.add_user(BOB)
    return database.add_note(ALICE)


def now_ms() -> int:
    return int(time.time() * 1000)


def update(note_id: str, **changes: object) -> dict[str, Any]:
    return {"type": "note_update", "noteId": note_id, "changes": changes}


async def refused(device: Device, envelope: dict[str, Any]) -> None:
    answer = await device.ask(envelope)
    assert answer["type"] == "error"
    assert (answer["message"], answer["code"]) == REJECTED
    assert await device.barrier() == []


async def fresh_token(server: RunningDaemon) -> str:
    """Another token of the same user, as Clerk mints one a minute."""
    return mint(ALICE, claims={"jti": f"{time.monotonic_ns()}"})


# As the web client does.


async def test_the_web_clients_day(boot: Boot, note: str) -> None:
    """`auth` twice on connect, then everything signed, ping and re-auth included."""
    async with boot() as server, server.device() as device:
        token = mint(ALICE)
        auth = json.dumps({"type": "auth", "token": token})
        await device.send(auth)
        await device.send(auth)
        first, second = await device.receive(), await device.receive()
        assert first["type"] == second["type"] == "auth_success"
        assert first["connectionId"] == second["connectionId"]
        assert first["sessionSecret"] == second["sessionSecret"]
        device.secret = first["sessionSecret"]
        joined = await device.ask(device.signed({"type": "join_note", "noteId": note}))
        assert joined["type"] == "note_joined"
        assert (await device.ask(device.signed({"type": "ping"})))["type"] == "pong"
        written = await device.ask(device.signed(update(note, title="é€")))
        assert written["updatedNote"]["title"] == "é€"
        again = {"type": "auth", "token": await fresh_token(server)}
        renewed = await device.ask(device.signed(again))
        assert renewed["type"] == "auth_success"
        late = await device.ask(device.signed(update(note, title="old secret")))
        assert late["type"] == "note_update_success"
        device.secret = renewed["sessionSecret"]
        assert device.secret != first["sessionSecret"]
        new = await device.ask(device.signed(update(note, title="new secret")))
        assert new["type"] == "note_update_success"


async def test_after_a_drop_its_auth_comes_signed_with_a_secret_long_gone(
    boot: Boot, note: str
) -> None:
    async with boot() as server, server.device() as device:
        queued = device.signed(update(note, title="lost"), secret="0" * 64)
        queued["payload"]["requestId"] = "q"
        answer = await device.ask(queued)
        assert (answer["message"], answer["code"]) == (
            "Authentication required",
            "AUTH_REQUIRED",
        )
        assert answer["requestId"] == "q"
        auth = {"type": "auth", "token": mint(ALICE)}
        welcome = await device.ask(device.signed(auth, secret="0" * 64))
        assert welcome["type"] == "auth_success"
        device.secret = welcome["sessionSecret"]
        written = await device.ask(device.signed(update(note, starred=True)))
        assert written["type"] == "note_update_success"


async def test_before_auth_no_envelope_closes_the_connection(
    boot: Boot, note: str
) -> None:
    async with boot() as server, server.device() as device:
        payloads: list[Any] = [
            update(note, title="x"), {"type": "ping"}, {"type": "?"}, None, 5,
            {"type": "auth", "token": 5}, {"type": "join_note", "requestId": 5},
        ]  # fmt: skip
        for payload in payloads:
            answer = await device.ask(device.signed(payload, secret="x"))
            assert answer["code"] == "AUTH_REQUIRED", payload
        welcome = await device.auth(mint(ALICE))
        assert welcome["type"] == "auth_success"


async def test_an_unwrapped_auth_is_judged_by_its_token_alone(boot: Boot) -> None:
    async with boot() as server:
        async with server.device() as device:
            stale = {"type": "auth", "token": mint(ALICE, expires_in=-60)}
            answer = await device.ask(device.signed(stale, secret="x"))
            assert answer["reason"] == "token-expired"
            good = {"type": "auth", "token": mint(ALICE)}
            old = device.signed(good, secret="x", timestamp=1, nonce="")
            assert (await device.ask(old))["type"] == "auth_success"
        async with server.device() as device:
            bad = {"type": "auth", "token": "junk"}
            answer = await device.ask(device.signed(bad, secret="x"))
            assert answer["reason"] == "auth-failed"
            assert await device.closed() == 4401


async def test_a_stale_token_replayed_behind_a_good_auth_changes_nothing(
    boot: Boot, note: str
) -> None:
    async with boot() as server, server.device() as device:
        good = {"type": "auth", "token": mint(ALICE)}
        stale = {"type": "auth", "token": mint(ALICE, expires_in=-60)}
        await device.send(good)
        await device.send(device.signed(stale, secret="0" * 64))
        await device.send(stale)
        welcome = await device.receive()
        assert welcome["type"] == "auth_success"
        assert (await device.receive())["code"] == "SIGNATURE_REJECTED"
        failed = await device.receive()
        assert (failed["type"], failed["reason"]) == (
            "auth_failed",
            "token-expired",
        )
        device.secret = welcome["sessionSecret"]
        written = await device.ask(device.signed(update(note, starred=True)))
        assert written["type"] == "note_update_success"


# As an attacker or a bad link does.


async def test_a_message_counts_once_on_any_connection_of_its_user(
    boot: Boot, note: str
) -> None:
    async with boot() as server:
        async with server.device(ALICE) as device, server.device(ALICE) as other:
            envelope = device.signed(update(note, title="once"))
            assert (await device.ask(envelope))["type"] == "note_update_success"
            await refused(device, envelope)
            # Its event has come back: devices that connect from here on do not get it.
            await other.expect("note_sync")
            async with server.device() as second:
                await second.auth(mint(ALICE))
                second.secret = device.secret
                resigned = second.signed(
                    update(note, title="twice"), nonce=envelope["nonce"]
                )
                await refused(second, resigned)
        async with server.device(ALICE) as later:
            reused = later.signed(update(note, title="again"), nonce=envelope["nonce"])
            await refused(later, reused)


async def test_another_users_same_nonce_is_unowned_business(
    boot: Boot, note: str
) -> None:
    async with (
        boot() as server,
        server.device(ALICE) as device,
        server.device(BOB) as bob,
    ):
        at = now_ms()
        envelope = device.signed(update(note, starred=True), nonce="n", timestamp=at)
        assert (await device.ask(envelope))["type"] == "note_update_success"
        ping = bob.signed({"type": "ping"}, nonce="n", timestamp=at)
        assert (await bob.ask(ping))["type"] == "pong"
        left = bob.signed(
            {"type": "leave_note", "noteId": note}, nonce="n2", timestamp=at
        )
        assert (await bob.ask(left))["type"] == "note_left"


async def test_what_was_tampered_with_is_refused_and_uses_up_no_nonce(
    boot: Boot, note: str, database: Database
) -> None:
    async with boot() as server, server.device(ALICE) as device:
        good = device.signed(update(note, title="good"))
        changed: list[dict[str, Any]] = [
            {"payload": update(note, title="evil")},
            {"timestamp": good["timestamp"] + 1},
            {"nonce": good["nonce"] + "x"},
            {"nonce": ""},
            {"signature": ""},
            {"signature": "A" * 44},
            {"signature": "é" * 44},
            {"signature": good["signature"][:-1]},
            {"signature": good["signature"].swapcase()},
        ]
        for parts in changed:
            await refused(device, good | parts)
        await refused(device, device.signed(update(note, title="x"), secret="x"))
        assert database.note(note)["title"] == "t"
        assert (await device.ask(good))["type"] == "note_update_success"
        figure = server.figure("security_events_total", kind="signature_bad_signature")
        assert figure == len(changed) + 1
        line = server.logged("signature_rejected")[0]
        assert line["security"] is True
        assert "evil" not in json.dumps(server.log)


async def test_age_is_300_seconds_back_and_60_ahead(boot: Boot, note: str) -> None:
    async with boot() as server, server.device(ALICE) as device:
        for offset in (-301_000, 90_000, -(10**15), 10**15):
            await refused(
                device,
                device.signed(update(note, title="x"), timestamp=now_ms() + offset),
            )
        for offset in (-290_000, 50_000):
            envelope = device.signed(
                update(note, title="x"), timestamp=now_ms() + offset
            )
            assert (await device.ask(envelope))["type"] == "note_update_success"
        kinds = [line["verdict"] for line in server.logged("signature_rejected")]
        assert kinds == ["too_old", "ahead", "too_old", "ahead"]


async def test_a_missing_or_mistyped_part_makes_it_a_plain_message(
    boot: Boot, note: str
) -> None:
    async with boot() as server, server.device(ALICE) as device:
        good = device.signed(update(note, title="x"))
        for name in ("payload", "signature", "timestamp", "nonce"):
            part = {k: v for k, v in good.items() if k != name}
            answer = await device.ask(part)
            assert answer["message"] == "Invalid message format", name
        for wrong in ({"signature": 5}, {"timestamp": "5"}, {"nonce": None}):
            answer = await device.ask({**good, **wrong, "type": "ping"})
            assert answer["type"] == "pong"
        nested = device.signed(device.signed({"type": "ping"}))
        assert (await device.ask(nested))["message"] == "Invalid message format"
        assert (await device.ask(good))["type"] == "note_update_success"


async def test_a_refused_message_is_named_by_its_request_id(
    boot: Boot, note: str
) -> None:
    async with boot() as server, server.device(ALICE) as device:
        payload = update(note, title="x") | {"requestId": "r7"}
        bad = device.signed(payload, secret="x")
        assert (await device.ask(bad))["requestId"] == "r7"
        good = device.signed(payload)
        assert (await device.ask(good))["requestId"] == "r7"
        assert (await device.ask(good))["requestId"] == "r7"
        signed = device.signed({"type": "join_note", "requestId": "r8"})
        assert (await device.ask(signed))["requestId"] == "r8"


async def test_require_signed_messages_lets_only_ping_through_unsigned(
    boot: Boot, note: str, database: Database
) -> None:
    rules = {"require_signed_messages": True}
    async with boot(messages=rules) as server, server.device(ALICE) as device:
        await refused(device, update(note, title="x"))
        await refused(device, {"type": "auth", "token": mint(ALICE)})
        assert database.note(note)["title"] == "t"
        assert (await device.ask({"type": "ping"}))["type"] == "pong"
        written = await device.ask(device.signed(update(note, title="signed")))
        assert written["type"] == "note_update_success"
        again = device.signed({"type": "auth", "token": await fresh_token(server)})
        assert (await device.ask(again))["type"] == "auth_success"


async def test_over_the_bound_of_nonces_only_that_user_is_refused(
    boot: Boot, note: str
) -> None:
    async with (
        boot(limits={"nonces_per_user": 3}) as server,
        server.device(ALICE) as device,
        server.device(BOB) as bob,
    ):
        first = device.signed(update(note, title="x"))
        assert (await device.ask(first))["type"] == "note_update_success"
        for _ in range(2):
            assert (await device.ask(device.signed({"type": "ping"})))["type"] == "pong"
        await refused(device, device.signed(update(note, title="y")))
        await refused(device, first)
        pong = await bob.ask(bob.signed({"type": "ping"}))
        assert pong["type"] == "pong"


async def test_two_daemons_on_one_redis_share_the_nonces(
    boot: Boot, note: str, redis_server: RedisServer
) -> None:
    async with (
        boot() as server,
        boot() as annex,
        server.device() as device,
        annex.device() as there,
    ):
        token = mint(ALICE)
        await device.auth(token)
        await there.auth(token)
        assert device.secret == there.secret
        envelope = device.signed(update(note, title="once") | {"requestId": "r"})
        assert (await device.ask(envelope))["type"] == "note_update_success"
        assert (await there.receive())["type"] == "note_sync"
        answer = await there.ask(envelope)
        assert (answer["message"], answer["code"]) == REJECTED
        assert answer["requestId"] == "r"
        assert await there.barrier() == []


async def test_of_many_racing_replays_on_two_daemons_exactly_one_counts(
    boot: Boot, note: str
) -> None:
    token = mint(ALICE)
    async with boot() as server, boot() as annex:

        async def replay(where: RunningDaemon, envelope: list[dict[str, Any]]) -> str:
            async with where.device() as device:
                await device.auth(token)
                if not envelope:
                    envelope.append(device.signed(update(note, title="race")))
                ready.append(1)
                await asyncio.sleep(0)
                await device.send(envelope[0])
                while (answer := await device.receive())["type"] == "note_sync":
                    pass
                return str(answer["type"])

        ready: list[int] = []
        envelope: list[dict[str, Any]] = []
        answers = await asyncio.gather(
            *(replay(where, envelope) for where in (server, annex) for _ in range(5))
        )
        assert sorted(answers) == ["error"] * 9 + ["note_update_success"]
