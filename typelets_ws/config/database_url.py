"""Database addresses that libpq cannot use, found before anything connects.

Prisma, node-postgres and Supabase write parameters of their own into DATABASE_URL
(`?schema=public`, `?pgbouncer=true`, `?sslmode=no-verify`). libpq refuses the unknown
name, or the value at the first connection, and then no connection is ever made. The
names and words are those of libpq 18 (PostgreSQL documentation, section 34.1.2).

Invariant: `libpq_error` names a parameter, never a value: a value may be a password.
Tested by tests/unit/config/test_database_url.py.
"""

from typing import Final
from urllib.parse import unquote, urlsplit

__all__ = ["PARAMETERS", "libpq_error"]


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


PARAMETERS: Final = _names(
    """application_name channel_binding client_encoding connect_timeout dbname
    fallback_application_name gssdelegation gssencmode gsslib host hostaddr keepalives
    keepalives_count keepalives_idle keepalives_interval krbsrvname load_balance_hosts
    max_protocol_version min_protocol_version oauth_client_id oauth_client_secret
    oauth_issuer oauth_scope options passfile password port replication require_auth
    requirepeer scram_client_key scram_server_key service servicefile
    ssl_max_protocol_version ssl_min_protocol_version sslcert sslcertmode
    sslcompression sslcrl sslcrldir sslkey sslkeylogfile sslmode sslnegotiation
    sslpassword sslrootcert sslsni target_session_attrs tcp_user_timeout user"""
)
_TLS_VERSIONS: Final = ("TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3")
_SWITCH: Final = ("0", "1")
_WORDS: Final = {
    "channel_binding": ("disable", "prefer", "require"),
    "gssdelegation": _SWITCH,
    "gssencmode": ("disable", "prefer", "require"),
    "keepalives": _SWITCH,
    "load_balance_hosts": ("disable", "random"),
    "ssl_max_protocol_version": _TLS_VERSIONS,
    "ssl_min_protocol_version": _TLS_VERSIONS,
    "sslcertmode": ("disable", "allow", "require"),
    "sslcompression": _SWITCH,
    "sslmode": ("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
    "sslnegotiation": ("postgres", "direct"),
    "sslsni": _SWITCH,
    "target_session_attrs": (
        "any",
        "read-write",
        "read-only",
        "primary",
        "standby",
        "prefer-standby",
    ),
}
_NUMBERS: Final = _names(
    """connect_timeout keepalives_count keepalives_idle keepalives_interval
    tcp_user_timeout"""
)
_INSTEAD: Final = {
    "schema": "; write options=-csearch_path%3D<schema>",
    "pgbouncer": "; set database.prepare = false behind PgBouncer before 1.22",
    "ssl": "; write sslmode=require",
}


def libpq_error(url: str) -> str | None:
    """Return what libpq refuses in an address, to follow "expected"; else None.

    `url` has the form of a postgresql:// address already.
    """
    for pair in filter(None, urlsplit(url).query.split("&")):
        name, separator, text = pair.partition("=")
        name, value = unquote(name), unquote(text)
        if (name, value) == ("ssl", "true"):
            continue  # libpq reads it as sslmode=require, as JDBC does
        if name not in PARAMETERS or not separator:
            shown = name if name.isidentifier() else "?"
            instead = _INSTEAD.get(name, "")
            return f"an address without {shown!r}, which libpq does not know{instead}"
        words = _WORDS.get(name)
        if words is not None and value and value not in words:
            return f"{name} to be one of {', '.join(words)}, as libpq demands"
        if name in _NUMBERS and value and not _is_number(value):
            return f"{name} to be a whole number, as libpq demands"
    return None


def _is_number(text: str) -> bool:
    return text.strip().removeprefix("-").isdecimal() and text.isascii()
