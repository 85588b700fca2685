"""The statements: what libpq is given of them."""

import re
from itertools import combinations

from typelets_ws.postgres import sql


def test_each_parameter_has_one_number() -> None:
    query = b"SELECT %(b)s, %(a)s::uuid WHERE x = %(b)s"
    assert sql.numbered(query) == (
        b"SELECT $1, $2::uuid WHERE x = $1",
        ("b", "a"),
    )


def test_every_statement_has_the_parameters_it_should() -> None:
    for count in range(1, len(sql.COLUMNS) + 1):
        for fields in combinations(sql.COLUMNS, count):
            for into_folder in {False, "folderId" in fields}:
                query = sql.update_note(fields, into_folder=into_folder)
                text, names = sql.numbered(query)
                assert sorted(names) == sorted((*fields, "note", "user"))
                numbers = {int(number) for number in re.findall(rb"\$(\d+)", text)}
                assert numbers == set(range(1, len(names) + 1))
                assert b"%" not in text
    for query in (sql.NOTE_OWNER, sql.FOLDER_OWNER):
        assert sql.numbered(query)[1] == ("id",)
    assert sql.numbered(sql.ALIVE) == (sql.ALIVE, ())
