"""Configuration: one frozen object; each default is written once, here, with its reason.

Precedence: defaults < file (TOML) < environment < flags (spec section 8). An
unknown key or a bad value is refused before anything starts, naming where it
came from, the key, the value and what was expected; the value of a secret is
never shown. Durations carry their unit in the name (``_ms``, ``_s``), sizes
end in ``_bytes``.
"""

import ipaddress
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta, Struct

__all__ = ["Config", "ConfigError", "load", "parse", "secret_keys"]

Count = Annotated[int, Meta(ge=1)]
Port = Annotated[int, Meta(ge=0, le=65535)]
Seconds = Annotated[float, Meta(gt=0)]
Millis = Annotated[int, Meta(ge=1)]


class ConfigError(Exception):
    """A configuration that cannot be used; the text names source, key and value."""


class _Section(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Unknown keys are refused: a misspelt limit would silently be no limit."""


class Server(_Section, frozen=True):
    """The public listener: WebSocket upgrades and the three health paths."""

    host: str = "127.0.0.1"
    """Loopback, as a TLS proxy stands in front; 0.0.0.0 to be reached directly."""
    port: Port = 8765
    reuse_port: bool = False
    """Several processes on one port; the kernel spreads new connections."""
    backlog: Count = 4096
    """A reconnect storm queues here while the accept rate is kept."""
    allowed_origins: tuple[str, ...] = ()
    """Exact origins (scheme://host[:port]); empty allows all, with a warning."""
    trusted_proxies: tuple[str, ...] = ()
    """Addresses or networks whose X-Forwarded-For is believed."""
    permessage_deflate: bool = False
    """Payloads are ciphertext: compression costs 36 KB a connection for nothing."""
    tls_certificate: str = ""
    """PEM file; empty: plain TCP behind a proxy."""
    tls_key: str = ""
    drain_seconds: Annotated[float, Meta(ge=0)] = 20.0
    """Closing is spread over this long: the web client reconnects without jitter."""
    status_token: str = ""
    """Bearer token that opens perUser on /websocket/status; empty: nobody."""


class Admin(_Section, frozen=True):
    """The private listener: metrics and status in full."""

    host: str = "127.0.0.1"
    port: Port = 9464
    """Prometheus' usual exporter port for OpenTelemetry-like daemons."""
    enabled: bool = True


class Auth(_Section, frozen=True):
    """Clerk session tokens (spec section 2)."""

    jwt_key: str = ""
    """PEM public key: no network at all. First choice."""
    jwks_url: str = ""
    """The Frontend API's /.well-known/jwks.json. Second choice."""
    secret_key: str = ""
    """For Clerk's Backend API. Third choice."""
    api_url: str = "https://api.clerk.com/v1"
    issuer: str = ""
    """Expected ``iss``; empty: not checked."""
    authorized_parties: tuple[str, ...] = ()
    """Accepted ``azp``; empty: not checked."""
    leeway_s: Annotated[float, Meta(ge=0)] = 5.0
    """Clerk's default clock skew."""
    auth_timeout_ms: Millis = 30_000
    key_cache_s: Seconds = 300.0
    """Clerk's own SDK keeps keys for five minutes."""
    key_refetch_s: Seconds = 30.0
    """At most one forced refetch in this long, however many junk tokens arrive."""
    max_expired_tries: Count = 3


class Limits(_Section, frozen=True):
    """What one client, one user, one address and all together may use (section 5)."""

    message_bytes: Count = 1_048_576
    unread_bytes: Count = 4 * 1_048_576
    """A message beyond this is not even read: close 1009."""
    unread_bytes_before_auth: Count = 65_536
    rate_messages: Count = 300
    rate_window_ms: Millis = 60_000
    devices_per_user: Count = 20
    connections: Count = 20_000
    unauthenticated: Count = 2_000
    per_address: Count = 200
    accepts_per_second: Count = 500
    unsent_bytes: Count = 4 * 1_048_576
    stalled_s: Seconds = 15.0
    abort_s: Seconds = 2.0
    """From a close frame to the hard abort."""
    handshake_s: Seconds = 10.0
    """From TCP accept to a whole HTTP request."""
    ping_interval_s: Seconds = 25.0
    """Below the 30 s and 60 s at which proxies cut idle connections."""
    ping_timeout_s: Seconds = 20.0
    nonces_per_user: Count = 36_000
    """20 devices x 300 messages a minute x the 6 minutes a nonce can matter."""


class Messages(_Section, frozen=True):
    """What clients may say."""

    require_encrypted: bool = False
    """Refuse a plain title or content (anything but "[ENCRYPTED]")."""
    require_signed_messages: bool = False


class Redis(_Section, frozen=True):
    """The bus between processes and the REST service."""

    url: str = "redis://127.0.0.1:6379/0"
    prefix: str = "typelets:"
    shared_limits: bool = True
    """Count a user's devices over all processes."""
    shared_nonces: bool = True
    """A nonce is single-use over all processes: one Redis command per signed message."""
    probe_interval_s: Seconds = 5.0
    """Loopback probe; readiness needs one back in the last 30 s."""
    probe_timeout_s: Seconds = 5.0
    unsubscribe_delay_s: Annotated[float, Meta(ge=0)] = 5.0
    """A page reload must not flap the subscription."""
    subscribe_batch: Count = 256
    publish_queue: Count = 10_000
    """Events waiting for Redis; beyond it the users concerned are resynchronised."""
    connect_timeout_s: Seconds = 2.0
    command_timeout_s: Seconds = 2.0
    lease_s: Seconds = 45.0
    """A killed process' devices stop counting after this long."""
    resync_spread_s: Annotated[float, Meta(ge=0)] = 5.0
    """resync_required goes out over this long, so REST is not stormed."""


class Database(_Section, frozen=True):
    """The REST service's Postgres."""

    url: str = "postgresql://localhost/typelets"
    pool_min: Count = 2
    pool_max: Count = 8
    statement_timeout_ms: Millis = 2_000
    wait_ms: Millis = 2_000
    """Longest wait for a free connection."""
    max_waiting: Count = 1_000
    prepare: bool = True
    """False behind a PgBouncer older than 1.22."""


class Log(_Section, frozen=True):
    """Structured logs on standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "json", "console"] = "auto"
    """auto: console on a terminal, JSON otherwise."""


class Config(_Section, frozen=True):
    """Everything the daemon can be told."""

    server: Server = Server()
    admin: Admin = Admin()
    auth: Auth = Auth()
    limits: Limits = Limits()
    messages: Messages = Messages()
    redis: Redis = Redis()
    database: Database = Database()
    log: Log = Log()


_SECRETS = frozenset({
    ("server", "status_token"), ("auth", "jwt_key"), ("auth", "secret_key"),
    ("redis", "url"), ("database", "url"),
})  # fmt: skip
_ALIASES: Mapping[str, tuple[str, str]] = {
    "WS_RATE_LIMIT_WINDOW_MS": ("limits", "rate_window_ms"),
    "WS_RATE_LIMIT_MAX_MESSAGES": ("limits", "rate_messages"),
    "WS_MAX_CONNECTIONS_PER_USER": ("limits", "devices_per_user"),
    "WS_AUTH_TIMEOUT_MS": ("auth", "auth_timeout_ms"),
    "CLERK_SECRET_KEY": ("auth", "secret_key"),
    "CLERK_JWT_KEY": ("auth", "jwt_key"),
    "CORS_ORIGINS": ("server", "allowed_origins"),
    "DATABASE_URL": ("database", "url"),
    "REDIS_URL": ("redis", "url"),
}
_PREFIX = "TYPELETS_WS_"


def secret_keys() -> frozenset[tuple[str, str]]:
    """The (section, key) pairs whose values must never be shown."""
    return _SECRETS


def load(
    path: Path | None,
    environ: Mapping[str, str],
    flags: Mapping[tuple[str, str], object] | None = None,
) -> Config:
    """Merge defaults, file, environment and flags into one checked `Config`.

    `flags` maps (section, key) to a value. Raises `ConfigError`.
    """
    text = ""
    if path is not None:
        try:
            text = path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as exc:
            raise ConfigError(f"{path}: cannot be read: {exc}") from None
    return parse(text, str(path), environ, flags or {})


def parse(
    text: str,
    source: str,
    environ: Mapping[str, str],
    flags: Mapping[tuple[str, str], object],
) -> Config:
    """Like `load`, with the file's text given; `source` names it in errors."""
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise ConfigError(f"{source}: not valid TOML: {exc}") from None
    origin: dict[tuple[str, str], str] = {}
    values: dict[tuple[str, str], Any] = {}
    for place, value, where in (
        *_from_file(tables, source),
        *_from_environment(environ),
        *((place, value, "command line") for place, value in flags.items()),
    ):
        values[place], origin[place] = value, where
    sections: dict[str, dict[str, Any]] = {name: {} for name in _sections()}
    for place, value in values.items():
        section, key = place
        sections[section][key] = _converted(place, value, origin[place])
    built = {name: _sections()[name](**keys) for name, keys in sections.items()}
    config = Config(**built)
    _check_together(config, origin, source)
    return config


def _sections() -> dict[str, type[_Section]]:
    return get_type_hints(Config)


def _from_file(
    tables: Mapping[str, Any], source: str
) -> Iterator[tuple[tuple[str, str], Any, str]]:
    known = _sections()
    for section, keys in tables.items():
        if section not in known or not isinstance(keys, dict):
            expected = ", ".join(f"[{name}]" for name in known)
            raise ConfigError(f"{source}: {section}: unknown; expected {expected}")
        for key, value in keys.items():
            _field_type((section, key), f"{source}: [{section}] {key}")
            yield (section, key), value, f"{source}: [{section}] {key}"


def _from_environment(
    environ: Mapping[str, str],
) -> Iterator[tuple[tuple[str, str], Any, str]]:
    for name, place in _ALIASES.items():
        if name in environ:
            yield place, _listed(place, environ[name]), name
    for name, value in environ.items():
        if not name.startswith(_PREFIX):
            continue
        section, _, key = name.removeprefix(_PREFIX).lower().partition("_")
        _field_type((section, key), name)
        yield (section, key), _listed((section, key), value), name


def _listed(place: tuple[str, str], text: str) -> str | list[str]:
    """An environment variable is text; lists in it are separated by commas."""
    if _field_type(place, "") == tuple[str, ...]:
        return [part.strip() for part in text.split(",") if part.strip()]
    return text


def _field_type(place: tuple[str, str], where: str) -> Any:
    section = _sections().get(place[0])
    hints = get_type_hints(section, include_extras=True) if section else {}
    if place[1] not in hints:
        expected = ", ".join(hints) or ", ".join(_sections())
        raise ConfigError(f"{where}: unknown key; expected one of {expected}")
    return hints[place[1]]


def _converted(place: tuple[str, str], value: Any, where: str) -> Any:
    kind = _field_type(place, where)
    from_text = isinstance(value, str) and ":" not in where
    try:
        return msgspec.convert(value, kind, strict=not from_text)
    except msgspec.ValidationError as exc:
        expected = str(exc).split(", got ")[0].replace("`", "")
        raise _refusal(
            place, value, where, expected[0].lower() + expected[1:]
        ) from None


def _refusal(
    place: tuple[str, str], value: object, where: str, expected: str
) -> ConfigError:
    shown = "(secret)" if place in _SECRETS else repr(value)
    return ConfigError(f"{where} = {shown}: {expected}")


def _check_together(
    config: Config, origin: Mapping[tuple[str, str], str], source: str
) -> None:
    """What no single type can say. Raises `ConfigError`."""
    for section, key, expected in _complaints(config):
        where = origin.get((section, key), f"{source}: [{section}] {key}")
        value = getattr(getattr(config, section), key)
        raise _refusal((section, key), value, where, expected)


def _complaints(config: Config) -> Iterator[tuple[str, str, str]]:
    server, database, limits = config.server, config.database, config.limits
    for origin in server.allowed_origins:
        if not _is_origin(origin):
            yield (
                "server",
                "allowed_origins",
                ("expected scheme://host[:port] without a path"),
            )
    for network in server.trusted_proxies:
        try:
            ipaddress.ip_network(network)
        except ValueError:
            yield "server", "trusted_proxies", "expected IP addresses or networks"
    if bool(server.tls_certificate) != bool(server.tls_key):
        yield "server", "tls_key", "expected together with tls_certificate"
    if config.auth.jwt_key and "-----BEGIN PUBLIC KEY-----" not in config.auth.jwt_key:
        yield (
            "auth",
            "jwt_key",
            "expected a PEM public key (-----BEGIN PUBLIC KEY-----)",
        )
    for key in ("jwks_url", "api_url"):
        if getattr(config.auth, key) and not _is_http(getattr(config.auth, key)):
            yield "auth", key, "expected http:// or https://"
    if urlsplit(config.redis.url).scheme not in {"redis", "rediss", "unix"}:
        yield "redis", "url", "expected redis://, rediss:// or unix://"
    if urlsplit(database.url).scheme not in {"postgresql", "postgres"}:
        yield "database", "url", "expected postgresql://"
    if database.pool_min > database.pool_max:
        yield "database", "pool_min", f"expected at most pool_max, {database.pool_max}"
    if limits.unread_bytes < limits.message_bytes:
        yield "limits", "unread_bytes", "expected at least message_bytes"


def _is_origin(text: str) -> bool:
    parts = urlsplit(text)
    return bool(parts.scheme and parts.netloc) and text.count("/") == 2  # noqa: PLR2004


def _is_http(text: str) -> bool:
    parts = urlsplit(text)
    return parts.scheme in {"http", "https"} and bool(parts.netloc)
