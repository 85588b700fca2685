"""Configuration: one frozen object; each default is written once, with its reason.

A field's type defines its valid values, `validate` the rules between fields, and
`load` the sources. Durations carry their unit in the name
(``_ms``, ``_s``), sizes end in ``_bytes``. Upper bounds exist so that no value is
infinite, not a number, or too large for a counter of the kernel or Postgres.
"""

from typing import Annotated, Literal

from msgspec import Meta, Struct

__all__ = [
    "Admin", "AuthSettings", "Config", "ConfigError", "Database", "Limits", "Log",
    "Messages", "RecoverySettings", "Redis", "Server", "hosts", "secret_keys",
]  # fmt: skip

Count = Annotated[int, Meta(ge=1, le=2_147_483_647)]
Port = Annotated[int, Meta(ge=0, le=65_535)]
Text = Annotated[str, Meta(min_length=1)]
Millis = Annotated[int, Meta(ge=1, le=2_147_483_647)]
Bytes = Annotated[int, Meta(ge=1, le=1_000_000_000_000_000)]
Seconds = Annotated[float, Meta(gt=0, le=1_000_000)]
Share = Annotated[float, Meta(gt=0, le=1)]
Spread = Annotated[float, Meta(ge=-1, le=1_000_000)]
"""Seconds; -1: the daemon chooses."""
Delay = Annotated[float, Meta(ge=0, le=1_000_000)]


class ConfigError(Exception):
    """A configuration that cannot be used; the text names source, key and value."""


class _Section(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Unknown keys are refused: a misspelt limit would silently be no limit."""


class Server(_Section, frozen=True):
    """The public listener: WebSocket upgrades and the three health paths."""

    host: Text | tuple[Text, ...] = "127.0.0.1"
    """Loopback, as a TLS proxy stands in front; `::` to be reached directly over both
    address families. Several as a list."""
    port: Port = 8765
    reuse_port: bool = False
    """Several processes on one port; the kernel spreads new connections."""
    backlog: Count = 4096
    """A reconnect storm queues here while the accept rate is kept."""
    allowed_origins: tuple[Text, ...] = ()
    """Exact origins (scheme://host[:port]); empty allows all, with a warning."""
    trusted_proxies: tuple[Text, ...] = ()
    """Addresses or networks whose X-Forwarded-For is believed; ``unix`` for a proxy
    that connects through a Unix socket."""
    permessage_deflate: bool = False
    """Payloads are ciphertext: compression costs 36 KB a connection for nothing."""
    tls_certificate: str = ""
    """PEM file; empty: plain TCP behind a proxy."""
    tls_key: str = ""
    drain_seconds: Spread = -1.0
    """Closing is spread over this long: the web client reconnects without jitter.
    -1: 20 s, or at once while systemd holds the port, as devices wait in its queue."""
    status_token: str = ""
    """Bearer token for perUser on /websocket/status; empty: none is accepted."""


def hosts(server: Server) -> tuple[str, ...]:
    """Return the addresses to listen on; in a text they are separated by commas."""
    if isinstance(server.host, str):
        return tuple(host.strip() for host in server.host.split(","))
    return server.host


class Admin(_Section, frozen=True):
    """The private listener: metrics and status in full."""

    host: Text = "127.0.0.1"
    port: Port = 9464
    """Prometheus' usual exporter port for OpenTelemetry-like daemons."""
    enabled: bool = True


class AuthSettings(_Section, frozen=True):
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
    authorized_parties: tuple[Text, ...] = ()
    """Accepted ``azp``; empty: not checked."""
    accept_without_session: bool = False
    """Accept tokens without ``sid`` and JWT-template tokens: nothing can revoke them,
    and they are meant for third parties."""
    accept_pending: bool = False
    """Accept sessions with ``sts`` pending: Clerk counts them as signed out."""
    leeway_s: Delay = 5.0
    """Clerk's default clock skew."""
    auth_timeout_ms: Millis = 30_000
    key_cache_s: Seconds = 300.0
    """Clerk's own SDK keeps keys for five minutes."""
    key_refetch_s: Seconds = 30.0
    """At most one forced refetch in this long, however many junk tokens arrive."""


class Limits(_Section, frozen=True):
    """Limits of one client, one user, one address and the process (spec section 5)."""

    message_bytes: Count = 1_048_576
    unread_bytes: Count = 4 * 1_048_576
    """A larger message is not read: close 1009."""
    unread_bytes_before_auth: Count = 65_536
    rate_messages: Count = 300
    rate_window_ms: Millis = 60_000
    user_rate_factor: Count = 20
    """Messages of a user over all connections and reconnects, as a multiple of
    `rate_messages`: as many as `devices_per_user` devices may send."""
    rate_bytes: Bytes = 64 * 1_048_576
    """Bytes of one connection per rate window: 60 messages of the largest size, where
    a person's device sends a few hundred KB."""
    iteration_frames: Count = 64
    """Frames of one connection per loop iteration: 64 pings take 1 ms, and then all
    others have their turn."""
    iteration_bytes: Count = 65_536
    """Beyond it no further frame of a connection is begun in a loop iteration."""
    memory_bytes: Bytes = 1_073_741_824
    """Held for all clients together; beyond it the largest holders are closed (1013).
    A thousand messages of the largest size; the README has the worst case."""
    devices_per_user: Count = 20
    connections: Count = 20_000
    unauthenticated: Count = 2_000
    per_address: Count = 200
    accepts_per_second: Count = 500
    accept_share: Share = 0.25
    """The part of `accepts_per_second` for one address while others connect: 125, so
    that an office of 200 is back within two seconds."""
    refused_tokens: Count = 10
    """Tokens refused to one address within a minute; then 503 before the upgrade. An
    expired token is not counted: an honest client has one after a pause."""
    handshakes: Count = 1_000
    """Sockets that have not sent their request yet. When all are taken, the address
    with the most gives way to one with fewer."""
    unsent_bytes: Count = 4 * 1_048_576
    unfinished_s: Seconds = 30.0
    """From the first byte of a message to its last: 1 MB at 280 kbit/s. Close 1008."""
    stalled_s: Seconds = 15.0
    abort_s: Seconds = 2.0
    """From a close frame to the hard abort."""
    handshake_s: Seconds = 10.0
    """From TCP accept to a whole HTTP request, TLS included."""
    ping_interval_s: Seconds = 25.0
    """Below the 30 s and 60 s at which proxies cut idle connections."""
    ping_timeout_s: Seconds = 20.0
    nonces_per_user: Count = 36_000
    """20 devices x 300 messages a minute x the 6 minutes a nonce can matter."""


class Messages(_Section, frozen=True):
    """Which messages of clients are accepted."""

    require_encrypted: bool = False
    """Refuse a plain title or content (anything but "[ENCRYPTED]")."""
    require_signed_messages: bool = False


class Redis(_Section, frozen=True):
    """The bus between processes and the REST service."""

    url: str = "redis://127.0.0.1:6379/0"
    prefix: str = "typelets:"
    sharded: bool = False
    """In a Cluster: SSUBSCRIBE as well, and SPUBLISH, so a message visits one node."""
    shared_limits: bool = True
    """Count a user's devices over all processes."""
    shared_nonces: bool = True
    """A nonce is single-use over all processes; one command per signed message."""
    probe_interval_s: Seconds = 5.0
    """Loopback probe; readiness needs one back in the last 30 s."""
    probe_timeout_s: Seconds = 5.0
    unsubscribe_delay_s: Delay = 5.0
    """A page reload must not flap the subscription."""
    subscribe_batch: Count = 256
    publish_queue: Count = 10_000
    """Events waiting for Redis; beyond it the users concerned are resynchronised."""
    connect_timeout_s: Seconds = 2.0
    command_timeout_s: Seconds = 2.0
    lease_s: Seconds = 45.0
    """A killed process' devices stop counting after this long."""
    resync_spread_s: Delay = 5.0
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


class RecoverySettings(_Section, frozen=True):
    """Missed changes are read from Postgres (README, Recovery)."""

    enabled: bool = True
    """Needs PostgreSQL 14 and the grants on xmin; without them it is off."""
    replay_s: Seconds = 300.0
    """A device that signs in is sent what was written since then: the web client gives
    up reconnecting after 181 s, and may have loaded its page before that."""
    audit_s: Seconds = 60.0
    """Each connected user's rows are looked at this often, if `audit_share` allows."""
    audit_share: Annotated[float, Meta(gt=0, le=1)] = 0.02
    """The audit's share of the time: beyond it, its rounds take longer."""
    quiet_s: Delay = 5.0
    """A row is sent once it has not changed for this long, so that no editor gets back
    an older text than the one being typed."""
    page_rows: Count = 500
    page_bytes: Count = 262_144
    """The most of one page of `sync`, and of one heal; a larger row is a page alone."""


class Log(_Section, frozen=True):
    """Structured logs on standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "json", "console"] = "auto"
    """auto: console on a terminal, JSON otherwise."""
    burst: Count = 50
    """Lines of one event within a second; a hostile flood is counted beyond it."""


class Config(_Section, frozen=True):
    """All settings of the daemon."""

    server: Server = Server()
    admin: Admin = Admin()
    auth: AuthSettings = AuthSettings()
    limits: Limits = Limits()
    messages: Messages = Messages()
    redis: Redis = Redis()
    database: Database = Database()
    recovery: RecoverySettings = RecoverySettings()
    log: Log = Log()


_SECRETS = frozenset({
    ("server", "status_token"), ("auth", "jwt_key"), ("auth", "secret_key"),
    ("redis", "url"), ("database", "url"),
})  # fmt: skip


def secret_keys() -> frozenset[tuple[str, str]]:
    """The (section, key) pairs whose values must never be shown."""
    return _SECRETS
