"""The JavaScript client in a Node process, driven from a test; and a link that is cut.

`Clients` sends commands to `driver.mjs`. `ByteCutter` is a proxy that ends each of its
first connections after a given number of bytes, counted over both directions.
"""

import asyncio
import itertools
import json
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from importlib.resources import files
from pathlib import Path
from typing import Any

from tests.daemon import eventually
from tests.node import NODE, node_package
from tests.readme import unpack
from tests.serving import serving
from tests.within import PATIENCE_S
from typelets_ws.dev.rest import HttpError, RestStub
from typelets_ws.testing import Message

DRIVER = Path(__file__).with_name("driver.mjs")
SPEED = 10
ENDED = (OSError, ExceptionGroup)


class Clients:
    """A Node process with clients; `rest` answers their `refetch` events."""

    def __init__(self, process: asyncio.subprocess.Process, rest: RestStub) -> None:
        self._process = process
        self._rest = rest
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self.users: dict[str, str] = {}
        """Whose rows each client shows, by its name; the others are alice's."""

    async def call(self, command: str, **options: Any) -> Any:
        """Run a command of the driver, and return its result."""
        async with asyncio.timeout(PATIENCE_S):
            return await self._send(command, **options)

    async def new(self, name: str, url: str, *tokens: str, **options: Any) -> "Client":
        """A started client; `tokens` are given out in turn, the last one again."""
        options = {"speed": SPEED, "tokens": tokens or [None], **options}
        self.users[name] = options.pop("user", "alice")
        await self.call("new", name=name, url=url, **options)
        await self.call("start", name=name)
        return Client(self, name)

    def stored(self, name: str = "") -> Message:
        """The rows of a client's user in the database, in wire format."""
        return dict(self._rest.listing(self.users.get(name, "alice")))

    def _replace(self, name: str) -> None:
        """Answer a `refetch` event, once Postgres does."""
        loop = asyncio.get_running_loop()
        try:
            rows = self.stored(name)
        except HttpError:
            loop.call_later(0.1, self._replace, name)
            return
        self._send("replace", name=name, all=rows)

    def _send(self, command: str, **options: Any) -> asyncio.Future[Any]:
        number = next(self._numbers)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        line = json.dumps({"number": number, "command": command, **options})
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")
        return answer

    async def read(self) -> None:
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            message = json.loads(line)
            if "refetch" in message:
                self._replace(message["refetch"])
                continue
            answer = self._answers.pop(message["number"])
            if answer.done():
                continue  # the call was cancelled
            if "error" in message:
                answer.set_exception(AssertionError(message["error"]))
            else:
                answer.set_result(message["result"])


class Client:
    """One client of the process."""

    def __init__(self, clients: Clients, name: str) -> None:
        self._clients = clients
        self.name = name

    async def call(self, command: str, **options: Any) -> Any:
        return await self._clients.call(command, name=self.name, **options)

    async def heard(self, event: str) -> list[Message]:
        """The events of this name, at most the last 200."""
        heard: dict[str, list[Message]] = await self.call("heard")
        return heard[event]

    async def edit(self, note: str, **changes: Any) -> None:
        await self.call("edit", id=note, changes=changes)

    async def is_at(self, status: str) -> None:
        async def reached() -> bool:
            return bool(await self.call("status") == status)

        await eventually(reached)

    async def reported(self, event: str, **fields: Any) -> Message:
        """Wait for an event with these fields."""
        found: list[Message] = []

        async def there() -> bool:
            nonlocal found
            found = [
                each
                for each in await self.heard(event)
                if {name: each.get(name) for name in fields} == fields
            ]
            return found != []

        await eventually(there)
        return found[-1]

    async def equals_postgres(self) -> None:
        """Wait until the client is in sync and holds what the database holds."""

        async def same() -> bool:
            if await self.call("status") != "in sync":
                return False
            rows = await self.call("rows")
            return by_id(rows) == by_id(self._clients.stored(self.name))

        try:
            await eventually(same)
        except AssertionError:
            raise AssertionError(await self._difference()) from None

    async def _difference(self) -> str:
        """The rows that differ, what was received and sent of them, and all events."""
        status, heard = await self.call("status"), await self.call("heard")
        rows = by_id(await self.call("rows"))
        stored = by_id(self._clients.stored(self.name))
        ids = [key for key in rows | stored if rows.get(key) != stored.get(key)]
        lines = [f"{self.name}, {status}"]
        lines += [f"{rows.get(key)} != {stored.get(key)}" for key in ids]
        for event, told in heard.items():
            about = ids if event in {"message", "sent"} else [""]
            texts = [json.dumps(each) for each in told]
            lines += [f"{event} {t}" for t in texts if any(a in t for a in about)]
        return "\n".join(lines)


def by_id(rows: Message) -> dict[str, Message]:
    return {row["id"]: row for row in [*rows["notes"], *rows["folders"]]}


@asynccontextmanager
async def node_clients(
    place: Path, database_url: str, redis_url: str, *, mobile: bool = False
) -> AsyncIterator[Clients]:
    """A Node process for clients; `place` is a directory for the module.

    `mobile`: under the constraints of React Native (`react_native.mjs`).
    """
    node_package("ws")
    module = place / "typelets-client.mjs"
    source = files("typelets_ws") / "client" / "typelets-client.js"
    module.write_bytes(source.read_bytes())
    unpack(place)
    environment = {
        **os.environ,
        "CLIENT": str(module),
        "README_MOBILE": str(place / "mobile.mjs"),
    }
    if mobile:
        environment["REACT_NATIVE"] = "1"
    process = await asyncio.create_subprocess_exec(
        NODE, "--expose-gc", "--experimental-vm-modules", "--no-warnings", DRIVER,
        env=environment,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        limit=2**24,
    )  # fmt: skip
    rest = RestStub(database_url, redis_url, "typelets:")
    clients = Clients(process, rest)
    async with asyncio.TaskGroup() as tasks:
        reading = tasks.create_task(clients.read())
        try:
            yield clients
        finally:
            process.kill()
            await process.wait()
            reading.cancel()
            rest.close()


class ByteCutter:
    """A proxy to a port of this machine; see the module's docstring."""

    def __init__(self, target: int, cuts: Sequence[int]) -> None:
        self._target = target
        self._cuts = list(cuts)
        self.port = 0
        self.longest = 0

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        async with serving(self._serve) as self.port:
            yield

    async def _serve(
        self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter
    ) -> None:
        left = self._cuts.pop(0) if self._cuts else None
        passed = 0
        server, to_server = await asyncio.open_connection("127.0.0.1", self._target)

        async def pump(
            reader: asyncio.StreamReader, writer: asyncio.StreamWriter
        ) -> None:
            nonlocal passed
            while data := await reader.read(65_536):
                data = data if left is None else data[: max(left - passed, 0)]
                passed += len(data)
                self.longest = max(self.longest, passed)
                writer.write(data)
                await writer.drain()
                if left is not None and passed >= left:
                    break
            to_client.transport.abort()
            to_server.transport.abort()

        try:
            with suppress(*ENDED):
                async with asyncio.TaskGroup() as group:
                    group.create_task(pump(client, to_server))
                    group.create_task(pump(server, to_client))
        finally:
            to_client.transport.abort()
            to_server.transport.abort()
