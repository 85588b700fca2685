"""The bus against a real Redis: whole, cut, stalled, deaf, restarted."""

import asyncio
import ipaddress
import json
import random
import time
from collections.abc import Awaitable, Callable, MutableMapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from structlog.testing import capture_logs

from tests.integration.bus.running_bus import (
    QUICK,
    RunningBus,
    ready,
    running_bus,
    until,
)
from tests.redis import LinkProxy, RedisServer, free_port, link_proxy
from tests.serving import serving
from tests.within import within


@pytest.mark.usefixtures("loop_factory")
async def test_events_arrive_in_the_order_of_their_publishing(
    redis_server: RedisServer,
) -> None:
    async with ready(redis_server.url) as here, ready(redis_server.url, 1) as there:
        assert await here.bus.subscribe("ann")
        assert await there.bus.subscribe("ann")
        sent = [b"%d" % number for number in range(500)]
        for event in sent:
            here.bus.publish("ann", event)
        assert await here.bus.flush()
        await until(lambda: len(here.events) == len(there.events) == 500)
        assert here.payloads == there.payloads == sent
        assert here.gaps == there.gaps == []
        assert here.unpublished == []


async def test_only_wanted_users_are_heard(redis_server: RedisServer) -> None:
    async with ready(redis_server.url) as one:
        assert await one.bus.subscribe("ann")
        one.bus.publish("bob", b"not ours")
        one.bus.publish("ann", b"ours")
        await until(lambda: one.events)
        assert one.events == [("ann", b"ours")]
        assert redis_server.subscribers("typelets:user:bob") == 0


async def test_unsubscribe_waits_and_a_return_in_time_cancels_it(
    redis_server: RedisServer,
) -> None:
    async with ready(redis_server.url) as one:
        for _ in range(3):
            assert await one.bus.subscribe("ann")
            one.bus.unsubscribe("ann")
        assert await one.bus.subscribe("ann")
        assert await one.bus.subscribe("bob")
        one.bus.unsubscribe("bob")
        await until(lambda: not redis_server.subscribers("typelets:user:bob"))
        assert redis_server.subscribers("typelets:user:ann") == 1
        assert redis_server.calls("unsubscribe") == 1
        # Opening, ann, bob: the returns cost nothing.
        assert redis_server.calls("subscribe") == 3
        assert await one.bus.subscribe("bob")
        assert one.gaps == []
        one.bus.unsubscribe("nobody")


async def test_subscribing_and_leaving_in_one_turn_leaves_no_ghost(
    redis_server: RedisServer,
) -> None:
    async with ready(redis_server.url, unsubscribe_delay_s=0.0) as one:
        rng = random.Random(5)
        async with asyncio.TaskGroup() as group:
            for _ in range(300):
                user = f"user{rng.randrange(10)}"
                group.create_task(one.bus.subscribe(user))
                if rng.random() < 0.7:
                    one.bus.unsubscribe(user)
                if rng.random() < 0.2:
                    await asyncio.sleep(0)
        for number in range(10):
            one.bus.unsubscribe(f"user{number}")
        channels = "PUBSUB", "CHANNELS", "typelets:user:*"
        await until(lambda: redis_server.command(*channels) == [])
        assert await one.bus.subscribe("user1")
        await one.barrier("user1")


@pytest.mark.usefixtures("loop_factory")
async def test_ten_thousand_users_are_subscribed_in_batches(
    redis_server: RedisServer,
) -> None:
    async with ready(redis_server.url) as one:
        before = redis_server.calls("subscribe")
        users = [f"user{number}" for number in range(10_000)]
        heard = await asyncio.gather(*map(one.bus.subscribe, users))
        assert all(heard)
        assert redis_server.calls("subscribe") - before == 40
        assert one.sample("redis_subscriptions") == 10_002
        redis_server.command("CLIENT", "KILL", "TYPE", "pubsub")
        await until(lambda: len(one.gaps) == 10_000)
        assert redis_server.calls("subscribe") - before == 81
        for user in users:
            one.bus.unsubscribe(user)
        await until(lambda: one.sample("redis_subscriptions") == 2)
        # They are due one after the other, so batches may be split.
        assert redis_server.calls("unsubscribe") < 1_000


# Ways in which the link may fail: each takes effect, and mends if it must be mended.

Break = Callable[[RedisServer, LinkProxy, RunningBus], Awaitable[None]]


async def down(one: RunningBus) -> None:
    await until(lambda: not one.bus.listening)


async def cut(server: RedisServer, proxy: LinkProxy, one: RunningBus) -> None:
    proxy.cut()
    await down(one)


async def refused(server: RedisServer, proxy: LinkProxy, one: RunningBus) -> None:
    await proxy.refuse()
    await down(one)
    await proxy.heal()


async def stalled(server: RedisServer, proxy: LinkProxy, one: RunningBus) -> None:
    proxy.stall()
    await until(lambda: not one.bus.commands.up)
    await proxy.heal()


async def killed_by_type(
    server: RedisServer, proxy: LinkProxy, one: RunningBus
) -> None:
    server.command("CLIENT", "KILL", "TYPE", "pubsub")
    await down(one)


async def deaf(server: RedisServer, proxy: LinkProxy, one: RunningBus) -> None:
    """Only what Redis says to the subscriber is lost."""
    for link in proxy.links:
        if link.port in server.client_ports("pubsub"):
            link.stall(to_server=False)
    await down(one)


async def half_open(server: RedisServer, proxy: LinkProxy, one: RunningBus) -> None:
    """The subscriber's link is a black hole in both directions."""
    for link in proxy.links:
        if link.port in server.client_ports("pubsub"):
            link.stall()
    await down(one)


async def killed(server: RedisServer, proxy: LinkProxy, one: RunningBus) -> None:
    server.kill()
    await down(one)
    server.start()


async def frozen(server: RedisServer, proxy: LinkProxy, one: RunningBus) -> None:
    with server.frozen():
        await until(lambda: not one.bus.commands.up)


async def replica(server: RedisServer, proxy: LinkProxy, one: RunningBus) -> None:
    """A failover behind one address: our master has become somebody's replica."""
    server.command("REPLICAOF", "127.0.0.1", free_port())
    await until(lambda: not one.bus.proven)
    await until(lambda: not one.bus.commands.up)
    server.command("REPLICAOF", "NO", "ONE")


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (cut, "lost"),
        (refused, "lost"),
        (killed_by_type, "lost"),
        (deaf, "deaf"),
        (half_open, "deaf"),
        (killed, "lost"),
    ],
)
@pytest.mark.usefixtures("loop_factory")
async def test_a_broken_link_is_replaced_and_each_user_reported_once(
    redis_server: RedisServer, broken: Break, reason: str
) -> None:
    # Short only where a probe is to be missed: it would be, on a busy machine.
    times: dict[str, Any] = {"probe_timeout_s": 2.0} if reason == "deaf" else {}
    async with link_proxy(redis_server.port) as proxy, ready(proxy.url, **times) as one:
        assert await one.bus.subscribe("ann")
        assert await one.bus.subscribe("bob")
        await broken(redis_server, proxy, one)
        await until(lambda: len(one.gaps) >= 2)
        await one.ready()
        assert sorted(one.gaps) == [("ann", reason), ("bob", reason)]
        assert one.sample("gaps_total", reason=reason) == 1
        await one.barrier("ann")
        await one.barrier("bob")


@pytest.mark.parametrize("broken", [stalled, frozen, replica])
async def test_trouble_with_both_links_is_over_when_redis_is_back(
    redis_server: RedisServer, broken: Break
) -> None:
    async with link_proxy(redis_server.port) as proxy, ready(proxy.url, **QUICK) as one:
        assert await one.bus.subscribe("ann")
        await broken(redis_server, proxy, one)
        await one.ready()
        await one.barrier("ann")


@pytest.mark.usefixtures("loop_factory")
async def test_losing_the_command_link_heals_the_users_of_this_process(
    redis_server: RedisServer,
) -> None:
    async with ready(redis_server.url) as one, ready(redis_server.url, 1) as other:
        assert await one.bus.subscribe("ann")
        assert await other.bus.subscribe("ann")
        redis_server.command("CLIENT", "KILL", "TYPE", "normal")
        await until(lambda: not one.bus.commands.up)
        one.bus.publish("ann", b"unheard")
        assert one.unpublished == [("ann", b"unheard")]
        await until(lambda: other.events)
        event = json.loads(other.payloads[0])
        assert abs(event.pop("publishedAt") - time.time() * 1000) < 60_000
        assert event == {"event": "resync_required", "reason": "publish_failed"}
        assert one.sample("publish_failures_total", reason="down") == 1
        # Publishers may have had the same trouble meanwhile.
        await until(lambda: one.gaps)
        await until(lambda: other.gaps)
        assert one.gaps == other.gaps == [("ann", "lost")]
        await one.barrier("ann")
        assert len(one.events) == 2


@pytest.mark.parametrize("way", ["to_server", "to_client"])
async def test_a_black_hole_in_one_direction_shows_and_mends(
    redis_server: RedisServer, way: str
) -> None:
    async with link_proxy(redis_server.port) as proxy, ready(proxy.url, **QUICK) as one:
        assert await one.bus.subscribe("ann")
        proxy.stall(**{"to_server": False, "to_client": False, way: True})
        one.bus.publish("ann", b"into the hole")
        await until(lambda: one.unpublished)
        assert one.unpublished == [("ann", b"into the hole")]
        assert one.sample("publish_failures_total", reason="timeout") == 1
        age = one.bus.probe_age()
        assert age is not None
        await until(lambda: (one.bus.probe_age() or 0) > age + 0.3)
        assert one.sample("redis_up", link="commands") == 0
        # No wait is endless: what cannot be confirmed is refused in time.
        with within(1):
            assert not await one.bus.subscribe("late")
        await proxy.heal()
        await one.ready()
        assert one.sample("redis_up", link="commands") == 1
        await until(lambda: "late" in dict(one.gaps))
        await one.barrier("ann")


async def test_a_slow_link_is_not_a_broken_one(redis_server: RedisServer) -> None:
    async with (
        link_proxy(redis_server.port) as proxy,
        ready(proxy.url, probe_timeout_s=5.0, command_timeout_s=5.0) as one,
    ):
        proxy.delay_s = 0.5
        assert await one.bus.subscribe("ann")
        for number in range(20):
            one.bus.publish("ann", b"%d" % number)
        await until(lambda: len(one.events) == 20)
        await one.ready()
        await one.ready()
        assert one.gaps == []
        assert one.unpublished == []


@pytest.mark.usefixtures("loop_factory")
async def test_a_loop_that_stood_still_does_not_blame_redis(
    redis_server: RedisServer,
) -> None:
    async with ready(redis_server.url, probe_interval_s=60.0) as one:
        assert await one.bus.subscribe("ann")
        one.bus.publish("ann", b"before")
        await asyncio.sleep(0)
        time.sleep(0.5)  # noqa: ASYNC251  # that is what it is about
        assert await one.bus.flush()
        assert one.unpublished == []
        await until(lambda: one.payloads == [b"before"])


async def test_redis_unreachable_at_the_start_is_said_once(
    redis_server: RedisServer,
) -> None:
    async with link_proxy(redis_server.port) as proxy:
        await proxy.refuse()
        with capture_logs() as logs:
            async with running_bus(proxy.url) as one:
                assert not await one.bus.subscribe("ann")
                assert one.bus.probe_age() is None
                await until(lambda: len(logs) > 0)
                await asyncio.sleep(0.5)
                assert not one.bus.listening
                await proxy.heal()
                await one.ready()
                assert one.gaps == [("ann", "unreachable")]
        told = [
            (line["event"], line["log_level"])
            for line in logs
            if line["event"].startswith("redis")
        ]
        assert told == [("redis_down", "warning"), ("redis_back", "info")]


async def test_what_was_being_taken_back_is_not_subscribed_again(
    redis_server: RedisServer,
) -> None:
    async with (
        link_proxy(redis_server.port) as proxy,
        ready(proxy.url, unsubscribe_delay_s=0.0) as one,
    ):
        users = [f"user{number}" for number in range(100)]
        await asyncio.gather(*map(one.bus.subscribe, users))
        proxy.stall()
        for user in users[:50]:
            one.bus.unsubscribe(user)
        await asyncio.sleep(0.02)  # their UNSUBSCRIBE is in the stalled link
        for user in users[50:75]:
            one.bus.unsubscribe(user)
        proxy.cut()
        await proxy.heal()
        await one.ready()
        channels = redis_server.command("PUBSUB", "CHANNELS", "typelets:user:*")
        assert sorted(channels) == sorted(f"typelets:user:{u}" for u in users[75:])
        assert sorted(user for user, _ in one.gaps) == sorted(users[75:])


async def test_a_full_queue_is_named_and_repaired(redis_server: RedisServer) -> None:
    async with ready(redis_server.url, publish_queue=10) as one:
        assert await one.bus.subscribe("ann")
        for number in range(12):
            one.bus.publish("ann", b"%d" % number)
        assert one.unpublished == [("ann", b"10"), ("ann", b"11")]
        assert one.sample("publish_failures_total", reason="full") == 2
        await until(lambda: len(one.events) == 11)
        assert one.payloads[:10] == [b"%d" % number for number in range(10)]
        assert b"resync_required" in one.payloads[10]


async def test_more_users_than_are_remembered_means_everybody(
    redis_server: RedisServer,
) -> None:
    async with (
        link_proxy(redis_server.port) as proxy,
        ready(proxy.url, publish_queue=10) as one,
        ready(redis_server.url, 1) as other,
    ):
        assert await other.bus.subscribe("elsewhere")
        await proxy.refuse()
        await down(one)
        for number in range(11):
            one.bus.publish(f"user{number}", b"event")
        await proxy.heal()
        await until(lambda: other.gaps)
        assert other.gaps == [("elsewhere", "publish_failed")]
        other.bus.commands.send(lambda _: None, b"PUBLISH", b"typelets:control", "x")
        await other.barrier("elsewhere")
        assert other.gaps == [("elsewhere", "publish_failed")]
        assert other.sample("events_total", event="unknown", result="refused") == 1


async def test_a_handler_that_fails_costs_one_event(redis_server: RedisServer) -> None:
    def fail(user_id: str, payload: bytes) -> None:
        if payload == b"bad":
            raise ValueError(user_id)

    async with ready(redis_server.url) as one:
        assert await one.bus.subscribe("ann")
        one.also = fail
        with capture_logs() as logs:
            one.bus.publish("ann", b"bad")
            await one.barrier("ann")
        assert [line["event"] for line in logs] == ["event_handler_failed"]
        assert one.sample("events_total", event="unknown", result="failed") == 1
        assert one.gaps == []


async def test_a_server_that_talks_nonsense_is_tried_again(
    redis_server: RedisServer,
) -> None:
    said = [b"?!\r\n", b"*3\r\n$1\r\nx\r\n:1\r\n:2\r\n", b"+OK\r\n" * 9, b"", b":1"]

    async def nonsense(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        await reader.read(10)
        writer.write(b"+OK\r\n+OK\r\n+OK\r\n" + said[len(attempts) % len(said)])
        attempts.append(1)
        writer.close()

    attempts: list[int] = []
    async with (
        serving(nonsense) as port,
        running_bus(f"redis://127.0.0.1:{port}/0") as one,
    ):
        await until(lambda: len(attempts) > 8)
        assert one.bus.probe_age() is None
        assert not await one.bus.subscribe("ann")


class Ledger:
    """The published events by user, and those received or reported as a gap."""

    def __init__(self, one: RunningBus, users: list[str]) -> None:
        self.sent: list[str] = []
        self._one = one
        self._got: dict[str, set[int]] = {user: set() for user in users}
        self._told = dict.fromkeys(users, -1)
        one.also = lambda user, payload: self._got[user].add(int(payload))

    def publish(self, sender: RunningBus, user: str) -> None:
        sender.bus.publish(user, b"%d" % len(self.sent))
        self.sent.append(user)

    def note_gaps(self) -> None:
        """A gap report is good for what was published before it."""
        for user, _ in self._one.gaps:
            self._told[user] = len(self.sent) - 1
        self._one.gaps.clear()

    def lost(self) -> list[int]:
        return [n for n, user in enumerate(self.sent) if n not in self._got[user]]

    def lost_silently(self) -> list[int]:
        return [n for n in self.lost() if self._told[self.sent[n]] < n]


def misbehave(server: RedisServer, proxy: LinkProxy, rng: random.Random) -> None:
    what = rng.randrange(4)
    if what == 0:
        proxy.cut()
    elif what == 1:
        proxy.stall(to_server=rng.random() < 0.5)
    elif what == 2:
        server.command("CLIENT", "KILL", "TYPE", "pubsub")
    else:
        proxy.delay_s = 0.01


def certificate(place: Path) -> Path:
    """One file with a key and a certificate for 127.0.0.1."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "redis")])
    host = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([host]), critical=False)
        .sign(key, hashes.SHA256())
    )
    file = place / "redis.pem"
    pem = serialization.Encoding.PEM
    plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    file.write_bytes(key.private_bytes(pem, *plain) + signed.public_bytes(pem))
    return file


@pytest.mark.usefixtures("redis_process")
@pytest.mark.usefixtures("loop_factory")
async def test_every_kind_of_address_works(tmp_path: Path) -> None:
    pem, sock, tls_port = certificate(tmp_path), tmp_path / "redis.sock", free_port()
    server = RedisServer(
        tmp_path,
        *("--tls-port", str(tls_port), "--tls-auth-clients", "no"),
        *("--tls-cert-file", str(pem), "--tls-key-file", str(pem)),
        *("--tls-ca-cert-file", str(pem), "--unixsocket", str(sock)),
        *("--user", "ws", "on", ">pa:ss", "+@all", "~*", "&*"),
    )
    server.start()
    tls = f"rediss://ws:pa%3Ass@127.0.0.1:{tls_port}/3"
    addresses = [
        f"{tls}?ssl_ca_certs={pem}",
        f"unix://ws@{sock}?db=2&password=pa:ss",
        f"redis://ws:pa%3Ass@127.0.0.1:{server.port}/1?client_name=mine",
        f"{server.url}?protocol=3&decode_responses=true&socket_timeout=1&max_connections=1",
    ]

    try:
        for address in addresses:
            async with ready(address) as one:
                assert await one.bus.subscribe("ann")
                await one.barrier("ann")
                server.command("CLIENT", "KILL", "TYPE", "pubsub")
                await until(lambda: one.gaps)
                await one.barrier("ann")
        # A self-signed certificate, and a wrong password.
        for address in (tls, f"redis://ws:wrong@127.0.0.1:{server.port}"):
            with capture_logs() as logs:
                async with running_bus(address) as one:
                    await until(
                        lambda: "redis_down" in {line["event"] for line in logs}
                    )
                    assert not await one.bus.subscribe("ann")
            assert "pa:ss" not in str(logs)
            assert "wrong" not in str(logs)
    finally:
        server.kill()


async def test_missing_rights_are_named_and_granting_them_is_enough(
    redis_server: RedisServer,
) -> None:
    """The rights that the daemon needs, and what shows when they are missing."""
    commands = (
        "+subscribe +unsubscribe +publish +ping +client|setname"
        " +set +del +sadd +srem +smembers +expire +exists +evalsha +eval +script|load"
    )

    rights = "reset", "on", ">pw", "+client|setname"
    redis_server.command("ACL", "SETUSER", "ws", *rights)
    try:
        url = f"redis://ws:pw@127.0.0.1:{redis_server.port}/0"
        with capture_logs() as logs:

            def refused() -> list[MutableMapping[str, Any]]:
                return [one for one in logs if "subscribe_refused" in one["event"]]

            async with running_bus(url) as one:
                await until(lambda: one.bus.commands.up and refused())
                one.bus.publish("ann", b"event")
                assert await one.bus.flush()
                assert one.unpublished == [("ann", b"event")]
                assert one.sample("publish_failures_total", reason="refused") == 1
                assert not one.bus.listening
                granted = "~typelets:*", "&typelets:*", *commands.split()
                redis_server.command("ACL", "SETUSER", "ws", *granted)
                await one.ready()
                assert await one.bus.subscribe("ann")
                await one.barrier("ann")
                assert await one.limits.claim_nonce("ann", b"n", 1000)
                assert not await one.limits.claim_nonce("ann", b"n", 1000)
                assert (await one.limits.acquire("ann", "c", "s")).value == "granted"
                one.limits.release("ann", "c")
                assert await one.bus.flush()
                await until(lambda: one.sample("shared_limits_up") == 1)
        named = refused()
        assert "NOPERM" in named[0]["reason"]
    finally:
        redis_server.command("ACL", "DELUSER", "ws")


async def test_stopping_is_never_lost(redis_server: RedisServer) -> None:
    """A link stops in any state."""
    for turns in range(80):
        with within(2):
            async with running_bus(redis_server.url):
                for _ in range(turns):
                    await asyncio.sleep(0)


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_five_thousand_events_over_a_link_that_misbehaves(
    redis_server: RedisServer, seed: int
) -> None:
    """A process without event n got a gap report after its publication."""
    rng = random.Random(seed)
    async with (
        link_proxy(redis_server.port) as proxy,
        ready(proxy.url, seed) as one,
        ready(redis_server.url, seed + 10) as sender,
    ):
        # The sender's own link is sound; it has no subscriptions to lose.
        users = [f"user{number}" for number in range(20)]
        await asyncio.gather(*map(one.bus.subscribe, users))
        ledger = Ledger(one, users)
        while len(ledger.sent) < 5000:
            for _ in range(10):
                ledger.publish(sender, rng.choice(users))
            if rng.random() < 0.06:
                misbehave(redis_server, proxy, rng)
            elif rng.random() < 0.05:
                await proxy.heal()
            await asyncio.sleep(0.005)
            ledger.note_gaps()
        await proxy.heal()
        assert await sender.bus.flush()
        assert sender.failures == 0
        await one.ready()
        for user in users:
            await one.barrier(user)
        ledger.note_gaps()
        assert ledger.lost(), "the link was never bad: this proves nothing"
        assert ledger.lost_silently() == []
