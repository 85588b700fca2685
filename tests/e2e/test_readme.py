"""The README keeps its word: tables match the code, commands exist, examples run."""

import asyncio
import json
import os
import re
import sys
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, nullcontext
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path

import click
import pytest
import redis

from tests.daemon import RunningDaemon, daemon, eventually
from tests.node import missing, node_package
from tests.postgres import Database
from tests.readme import ROOT, TEXT, commands, promises, table, unpack
from tests.redis import TIMEOUTS, RedisServer, free_port
from tests.tokens import mint
from tests.within import PATIENCE_S, within
from typelets_ws import fastpaths
from typelets_ws.cli import main
from typelets_ws.config.load import ALIASES
from typelets_ws.config.model import Config
from typelets_ws.config.types import key_types
from typelets_ws.protocol import client_messages, events
from typelets_ws.protocol.errors import CloseCode, Code
from typelets_ws.protocol.fields import ALLOWED
from typelets_ws.publisher import AsyncPublisher, Publisher
from typelets_ws.schema.json_schema import Note
from typelets_ws.telemetry.metrics import Metrics
from typelets_ws.testing import Message

pytestmark = pytest.mark.slow

NODE_PACKAGES = ("ioredis", "redis", "pg", "ws")
SHELL = {
    "python3",
    "cp",
    "psql",
    "redis-cli",
    "systemctl",
    "curl",
    "/opt/typelets-ws/bin/pip",
    "/opt/rest/bin/pip",
    "apt-get",
    "ln",
    "go",
    "node",
}


# Statements.


def test_the_configuration_reference_is_the_configuration() -> None:
    aliases = {place: name for name, place in ALIASES.items()}
    expected = []
    for section, key in key_types():
        default = getattr(getattr(Config(), section), key)
        shown = "[]" if default == () else json.dumps(default)
        name = aliases.get((section, key), f"TYPELETS_WS_{section}_{key}".upper())
        expected.append([f"`{section}.{key}`", f"`{shown}`", f"`{name}`"])
    rows = table("## Configuration reference")
    assert [row[:3] for row in rows] == expected
    assert all(row[3] for row in rows)


def test_every_key_it_speaks_of_exists() -> None:
    known = {f"{section}.{key}" for section, key in key_types()}
    sections = "|".join({section for section, _ in key_types()})
    spoken = set(re.findall(rf"`((?:{sections})\.[a-z_]+)", TEXT))
    modules = {path.name for path in (ROOT / "typelets_ws").rglob("*.py")}
    assert spoken - modules <= known


def test_every_metric_it_speaks_of_exists() -> None:
    known = {
        sample.name
        for family in Metrics().registry.collect()
        for sample in family.samples
    } | {
        name
        for family in Metrics().registry.collect()
        for name in (family.name, f"{family.name}_total")
    }
    spoken = set(re.findall(r"`(typelets_ws_[a-z_]+)", TEXT)) - {"typelets_ws"}
    assert spoken
    assert spoken <= known


def test_every_environment_name_it_speaks_of_exists() -> None:
    known = set(ALIASES) | {f"TYPELETS_WS_{s}_{k}".upper() for s, k in key_types()}
    spoken = set(re.findall(r"`((?:TYPELETS_WS|WS|CLERK)_[A-Z_]+)", TEXT))
    assert spoken <= known | {fastpaths.VARIABLE}


def test_every_code_is_reported() -> None:
    codes = " ".join(row[0] for row in table("### Errors"))
    assert re.findall(r"[A-Z_]{5,}", codes) == [code.value for code in Code]
    closes = " ".join(row[0] for row in table("### Close codes"))
    assert [int(code) for code in re.findall(r"\d+", closes)] == list(CloseCode)


def test_every_message_and_event_is_reported() -> None:
    told = {row[0].split()[0].strip("`") for row in table("### The conversation")}
    wire = {str(kind.__struct_config__.tag) for kind in client_messages.CLIENT_MESSAGES}
    assert told == wire
    rows = table("## Publish from your REST service")
    assert [row[0].strip("`") for row in rows] == [
        str(kind.__struct_config__.tag) for kind in events.EVENTS
    ]
    for row, kind in zip(rows, events.EVENTS, strict=True):
        fields = re.findall(r"`(\w+)`", row[1].partition("(")[0])
        assert set(fields) <= set(kind.__struct_fields__)


def test_the_lists_of_fields_and_methods_are_whole() -> None:
    assert f"`{' '.join(ALLOWED)}`" in TEXT.replace("`folderId`", "folderId")
    assert f"`{' '.join(Note.__struct_fields__)}`" in TEXT
    methods = {
        name
        for name in dir(Publisher)
        if not name.startswith("_") and callable(getattr(AsyncPublisher, name, None))
    }
    for name in methods:
        assert f"`{name}`" in TEXT


def test_links_lead_somewhere() -> None:
    headings = re.findall(r"^#+ (.*)$", TEXT, re.M)
    anchors = {
        re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-")
        for heading in headings
    }
    for target in re.findall(r"\]\(([^)]+)\)", TEXT):
        if target.startswith("#"):
            assert target[1:] in anchors, target
        elif not target.startswith("https://"):
            assert (ROOT / target).exists(), target


def test_each_promise_has_a_figure_and_a_command() -> None:
    head = TEXT.split("\n## ", 1)[0]
    rows = re.findall(r"^\| (.*) \|$", head, re.M)[1:]
    assert len(rows) == len(promises()) >= 10
    assert all(re.search(r"\d", row.split(" | ")[1]) for row in rows)


@pytest.mark.parametrize("words", [*commands(), *promises()], ids=" ".join)
def test_every_command_exists(words: list[str]) -> None:
    name, *arguments = (word for word in words if not re.match(r"[A-Z]+=", word))
    name = name.removeprefix(".venv/bin/")
    if name == "typelets-ws":
        command = main.get_command(click.Context(main), arguments[0])
        assert command is not None
        given = [word for word in arguments[1:] if word != "&"]
        with click.Context(command) as context:
            command.make_parser(context).parse_args(given)
    elif name.startswith("scripts/"):
        assert os.access(ROOT / name, os.X_OK)
    elif arguments[0] == "-m":
        assert find_spec(arguments[1])
    else:
        assert name in SHELL
    for word in arguments:
        if re.match(r"(tests|systemd|typelets_ws)/", word):
            assert (ROOT / word).exists(), word
        if re.search(r"\.(service|socket)$", word) and "/" not in word:
            template = re.sub(r"@\d+", "@", word)
            assert (ROOT / "systemd" / template).exists(), word


def test_commands_in_the_text_exist() -> None:
    for name in re.findall(r"`typelets-ws ([a-z-]+)", TEXT):
        assert name in main.list_commands(click.Context(main))


# Commands.


class World:
    """The examples' world, with the rights that the README grants and no more."""

    def __init__(self, redis_server: RedisServer, database: Database) -> None:
        self.redis = redis_server
        self.database = database

    def redis_url(self, user: str) -> str:
        return f"redis://{user}:CHANGE-ME@127.0.0.1:{self.redis.port}/1"


@pytest.fixture
def world(redis_server: RedisServer, database: Database) -> Iterator[World]:
    users = []
    version = redis_server.command("INFO", "server")["redis_version"]
    recent = tuple(map(int, version.split("."))) >= (7, 2)
    for words in commands():
        if words[:3] == ["redis-cli", "ACL", "SETUSER"]:
            redis_server.command(*words[1:], *(["+client|setinfo"] if recent else []))
            users.append(words[3])
    redis_server.command("ACL", "LOG", "RESET")
    database.add_user("alice")
    yield World(redis_server, database)
    redis_server.command("ACL", "DELUSER", *users)


PATIENT = {
    r"\b(\w*[tT]imeout): 250\b": r"\1: 60_000",
    r"setTimeout\(2_000,": "setTimeout(60_000,",
    r'(Publisher\(os\.environ\["REDIS_URL"\])\)': r"\1, timeout_s=60)",
}
"""A quarter of a second is long for Redis, and short for a busy machine."""


@pytest.fixture
def examples(quick_examples: Path) -> Path:
    """The examples with the patience of a test."""
    unused = set(PATIENT)
    for path in quick_examples.glob("*.*"):
        text = path.read_text("utf-8") if path.is_file() else ""
        for pattern, patient in PATIENT.items():
            text, count = re.subn(pattern, patient, text)
            unused -= {pattern} if count else set()
        if text:
            path.write_text(text, "utf-8")
    assert not unused
    return quick_examples


@pytest.fixture
def quick_examples(tmp_path: Path) -> Path:
    """The named blocks as files, with the npm packages they import beside them."""
    unpack(tmp_path)
    place = tmp_path / "node_modules"
    place.mkdir()
    for name in NODE_PACKAGES:
        package = node_package(name)
        for each in package.parent.iterdir():  # and what they need themselves
            if not (place / each.name).exists():
                (place / each.name).symlink_to(each)
    return tmp_path


@asynccontextmanager
async def rooms(
    world: World, *, recovery: bool = False, **rules: bool
) -> AsyncIterator[RunningDaemon]:
    async with daemon(
        world.redis_url("typelets-ws"),
        world.database.url_as("typelets_ws"),
        redis={"lease_s": 0.3, "unsubscribe_delay_s": 0.05},
        messages=rules,
        recovery={"enabled": recovery, "replay_s": 0.001, "audit_s": 600.0},
    ) as running:
        yield running


async def output_of(world: World, place: Path, *command: str, **environ: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=place,
        env={
            **os.environ,
            "REDIS_URL": world.redis_url("typelets-rest"),
            "DATABASE_URL": world.database.url,
            **environ,
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    told, _ = await process.communicate()
    assert process.returncode == 0, told.decode()
    return told.decode()


@pytest.mark.parametrize(
    "command",
    [
        ("node", "publish-ioredis.mjs"),
        ("node", "publish-node-redis.mjs"),
        (sys.executable, "publish.py"),
    ],
    ids=lambda command: command[1],
)
async def test_a_publisher(
    world: World, examples: Path, command: tuple[str, str]
) -> None:
    note = world.database.add_note("alice", starred=False)
    async with (
        rooms(world) as room,
        room.device("alice") as phone,
        room.device("alice") as laptop,
    ):
        told = await output_of(
            world, examples, *command, "alice", note, phone.connection_id
        )
        assert told == "1 process(es) heard it\n"
        message = await laptop.receive()
        assert message["type"] == "note_sync"
        row = message["updatedNote"]
        assert list(row) == list(Note.__struct_fields__)
        assert message["changes"] == {
            "starred": True,
            "updatedAt": row["updatedAt"],
        }
        assert abs(message["timestamp"] - moment(row["updatedAt"])) < 10_000
        assert await phone.barrier() == []
    assert world.redis.command("ACL", "LOG") == []
    assert world.database.note(note)["starred"] is True


@pytest.mark.parametrize(
    "command",
    [
        ("node", "publish-ioredis.mjs"),
        ("node", "publish-node-redis.mjs"),
        (sys.executable, "publish.py"),
    ],
    ids=lambda command: command[1],
)
@pytest.mark.parametrize("hanging", [False, True])
async def test_a_publisher_without_redis_does_not_wait_or_fail(
    world: World, quick_examples: Path, command: tuple[str, str], hanging: bool
) -> None:
    note = world.database.add_note("alice", starred=False)
    url = world.redis_url("typelets-rest")
    if not hanging:
        url = f"redis://127.0.0.1:{free_port()}/0"
    with world.redis.frozen() if hanging else nullcontext():
        async with asyncio.timeout(PATIENCE_S):
            told = await output_of(
                world, quick_examples, *command, "alice", note, REDIS_URL=url
            )
    assert "0 process(es) heard it" in told
    assert world.database.note(note)["starred"] is True


@asynccontextmanager
async def express(world: World, place: Path) -> AsyncIterator[int]:
    """The Express example; its port."""
    node_package("express")
    environ = {
        **os.environ, "PORT": "0", "DATABASE_URL": world.database.url,
        "REDIS_URL": world.redis_url("typelets-rest"),
    }  # fmt: skip
    process = await asyncio.create_subprocess_exec(
        "node", "express-app.mjs", cwd=place, env=environ,
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        async with asyncio.timeout(PATIENCE_S):
            port = int(await process.stdout.readline())
        yield port
    finally:
        process.kill()
        await process.wait()


async def test_the_express_example(world: World, examples: Path) -> None:
    note = world.database.add_note("alice", starred=False)
    async with (
        express(world, examples) as port,
        rooms(world) as room,
        room.device("alice") as phone,
        room.device("alice") as laptop,
    ):
        await starred_over_http(port, note, phone.connection_id)
        message = await laptop.receive()
        assert message["updatedNote"]["starred"] is True
        assert await phone.barrier() == []


async def test_the_express_example_with_a_redis_that_says_nothing(
    world: World, quick_examples: Path
) -> None:
    note = world.database.add_note("alice", starred=False)
    async with (
        express(world, quick_examples) as port,
        rooms(world) as room,
        room.device("alice") as phone,
    ):
        with world.redis.frozen(), within(2):  # 0.25 s, and a busy machine
            await starred_over_http(port, note, phone.connection_id)
        # The connection was never lost: the next publication heals as well.
        heard: list[Message] = []
        while all(message["type"] != "resync_required" for message in heard):
            await starred_over_http(port, note, phone.connection_id)
            heard = await phone.barrier()


async def starred_over_http(port: int, note: str, connection_id: str) -> None:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/notes/{note}/star",
        method="POST",
        headers={"X-User-Id": "alice", "X-Connection-Id": connection_id},
    )
    done = await asyncio.to_thread(urllib.request.urlopen, request, timeout=PATIENCE_S)
    assert done.status == 200
    assert json.loads(done.read())["starred"] is True


async def test_the_fastapi_example(world: World, examples: Path) -> None:
    for name in ("fastapi", "httpx"):
        if find_spec(name) is None:
            missing(f"{name} is not installed; scripts/test brings it")
    program = """
from fastapi.testclient import TestClient
from fastapi_app import app
import sys
import time
import urllib.request
with TestClient(app) as client:
    note, connection = sys.argv[1:]
    headers = {"X-User-Id": "alice", "X-Connection-Id": connection}
    answer = client.post(f"/notes/{note}/star", headers=headers)
    print(answer.status_code, answer.json()["starred"])
"""
    (examples / "drive.py").write_text(program)
    note = world.database.add_note("alice", starred=False)
    async with (
        rooms(world) as room,
        room.device("alice") as phone,
        room.device("alice") as laptop,
    ):
        told = await output_of(
            world, examples, sys.executable, "drive.py", note, phone.connection_id
        )
        assert told.splitlines()[-1] == "200 True"
        assert (await laptop.receive())["updatedNote"]["starred"] is True
        assert await phone.barrier() == []


async def test_the_outbox(world: World, examples: Path) -> None:
    run_it = (sys.executable, "outbox.py")
    event = json.dumps({"event": "user_disconnected"})
    assert "0 event(s)" in await output_of(world, examples, *run_it)
    async with rooms(world) as room, room.device("alice") as phone:
        world.database.execute(
            "INSERT INTO ws_outbox (user_id, event) VALUES ('alice', %s)", event
        )
        assert "1 event(s)" in await output_of(world, examples, *run_it)
        assert await phone.closed() == 4401
    assert "0 event(s)" in await output_of(world, examples, *run_it)
    world.database.execute("DROP TABLE ws_outbox")


def moment(text: str) -> float:
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", text)
    return datetime.fromisoformat(text).timestamp() * 1000


async def test_revoking_a_session(world: World, examples: Path) -> None:
    async with (
        rooms(world) as room,
        room.device("alice", sid="sess_bad") as phone,
        room.device() as back,
    ):
        await output_of(world, examples, "node", "revoke.mjs", "alice", "sess_bad")
        assert await phone.closed() == 4401
        answer = await back.auth(mint("alice", sid="sess_bad"))
        assert answer["type"] == "auth_failed"
    assert world.redis.command("ACL", "LOG") == []


async def test_the_daemon_needs_the_rights_the_readme_grants_and_no_more(
    world: World,
) -> None:
    note = world.database.add_note("alice")
    world.redis.command("CONFIG", "RESETSTAT")
    async with rooms(world, recovery=True) as room:
        await eventually(lambda: world.redis.calls("get") > 0)
        async with room.device("alice") as phone, room.device("alice") as laptop:
            update = {
                "type": "note_update",
                "noteId": note,
                "changes": {"starred": True},
            }
            answer = await phone.ask(phone.signed(update))
            assert answer["type"] == "note_update_success"
            assert (await laptop.receive())["type"] == "note_sync"
            renewed = world.redis.calls("set")
            await eventually(lambda: world.redis.calls("set") > renewed + 2)

            async def loads_the_script() -> bool:
                """A lease that ran out, on a busy machine, loads the script again."""
                world.redis.command("SCRIPT", "FLUSH")
                async with room.device("alice"):
                    return world.redis.calls("eval") > 0

            await eventually(loads_the_script)
        await eventually(lambda: world.redis.subscribers("typelets:user:alice") == 0)
    assert world.redis.command("ACL", "LOG") == []
    (granted,) = (words for words in commands() if "typelets-ws" in words[3:4])
    for word in granted:
        if word.startswith("+"):
            assert world.redis.calls(word[1:]) > 0, f"{word} is not needed"


def test_a_publisher_may_neither_listen_nor_read(world: World) -> None:
    with redis.Redis.from_url(world.redis_url("typelets-rest"), **TIMEOUTS) as link:
        for forbidden in (
            ["SUBSCRIBE", "typelets:user:alice"],
            ["GET", "typelets:barred:sess_1"],
            ["PUBLISH", "typelets:control", "x"],
            ["SET", "typelets:devices:alice", "x"],
        ):
            with pytest.raises(redis.exceptions.NoPermissionError):
                link.execute_command(*forbidden)
