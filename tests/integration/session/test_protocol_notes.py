"""Spec section 3, the messages about notes: what each side and the database see."""

import time
import uuid
from typing import Any

import pytest

from tests.daemon import Boot, RunningDaemon
from tests.integration.scene import ALICE, BOB, is_now, played
from tests.postgres import Database

pytestmark = pytest.mark.usefixtures("people")
NOT_FOUND = ("Note not found or access denied", "NOT_FOUND")
FOREIGN = (
    "Access denied: Cannot broadcast resource created by another user",
    "ACCESS_DENIED",
)
MALFORMED = [
    "x", "1", "not-a-uuid", "{%s}", "urn:uuid:%s", "%s ", " %s", "%s0", "%s\n",
]  # fmt: skip


def malformed(good: str) -> list[str]:
    return [text.replace("%s", good) for text in MALFORMED] + [good.replace("-", "")]


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
