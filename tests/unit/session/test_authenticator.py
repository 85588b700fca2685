"""The way in and out: attached only with everything, and nothing left behind."""

import asyncio
import json
from typing import Any

import pytest

from tests.fakes import NOTE, NOW_MS, FakeShared, FakeTransport, Stubs
from typelets_ws.delivery.revocations import RevokedSessions
from typelets_ws.ports import TokenRejectReason
from typelets_ws.protocol import client_messages
from typelets_ws.protocol.errors import ClientError, CloseCode, Code, Disconnect
from typelets_ws.recovery_ports import RowKey, RowKind, Snapshot
from typelets_ws.session.session import Session

EXCUSED = {
    "expired", "not_active_yet", "issued_in_future", "keys_unavailable", "revoked",
}  # fmt: skip
"""Reasons that a client without a fault can meet."""


class Guest:
    """A device that wants in."""

    def __init__(self, world: Stubs, name: str = "c1") -> None:
        self.world = world
        self.link = FakeTransport(name)
        self.session: Session = world.session(name)

    async def auth(self, token: str = "alice/s1") -> dict[str, Any]:
        message = client_messages.Auth(token=token, requestId="r")
        answer = await self.world.authenticator.authenticate(
            self.link, self.session, message
        )
        found = json.loads(answer)
        assert isinstance(found, dict)
        assert found["requestId"] == "r"
        return found

    def leave(self) -> None:
        self.world.authenticator.detach(self.link, self.session)


def empty(world: Stubs) -> bool:
    """Nothing is left of anyone."""
    return (
        not world.hub.devices
        and not world.subscriptions.held
        and not world.shared.slots
        and not len(world.presence)
    )


def disconnect_of(guest: Guest, token: str = "alice/s1") -> Disconnect:
    with pytest.raises(Disconnect) as caught:
        asyncio.run(guest.auth(token))
    return caught.value


def test_a_device_comes_in_and_leaves_nothing_behind() -> None:
    world = Stubs()
    guest = Guest(world)
    answer = asyncio.run(guest.auth())
    assert answer["type"] == "auth_success"
    assert (answer["userId"], answer["connectionId"]) == ("alice", "c1")
    assert len(answer["sessionSecret"]) == 64
    assert world.hub.devices_of("alice") == (guest.link,)
    assert world.subscriptions.held == {"alice"}
    assert world.shared.slots == {"alice": {"c1"}}
    shown, key = world.recovery.shown, RowKey("alice", RowKind.NOTE, NOTE)
    shown.created(key, b"{}", None)
    assert len(shown) == 1
    guest.leave()
    assert empty(world)
    shown.created(key, b"{}", None)
    assert len(shown) == 0


def test_a_device_is_told_the_cursor_from_which_it_may_sync() -> None:
    world = Stubs()
    recovery = world.recovery
    recovery.horizons.observe(Snapshot("db", 7, 7), 0.0)
    assert "cursor" not in asyncio.run(Guest(world).auth())
    recovery.on = True
    answer = asyncio.run(Guest(world, "c2").auth())
    assert answer["cursor"] == recovery.horizons.cursor


def test_auth_again_takes_no_second_place() -> None:
    world = Stubs(devices_per_user=1)
    guest = Guest(world)
    asyncio.run(guest.auth())
    assert asyncio.run(guest.auth("alice/s2"))["type"] == "auth_success"
    assert (world.hub.devices, guest.session.session_id) == (1, "s2")
    guest.leave()
    assert empty(world)


@pytest.mark.parametrize(
    "reason", [r for r in TokenRejectReason if r is not TokenRejectReason.EXPIRED]
)
def test_a_bad_token_is_the_end_and_its_reason_is_for_the_log(
    reason: TokenRejectReason,
) -> None:
    world = Stubs()
    guest = Guest(world)
    end = disconnect_of(guest, str(reason))
    assert end.close_code is CloseCode.UNAUTHENTICATED
    assert guest.link.tokens_refused == (reason not in EXCUSED)
    (line,) = world.log.lines
    assert (line["event"], line["reason"]) == ("auth_rejected", reason)
    assert "user" not in line
    assert str(reason).encode() not in (end.answer or b"").replace(b"auth_failed", b"")
    assert empty(world)
    assert world.figure("authentications_total", result=reason) == 1
    assert world.figure("security_events_total", kind="auth_rejected") == 1


def test_an_expired_token_may_be_replaced() -> None:
    world = Stubs()
    guest = Guest(world)
    assert asyncio.run(guest.auth("expired"))["reason"] == "token-expired"
    assert asyncio.run(guest.auth())["type"] == "auth_success"


def test_over_the_limit_of_all_processes_or_of_this_one_no_one_gets_in() -> None:
    world = Stubs(devices_per_user=1)
    asyncio.run(Guest(world, "c1").auth())
    end = disconnect_of(Guest(world, "c2"))
    assert (end.close_code, end.reason) == (CloseCode.TOO_MANY, "too_many_devices")
    assert json.loads(end.answer or b"")["requestId"] == "r"
    # Redis is away and grants everything: the process' own count holds.
    world.shared.limit = 100
    assert disconnect_of(Guest(world, "c2")).close_code is CloseCode.TOO_MANY
    assert world.shared.slots == {"alice": {"c1"}}
    assert world.presence._counts == {"alice": 1}
    assert world.subscriptions.held == {"alice"}


def test_limits_that_are_unknown_let_no_device_in_and_put_none_out() -> None:
    world = Stubs()
    inside = Guest(world, "c1")
    asyncio.run(inside.auth())
    world.shared.failing = True
    end = disconnect_of(Guest(world, "c2"), "alice/s2")
    assert (end.close_code, end.reason) == (CloseCode.TOO_SLOW, "limits_unavailable")
    answer = json.loads(end.answer or b"")
    assert (answer["code"], answer["requestId"]) == ("UNAVAILABLE", "r")
    assert answer["retryAfterMs"] > 0
    assert answer["correlationId"]
    with pytest.raises(ClientError) as refusal:
        asyncio.run(inside.auth("alice/s2"))
    assert refusal.value.code is Code.UNAVAILABLE
    assert world.hub.devices_of("alice") == (inside.link,)
    assert inside.session.session_id == "s1"
    world.shared.failing = False
    assert asyncio.run(Guest(world, "c2").auth())["type"] == "auth_success"


def test_another_users_token_ends_it_and_changes_nothing() -> None:
    world = Stubs()
    guest = Guest(world)
    asyncio.run(guest.auth())
    end = disconnect_of(guest, "bob")
    assert (end.close_code, end.reason) == (CloseCode.UNAUTHENTICATED, "other_user")
    assert world.hub.count("bob") == 0
    guest.leave()
    assert empty(world)


def test_a_revoked_session_does_not_come_in() -> None:
    world = Stubs()
    world.shared.revoked.add("s1")
    assert disconnect_of(Guest(world)).reason == "auth_failed"
    world.shared.revoked.clear()
    world.revoked.revoke("s1", NOW_MS)
    assert disconnect_of(Guest(world)).reason == "auth_failed"
    assert empty(world)
    assert asyncio.run(Guest(world).auth("alice/s2"))["type"] == "auth_success"


@pytest.mark.parametrize("in_redis", [True, False])
async def test_a_session_revoked_on_its_way_in_does_not_come_in(in_redis: bool) -> None:
    world = Stubs()

    async def ends(guest: Guest) -> Disconnect:
        with pytest.raises(Disconnect) as caught:
            await guest.auth()
        return caught.value

    world.shared.gate.clear()
    async with asyncio.TaskGroup() as group:
        coming = group.create_task(ends(Guest(world)))
        await asyncio.sleep(0)
        world.revoked.revoke("s1", NOW_MS)
        if not in_redis:
            world.shared.revoked.clear()
        world.shared.gate.set()
    assert coming.result().reason == "auth_failed"
    assert empty(world)
    (line,) = world.log.lines
    assert (line["reason"], line["user"]) == ("revoked", "alice")


def test_a_session_revoked_here_is_refused_whatever_redis_says() -> None:
    world = Stubs()
    world.revoked.revoke("s1", NOW_MS)
    world.shared.revoked.clear()
    world.shared.failing = True
    assert disconnect_of(Guest(world)).reason == "auth_failed"


def test_messages_count_for_the_user_over_all_devices() -> None:
    world = Stubs(rate_messages=1, user_rate_factor=1)
    first, second = Guest(world, "c1"), Guest(world, "c2")
    asyncio.run(first.auth())
    asyncio.run(second.auth())
    assert first.session.count(1, 0.0) is None
    refusal = second.session.count(1, 0.0)
    assert isinstance(refusal, ClientError)
    assert refusal.code is Code.RATE_LIMITED


def test_who_is_gone_before_it_is_in_leaves_nothing_behind() -> None:
    world = Stubs()
    guest = Guest(world)
    guest.link.open = False
    assert disconnect_of(guest).reason == "gone"
    assert empty(world)


async def test_who_is_cancelled_on_its_way_in_leaves_nothing_behind() -> None:
    world = Stubs()
    for gate in (world.clerk.gate, world.subscriptions.gate, world.shared.gate):
        gate.clear()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await Guest(world).auth()
        gate.set()
    assert len(world.presence) == 0
    assert world.hub.devices == 0


async def test_a_device_that_leaves_takes_nothing_from_one_halfway_in() -> None:
    world = Stubs()
    first, second = Guest(world, "c1"), Guest(world, "c2")
    await first.auth()
    world.shared.gate.clear()
    async with asyncio.TaskGroup() as group:
        group.create_task(second.auth())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        first.leave()
        assert world.subscriptions.held == {"alice"}
        world.shared.gate.set()
    assert world.hub.devices_of("alice") == (second.link,)
    second.leave()
    assert empty(world)


async def test_of_many_at_once_exactly_the_limit_gets_in() -> None:
    world = Stubs(devices_per_user=20)
    world.shared.limit = 1000
    guests = [Guest(world, f"c{number}") for number in range(26)]
    answers = await asyncio.gather(
        *(guest.auth() for guest in guests), return_exceptions=True
    )
    assert sum(isinstance(answer, Disconnect) for answer in answers) == 6
    assert world.hub.count("alice") == 20
    for guest in guests:
        if guest.session.authenticated:
            guest.leave()
    assert empty(world)


def test_barred_sessions_are_kept_for_a_while_and_bounded() -> None:
    shared = FakeShared(20)
    barred = RevokedSessions(100, 2, shared)
    assert not barred.is_revoked(None, 0)
    barred.revoke("a", 0)
    assert barred.is_revoked("a", 99)
    assert not barred.is_revoked("a", 100)
    barred.revoke("b", 100)
    barred.revoke("c", 110)
    barred.revoke("d", 120)
    assert [barred.is_revoked(sid, 120) for sid in "abcd"] == [False, False, True, True]


def test_a_session_barred_elsewhere_is_refused_at_a_re_auth() -> None:
    world = Stubs()
    guest = Guest(world)
    asyncio.run(guest.auth("alice/s1"))
    world.shared.revoked.add("s1")
    ended = disconnect_of(guest, "alice/s1")
    assert ended.close_code is CloseCode.UNAUTHENTICATED
    assert ended.answer is not None
    assert json.loads(ended.answer)["reason"] == "auth-failed"


async def reason_of(guest: Guest) -> str:
    try:
        await guest.auth("alice/s1")
    except Disconnect as disconnect:
        return disconnect.reason
    return "accepted"


async def test_a_session_barred_during_a_re_auth_is_refused() -> None:
    world = Stubs()
    guest = Guest(world)
    await guest.auth("alice/s1")
    world.shared.gate.clear()
    async with asyncio.TaskGroup() as tasks:
        again = tasks.create_task(reason_of(guest))
        await asyncio.sleep(0)
        world.revoked.revoke("s1", world.now_ms / 1000)
        world.shared.revoked.clear()
        world.shared.gate.set()
    assert again.result() == "auth_failed"


async def test_a_device_that_left_during_a_re_auth_is_not_answered() -> None:
    world = Stubs()
    guest = Guest(world)
    await guest.auth("alice/s1")
    world.shared.gate.clear()
    async with asyncio.TaskGroup() as tasks:
        again = tasks.create_task(reason_of(guest))
        await asyncio.sleep(0)
        guest.link.open = False
        world.shared.gate.set()
    assert again.result() == "gone"


async def test_an_auth_without_a_token_is_refused_by_name() -> None:
    world = Stubs()
    guest = Guest(world)
    message = client_messages.Auth(requestId="r")
    with pytest.raises(ClientError) as caught:
        await world.authenticator.authenticate(guest.link, guest.session, message)
    refused = caught.value
    assert (refused.code, refused.message) == (Code.INVALID_FIELD, "Missing token")
    assert refused.request_id == "r"
