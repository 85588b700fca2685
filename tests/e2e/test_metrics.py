"""The metrics: promtool's rules, figures that are really fed, and bounded series."""

import re
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.parser import text_string_to_metric_families

import typelets_ws
from tests.daemon import Boot, Device, RunningDaemon, eventually, publish
from tests.postgres import Database
from tests.redis import RedisServer
from tests.tokens import key_pair, mint
from typelets_ws.protocol.errors import CloseCode
from typelets_ws.telemetry.metrics import Metrics
from typelets_ws.wire.frames import Frame

SOURCES = Path(typelets_ws.__file__).parent
STRANGER = key_pair("stranger")
NOTE = "5f0c4d1a-0000-4000-8000-000000000001"
USERS = 10_000
MOST_SERIES = 1_500
"""All labels' values together, histograms' buckets included."""
NOT_BASE_UNITS = re.compile(
    r"_(ms|millis\w*|micro\w*|minutes|hours|kb|mb|kilobytes|megabytes|percent)(_|$)"
)


def families(registry: CollectorRegistry) -> Iterator[Metric]:
    return iter(registry.collect())


def test_names_and_help_follow_promtool_s_rules() -> None:
    for metric in families(Metrics().registry):
        # prometheus_client adds _total itself; with it twice promtool complains.
        assert re.fullmatch(r"typelets_ws_[a-z][a-z0-9_]*", metric.name)
        assert not metric.name.endswith(("_total", "_count", "_sum", "_bucket"))
        assert not NOT_BASE_UNITS.search(metric.name), metric.name
        assert metric.type in {"counter", "gauge", "histogram"}
        if metric.type == "histogram":
            assert metric.name.endswith(("_seconds", "_bytes")), metric.name
        assert metric.name.count("_gauge") == metric.name.count("_counter") == 0
        assert metric.documentation.endswith("."), metric.name
        for sample in metric.samples:
            assert not {"le", "quantile"} & sample.labels.keys() or (
                metric.type == "histogram"
            )


def test_every_figure_is_fed_somewhere() -> None:
    text = "\n".join(path.read_text() for path in SOURCES.rglob("*.py"))
    figures = [
        name
        for name, value in vars(Metrics()).items()
        if not isinstance(value, CollectorRegistry) and not name.startswith("_")
    ]
    assert len(figures) > 20
    # Its definition in metrics.py is an assignment.
    unfed = [name for name in figures if not re.search(rf"\.{name}\b(?! =)", text)]
    assert not unfed


def series(server: RunningDaemon) -> int:
    return sum(len(m.samples) for m in families(server.daemon.metrics.registry))


def counters(server: RunningDaemon) -> set[tuple[str, ...]]:
    """Every counter's series: the name and its labels' values."""
    return {
        (sample.name, *sorted(sample.labels.values()))
        for metric in families(server.daemon.metrics.registry)
        if metric.type == "counter"
        for sample in metric.samples
    }


class Silent:
    """A device that takes everything."""

    open, behind = True, False
    session_id = None
    since_ms = 0

    def __init__(self, number: int) -> None:
        self.connection_id = f"connection-{number}"
        self.log_fields = {"connection": self.connection_id}

    def send_frame(self, frame: Frame) -> None: ...
    def close(self, code: CloseCode, reason: str) -> None: ...
    def token_refused(self) -> None:
        raise AssertionError

    def ask_resync(self, reason: str, delay: float) -> None: ...


async def misbehave(server: RunningDaemon, device: Device, mark: str) -> None:
    """Everything a stranger chooses the words of."""
    await device.ask({"type": f"no_such_type_{mark}"})
    await device.ask(f"not JSON {mark}")
    await device.ask({"type": "join_note", "noteId": mark})
    changes = {f"field_{mark}": 1, "title": "t"}
    await device.ask({"type": "note_update", "noteId": NOTE, "changes": changes})
    await device.ask({"type": "note_update", "noteId": NOTE, "changes": {mark: 1}})
    await device.ask(device.signed({"type": "ping"}, signature=mark))
    await device.auth(mint("alice", kid=mark, claims={"azp": mark}) + mark)
    await server.get(f"/{mark}")
    await server.get("/", headers={"Origin": f"https://{mark}.example"})
    server.daemon.relay.on_event("alice", b'{"event":"%s"}' % mark.encode())


async def test_strangers_words_and_ten_thousand_users_make_no_new_series(
    boot: Boot,
) -> None:
    async with boot() as server:
        known = counters(server)
        for mark in ("first", "second", "third"):
            async with server.device("alice") as device:
                await misbehave(server, device, mark)
                await device.socket.close(4000 + len(mark), mark)
            assert counters(server) == known
            if mark == "first":
                await eventually(lambda: server.daemon.hub.devices == 0)
                before = series(server)
        hub, relay = server.daemon.hub, server.daemon.relay
        event = msgspec.json.encode({"event": "note_deleted", "noteId": NOTE})
        relay.on_event("user", event)
        await eventually(lambda: server.daemon.hub.devices == 0)
        before = max(before, series(server))
        for number in range(USERS):
            hub.attach(f"user_{number}", Silent(number))
            relay.on_event(f"user_{number}", event)
        assert series(server) == before <= MOST_SERIES
        assert server.figure("deliveries_total") == USERS


async def test_process_build_pool_and_reload_are_reported(boot: Boot) -> None:
    began = time.monotonic()
    async with boot(database={"pool_min": 1, "pool_max": 3}) as server:
        _, _, body = await server.get("/metrics", admin=True)
        found = {
            sample.name: (sample.labels, sample.value)
            for family in text_string_to_metric_families(body.decode())
            for sample in family.samples
        }
        for name in (
            "cpu_seconds_total",
            "start_time_seconds",
            "open_fds",
            "max_fds",
            "resident_memory_bytes",
            "virtual_memory_bytes",
        ):
            assert found[f"process_{name}"][1] > 0, name
        labels, one = found["typelets_ws_build_info"]
        assert (labels["version"], one) == (typelets_ws.__version__, 1)
        assert found["typelets_ws_postgres_connections_max"][1] == 3
        await eventually(lambda: server.figure("postgres_requests_total") > 0)
        assert (
            1
            <= sum(
                server.figure("postgres_connections", state=state)
                for state in ("idle", "in_use")
            )
            <= 3
        )
        # Of three connections at most; in ms it would be more.
        took = server.figure("postgres_connect_seconds_total")
        assert took < 3 * (time.monotonic() - began)


async def test_the_figures_of_a_busy_minute(
    boot: Boot, redis_server: RedisServer, database: Database
) -> None:
    user = database.add_user("alice")
    note = database.add_note(user)
    update = {"type": "note_update", "noteId": note, "changes": {"title": "x"}}
    async with boot(limits={"devices_per_user": 2}) as server:
        known = counters(server)
        async with server.device(user) as one, server.device(user) as two:
            await one.ask(update)
            assert (await two.receive())["type"] == "note_sync"
            event = {"event": "note_deleted", "noteId": note, "publishedAt": 1}
            await publish(redis_server.url, user, event)
            await two.receive()
            async with server.device() as third:
                await third.send({"type": "auth", "token": mint(user)})
                assert await third.closed() == 4429
            async with server.device() as forger:
                await forger.send({"type": "auth", "token": mint(user, key=STRANGER)})
                assert await forger.closed() == 4401
            await eventually(
                lambda: server.figure("connections", state="authenticated") == 2
            )
        await eventually(lambda: server.daemon.hub.devices == 0)
        await eventually(lambda: server.figure("sent_bytes_total") > 500)
        status, _, body = await server.get("/metrics", admin=True)
        assert status == 200
        found = {
            (sample.name[len("typelets_ws_") :], *sorted(sample.labels.values())):
                sample.value
            for family in text_string_to_metric_families(body.decode())
            for sample in family.samples
        }  # fmt: skip
        expected = {
            ("handshakes_total", "101"): 4,
            ("authentications_total", "ok"): 2,
            ("authentications_total", "too_many_devices"): 1,
            ("authentications_total", "bad_signature"): 1,
            ("messages_total", "note_update", "ok"): 1,
            ("handling_seconds_count", "note_update"): 1,
            ("events_total", "note_updated", "ok"): 1,
            ("events_total", "note_deleted", "ok"): 1,
            ("deliveries_total",): 3,
            ("closes_total", "4429", "too_many_devices"): 1,
            ("closes_total", "4401", "auth_failed"): 1,
            ("security_events_total", "too_many_devices"): 1,
            ("security_events_total", "auth_rejected"): 1,
            ("query_seconds_count", "update_note"): 1,
            ("redis_up", "events"): 1,
            ("redis_up", "commands"): 1,
            ("postgres_up",): 1,
            ("shared_limits_up",): 1,
        }
        assert {key: found.get(key) for key in expected} == expected
        assert found["received_bytes_total",] > 500
        assert counters(server) == known
        assert found["token_age_seconds_bucket", "+Inf"] >= 2
