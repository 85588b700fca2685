"""Whether Postgres has the tables, columns and grants that the daemon needs.

Each statement of the daemon is given to EXPLAIN, which looks up every column and checks
every privilege, and runs nothing. So a new statement or a new column needs no change
here.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from itertools import product
from typing import Final

import psycopg
from psycopg import errors

from ..config.model import Database
from ..postgres import changes_sql, sql
from .finding import TIMEOUT_S, Finding, FindingKind, first_line

__all__ = ["check_postgres"]

PostgresConnection = psycopg.AsyncConnection[tuple[object, ...]]
SUBJECT: Final = "database"
_NO_ROW: Final = "00000000-0000-4000-8000-000000000000"
_WRONG: Final = (
    errors.InvalidAuthorizationSpecification,
    errors.InvalidPassword,
    errors.InvalidCatalogName,
    errors.InsufficientPrivilege,
)


async def check_postgres(config: Database) -> list[Finding]:
    """Connect as the daemon does and look at each of its statements."""
    try:
        async with asyncio.timeout(TIMEOUT_S):
            async with await psycopg.AsyncConnection.connect(
                config.url, autocommit=True, connect_timeout=int(TIMEOUT_S)
            ) as connection:
                return await _check(connection)
    except _WRONG as exc:
        return [Finding(FindingKind.WRONG, SUBJECT, first_line(exc))]
    except psycopg.OperationalError as exc:
        # libpq tells refused passwords and unknown databases by text alone.
        wrong = any(
            mark in str(exc)
            for mark in ("authentication failed", "does not exist", "no pg_hba.conf")
        )
        kind = FindingKind.WRONG if wrong else FindingKind.AWAY
        return [Finding(kind, SUBJECT, first_line(exc))]


async def _check(connection: PostgresConnection) -> list[Finding]:
    info = connection.info
    version = f"{info.server_version // 10_000}.{info.server_version % 10_000}"
    where = f"{info.host or 'local'}/{info.dbname}"
    found = []
    for name, query, params in _statements():
        problem = await _explain(connection, query, params)
        if problem:
            found.append(Finding(FindingKind.WRONG, SUBJECT, f"{name}: {problem}"))
    if await _value(connection, b"SHOW transaction_read_only") == "on":
        text = "read-only, as a standby is: every update would be refused"
        found.append(Finding(FindingKind.WRONG, SUBJECT, text))
    for problem in dict.fromkeys([p async for p in _recovery_problems(connection)]):
        text = f"recovery is off: {problem}"
        found.append(Finding(FindingKind.NOTE, SUBJECT, text))
    if not any(each.kind is FindingKind.WRONG for each in found):
        text = f"PostgreSQL {version} as {info.user} on {where}"
        found.insert(0, Finding(FindingKind.OK, SUBJECT, text))
    return found


def _statements() -> Iterator[tuple[str, bytes, Mapping[str, object]]]:
    values: dict[str, object] = dict.fromkeys(sql.COLUMNS)
    params = {**values, "note": _NO_ROW, "user": "", "id": _NO_ROW, "base": ""}
    fields = tuple(sql.COLUMNS)
    for into_folder in (False, True):
        for based in (False, True):
            query = sql.update_note(fields, into_folder=into_folder, based=based)
            yield "note_update", query, params
    yield "note_owner", sql.NOTE_OWNER, params
    yield "folder_owner", sql.FOLDER_OWNER, params


async def _recovery_problems(connection: PostgresConnection) -> AsyncIterator[str]:
    """Why each statement of recovery cannot be run, for those that cannot."""
    if connection.info.server_version < changes_sql.OLDEST_VERSION:
        yield f"it needs PostgreSQL {changes_sql.OLDEST_VERSION // 10_000}"
        return
    cursor = await connection.execute(changes_sql.ABILITIES)
    _, system, timeline = await cursor.fetchone() or (None, False, False)
    abilities = changes_sql.Abilities(bool(system), bool(timeline))
    params = {"users": "[]", "keys": "[]", "rows": 1, "bytes": 1}
    for query in _recovery_statements(abilities):
        problem = await _explain(connection, query, params)
        if problem:
            yield problem


def _recovery_statements(abilities: changes_sql.Abilities) -> Iterator[bytes]:
    names = ("digest", "ids", "narrow", "counts")
    for switches in product((False, True), repeat=len(names)):
        yield changes_sql.changed(abilities, **dict(zip(names, switches, strict=True)))
    for versions in (False, True):
        yield changes_sql.rows(versions=versions)


async def _value(connection: PostgresConnection, query: bytes) -> object:
    (value,) = await (await connection.execute(query)).fetchone() or (None,)
    return value


async def _explain(
    connection: PostgresConnection, query: bytes, params: Mapping[str, object]
) -> str:
    """Why the statement cannot be run; empty when it can."""
    try:
        await connection.execute(b"EXPLAIN " + query, params)
    except (errors.InsufficientPrivilege, errors.ProgrammingError) as exc:
        return first_line(exc)
    return ""
