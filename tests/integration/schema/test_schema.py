"""Every message of a daemon and its clients fits the published schema."""

import json
from collections.abc import Mapping
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.validators import validator_for
from msgspec import structs
from websockets.asyncio.client import ClientConnection, connect

from tests.daemon import Boot, Device, Message, RunningDaemon
from tests.node import node_package
from tests.postgres import Database
from tests.redis import RedisServer
from tests.tokens import mint
from tests.within import PATIENCE_S
from typelets_ws.protocol import client_messages, messages
from typelets_ws.protocol.errors import Code
from typelets_ws.publisher import AsyncPublisher
from typelets_ws.schema.asyncapi import asyncapi
from typelets_ws.schema.json_schema import Note, json_schema

MISSING = "00000000-0000-4000-8000-00000000dead"


class Witness:
    """Checks all that passes, and remembers what kinds there were."""

    def __init__(self) -> None:
        self.seen: set[str] = set()
        self._validators = {
            name: Draft202012Validator({**json_schema(), "$ref": f"#/$defs/{name}"})
            for name in ("ClientMessage", "ServerMessage", "SignedMessage")
        }

    def hears(self, message: Mapping[str, Any]) -> None:
        self._validators["ServerMessage"].validate(message)
        self.seen.add(message["type"])

    def says(self, message: Mapping[str, Any]) -> None:
        if "signature" in message:
            self._validators["SignedMessage"].validate(message)
            message = message["payload"]
        self._validators["ClientMessage"].validate(message)
        self.seen.add(message["type"])


class WatchedDevice(Device):
    """A device all of whose words are checked; `misfit` says what must not fit."""

    def __init__(self, socket: ClientConnection, witness: Witness) -> None:
        super().__init__(socket)
        self._witness = witness

    async def send(self, message: Mapping[str, Any] | str | bytes) -> None:
        if isinstance(message, Mapping):
            self._witness.says(message)
        await super().send(message)

    async def receive(self) -> Message:
        message = await super().receive()
        self._witness.hears(message)
        return message

    async def misfit(self, message: Mapping[str, Any]) -> Message:
        """Say something the schema must refuse; returns the daemon's answer."""
        document = {**json_schema(), "$ref": "#/$defs/ClientMessage"}
        assert not Draft202012Validator(document).is_valid(message)
        return await self.ask(json.dumps(message))


def watched(device: Device, witness: Witness) -> WatchedDevice:
    return WatchedDevice(device.socket, witness)


async def converse(server: RunningDaemon, witness: Witness, database: Database) -> None:
    note = database.add_note("alice", tags=["a,b", '"q"'], hidden=None)
    folder = database.add_folder("alice")
    join = {"type": "join_note", "noteId": note}
    async with connect(server.url) as socket, server.device("alice") as plain:
        phone, other = WatchedDevice(socket, witness), watched(plain, witness)
        assert (await phone.receive())["type"] == "connection_established"
        assert (await phone.ask(join))["code"] == Code.AUTH_REQUIRED
        old = mint("alice", expires_in=-600)
        assert (await phone.auth(old))["reason"] == "token-expired"
        await phone.auth(mint("alice"))
        for message in (
            {"type": "ping"},
            {**join, "requestId": "1"},
            {"type": "leave_note", "noteId": note},
            {
                "type": "note_update", "noteId": note,
                "changes": {"title": "[ENCRYPTED]", "content": None, "starred": True,
                            "folderId": folder, "hiddenAt": None},
            },
        ):  # fmt: skip
            answer = await phone.ask(phone.signed(message))
            assert answer["type"] != "error", answer
        assert list(answer["updatedNote"]) == [f.name for f in structs.fields(Note)]
        assert (await other.receive())["updatedNote"] == answer["updatedNote"]
        for message in (
            {"type": "note_created", "noteData": {"id": note, "title": "t"}},
            {"type": "note_deleted", "noteId": note},
            {"type": "folder_created", "folderData": {"id": folder}},
            {"type": "folder_updated", "folderId": folder, "changes": {"name": "n"}},
            {"type": "folder_deleted", "folderId": folder},
        ):  # fmt: skip
            await phone.send(message)
            assert (await other.receive())["fromUserId"] == "alice"
        gone = {"type": "note_deleted", "noteId": note, "requestId": "2"}
        assert (await phone.ask(gone))["type"] == "announced"
        answer = await phone.ask({**join, "noteId": MISSING})
        assert answer["code"] == Code.NOT_FOUND
        assert (await phone.misfit({"type": "sing"}))["code"] == Code.UNKNOWN_TYPE
        await phone.misfit({"type": "note_update", "noteId": note, "changes": {}})
        await phone.misfit({"type": "auth", "token": 1})
        forged = phone.signed({"type": "ping"}, signature="AAAA")
        assert (await phone.ask(forged))["code"] == Code.SIGNATURE_REJECTED


async def publish_all(
    server: RunningDaemon, witness: Witness, publisher: AsyncPublisher
) -> None:
    row: dict[str, Any] = {field.name: None for field in structs.fields(Note)}
    row |= {"id": MISSING, "userId": "alice", "title": "t", "type": "note"}
    row |= {"createdAt": "2026-01-01T00:00:00.000Z"}
    row |= {"updatedAt": "2026-01-01T00:00:00.000Z"}
    async with server.device("alice") as plain:
        device = watched(plain, witness)
        for heard in (
            publisher.notify_note_update("alice", MISSING, {"title": "t"}, row),
            publisher.notify_note_created("alice", row),
            publisher.notify_note_deleted("alice", MISSING),
            publisher.notify_folder_created("alice", {"id": MISSING}),
            publisher.notify_folder_updated("alice", MISSING, {"name": "n"}),
            publisher.notify_folder_deleted("alice", MISSING),
            publisher.require_resync("alice"),
        ):
            assert await heard == 1
            await device.receive()


async def recover(server: RunningDaemon, witness: Witness) -> None:
    """A heal after the sign-in, then a sync with all ids."""
    async with server.device("alice") as plain:
        device = watched(plain, witness)
        while (await device.receive())["type"] != "healed":
            pass
        page = await device.ask({"type": "sync", "ids": True})
        assert page["digest"]["notes"]["count"] == len(page["noteIds"]) == 1


async def test_all_that_is_said_fits(
    boot: Boot, redis_server: RedisServer, database: Database
) -> None:
    database.add_user("alice")
    witness = Witness()
    async with boot() as server:
        await converse(server, witness, database)
        async with AsyncPublisher(redis_server.url, timeout_s=PATIENCE_S) as publisher:
            await publish_all(server, witness, publisher)
    async with boot(recovery={"enabled": True}) as server:
        await recover(server, witness)
    kinds = (*client_messages.CLIENT_MESSAGES, *messages.SERVER_MESSAGES)
    assert witness.seen == {str(kind.__struct_config__.tag) for kind in kinds}


def test_the_asyncapi_document_is_valid_by_the_official_schema() -> None:
    place = node_package("@asyncapi/specs") / "schemas" / "3.0.0.json"
    official = json.loads(place.read_text("utf-8"))
    validator = validator_for(official)(official)
    assert [error.message for error in validator.iter_errors(asyncapi("1.0.0"))] == []
    assert not validator.is_valid({**asyncapi("1.0.0"), "operations": {"x": {}}})
