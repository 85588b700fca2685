"""The SQL of `changes`: row versions by the transactions that wrote them.

Invariants, checked in tests/integration/postgres/test_changes.py and test_pages.py:

- **Horizon, database identity, digest and rows come from one snapshot**, because they
  come from one statement. A horizon taken before or after could skip a commit.
- **A row is a change when its `xmin` is at or above the horizon.** `age` counts
  transactions backwards from the newest one. It reads that one once per transaction,
  and the planner may be the first to ask: then a row committed between planning and
  execution has an age below zero. So the filter accepts `PLANNING_XIDS` below zero.
- **Only rows of the named users are visited**, through the index on ``user_id``:
  each user has an own subquery, and ``OFFSET 0`` keeps the planner from walking the
  primary key instead.
- **The content of unwanted rows is not read**: the size of a page is computed with
  ``octet_length``, which does not fetch compressed or external values.

No text of a client becomes part of a statement. The users travel as one JSON value.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Final, NamedTuple

from .sql import NOTE_ROW, iso

__all__ = [
    "ABILITIES", "FOLDER_ROW", "OLDEST_VERSION", "Abilities", "changed", "horizon",
    "rows",
]  # fmt: skip

OLDEST_VERSION: Final = 140_000
"""`bit_xor` and the cast from xid8 to xid came with PostgreSQL 14."""
PLANNING_XIDS: Final = 2**20
MARGIN_S: Final = 3600
"""For the clocks of REST hosts, where `updated_at` narrows a search."""


FOLDER_ROW: Final = f"""(SELECT row_to_json(r) FROM (SELECT
    f.id, f.user_id AS "userId", f.name, f.color, f.parent_id AS "parentId",
    f.sort_order AS "sortOrder", f.is_default AS "isDefault",
    {iso("f.created_at")} AS "createdAt", {iso("f.updated_at")} AS "updatedAt"
) AS r)"""  # noqa: S608
"""A row of `folders` under the alias f, as the clients know it."""

_NOTE_COLUMNS: Final = """n.id, n.user_id, n.folder_id, n.title, n.content, n.type,
    n.encrypted_title, n.encrypted_content, n.iv, n.salt, n.starred, n.archived,
    n.deleted, n.hidden, n.hidden_at, n.tags, n.created_at, n.updated_at"""
_FOLDER_COLUMNS: Final = """f.id, f.user_id, f.name, f.color, f.parent_id,
    f.sort_order, f.is_default, f.created_at, f.updated_at"""
_NOTE_SIZE: Final = """600 + octet_length(n.title)
    + coalesce(octet_length(n.content), 0)
    + coalesce(octet_length(n.encrypted_title), 0)
    + coalesce(octet_length(n.encrypted_content), 0)"""
_FOLDER_SIZE: Final = "400 + octet_length(f.name)"

ABILITIES: Final = b"""SELECT
    current_setting('server_version_num'),
    has_function_privilege('pg_catalog.pg_control_system()', 'execute'),
    has_function_privilege('pg_catalog.pg_walfile_name(pg_lsn)', 'execute')
        AND has_function_privilege('pg_catalog.pg_current_wal_lsn()', 'execute')"""
"""The server's version and the role's rights; works on every version."""


class Abilities(NamedTuple):
    """Which parts of a database's identity the role may read."""

    system: bool = True
    timeline: bool = True


def _identity(abilities: Abilities) -> str:
    """The database's name among all databases that could be mistaken for it."""
    parts = ["(SELECT oid::text FROM pg_database WHERE datname = current_database())"]
    if abilities.system:
        parts.append("(SELECT system_identifier::text FROM pg_control_system())")
    if abilities.timeline:
        # A standby refuses both functions; it is refused as a whole by its column.
        parts.append("""CASE WHEN pg_is_in_recovery() THEN '' ELSE
            left(pg_walfile_name(pg_current_wal_lsn()), 8) END""")
    return " || '.' || ".join(parts)


def _head(abilities: Abilities) -> str:
    """Kind h: horizon, standby, identity, the newest transaction id."""
    return f"""SELECT 'h'::text AS kind, 0 AS n, NULL::uuid AS id,
        pg_snapshot_xmin(pg_current_snapshot())::text AS version,
        pg_is_in_recovery() AS settled, {_identity(abilities)} AS at,
        pg_snapshot_xmax(pg_current_snapshot())::text AS "row\""""


@lru_cache
def horizon(abilities: Abilities) -> bytes:
    """The statement that reads the horizon alone."""
    return _head(abilities).encode()


def _changed(alias: str, columns: str, table: str, size: str, position: str) -> str:
    """The wanted rows of one user in one table, by id, with the bytes before each."""
    return f"""
        SELECT c.*, sum(c.size) OVER (ORDER BY c.id) - c.size AS before FROM (
            SELECT {columns}, {alias}.xmin::text AS version, {size} AS size,
                coalesce(age({alias}.xmin) > w.settled_age, false) AS settled
            FROM {table} AS {alias}
            WHERE {alias}.user_id = w.user_id
                AND {position} AND %s
            OFFSET 0
        ) AS c ORDER BY c.id LIMIT %%(rows)s::int + 1"""  # noqa: S608


_NOTES: Final = _changed(
    "n", _NOTE_COLUMNS, "notes", _NOTE_SIZE,
    "(w.kind IS DISTINCT FROM 'n' OR n.id > w.after)",
)  # fmt: skip
_FOLDERS: Final = _changed(
    "f", _FOLDER_COLUMNS, "folders", _FOLDER_SIZE,
    "w.kind IS DISTINCT FROM 'n' AND (w.after IS NULL OR f.id > w.after)",
)  # fmt: skip
_AGED: Final = f"""(w.age IS NULL
    OR age({{0}}.xmin) BETWEEN -{PLANNING_XIDS} AND w.age)"""
_NARROW: Final = f"""{_AGED.format("n")} AND n.updated_at >=
    (clock_timestamp() AT TIME ZONE 'UTC')
    - make_interval(secs => w.since_s + {MARGIN_S})"""
_WIDE: Final = f"""CASE
    WHEN w.age IS NULL AND w.since_s IS NULL THEN true
    WHEN age({{0}}.xmin) BETWEEN -{PLANNING_XIDS} AND w.age THEN true
    WHEN w.since_s IS NULL THEN false
    ELSE {{0}}.updated_at >=
        (clock_timestamp() AT TIME ZONE 'UTC') - make_interval(secs => w.since_s) END"""


def _digest(table: str) -> str:
    """Row count and XOR as one text; see recovery.md section 1."""
    text = f"d.id || ':' || {iso('d.updated_at')}"
    return f"""(SELECT count(*) || ' ' || coalesce(bit_xor(('x' || left(
            encode(sha256(convert_to({text}, 'UTF8')), 'hex'), 32))::bit(128))::text,
            '') FROM {table} AS d WHERE d.user_id = w.user_id)"""  # noqa: S608


def _count(table: str) -> str:
    return f"(SELECT count(*)::text FROM {table} AS d WHERE d.user_id = w.user_id)"  # noqa: S608


def _ids(table: str) -> str:
    return f"""(SELECT coalesce(json_agg(d.id), '[]')::text FROM {table} AS d
        WHERE d.user_id = w.user_id)"""  # noqa: S608


def _packed(table: str) -> str:
    return f"""(SELECT encode(string_agg(uuid_send(d.id), ''::bytea), 'hex')
        FROM (SELECT id FROM {table} WHERE user_id = w.user_id
            LIMIT %(packed)s::int) AS d)"""  # noqa: S608


def _part(kind: str, of_table: Callable[[str], str], condition: str) -> str:
    """One row for each user: something of its notes, and the same of its folders."""
    notes, folders = of_table("notes"), of_table("folders")
    return f"""UNION ALL SELECT '{kind}', w.n, NULL, {notes}, NULL, {folders}, NULL
        FROM w WHERE {condition} """  # noqa: S608


@lru_cache
def changed(
    abilities: Abilities,
    *,
    digest: bool = False,
    ids: bool = False,
    narrow: bool = False,
    counts: bool = False,
    packed: bool = False,
) -> bytes:
    """The statement that reads the changes of several users.

    Its parameters: ``users``, a JSON array of objects ``{n, user_id, horizon,
    settled, kind, after, since_s, digest, packed}``; ``rows``, ``bytes`` and
    ``packed``, the most of one user. Its rows are ``kind n id version settled at
    row``, n being the user's number. Kinds: ``h`` the head, ``f`` and ``n`` folders and
    notes in the order of a page, ``m`` a user of whom there is more, ``c`` the row
    count. Without an ``m`` also ``d`` the digest, ``i`` the ids, ``p`` the packed ids.
    Rows of the last ``since_s`` seconds by their own ``updated_at`` are changes as
    well. With `narrow` none but those can be, with an hour's margin: the index on
    ``updated_at`` finds them, and the horizon selects among them.
    """
    last = "NOT EXISTS (SELECT FROM m WHERE m.n = w.n)"
    tail = "".join(
        [
            _part("d", _digest, f"w.digest AND {last}") if digest else "",
            _part("c", _count, "true") if counts else "",
            _part("p", _packed, f"w.packed AND {last}") if packed else "",
            _part("i", _ids, last) if ids else "",
        ]
    )
    notes = _NOTES % (_NARROW if narrow else _WIDE.format("n"))
    folders = _FOLDERS % (_AGED if narrow else _WIDE).format("f")
    # The columns of a CTE keep their compressed and external values as they are.
    return f"""
        WITH w AS MATERIALIZED (
            SELECT *, age(horizon::xid8::xid) AS age,
                age(settled::xid8::xid) AS settled_age
            FROM json_to_recordset(%(users)s::json) AS u(n int, user_id text,
                horizon text, settled text, kind text, after uuid, since_s float8,
                digest bool, packed bool)),
        fc AS MATERIALIZED (SELECT w.n, f.* FROM w CROSS JOIN LATERAL ({folders}) AS f),
        nc AS MATERIALIZED (SELECT w.n, n.* FROM w CROSS JOIN LATERAL ({notes}) AS n),
        fs AS (SELECT n, count(*) AS rows, sum(size) AS size FROM fc GROUP BY n),
        m AS MATERIALIZED (SELECT n FROM (
            SELECT n, size, before FROM fc UNION ALL
            SELECT nc.n, nc.size, nc.before + coalesce(fs.size, 0)
            FROM nc LEFT JOIN fs USING (n)) AS c
            GROUP BY n HAVING count(*) > %(rows)s::int
                OR max(before) >= %(bytes)s::bigint)
        {_head(abilities)}
        UNION ALL SELECT 'f', f.n, f.id, f.version, f.settled, {iso("f.updated_at")},
            {FOLDER_ROW}::text FROM fc AS f WHERE f.before < %(bytes)s::bigint
        UNION ALL SELECT 'n', n.n, n.id, n.version, n.settled, {iso("n.updated_at")},
            {NOTE_ROW}::text FROM nc AS n LEFT JOIN fs ON fs.n = n.n
            WHERE n.before + coalesce(fs.size, 0) < %(bytes)s::bigint
                AND coalesce(fs.rows, 0) <= %(rows)s::int
        UNION ALL SELECT 'm', m.n, NULL, NULL, NULL, NULL, NULL FROM m
        {tail}""".encode()  # noqa: S608


@lru_cache
def rows(*, versions: bool) -> bytes:
    """The statement that reads rows by id, each only if it is the user's own.

    Its parameters: ``keys``, a JSON array of ``{n, user_id, kind, id, before}``, and
    ``bytes``, the most of one user. Its rows are those of `changed`, n being the key's
    number; a row that does not exist is left out, ``m`` is one beyond ``bytes``.
    ``settled`` means below the horizon ``before``. Without `versions` it needs no
    privilege on ``xmin``, and no row is settled.
    """
    notes = _named("n", _NOTE_COLUMNS, "notes", _NOTE_SIZE, versions=versions)
    folders = _named("f", _FOLDER_COLUMNS, "folders", _FOLDER_SIZE, versions=versions)
    return f"""
        WITH k AS MATERIALIZED (
            SELECT *, age(before::xid8::xid) AS age
            FROM json_to_recordset(%(keys)s::json)
            AS u(n int, user_id text, kind text, id uuid, before text)),
        fc AS MATERIALIZED ({folders}),
        nc AS MATERIALIZED ({notes}),
        b AS MATERIALIZED (
            SELECT n, sum(size) OVER (PARTITION BY user_id ORDER BY n) - size AS before
            FROM (SELECT n, user_id, size FROM fc
                UNION ALL SELECT n, user_id, size FROM nc) AS c)
        SELECT 'f'::text, f.n, f.id, f.version, f.settled, {iso("f.updated_at")},
            {FOLDER_ROW}::text FROM fc AS f JOIN b USING (n)
            WHERE b.before < %(bytes)s::bigint
        UNION ALL SELECT 'n', n.n, n.id, n.version, n.settled, {iso("n.updated_at")},
            {NOTE_ROW}::text FROM nc AS n JOIN b USING (n)
            WHERE b.before < %(bytes)s::bigint
        UNION ALL SELECT 'm', b.n, NULL, NULL, NULL, NULL, NULL FROM b
            WHERE b.before >= %(bytes)s::bigint
        """.encode()  # noqa: S608


def _named(alias: str, columns: str, table: str, size: str, *, versions: bool) -> str:
    """The rows of one table that ``k`` names, with their sizes."""
    version, settled = "NULL::text", "false"
    if versions:
        version = f"{alias}.xmin::text"
        settled = f"""coalesce(age({alias}.xmin)
            NOT BETWEEN -{PLANNING_XIDS} AND k.age, false)"""
    return f"""SELECT k.n, {columns}, {version} AS version, {settled} AS settled,
            {size} AS size FROM k JOIN {table} AS {alias} ON k.kind = '{alias}'
            AND {alias}.id = k.id AND {alias}.user_id = k.user_id"""  # noqa: S608
