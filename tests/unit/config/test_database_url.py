"""Addresses of other database clients: what libpq cannot use is refused by name."""

import pytest
from psycopg import ProgrammingError, pq
from psycopg.conninfo import conninfo_to_dict

from typelets_ws.config import load as settings
from typelets_ws.config.database_url import PARAMETERS, libpq_error
from typelets_ws.config.model import ConfigError

BASE = "postgresql://u:MARKER@db.example/notes"
REFUSED = [
    ("schema=public", "'schema'"),
    ("sslmode=require&schema=public", "'schema'"),
    ("pgbouncer=true", "'pgbouncer'"),
    ("connection_limit=5", "'connection_limit'"),
    ("pool_timeout=0", "'pool_timeout'"),
    ("uselibpqcompat=true&sslmode=require", "'uselibpqcompat'"),
    ("sslmode=no-verify", "sslmode"),
    ("sslmode=Require", "sslmode"),
    ("sslaccept=strict", "'sslaccept'"),
    ("ssl=1", "'ssl'"),
    ("SSLMODE=require", "'SSLMODE'"),
    ("sslmode", "'sslmode'"),
    ("connect_timeout=10s", "connect_timeout"),
    ("target_session_attrs=master", "target_session_attrs"),
    ("channel_binding=on", "channel_binding"),
    ("socketTimeout=30", "'socketTimeout'"),
    ("MARK%20ER=1", "'?'"),
]
FINE = [
    "",
    "sslmode=verify-full&sslrootcert=system",
    "ssl=true",
    "options=-csearch_path%3Dnotes",
    "connect_timeout=5&application_name=notes%20ws&target_session_attrs=read-write",
    "host=/run/postgresql&user=u&",
    "%73slmode=require",
]


@pytest.mark.parametrize(("query", "named"), REFUSED)
def test_what_libpq_cannot_use_is_refused_by_name(query: str, named: str) -> None:
    with pytest.raises(ConfigError) as caught:
        settings.parse("", "x", {"DATABASE_URL": f"{BASE}?{query}"}, {})
    assert "DATABASE_URL" in str(caught.value)
    assert named in str(caught.value)
    assert "MARKER" not in str(caught.value)


@pytest.mark.parametrize("query", FINE)
def test_what_libpq_takes_is_taken(query: str) -> None:
    assert libpq_error(f"{BASE}?{query}") is None
    conninfo_to_dict(f"{BASE}?{query}")


@pytest.mark.parametrize(("query", "named"), REFUSED)
def test_a_refused_name_is_one_that_libpq_refuses(query: str, named: str) -> None:
    if named.startswith("'"):
        with pytest.raises(ProgrammingError):
            conninfo_to_dict(f"{BASE}?{query}")


def test_every_parameter_of_this_libpq_is_known() -> None:
    ours = {each.keyword.decode() for each in pq.Conninfo.get_defaults()}
    assert ours <= PARAMETERS
