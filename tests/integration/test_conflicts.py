"""`note_update.baseUpdatedAt`: an edit of an older version overwrites nothing."""

import pytest

from tests.daemon import Boot
from tests.integration.scene import ALICE, BOB, played
from tests.postgres import Database


@pytest.fixture
def note(database: Database) -> str:
    database.add_user(BOB)
    return database.add_note(database.add_user(ALICE), title="first")


async def test_an_update_of_the_current_version_is_written(
    boot: Boot, database: Database, note: str
) -> None:
    async with played(boot) as scene:
        update = {"type": "note_update", "noteId": note, "changes": {"title": "a"}}
        seen = await scene.say(update)
        base = seen.sender[0]["updatedNote"]["updatedAt"]
        update = {**update, "changes": {"title": "b"}, "baseUpdatedAt": base}
        seen = await scene.say(update)
        assert seen.sender[0]["type"] == "note_update_success"
        assert seen.other[0]["type"] == "note_sync"
        assert database.note(note)["title"] == "b"
        stands = seen.sender[0]["updatedNote"]
        conflict = await scene.say(
            {**update, "changes": {"title": "c"}, "requestId": "r1"}
        )
        assert conflict.reply == {
            "type": "error",
            "message": "The note was changed meanwhile",
            "code": "CONFLICT",
            "requestId": "r1",
            "noteId": note,
            "updatedNote": stands,
        }
        assert database.note(note)["title"] == "b"


@pytest.mark.parametrize(
    "base", ["", "yesterday", "2026-01-01T00:00:00Z", "2026-01-01T00:00:00.000Z\n"]
)
async def test_a_malformed_base_is_refused_by_name(
    boot: Boot, database: Database, note: str, base: str
) -> None:
    async with played(boot) as scene:
        update = {"type": "note_update", "noteId": note, "changes": {"title": "a"}}
        seen = await scene.say({**update, "baseUpdatedAt": base})
        assert seen.refusal == ("Invalid baseUpdatedAt", "INVALID_FIELD")
        assert database.note(note)["title"] == "first"


async def test_a_null_base_is_missing(
    boot: Boot, database: Database, note: str
) -> None:
    async with played(boot) as scene:
        update = {"type": "note_update", "noteId": note, "changes": {"title": "a"}}
        seen = await scene.say({**update, "baseUpdatedAt": None})
        assert seen.sender[0]["type"] == "note_update_success"


async def test_another_users_note_is_not_shown_by_a_conflict(
    boot: Boot, database: Database, note: str
) -> None:
    foreign = database.add_note(BOB)
    async with played(boot) as scene:
        seen = await scene.say(
            {
                "type": "note_update",
                "noteId": foreign,
                "changes": {"title": "a"},
                "baseUpdatedAt": "2001-01-01T00:00:00.000Z",
            }
        )
        assert seen.refusal == ("Note not found or access denied", "NOT_FOUND")
        assert "updatedNote" not in seen.reply
