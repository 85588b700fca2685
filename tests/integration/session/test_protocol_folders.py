"""Spec section 3, the messages about folders: announced, checked, never written."""

import uuid
from typing import Any

import pytest

from tests.daemon import Boot
from tests.integration.scene import ALICE, BOB, played
from tests.postgres import Database

pytestmark = pytest.mark.usefixtures("people")
NOT_FOUND = ("Folder not found or access denied", "NOT_FOUND")
FOREIGN = (
    "Access denied: Cannot broadcast resource created by another user",
    "ACCESS_DENIED",
)


def folders(database: Database) -> list[dict[str, Any]]:
    return database.execute("SELECT * FROM folders ORDER BY id")


async def test_folder_created_goes_out_byte_for_byte_and_writes_nothing(
    boot: Boot, database: Database
) -> None:

    async with played(boot) as scene:
        row = str(uuid.uuid4())
        data = f'{{ "id":"{row}","name":"\\u00fc\\/","userId":"{ALICE}","n":1E2 }}'
        await scene.sender.send(f'{{"folderData":{data},"type":"folder_created"}}')
        assert f'"folderData":{data}' in await scene.other.receive_raw()
        seen = await scene.say({"type": "folder_created", "folderData": {"id": row}})
        assert list(seen.sync) == ["type", "timestamp", "fromUserId", "folderData"]
        assert seen.sync["type"] == "folder_created_sync"
        assert seen.sync["fromUserId"] == ALICE
        assert folders(database) == []


async def test_folder_created_needs_data_of_the_senders_own(
    boot: Boot, database: Database
) -> None:
    mine, his = database.add_folder(ALICE), database.add_folder(BOB)

    async with played(boot) as scene:

        async def create(data: object, **more: object) -> Any:
            message = {"type": "folder_created", "folderData": data}
            return await scene.say(message | more)

        for data in ({"id": mine}, {"id": mine, "userId": ALICE}):
            assert (await create(data)).sync["folderData"] == data
        assert (await create({"id": mine}, folderId=mine)).sync
        seen = await create({}, folderId=mine)
        assert seen.refusal == ("Missing folderId", "INVALID_FIELD")
        for owner in (BOB, None, 5, ""):
            assert (await create({"userId": owner})).refusal == FOREIGN
        assert (await create({"id": his})).refusal == FOREIGN
        seen = await create({"id": mine}, folderId=his)
        assert seen.refusal == FOREIGN
        assert seen.reply["folderId"] == his
        junk: list[object] = [5, [], "x", True, 0, ""]
        for wrong in junk:
            assert (await create(wrong)).refusal == (
                "Invalid folderData",
                "INVALID_FIELD",
            )
        assert (await create(None)).refusal[0] == "Missing folderData"
        absent = await scene.say({"type": "folder_created"})
        assert absent.refusal == ("Missing folderData", "INVALID_FIELD")
        assert (await create({"id": mine}, folderId="junk")).refusal[
            0
        ] == "Invalid folderId"
        assert (await create({"id": "junk"})).refusal[0] == "Invalid folderId"


async def test_folder_updated_goes_out_as_it_came_and_writes_nothing(
    boot: Boot, database: Database
) -> None:
    mine = database.add_folder(ALICE)
    before = folders(database)

    async with played(boot) as scene:
        message = {"type": "folder_updated", "folderId": mine}
        changes, updated = {"name": "new"}, {"id": mine, "name": "new"}
        seen = await scene.say(message | {"changes": changes, "updatedFolder": updated})
        assert list(seen.sync) == [
            "type", "timestamp", "fromUserId", "folderId", "changes", "updatedFolder",
        ]  # fmt: skip
        assert seen.sync["type"] == "folder_updated_sync"
        assert (seen.sync["changes"], seen.sync["updatedFolder"]) == (changes, updated)
        bare = await scene.say(message)
        assert list(bare.sync) == ["type", "timestamp", "fromUserId", "folderId"]
        half = await scene.say(message | {"changes": changes, "updatedFolder": None})
        assert "updatedFolder" not in half.sync
        gone = str(uuid.uuid4())
        assert (await scene.say(message | {"folderId": gone})).sync["folderId"] == gone
        assert folders(database) == before


async def test_folder_updated_refuses_others_and_wrong_types(
    boot: Boot, database: Database
) -> None:
    mine, his = database.add_folder(ALICE), database.add_folder(BOB)

    async with played(boot) as scene:
        message: dict[str, Any] = {"type": "folder_updated", "folderId": mine}
        seen = await scene.say(message | {"folderId": his, "changes": {}})
        assert seen.refusal == NOT_FOUND
        assert seen.reply["folderId"] == his
        wrong: list[object] = [5, [], "x", True]
        for field in ("changes", "updatedFolder"):
            for value in wrong:
                seen = await scene.say(message | {field: value})
                assert seen.refusal == (f"Invalid {field}", "INVALID_FIELD")


async def test_folder_deleted_goes_out_for_ones_own_and_for_what_is_gone(
    boot: Boot, database: Database
) -> None:
    mine, his = database.add_folder(ALICE), database.add_folder(BOB)
    before = folders(database)

    async with played(boot) as scene:
        for folder_id in (mine, str(uuid.uuid4())):
            seen = await scene.say({"type": "folder_deleted", "folderId": folder_id})
            assert list(seen.sync) == ["type", "timestamp", "fromUserId", "folderId"]
            assert seen.sync["type"] == "folder_deleted_sync"
            assert seen.sync["folderId"] == folder_id
        seen = await scene.say({"type": "folder_deleted", "folderId": his})
        assert seen.refusal == NOT_FOUND
        assert folders(database) == before


@pytest.mark.parametrize("name", ["folder_updated", "folder_deleted"])
async def test_a_folder_id_must_be_there_and_a_uuid(
    boot: Boot, database: Database, name: str
) -> None:
    mine = database.add_folder(ALICE)

    async with played(boot) as scene:
        message: dict[str, Any] = {"type": name}
        absent: list[dict[str, Any]] = [{}, {"folderId": None}, {"folderId": ""}]
        for fields in absent:
            seen = await scene.say(message | fields)
            assert seen.refusal == ("Missing folderId", "INVALID_FIELD")
        wrong: list[object] = ["x", f"{mine} ", mine.replace("-", ""), 5, True, [], {}]
        for value in wrong:
            seen = await scene.say(message | {"folderId": value})
            assert seen.refusal == ("Invalid folderId", "INVALID_FIELD")


async def test_request_ids_come_back_in_errors_and_in_acknowledgements(
    boot: Boot, database: Database
) -> None:
    mine, his = database.add_folder(ALICE), database.add_folder(BOB)

    async with played(boot) as scene:
        for name in ("folder_updated", "folder_deleted"):
            message = {"type": name, "requestId": "r1"}
            seen = await scene.say(message | {"folderId": his})
            assert seen.reply["requestId"] == "r1"
            await scene.sender.send(message | {"folderId": mine})
            assert (await scene.sender.next_of("announced"))["requestId"] == "r1"
            sync = await scene.other.next_of(f"{name}_sync")
            assert "requestId" not in sync
