"""`check-config --connect` against real servers: what is missing is named."""

from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
from click.testing import CliRunner, Result

from tests.postgres import Database
from tests.redis import RedisServer, free_port
from tests.redis_topologies import Cluster, SentinelGroup
from tests.tokens import public_pem
from typelets_ws.cli import main

ACL = [
    "&typelets:user:*", "&typelets:control", "&typelets:probe:*",
    "~typelets:devices:*", "~typelets:era:*", "~typelets:nonce:*",
    "~typelets:barred:*", "+ping", "+select", "+client|setname", "+subscribe",
    "+unsubscribe", "+publish", "+set", "+del", "+exists", "+expire", "+sadd",
    "+srem", "+smembers", "+script|load", "+eval", "+evalsha",
]  # fmt: skip


def check(*args: str, **environ: str) -> Result:
    environ = {"CLERK_JWT_KEY": public_pem(), **environ}
    command = ["check-config", "--connect", "--quiet", *args]
    return CliRunner().invoke(main, command, env=environ)


def test_servers_that_give_everything_are_a_line_each(
    redis_server: RedisServer, database: Database
) -> None:
    redis_server.command("ACL", "SETUSER", "ws", "reset", "on", ">secret", *ACL)
    url = redis_server.url.replace("redis://", "redis://ws:secret@")
    result = check(DATABASE_URL=database.url_as("typelets_ws"), REDIS_URL=url)
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert [line.split(":")[0].split() for line in lines] == [
        ["ok", "database"],
        ["ok", "redis"],
        ["ok", "keys"],
    ]
    assert "as typelets_ws on" in lines[0]
    assert "secret" not in result.output


def test_a_missing_column_and_a_missing_grant_are_named(
    redis_server: RedisServer, database: Database
) -> None:
    url = database.url_as("typelets_ws")
    database.execute("REVOKE UPDATE (starred) ON notes FROM typelets_ws")
    try:
        result = check(DATABASE_URL=url, REDIS_URL=redis_server.url)
        assert result.exit_code == 1
        assert "wrong database: note_update: permission denied" in result.stderr
    finally:
        database.script("grants.sql")
    database.execute("ALTER TABLE notes RENAME COLUMN salt TO pepper")
    try:
        result = check(DATABASE_URL=url, REDIS_URL=redis_server.url)
        assert result.exit_code == 1
        assert "column n.salt does not exist" in result.stderr
    finally:
        database.execute("ALTER TABLE notes RENAME COLUMN pepper TO salt")
    assert check(DATABASE_URL=url, REDIS_URL=redis_server.url).exit_code == 0


@pytest.mark.parametrize(
    ("change", "undo", "named"),
    [
        ("REVOKE SELECT (xmin) ON folders FROM typelets_ws", "", "table folders"),
        ("REVOKE SELECT (tags) ON notes FROM typelets_ws", "", "table notes"),
        (
            "ALTER TABLE folders RENAME COLUMN sort_order TO place",
            "ALTER TABLE folders RENAME COLUMN place TO sort_order",
            "column f.sort_order does not exist",
        ),
    ],
)
def test_what_recovery_lacks_is_named(
    redis_server: RedisServer, database: Database, change: str, undo: str, named: str
) -> None:
    database.execute(change)
    try:
        url = database.url_as("typelets_ws")
        result = check(DATABASE_URL=url, REDIS_URL=redis_server.url)
        assert "database: recovery is off: " in result.output
        assert named in result.output
    finally:
        if undo:
            database.execute(undo)
        database.script("grants.sql")


def test_what_only_recovery_needs_is_a_note(
    redis_server: RedisServer, database: Database
) -> None:
    database.execute("REVOKE SELECT (xmin) ON folders FROM typelets_ws")
    try:
        url = database.url_as("typelets_ws")
        result = check(DATABASE_URL=url, REDIS_URL=redis_server.url)
        assert result.exit_code == 0, result.output
        notes = [line for line in result.output.splitlines() if line[:4] == "note"]
        assert notes == [
            "note  database: recovery is off: permission denied for table folders"
        ]
    finally:
        database.script("grants.sql")


def test_a_database_that_takes_no_updates_is_wrong(
    redis_server: RedisServer, database: Database
) -> None:
    setting = "default_transaction_read_only"
    database.execute(f"ALTER ROLE typelets_ws SET {setting} = on")
    try:
        url = database.url_as("typelets_ws")
        result = check(DATABASE_URL=url, REDIS_URL=redis_server.url)
        assert result.exit_code == 1
        assert "wrong database: read-only" in result.stderr
    finally:
        database.execute(f"ALTER ROLE typelets_ws RESET {setting}")


def test_each_right_that_redis_lacks_is_named(
    redis_server: RedisServer, database: Database
) -> None:
    url = redis_server.url.replace("redis://", "redis://ws:secret@")
    for missing, named in (
        ("&typelets:user:*", "typelets:user:"),
        ("&typelets:control", "typelets:control"),
        ("~typelets:devices:*", "devices: "),
        ("~typelets:era:*", "leases: "),
        ("~typelets:nonce:*", "nonces: "),
        ("+eval", "scripts: "),
        ("+evalsha", "scripts: "),
        ("+unsubscribe", "unsubscribe"),
        ("+publish", "publish"),
    ):
        rights = [right for right in ACL if right != missing]
        redis_server.command("ACL", "SETUSER", "ws", "reset", "on", ">secret", *rights)
        result = check(DATABASE_URL=database.url, REDIS_URL=url)
        assert result.exit_code == 1, missing
        assert f"wrong redis: {named}" in result.stderr or named in result.stderr
    result = check(DATABASE_URL=database.url, REDIS_URL=url.replace("secret", "wrong"))
    assert result.exit_code == 1
    assert "wrong redis: invalid username-password pair" in result.stderr
    assert "ws:wrong" not in result.output
    redis_server.command("ACL", "DELUSER", "ws")


def test_servers_that_are_away_fail_unless_that_is_allowed(
    database: Database,
) -> None:
    nowhere = {
        "DATABASE_URL": f"postgresql://127.0.0.1:{free_port()}/x",
        "REDIS_URL": f"redis://127.0.0.1:{free_port()}/0",
    }
    result = check(**nowhere)
    assert result.exit_code == 1
    assert [line.split(":")[0] for line in result.stderr.splitlines()] == [
        "away  database",
        "away  redis",
        "typelets-ws",
    ]
    assert check("--allow-outage", **nowhere).exit_code == 0
    # A wrong password is no outage.
    wrong = database.url_as("nobody_here")
    assert check("--allow-outage", **{**nowhere, "DATABASE_URL": wrong}).exit_code == 1


def test_a_start_with_a_check_fails_when_a_server_refuses(database: Database) -> None:
    nowhere = f"redis://127.0.0.1:{free_port()}/0"
    wrong = {"DATABASE_URL": database.url_as("nobody_here"), "REDIS_URL": nowhere}
    result = CliRunner().invoke(
        main, ["serve", "--check"], env={"CLERK_JWT_KEY": public_pem(), **wrong}
    )
    assert result.exit_code == 1
    assert "wrong database: " in result.stderr


@contextmanager
def key_source(status: int, body: bytes) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/jwks"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_key_source_that_has_no_keys_is_wrong(
    redis_server: RedisServer, database: Database, tmp_path: Path
) -> None:
    servers = {"DATABASE_URL": database.url, "REDIS_URL": redis_server.url}
    for status, body, text in (
        (200, b'{"keys":[]}', "no_keys"),
        (200, b"<html>", "junk"),
        (404, b"", "http_4xx"),
    ):
        with key_source(status, body) as url:
            config = tmp_path / "config.toml"
            config.write_text(f'[auth]\njwks_url = "{url}"\n')
            result = check("-c", str(config), CLERK_JWT_KEY="", **servers)
            assert result.exit_code == 1, result.output
            assert f"wrong keys: {url}: {text}" in result.stderr


def test_a_sentinel_group_and_a_cluster_are_tried_as_well(
    sentinel_group: SentinelGroup, cluster: Cluster, database: Database
) -> None:
    for group in (sentinel_group, cluster):
        with group.steady():
            result = check(DATABASE_URL=database.url, REDIS_URL=group.url)
        assert result.exit_code == 0, result.output
        assert "ok    redis: " in result.output


def test_commands_reach_a_sentinel_group_and_a_cluster(
    sentinel_group: SentinelGroup, cluster: Cluster
) -> None:
    for group in (sentinel_group, cluster):
        with group.steady():
            result = CliRunner().invoke(
                main,
                ["disconnect", "--user", "nobody_here"],
                env={"REDIS_URL": group.url},
            )
        assert result.exit_code == 1, result.output
        assert "no process heard it" in result.stderr
