"""Spec section 3, the messages about notes: what each side and the database see."""

import re
import time
import uuid
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.daemon import Boot, RunningDaemon
from tests.integration.scene import ALICE, BOB, played
from tests.postgres import Database

NOT_FOUND = ("Note not found or access denied", "NOT_FOUND")
FOREIGN = (
    "Access denied: Cannot broadcast resource created by another user",
    "ACCESS_DENIED",
)
ISO = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
ROW_KEYS = [
    "id", "userId", "folderId", "title", "content", "type", "encryptedTitle",
    "encryptedContent", "iv", "salt", "starred", "archived", "deleted", "hidden",
    "hiddenAt", "tags", "createdAt", "updatedAt",
]  # fmt: skip
MALFORMED = [
    "x", "1", "not-a-uuid", "{%s}", "urn:uuid:%s", "%s ", " %s", "%s0", "%s\n",
]  # fmt: skip


@pytest.fixture(autouse=True)
def people(database: Database) -> None:
    database.add_user(ALICE)
    database.add_user(BOB)


def malformed(good: str) -> list[str]:
    return [text.replace("%s", good) for text in MALFORMED] + [good.replace("-", "")]


def is_now(timestamp: object) -> bool:
    return isinstance(timestamp, int) and abs(timestamp - time.time() * 1000) < 60_000


# ping


async def test_ping_is_answered_with_the_time(boot: Boot) -> None:

    async with played(boot) as scene:
        reply = (await scene.say({"type": "ping", "junk": [1]})).reply
        assert list(reply) == ["type", "timestamp"]
        assert reply["type"] == "pong"
        assert is_now(reply["timestamp"])


# join_note and leave_note


async def test_join_note_checks_the_owner(boot: Boot, database: Database) -> None:
    mine, his = database.add_note(ALICE), database.add_note(BOB)

    async with played(boot) as scene:
        for note_id in (mine, mine.upper(), mine):
            reply = (await scene.say({"type": "join_note", "noteId": note_id})).reply
            assert reply == {
                "type": "note_joined",
                "noteId": note_id,
                "message": "Successfully joined note for real-time sync",
            }
        for note_id in (his, str(uuid.uuid4())):
            seen = await scene.say({"type": "join_note", "noteId": note_id})
            assert seen.refusal == NOT_FOUND
            assert seen.reply["noteId"] == note_id


async def test_leave_note_forgets_any_it_was(boot: Boot, database: Database) -> None:
    mine, his = database.add_note(ALICE), database.add_note(BOB)

    async with played(boot) as scene:
        await scene.say({"type": "join_note", "noteId": mine})
        for note_id in (mine, mine, his, str(uuid.uuid4())):
            reply = (await scene.say({"type": "leave_note", "noteId": note_id})).reply
            assert reply == {"type": "note_left", "noteId": note_id}


@pytest.mark.parametrize(
    "name", ["join_note", "leave_note", "note_update", "note_deleted"]
)
async def test_an_id_must_be_there_and_a_uuid(
    boot: Boot, database: Database, name: str
) -> None:
    note_id = database.add_note(ALICE)

    async with played(boot) as scene:
        message: dict[str, Any] = {"type": name, "changes": {"starred": True}}
        for absent in ({}, {"noteId": None}, {"noteId": ""}):
            seen = await scene.say(message | absent)
            assert seen.refusal == ("Missing noteId", "INVALID_FIELD")
        for bad in [*malformed(note_id), 5, True, [note_id], {"id": note_id}]:
            seen = await scene.say(message | {"noteId": bad})
            assert seen.refusal == ("Invalid noteId", "INVALID_FIELD"), bad
        assert database.note(note_id)["starred"] is False


async def test_joining_has_no_effect_on_what_is_delivered(
    boot: Boot, database: Database
) -> None:
    mine, another = database.add_note(ALICE), database.add_note(ALICE)

    async with played(boot) as scene:
        await scene.other.ask({"type": "join_note", "noteId": another})
        seen = await scene.say(
            {"type": "note_update", "noteId": mine, "changes": {"starred": True}}
        )
        assert [message["noteId"] for message in seen.other] == [mine]


# note_update: what goes well


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
            at = seen.sender[0]["updatedNote"]["updatedAt"]
            assert at == f"2100-01-01T00:00:00.{6 + number:03d}Z"


# note_created


async def test_note_created_goes_out_byte_for_byte_and_writes_nothing(
    boot: Boot, database: Database
) -> None:

    async with played(boot) as scene:
        note = str(uuid.uuid4())
        data = f'{{"id" : "{note}","odd":1.0e0, "userId":"{ALICE}","t":"\\u00e9é"}}'
        message = f'{{"type":"note_created","noteData":{data},"noteId":"{note}"}}'
        await scene.sender.send(message)
        text = await scene.other.receive_raw()
        assert f'"noteData":{data}' in text
        seen = await scene.say({"type": "note_created", "noteData": {"id": note}})
        assert list(seen.sync) == ["type", "timestamp", "fromUserId", "noteData"]
        assert seen.sync["type"] == "note_created_sync"
        assert seen.sync["fromUserId"] == ALICE
        assert is_now(seen.sync["timestamp"])
        assert database.execute("SELECT count(*) AS n FROM notes") == [{"n": 0}]


async def test_note_created_needs_data_of_the_senders_own(
    boot: Boot, database: Database
) -> None:
    mine, his = database.add_note(ALICE), database.add_note(BOB)

    async with played(boot) as scene:

        async def create(data: object, **more: object) -> Any:
            return await scene.say({"type": "note_created", "noteData": data, **more})

        for data in ({"id": mine}, {"id": mine, "userId": ALICE}):
            assert (await create(data)).sync["noteData"] == data
        assert (await create({"id": mine}, noteId=mine)).sync
        assert (await create({"id": mine}, noteId="")).sync
        for without in ({}, {"id": None}, {"title": "x"}):
            seen = await create(without, noteId=mine)
            assert seen.refusal == ("Missing noteId", "INVALID_FIELD")
        for owner in (BOB, None, 5, ""):
            assert (await create({"userId": owner})).refusal == FOREIGN
        assert (await create({"id": his})).refusal == FOREIGN
        assert (await create({"id": mine}, noteId=his)).refusal == FOREIGN
        assert (await create({"id": mine}, noteId=his)).refusal == FOREIGN
        junk: list[Any] = [5, [], "x", True, 0, ""]
        for wrong in junk:
            assert (await create(wrong)).refusal[0] == "Invalid noteData"
        assert (await create(None)).refusal[0] == "Missing noteData"
        absent = await scene.say({"type": "note_created"})
        assert absent.refusal == ("Missing noteData", "INVALID_FIELD")
        assert (await create({"id": mine}, noteId="junk")).refusal[
            0
        ] == "Invalid noteId"
        assert (await create({"id": "junk"})).refusal[0] == "Invalid noteId"
        assert (await create({"id": 5})).refusal[0] == "Invalid noteId"


# note_deleted


async def test_note_deleted_goes_out_for_ones_own_and_for_what_is_gone(
    boot: Boot, database: Database
) -> None:
    mine, his = database.add_note(ALICE), database.add_note(BOB)

    async with played(boot) as scene:
        for note_id in (mine, str(uuid.uuid4())):
            seen = await scene.say({"type": "note_deleted", "noteId": note_id})
            assert list(seen.sync) == ["type", "timestamp", "fromUserId", "noteId"]
            assert seen.sync["type"] == "note_deleted_sync"
            assert seen.sync["noteId"] == note_id
            assert seen.sync["fromUserId"] == ALICE
        seen = await scene.say({"type": "note_deleted", "noteId": his})
        assert seen.refusal == NOT_FOUND
        assert database.note(mine)["deleted"] is False
        assert database.note(his)


# requestId and what is no message


async def test_request_ids_come_back_in_replies_and_errors(
    boot: Boot, database: Database
) -> None:
    note_id = database.add_note(ALICE)
    cases: list[tuple[dict[str, Any], str]] = [
        ({"type": "ping"}, "pong"),
        ({"type": "join_note", "noteId": note_id}, "note_joined"),
        ({"type": "leave_note", "noteId": note_id}, "note_left"),
        (
            {"type": "note_update", "noteId": note_id, "changes": {"starred": True}},
            "note_update_success",
        ),
        ({"type": "note_update", "noteId": note_id, "changes": {}}, "error"),
        ({"type": "note_update", "noteId": 5}, "error"),
        ({"type": "join_note", "noteId": str(uuid.uuid4())}, "error"),
        ({"type": "nonsense"}, "error"),
        ({"type": "note_created"}, "error"),
        ({"type": "auth", "token": "junk"}, "auth_failed"),
    ]

    async with played(boot) as scene:
        for number, (message, expected) in enumerate(cases):
            for wanted in (f"r{number}", "x" * 64, "", "é\U0001f600"):
                reply = await scene.sender.ask(message | {"requestId": wanted})
                assert (reply["type"], reply["requestId"]) == (expected, wanted)
                if message["type"] == "auth":
                    return


async def test_a_request_id_is_a_text_of_at_most_64_characters(boot: Boot) -> None:

    async with played(boot) as scene:
        refused: list[Any] = ["x" * 65, 5, True, [], {}]
        for bad in refused:
            seen = await scene.say({"type": "ping", "requestId": bad})
            assert seen.refusal == ("Invalid requestId", "INVALID_FIELD")
            # As much of a text as an id may have comes back (spec section 5).
            echoed = "x" * 64 if isinstance(bad, str) else None
            assert seen.reply.get("requestId") == echoed
        assert (await scene.say({"type": "ping", "requestId": None})).reply == {
            "type": "pong",
            "timestamp": pytest.approx(time.time() * 1000, abs=60_000),
        }


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("", "Invalid message format"),
        ("not json", "Invalid message format"),
        ("{", "Invalid message format"),
        ('{"type":"ping"} x', "Invalid message format"),
        ("\ufeff" + '{"type":"ping"}', "Invalid message format"),
        ('{"type":"ping","x":NaN}', "Invalid message format"),
        ('{"type":"ping","x":"\n"}', "Invalid message format"),
        ('{"type":"ping"/* */}', "Invalid message format"),
        ("null", "Invalid message format"),
        ("[]", "Invalid message format"),
        ("5", "Invalid message format"),
        ('"ping"', "Invalid message format"),
        ("{}", "Invalid message format"),
        ('{"type":5}', "Invalid message format"),
        ('{"type":null}', "Invalid message format"),
        ("[" * 200_000, "Invalid message format"),
        (b'{"type":"ping"}', "Invalid message format"),
        (b"", "Invalid message format"),
        (b"\xff\xfe", "Invalid message format"),
        ('{"type":""}', "Unknown message type"),
        ('{"type":"Ping"}', "Unknown message type"),
        ('{"type":"note_sync"}', "Unknown message type"),
        ('{"type":"pong"}', "Unknown message type"),
    ],
)
async def test_what_is_no_message_is_reported_so(
    boot: Boot, text: str | bytes, answer: str
) -> None:

    async def told_and_served(
        server: RunningDaemon, device: Any, text: str | bytes, answer: str
    ) -> None:
        code = "UNKNOWN_TYPE" if answer.startswith("Unknown") else "INVALID_MESSAGE"
        if len(text) > 65_536 and not device.user_id:
            return  # not even read before authentication
        assert await device.ask(text) == {
            "type": "error",
            "message": answer,
            "code": code,
        }
        assert await device.barrier() == []

    async with boot() as server:
        for user in (None, ALICE):
            async with server.device(user) as device:
                await told_and_served(server, device, text, answer)
