"""Rules between settings, which no single type can express.

An error prevents the start, a warning is logged once. Nothing here opens a file or a
socket, so a configuration can be checked on another machine.
"""

import re
from collections.abc import Iterator
from urllib.parse import urlsplit

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from . import redis_address
from .addresses import UNIX, network
from .database_url import libpq_error
from .model import (
    Admin,
    AuthSettings,
    Config,
    ConfigError,
    Database,
    RecoverySettings,
    Redis,
    Server,
    hosts,
)
from .origins import canonical_origin

__all__ = ["errors", "merge_reload", "require_keys", "warnings"]

_ORIGIN_WORDS = "scheme://host[:port] without a path or a wildcard, null, or file://"
_PROXY_WORDS = "addresses, networks such as 10.0.0.0/8, or unix"
_LEAST_BITS = 2048
"""RFC 7518 section 3.3, for RS256."""
_HOST = r"(?:\[[0-9a-fA-F:.]+\]|[^:@/?,\[\]\s]*)(?::\d*)?"
_POSTGRES = re.compile(
    rf"(?!.*%(?![0-9a-fA-F]{{2}}))postgres(?:ql)?://(?:[^@/\s]*@)?"
    rf"{_HOST}(?:,{_HOST})*(?:[/?]\S*)?"
)
"""Addresses that libpq parses as intended. libpq quotes parts of a malformed one in its
errors, the password too; so only well-formed addresses are accepted."""
_RESTART_REQUIRED = {
    "server": ("host", "port", "reuse_port", "backlog"),
    "admin": Admin.__struct_fields__,
    "redis": Redis.__struct_fields__,
    "database": Database.__struct_fields__,
    "recovery": RecoverySettings.__struct_fields__,
    "log": ("format", "burst"),
}
"""Keys that need a restart: ports, and connections to other services."""


def errors(config: Config) -> Iterator[tuple[str, str, str]]:
    """Yield rules that are broken, as (section, key, what was expected)."""
    yield from _about_server(config.server, config.admin)
    yield from _about_auth(config.auth)
    limits, database = config.limits, config.database
    if limits.unread_bytes < limits.message_bytes:
        yield (
            "limits",
            "unread_bytes",
            f"at least {limits.message_bytes} (message_bytes)",
        )
    yield from _redis_errors(config.redis)
    if not _POSTGRES.fullmatch(database.url):
        yield (
            "database",
            "url",
            "an address with postgresql://, special characters in it written %XX",
        )
    elif unusable := libpq_error(database.url):
        yield "database", "url", unusable
    if database.pool_min > database.pool_max:
        yield "database", "pool_min", f"at most {database.pool_max} (pool_max)"


def _redis_errors(redis: Redis) -> Iterator[tuple[str, str, str]]:
    try:
        address = redis_address.parse(redis.url)
    except ValueError as exc:
        yield "redis", "url", f"an address of {exc}"
        return
    if redis.sharded and address.kind is not redis_address.Topology.CLUSTER:
        yield "redis", "sharded", "false, but for an address of redis+cluster://"


def warnings(config: Config) -> Iterator[str]:
    """Yield a sentence for each allowed but risky setting."""
    if not config.server.allowed_origins:
        yield "server.allowed_origins is empty: a page of any site may connect"
    for key in ("jwks_url", "api_url"):
        parts = urlsplit(getattr(config.auth, key))
        if parts.scheme == "http" and parts.hostname not in {"127.0.0.1", "localhost"}:
            yield f"auth.{key} is plain http: a host on the way can swap the keys"


def merge_reload(old: Config, new: Config) -> tuple[Config, list[str]]:
    """Return `new` with the keys that need a restart as in `old`.

    Also returns those of them that differ.
    """
    sections, kept = {}, []
    for section, keys in _restart_required(old, new).items():
        before, after = getattr(old, section), getattr(new, section)
        lasting = {key: getattr(before, key) for key in keys}
        kept += [
            f"{section}.{key}" for key in keys if getattr(after, key) != lasting[key]
        ]
        sections[section] = msgspec.structs.replace(after, **lasting)
    return msgspec.structs.replace(new, **sections), kept


def _restart_required(old: Config, new: Config) -> dict[str, tuple[str, ...]]:
    """The keys by section; switching TLS on or off needs a restart too."""
    if bool(old.server.tls_certificate) == bool(new.server.tls_certificate):
        return _RESTART_REQUIRED
    return {
        **_RESTART_REQUIRED,
        "server": (*_RESTART_REQUIRED["server"], "tls_certificate", "tls_key"),
    }


def require_keys(config: Config) -> None:
    """Raise `ConfigError` unless keys to verify tokens are configured.

    Apart from `errors`, as only `serve` needs it; `publish` does not.
    """
    auth = config.auth
    if not (auth.jwt_key or auth.jwks_url or auth.secret_key):
        raise ConfigError(
            "[auth]: nothing to check tokens with; expected one of jwt_key "
            "(CLERK_JWT_KEY), jwks_url or secret_key (CLERK_SECRET_KEY)"
        )


def _about_server(server: Server, admin: Admin) -> Iterator[tuple[str, str, str]]:
    if not all(hosts(server)):
        yield "server", "host", "addresses separated by commas, none of them empty"
    if not all(map(canonical_origin, server.allowed_origins)):
        yield "server", "allowed_origins", _ORIGIN_WORDS
    if not all(map(_is_network, server.trusted_proxies)):
        yield "server", "trusted_proxies", _PROXY_WORDS
    if server.tls_certificate and not server.tls_key:
        yield "server", "tls_key", "a file, as tls_certificate is set"
    if server.tls_key and not server.tls_certificate:
        yield "server", "tls_certificate", "a file, as tls_key is set"
    if admin.enabled and admin.port and admin.port == server.port:
        yield "admin", "port", "another port than server.port"


def _about_auth(auth: AuthSettings) -> Iterator[tuple[str, str, str]]:
    if auth.jwt_key and not _is_rsa_key(auth.jwt_key):
        yield (
            "auth",
            "jwt_key",
            "an RSA public key in PEM (BEGIN PUBLIC KEY) of at least 2048 bits",
        )
    for key in ("jwks_url", "api_url"):
        url = getattr(auth, key)
        if (url or key == "api_url") and _scheme(url) not in {"http", "https"}:
            yield "auth", key, "an address with https:// or http://"


def _is_network(text: str) -> bool:
    try:
        network(text)
    except ValueError:
        return text == UNIX
    return True


def _is_rsa_key(pem: str) -> bool:
    try:
        key = load_pem_public_key(pem.encode())
        return isinstance(key, RSAPublicKey) and key.key_size >= _LEAST_BITS
    except (ValueError, UnsupportedAlgorithm):
        return False


def _scheme(url: str) -> str:
    """The scheme of an address; empty for other text."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return ""
    return parts.scheme if parts.netloc or parts.path.strip("/") else ""
