"""The sample data of `dev`, and the REST service's stand-in that works on it."""

from collections.abc import Iterator

import psycopg
import pytest
import redis as redis_client

from tests.postgres import Database
from tests.redis import TIMEOUTS, RedisServer
from tests.within import PATIENCE_S
from typelets_ws.dev.postgres import Postgres
from typelets_ws.dev.rest import HttpError, RestStub
from typelets_ws.dev.samples import NOTES, USERS, fill, note_id
from typelets_ws.protocol.event_decoding import decode
from typelets_ws.protocol.events import name

ALICE = USERS[0]


@pytest.fixture
def rest(database: Database, redis_server: RedisServer) -> Iterator[RestStub]:
    fill(database.url)
    rest = RestStub(database.url, redis_server.url, "typelets:")
    yield rest
    rest.close()


def test_samples_are_made_once_and_kept(postgres: Postgres, database: Database) -> None:
    database.execute("CREATE DATABASE fresh")
    url = postgres.url("fresh")
    try:
        fill(url)
        with psycopg.connect(url, autocommit=True) as db:
            db.execute("UPDATE notes SET title = 'mine' WHERE id = %s", [note_id(1, 1)])
        fill(url)
        with psycopg.connect(url) as db:
            rows = db.execute(
                "SELECT id::text, title FROM notes ORDER BY id"
            ).fetchall()
    finally:
        database.execute("DROP DATABASE fresh")
    titles = ["mine", *NOTES[1:], *NOTES]
    ids = [note_id(user, note) for user in (1, 2) for note in (1, 2, 3)]
    assert rows == list(zip(ids, titles, strict=True))


def test_a_sample_that_is_filled_in_again_keeps_its_place(
    rest: RestStub, database: Database
) -> None:
    database.execute("DELETE FROM notes WHERE id = %s", note_id(1, 1))
    fill(database.url)
    assert [note["title"] for note in rest.listing(ALICE)["notes"]] == list(NOTES)


def test_samples_are_dated_in_utc(database: Database) -> None:
    database.execute("ALTER DATABASE postgres SET timezone = 'Asia/Tokyo'")
    try:
        fill(database.url)
    finally:
        database.execute("ALTER DATABASE postgres RESET timezone")
    (row,) = database.execute(
        "SELECT max(abs(extract(epoch FROM updated_at - now() AT TIME ZONE 'UTC')))"
        " AS off FROM notes"
    )
    assert row["off"] < 60


def test_listing_has_the_users_own_only(rest: RestStub) -> None:
    listing = rest.listing(ALICE)
    assert [note["title"] for note in listing["notes"]] == list(NOTES)
    assert {note["userId"] for note in listing["notes"]} == {ALICE}
    assert len(listing["notes"][0]) == 18
    assert [folder["name"] for folder in listing["folders"]] == ["Home"]
    assert rest.listing("nobody") == {"notes": [], "folders": []}


def test_each_event_is_written_and_published(
    rest: RestStub, redis_server: RedisServer
) -> None:
    with (
        redis_client.Redis.from_url(redis_server.url, **TIMEOUTS) as link,
        link.pubsub() as heard,
    ):
        heard.subscribe(f"typelets:user:{ALICE}")
        heard.get_message(timeout=PATIENCE_S)
        folder = ""
        for event in (
            "note_created", "note_updated", "note_deleted", "folder_created",
            "folder_updated", "folder_deleted", "session_revoked", "user_disconnected",
            "resync_required",
        ):  # fmt: skip
            subject = note_id(1, 1) if event.startswith("note") else folder
            done = rest.publish(ALICE, event, subject, "New name")
            assert done["heard"] == 1
            if event == "folder_created":
                folder = done["published"]["folderData"]["id"]
            message = heard.get_message(timeout=PATIENCE_S)
            assert message is not None
            assert name(decode(message["data"])) == event
    listing = rest.listing(ALICE)
    assert [note["title"] for note in listing["notes"]] == [*NOTES[1:], "New name"]
    assert [one["name"] for one in listing["folders"]] == ["Home"]


@pytest.mark.parametrize(
    ("event", "subject", "status"),
    [
        ("note_updated", note_id(2, 1), 404),
        ("note_deleted", note_id(2, 1), 404),
        ("folder_deleted", note_id(2, 1), 404),
        ("note_updated", "nonsense", 400),
        ("folder_updated", "nonsense", 400),
        ("unheard_of", "", 400),
    ],
)
def test_what_cannot_be_done_is_refused(
    rest: RestStub, event: str, subject: str, status: int
) -> None:
    with pytest.raises(HttpError) as refused:
        rest.publish(ALICE, event, subject, "x")
    assert refused.value.status == status
    # Postgres' own words quote the values.
    assert "syntax" not in str(refused.value)
    assert "uuid" not in str(refused.value)


def test_a_publish_can_be_skipped_and_a_clock_be_wrong(
    rest: RestStub, redis_server: RedisServer
) -> None:
    with (
        redis_client.Redis.from_url(redis_server.url, **TIMEOUTS) as link,
        link.pubsub() as heard,
    ):
        heard.subscribe(f"typelets:user:{ALICE}")
        heard.get_message(timeout=PATIENCE_S)
        note = note_id(1, 1)
        before = rest.publish(ALICE, "note_updated", note, "a")["published"]
        done = rest.publish(ALICE, "note_updated", note, "b", skew_s=-3600, silent=True)
        assert done["heard"] is None
        after = done["published"]["updatedNote"]
        assert after["title"] == "b"
        assert after["updatedAt"] < before["updatedNote"]["updatedAt"]
        heard.get_message(timeout=PATIENCE_S)
        assert heard.get_message(timeout=0.1) is None


def test_a_revoked_session_is_known(rest: RestStub, redis_server: RedisServer) -> None:
    assert not rest.is_revoked("sess_1")
    redis_server.command("SET", "typelets:barred:sess_1", "1")
    assert rest.is_revoked("sess_1")


def test_what_is_away_is_named(database: Database) -> None:
    rest = RestStub(database.url, "redis://127.0.0.1:1/0", "typelets:")
    with pytest.raises(HttpError, match=r"^Redis does not answer\.$") as refused:
        rest.publish(ALICE, "user_disconnected", "", "")
    assert refused.value.status == 503
    assert not rest.is_revoked("sess_1")  # Clerk does not need our Redis
    rest.close()
    rest = RestStub(
        "postgresql://127.0.0.1:1/none", "redis://127.0.0.1:1/0", "typelets:"
    )
    with pytest.raises(HttpError, match=r"^Postgres does not answer") as refused:
        rest.listing(ALICE)
    assert refused.value.status == 503
    rest.close()
