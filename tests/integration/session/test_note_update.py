"""Spec section 3, `note_update`: what each side and the database see."""

import re
import uuid
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.daemon import Boot
from tests.integration.scene import ALICE, BOB, is_now, played
from tests.postgres import Database

pytestmark = pytest.mark.usefixtures("people")
NOT_FOUND = ("Note not found or access denied", "NOT_FOUND")
ISO = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
ROW_KEYS = [
    "id", "userId", "folderId", "title", "content", "type", "encryptedTitle",
    "encryptedContent", "iv", "salt", "starred", "archived", "deleted", "hidden",
    "hiddenAt", "tags", "createdAt", "updatedAt",
]  # fmt: skip


# Written


async def test_note_update_is_written_confirmed_and_reported(
    boot: Boot, database: Database
) -> None:
    note_id = database.add_note(
        ALICE,
        title="[ENCRYPTED]",
        content="[ENCRYPTED]",
        encrypted_title="et0",
        encrypted_content="ec0",
        iv="iv0",
        salt="salt0",
        tags=["a,b", '"q"'],
        hidden_at=None,
        created_at=datetime(2023, 12, 31, 23, 59, 59, 678_999, tzinfo=UTC),
        updated_at=datetime(2024, 1, 1, tzinfo=UTC),
    )

    async with played(boot) as scene:
        seen = await scene.say(
            {"type": "note_update", "noteId": note_id, "changes": {"starred": True}}
        )
        (reply,), (sync,) = seen.sender, seen.other
        assert seen.bob == []
        assert list(reply) == ["type", "noteId", "updatedNote", "timestamp"]
        assert list(sync) == [
            "type", "noteId", "changes", "updatedNote", "timestamp", "fromUserId",
        ]  # fmt: skip
        assert reply["type"] == "note_update_success"
        assert sync["type"] == "note_sync"
        assert reply["noteId"] == sync["noteId"] == note_id
        assert sync["fromUserId"] == ALICE
        assert is_now(reply["timestamp"])
        assert is_now(sync["timestamp"])
        row = reply["updatedNote"]
        assert sync["updatedNote"] == row
        assert sync["changes"] == {"starred": True, "updatedAt": row["updatedAt"]}
        assert list(row) == ROW_KEYS
        assert ISO.fullmatch(row["updatedAt"])
        assert row | {"updatedAt": ""} == {
            "id": note_id, "userId": ALICE, "folderId": None,
            "title": "[ENCRYPTED]", "content": "[ENCRYPTED]", "type": "note",
            "encryptedTitle": "et0", "encryptedContent": "ec0",
            "iv": "iv0", "salt": "salt0", "starred": True, "archived": False,
            "deleted": False, "hidden": False, "hiddenAt": None,
            "tags": ["a,b", '"q"'], "createdAt": "2023-12-31T23:59:59.678Z",
            "updatedAt": "",
        }  # fmt: skip
        stored = database.note(note_id)
        assert stored["starred"] is True
        assert wire_time(stored["updated_at"]) == row["updatedAt"]


def wire_time(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds") + "Z"


@pytest.mark.parametrize(
    ("field", "column", "values"),
    [
        ("title", "title", ["[ENCRYPTED]", "Plain", "", 'ü €\U0001f600 \u2028 " \\']),
        ("content", "content", ["[ENCRYPTED]", "Plain", "", None]),
        ("encryptedTitle", "encrypted_title", ["AAE=", "", None]),
        ("encryptedContent", "encrypted_content", ["AAE=" * 10_000, "", None]),
        ("starred", "starred", [True, False]),
        ("archived", "archived", [True, False]),
        ("deleted", "deleted", [True, False]),
        ("hidden", "hidden", [True, False]),
    ],
)
async def test_note_update_writes_each_allowed_field(
    boot: Boot, database: Database, field: str, column: str, values: list[object]
) -> None:
    note_id = database.add_note(ALICE)

    async with played(boot) as scene:
        before = ""
        for value in values:
            seen = await scene.say(
                {"type": "note_update", "noteId": note_id, "changes": {field: value}}
            )
            (reply,), (sync,) = seen.sender, seen.other
            after = reply["updatedNote"]["updatedAt"]
            assert after > before
            before = after
            assert reply["updatedNote"][field] == value
            assert sync["changes"] == {field: value, "updatedAt": after}
            assert database.note(note_id)[column] == value
            assert database.note(note_id)["hidden_at"] is None


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("title", [None, 1, True, ["x"], {"a": 1}, "\0"]),
        ("content", [1, False, ["x"], {}, "a\0b"]),
        ("encryptedTitle", [1.5, True, [], {}]),
        ("encryptedContent", [0, False, [None], {"x": "y"}]),
        ("starred", ["yes", 1, 0, [True], {}, None, "true", ""]),
        ("archived", ["yes", 1, [], None]),
        ("deleted", ["yes", 1, {}, None]),
        ("hidden", ["yes", 1.0, [], None]),
        ("folderId", [1, True, [], {}, "junk", "null"]),
    ],
)
async def test_note_update_refuses_a_wrong_type_by_name_and_writes_nothing(
    boot: Boot, database: Database, field: str, values: list[object]
) -> None:
    note_id = database.add_note(ALICE)
    before = database.note(note_id)

    async with played(boot) as scene:
        good = {"title": "new", "archived": True}
        good.pop(field, None)
        for value in values:
            changes = good | {field: value}
            seen = await scene.say(
                {"type": "note_update", "noteId": note_id, "changes": changes}
            )
            assert seen.refusal == (f"Invalid {field}", "INVALID_FIELD"), value
            assert seen.reply["noteId"] == note_id
        assert database.note(note_id) == before


async def test_note_update_leaves_out_other_fields_and_counts_them(
    boot: Boot, database: Database
) -> None:
    note_id = database.add_note(ALICE, iv="iv0")
    before = database.note(note_id)
    extra = {
        "hiddenAt": "2026-01-01T00:00:00Z", "tags": ["x"], "userId": BOB,
        "id": str(uuid.uuid4()), "iv": "stolen", "createdAt": 1, "updatedAt": 2,
        "__proto__": {"a": 1}, "title); DROP TABLE notes; --": "x",
    }  # fmt: skip

    async with played(boot) as scene:
        message = {"type": "note_update", "noteId": note_id}
        seen = await scene.say(message | {"changes": extra | {"hidden": True}})
        (reply,), (sync,) = seen.sender, seen.other
        assert set(sync["changes"]) == {"hidden", "updatedAt"}
        assert reply["updatedNote"]["iv"] == "iv0"
        after = database.note(note_id)
        assert after | {"updated_at": 0, "hidden": False} == before | {"updated_at": 0}
        count = scene.server.figure
        for name in ("hiddenAt", "tags", "userId", "id", "iv", "updatedAt"):
            assert count("filtered_fields_total", field=name) == 1
        assert count("filtered_fields_total", field="other") == 2


async def test_note_update_with_nothing_left_is_refused(
    boot: Boot, database: Database
) -> None:
    note_id = database.add_note(ALICE)

    async with played(boot) as scene:
        message: dict[str, Any] = {"type": "note_update", "noteId": note_id}
        nothing: list[Any] = [{}, {"tags": ["a"]}, {"hiddenAt": None, "x": 1}]
        for changes in nothing:
            seen = await scene.say(message | {"changes": changes})
            assert seen.refusal == ("No valid fields to update", "INVALID_FIELD")
        for without in (message, message | {"changes": None}):
            seen = await scene.say(without)
            assert seen.refusal == ("Missing changes", "INVALID_FIELD")
        for wrong in ([], 5, True, "starred", [{"starred": True}]):
            seen = await scene.say(message | {"changes": wrong})
            assert seen.refusal == ("Invalid changes", "INVALID_FIELD")


async def test_note_update_of_anothers_note_or_none_is_reported_the_same(
    boot: Boot, database: Database
) -> None:
    his = database.add_note(BOB)
    before = database.note(his)

    async with played(boot) as scene:
        for note_id in (his, his.upper(), str(uuid.uuid4())):
            seen = await scene.say(
                {"type": "note_update", "noteId": note_id, "changes": {"title": "x"}}
            )
            assert seen.refusal == NOT_FOUND
            assert set(seen.reply) == {"type", "message", "code", "noteId"}
        assert database.note(his) == before


async def test_note_update_takes_an_id_in_capitals(
    boot: Boot, database: Database
) -> None:
    note_id = database.add_note(ALICE)

    async with played(boot) as scene:
        changes = {"starred": True}
        seen = await scene.say(
            {"type": "note_update", "noteId": note_id.upper(), "changes": changes}
        )
        assert seen.other[0]["noteId"] == note_id
        assert seen.sender[0]["noteId"] == note_id


async def test_note_update_moves_only_into_the_senders_own_folders(
    boot: Boot, database: Database
) -> None:
    note_id = database.add_note(ALICE)
    mine, his = database.add_folder(ALICE), database.add_folder(BOB)

    async with played(boot) as scene:

        async def move(folder: object, **more: object) -> Any:
            changes = {"folderId": folder, **more}
            return await scene.say(
                {"type": "note_update", "noteId": note_id, "changes": changes}
            )

        for folder in (his, str(uuid.uuid4())):
            seen = await move(folder, title="no")
            assert seen.refusal == ("Folder not found or access denied", "NOT_FOUND")
            assert seen.reply["folderId"] == folder
            assert database.note(note_id)["title"] == "t"
        for folder, stored in ((mine, mine), ("", None), (mine.upper(), mine)):
            seen = await move(folder)
            assert seen.sender[0]["updatedNote"]["folderId"] == stored
            assert seen.other[0]["changes"]["folderId"] == stored
        assert (await move(None)).sender[0]["updatedNote"]["folderId"] is None
        assert database.note(note_id)["folder_id"] is None


async def test_require_encrypted_refuses_plain_text_by_name(
    boot: Boot, database: Database
) -> None:
    note_id = database.add_note(ALICE)

    async with played(boot, messages={"require_encrypted": True}) as scene:
        message: dict[str, Any] = {"type": "note_update", "noteId": note_id}
        for field, value in (
            ("title", "Plain"), ("content", "Plain"), ("content", None), ("title", ""),
        ):  # fmt: skip
            seen = await scene.say(
                message | {"changes": {field: value, "encryptedTitle": "x"}}
            )
            assert seen.refusal == (f"{field} must be encrypted", "INVALID_FIELD")
            assert database.note(note_id)["encrypted_title"] is None
        changes = {
            "title": "[ENCRYPTED]", "content": "[ENCRYPTED]", "encryptedTitle": "AAE=",
        }  # fmt: skip
        seen = await scene.say(message | {"changes": changes})
        assert seen.sender[0]["type"] == "note_update_success"
        assert (await scene.say(message | {"changes": {"starred": True}})).other


async def test_updated_at_moves_on_by_a_millisecond_even_behind_a_clock_ahead(
    boot: Boot, database: Database
) -> None:
    ahead = datetime(2100, 1, 1, 0, 0, 0, 5_999, tzinfo=UTC)
    note_id = database.add_note(ALICE, updated_at=ahead)

    async with played(boot) as scene:
        for number in range(3):
            changes = {"title": f"{number}"}
            seen = await scene.say(
                {"type": "note_update", "noteId": note_id, "changes": changes}
            )
            # A version ahead of the clock is read, and the row sent to every device.
            (reply,) = [m for m in seen.sender if m["type"] == "note_update_success"]
            at = reply["updatedNote"]["updatedAt"]
            assert at == f"2100-01-01T00:00:00.{6 + number:03d}Z"
