"""Devices converge, however updates interleave (spec section 3, `convergence`).

Five devices of one user on two daemons write overlapping fields of a few notes at
once, while each event is held back for a time of its own between its commit and its
publication, so that their order on Redis is not that of the commits. In the end
every device must hold the stored row: by the last row it was shown, and also when it
goes by `changes` alone, as the web client does.
"""

import asyncio
import random
import uuid
from collections.abc import Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.daemon import Boot, Device, Message, RunningDaemon, eventually, publish
from tests.integration.scene import ALICE
from tests.postgres import Database
from tests.redis import RedisServer
from typelets_ws.delivery.shown_row import ShownRow
from typelets_ws.ports import OnPublished

DELAY_S = 0.05
FIELDS: dict[str, Callable[[int], object]] = {
    "title": lambda n: f"t{n}",
    "content": lambda n: f"c{n}",
    "encryptedTitle": lambda n: None if n % 5 == 0 else f"et{n}",
    "starred": lambda n: n % 2 == 0,
    "archived": lambda n: n % 3 == 0,
}
Notes = dict[str, dict[str, Any]]


class Copy:
    """A device's copy: the last row shown, and the row made up of `changes`."""

    def __init__(self, device: Device, rows: Notes) -> None:
        self.device = device
        self.shown: Notes = {}
        self.laid: Notes = {note: dict(row) for note, row in rows.items()}
        self.resync = False

    def hear(self, message: Message) -> None:
        if message["type"] == "resync_required":
            self.resync = True
        if message["type"] not in {"note_sync", "note_update_success"}:
            return
        note = message["noteId"]
        self.shown[note] = message["updatedNote"]
        # The sender never gets its own changes: its reply has the row.
        laid = message["changes" if "changes" in message else "updatedNote"]
        self.laid[note].update(laid)

    async def listen(self, mark: str) -> None:
        while True:
            message = await self.device.receive()
            if message.get("noteId") == mark:
                return
            self.hear(message)


def disordered(
    server: RunningDaemon, rng: random.Random, spawn: asyncio.TaskGroup
) -> None:
    """Hold each event back for a time of its own."""
    services = server.daemon.state.context
    straight = services.publish

    async def later(user: str, event: bytes, done: OnPublished | None) -> None:
        await asyncio.sleep(rng.random() * DELAY_S)
        straight(user, event, done)

    def publish_late(user: str, event: bytes, done: OnPublished | None) -> None:
        spawn.create_task(later(user, event, done))

    services.publish = publish_late


async def write(
    device: Device, notes: list[str], rng: random.Random, count: int
) -> None:
    for number in range(count):
        names = rng.sample(sorted(FIELDS), rng.randint(1, 3))
        changes = {name: FIELDS[name](rng.randrange(1000)) for name in names}
        await device.send(
            {"type": "note_update", "noteId": rng.choice(notes), "changes": changes}
        )
        if number % 7 == 0:
            await asyncio.sleep(0)


STORMS = 6
"""One storm may be harmless by chance; not so many, one after the other."""


async def storm(
    boot: Boot, notes: list[str], rows: Notes, seed: int, updates: int
) -> tuple[list[Copy], float]:
    """Five devices write `updates` times; returns what they hold, and the repairs."""
    rng = random.Random(seed)
    async with AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(boot()) for _ in range(2)]
        copies = [
            Copy(await stack.enter_async_context(servers[n % 2].device(ALICE)), rows)
            for n in range(5)
        ]
        mark = str(uuid.uuid4())
        async with asyncio.TaskGroup() as readers:
            for copy in copies:
                readers.create_task(copy.listen(mark))
            async with asyncio.TaskGroup() as late:
                for server in servers:
                    disordered(server, rng, late)
                async with asyncio.TaskGroup() as writers:
                    for copy in copies:
                        seeded = random.Random(rng.random())
                        work = write(copy.device, notes, seeded, updates // 5)
                        writers.create_task(work)
                await eventually(lambda: handled(servers) >= updates)
            # The last events are on their way to Redis, each from its own daemon.
            for server in servers:
                await server.daemon.bus.flush()
            await calm(servers, handled(servers))
            end = {"event": "note_deleted", "noteId": mark}
            await publish(servers[0].daemon.config.redis.url, ALICE, end)
        repairs = sum(server.figure("order_repairs_total") for server in servers)
        failures = sum(len(server.logged("internal_error")) for server in servers)
        assert failures == 0
    return copies, repairs


async def calm(servers: list[RunningDaemon], updates: float) -> None:
    """Wait until each daemon has heard so many updates, and read rows in conflict."""

    def idle(server: RunningDaemon) -> bool:
        heard = server.figure("events_total", event="note_updated", result="ok")
        return heard >= updates and not server.daemon.relay.recovery.conflicts.waiting

    for server in servers:
        await eventually(lambda: idle(server))  # noqa: B023 - awaited in the loop


def handled(servers: list[RunningDaemon]) -> float:
    return sum(
        server.figure("messages_total", type="note_update", result="ok")
        for server in servers
    )


def refusals(server: RunningDaemon) -> float:
    return server.figure("messages_total", type="note_update", result="NOT_FOUND")


def stored(database: Database, notes: list[str]) -> Notes:
    """The rows as a device is shown them."""
    found: Notes = {}
    for note in notes:
        row = database.note(note)
        at = row["updated_at"].isoformat(timespec="milliseconds") + "Z"
        found[note] = {
            "title": row["title"], "content": row["content"],
            "encryptedTitle": row["encrypted_title"], "starred": row["starred"],
            "archived": row["archived"], "updatedAt": at,
        }  # fmt: skip
    return found


def differing(copies: list[Copy], truth: Notes) -> list[str]:
    """Where a device holds something else than what is stored."""
    found = []
    for number, copy in enumerate(copies):
        if copy.resync:
            continue
        for note, row in truth.items():
            for how, held in (("shown", copy.shown[note]), ("laid", copy.laid[note])):
                if {name: held.get(name) for name in row} != row:
                    found.append(f"device {number}, {note}, {how}")
    return found


def prepare(database: Database) -> tuple[list[str], Notes]:
    database.add_user(ALICE)
    notes = [database.add_note(ALICE) for _ in range(3)]
    return notes, stored(database, notes)


@pytest.mark.parametrize(
    ("seed", "fast_paths"),
    [(seed, ("all", "none")[seed % 2]) for seed in range(6)]
    + [(None, "all"), (None, "none")],
    indirect=["fast_paths"],
)
async def test_every_device_ends_with_the_stored_rows(
    boot: Boot, database: Database, seed: int | None
) -> None:
    chosen = random.randrange(2**32) if seed is None else seed
    print(f"seed {chosen}")
    notes, _ = prepare(database)
    for number in range(STORMS):
        rows = stored(database, notes)
        copies, repairs = await storm(boot, notes, rows, chosen + number, 300)
        assert differing(copies, stored(database, notes)) == []
        assert not any(copy.resync for copy in copies)
        if repairs > 0:
            return
    pytest.fail("the order was never broken: this proves nothing")


async def test_without_reading_rows_in_conflict_devices_do_not_converge(
    boot: Boot, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The storm is fierce enough: without its remedy it leaves devices behind."""

    def never(_row: ShownRow, _version: str | None, _holder: str | None) -> bool:
        return False

    monkeypatch.setattr(ShownRow, "is_newer", never)
    notes, _ = prepare(database)
    for seed in range(STORMS):
        copies, _ = await storm(boot, notes, stored(database, notes), seed, 300)
        if differing(copies, stored(database, notes)):
            return
    pytest.fail("all devices converged")


async def test_pipelined_updates_of_one_device_end_on_its_last(
    boot: Boot, database: Database
) -> None:
    note = prepare(database)[0][0]
    async with (
        boot() as server,
        server.device(ALICE) as writer,
        server.device(ALICE) as reader,
    ):
        for number in range(60):
            changes = {"title": f"{number}"}
            await writer.send(
                {"type": "note_update", "noteId": note, "changes": changes}
            )
        titles = [
            [(await device.receive())["updatedNote"]["title"] for _ in range(60)]
            for device in (writer, reader)
        ]
        assert titles[0] == [str(number) for number in range(60)]
        # One that came late shows the newest row: none ever goes back.
        assert sorted(titles[1], key=int) == titles[1]
        assert titles[1][-1] == "59"
        assert database.note(note)["title"] == "59"


def row_at(note: str, at: str, **fields: object) -> dict[str, Any]:
    return {"id": note, "userId": ALICE, "updatedAt": at, **fields}


async def updated(
    redis_server: RedisServer, note: str, at: str, *, ours: bool, **fields: object
) -> None:
    event: dict[str, Any] = {
        "event": "note_updated", "noteId": note,
        "changes": {**fields, "updatedAt": at},
        "updatedNote": row_at(note, at, **{"title": "?", "starred": None, **fields}),
    }  # fmt: skip
    if ours:
        event["version"] = at
    await publish(redis_server.url, ALICE, event)


OLD, NEW = "2026-01-01T00:00:00.001Z", "2026-01-01T00:00:00.002Z"


def stored_note(database: Database, **columns: object) -> str:
    database.add_user(ALICE)
    return database.add_note(ALICE, **columns)


@pytest.mark.parametrize("ours", [True, False])
async def test_after_an_older_event_devices_are_shown_the_stored_row(
    boot: Boot, database: Database, redis_server: RedisServer, ours: bool
) -> None:
    """Whose clock is wrong is not known, so the row is read."""
    note = stored_note(database, title="stored")
    async with boot() as server, server.device(ALICE) as device:
        await updated(redis_server, note, NEW, ours=ours, title="new", starred=True)
        assert (await device.receive())["changes"]["title"] == "new"
        await updated(redis_server, note, OLD, ours=ours, title="old")
        created, sync = await device.receive(), await device.receive()
        assert created["type"] == "note_created_sync"
        assert created["noteData"]["title"] == "stored"
        assert sync["type"] == "note_sync"
        assert sync["changes"] == sync["updatedNote"] == created["noteData"]
        assert sync["fromUserId"] == "server"
        assert await device.barrier() == []
        assert server.figure("order_repairs_total") == 1


async def test_an_older_folder_event_and_a_late_creation_are_read_as_well(
    boot: Boot, database: Database, redis_server: RedisServer
) -> None:
    note = stored_note(database, title="stored")
    folder = database.add_folder(ALICE, name="stored")
    async with boot() as server, server.device(ALICE) as device:
        for at in (NEW, OLD):
            row = {"id": folder, "name": at, "updatedAt": at}
            event = {
                "event": "folder_updated", "folderId": folder,
                "changes": {"name": at}, "updatedFolder": row,
            }  # fmt: skip
            await publish(redis_server.url, ALICE, event)
        assert (await device.receive())["updatedFolder"]["name"] == NEW
        created, sync = await device.receive(), await device.receive()
        assert created["type"] == "folder_created_sync"
        assert sync["type"] == "folder_updated_sync"
        assert sync["changes"] == sync["updatedFolder"] == created["folderData"]
        assert "order" not in sync["changes"]
        assert sync["changes"]["name"] == "stored"
        await updated(redis_server, note, NEW, ours=False, title="new")
        await device.receive()
        late = {"event": "note_created", "noteData": row_at(note, OLD, title="first")}
        await publish(redis_server.url, ALICE, late)
        assert (await device.receive())["noteData"]["title"] == "stored"
        assert (await device.receive())["updatedNote"]["title"] == "stored"


async def test_a_row_from_a_clock_that_is_ahead_is_read_and_so_is_the_next(
    boot: Boot, database: Database, redis_server: RedisServer
) -> None:
    """A host 20 s ahead writes, then one with the right time: the second row stands."""
    note = stored_note(database, title="stored")
    now = datetime.now(UTC)
    ahead, at = (
        moment.strftime("%Y-%m-%dT%H:%M:%S.000Z")
        for moment in (now + timedelta(seconds=20), now)
    )
    async with boot() as server, server.device(ALICE) as device:
        await updated(redis_server, note, ahead, ours=False, title="ahead")
        titles: list[str] = []
        while not titles or titles[-1] != "stored":
            message = await device.receive()
            if message["type"] == "note_sync":
                titles.append(message["updatedNote"]["title"])
        assert titles == ["ahead", "stored"]
        await updated(redis_server, note, at, ours=False, title="older")
        shown = (await device.receive())["type"], await device.barrier()
        assert shown[0] in {"note_sync", "note_created_sync"}


async def test_a_note_restored_after_its_deletion_is_sent_as_created_too(
    boot: Boot, database: Database, redis_server: RedisServer
) -> None:
    """The old web client has removed it, and ignores updates of unknown notes."""
    note = stored_note(database, title="stored")
    gone = {"event": "note_deleted", "noteId": note}
    async with boot() as server, server.device(ALICE) as device:
        async with server.device(ALICE) as other:
            await publish(redis_server.url, ALICE, gone)
            for each in (device, other):
                assert (await each.receive())["type"] == "note_deleted_sync"
            changes = {"deleted": False}
            update = {"type": "note_update", "noteId": note, "changes": changes}
            await other.send(update)
            created, sync = await device.receive(), await device.receive()
            assert created["type"] == "note_created_sync"
            assert created["noteData"] == sync["updatedNote"]
            assert sync["changes"]["deleted"] is False
            replies = [m["type"] for m in await other.barrier()]
            assert replies == ["note_update_success"]
            await other.send(update)
            assert (await device.receive())["type"] == "note_sync"
            await other.barrier()
        await publish(redis_server.url, ALICE, gone)
        await device.receive()
        at = "2999-01-01T00:00:00.000Z"
        await updated(redis_server, note, at, ours=False, title="partial")
        assert (await device.receive())["noteData"]["title"] == "stored"


@pytest.mark.parametrize("at", [None, 5, "", "yesterday", "2026-01-01 00:00:00"])
async def test_rows_without_a_usable_time_pass_as_they_are(
    boot: Boot, redis_server: RedisServer, at: object
) -> None:
    note = str(uuid.uuid4())
    async with boot() as server, server.device(ALICE) as device:
        await updated(redis_server, note, NEW, ours=True, title="new")
        await device.receive()
        event = {
            "event": "note_updated", "noteId": note, "changes": {"title": "x"},
            "updatedNote": {"updatedAt": at},
        }  # fmt: skip
        await publish(redis_server.url, ALICE, event)
        assert (await device.receive())["changes"] == {"title": "x"}
        assert await device.barrier() == []


async def test_a_storm_with_deletions_and_the_rest_services_own_updates(
    boot: Boot, database: Database, redis_server: RedisServer
) -> None:
    """The REST service writes and publishes at once; one note goes away meanwhile."""
    notes, _ = prepare(database)
    kept, gone = notes[0], notes[1]

    async def rest(rng: random.Random) -> None:
        for number in range(30):
            (row,) = database.execute(
                "UPDATE notes n SET content = %s, updated_at = greatest("
                "clock_timestamp() AT TIME ZONE 'UTC', n.updated_at"
                " + interval '1 millisecond') WHERE id = %s RETURNING row_to_json(n)"
                ' AS row, to_char(updated_at, \'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"\') AS at',
                f"rest {number}",
                kept,
            )
            fields = {"content": row["row"]["content"], "title": row["row"]["title"]}
            full = {**fields, "starred": row["row"]["starred"]}
            event = {
                "event": "note_updated", "noteId": kept,
                "changes": {**fields, "updatedAt": row["at"]},
                "updatedNote": row_at(kept, row["at"], **full),
            }  # fmt: skip
            await asyncio.sleep(rng.random() * 0.01)
            await publish(redis_server.url, ALICE, event)

    async with (
        boot() as server,
        boot() as annex,
        server.device(ALICE) as writer,
        annex.device(ALICE) as reader,
    ):
        copies = [Copy(d, {kept: {}, gone: {}}) for d in (writer, reader)]
        mark = str(uuid.uuid4())
        async with asyncio.TaskGroup() as group:
            for copy in copies:
                group.create_task(copy.listen(mark))
            work = group.create_task(rest(random.Random(3)))
            for number in range(100):
                changes = {"title": f"t{number}", "starred": number % 2 == 0}
                note = gone if number % 10 == 5 else kept
                if number == 50:
                    database.execute("DELETE FROM notes WHERE id = %s", gone)
                    await writer.send({"type": "note_deleted", "noteId": gone})
                await writer.send(
                    {"type": "note_update", "noteId": note, "changes": changes}
                )
                await asyncio.sleep(0.001)
            await work
            await eventually(lambda: handled([server]) + refusals(server) >= 100)
            await server.daemon.bus.flush()
            await calm([server, annex], handled([server]) + 30)
            await publish(
                redis_server.url, ALICE, {"event": "note_deleted", "noteId": mark}
            )
        row = database.note(kept)
        for copy in copies:
            if copy.resync:
                continue
            held = copy.shown[kept]
            assert (held["title"], held["starred"]) == (
                row["title"],
                row["starred"],
            )
            assert held["content"] == row["content"]


async def test_the_sender_may_be_gone_before_its_update_is_written(
    boot: Boot, database: Database
) -> None:
    """A written change is published, also when its sender is gone."""
    note = prepare(database)[0][0]
    async with boot() as server, server.device(ALICE) as reader:
        async with server.device(ALICE) as writer:
            with database.locked(note):
                await writer.send(
                    {
                        "type": "note_update",
                        "noteId": note,
                        "changes": {"title": "last words"},
                    }
                )
                await eventually(lambda: database.waiting_for_locks() == 1)
                writer.socket.transport.abort()
                await eventually(lambda: server.daemon.hub.count(ALICE) == 1)
        sync = await reader.receive()
        assert sync["changes"]["title"] == "last words"
