"""`typelets-ws dev` and `typelets-ws token`: a daemon with its own database and Redis.

The database and the signing key are kept in one directory, over restarts. Ctrl-C stops
all processes. Never for production: a reader of that directory can sign in as any user.
"""

import fcntl
import os
import shlex
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import click

from ..app import Daemon
from ..config.model import (
    Admin,
    AuthSettings,
    Config,
    Database,
    Limits,
    Log,
    Server,
    hosts,
)
from ..config.model import Redis as RedisConfig
from ..process import log_output, run, serve
from ..systemd import Systemd
from .data import DEFAULT_DATA
from .greeting import greeting, warning
from .keys import KeyFileError, SigningKey
from .pages import Site
from .postgres import Postgres, PostgresError
from .redis import RedisServer, RedisServerError
from .rest import RestStub
from .samples import USERS, fill

__all__ = ["DEFAULT_DATA", "dev_command", "token_command"]

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

data_option = click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    default=DEFAULT_DATA,
    show_default=True,
    help="Where the database and the key live.",
)


def _port_option(flag: str, default: int, text: str) -> Decorator:
    kind = click.IntRange(0, 65_535)
    return click.option(flag, default=default, show_default=True, type=kind, help=text)


@click.command("dev")
@data_option
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Address to listen on."
)
@_port_option("--port", 8765, "The page and the WebSocket; 0: any free one.")
@_port_option("--admin-port", 9464, "Metrics and status; 0: any free one.")
@click.option(
    "--log-level",
    default="info",
    show_default=True,
    type=click.Choice(["debug", "info", "warning", "error"]),
)
def dev_command(
    data: Path, host: str, port: int, admin_port: int, log_level: str
) -> None:
    """Run everything on this machine, with sample users, notes and a page.

    \b
    Example:    typelets-ws dev
    A second:   typelets-ws dev --data /tmp/other --port 8766 --admin-port 9465
    """
    # A terminal that closes during the start must not leave servers behind.
    signal.signal(signal.SIGHUP, lambda *_: sys.exit(1))
    with ExitStack() as stack:
        try:
            stack.enter_context(_lock_data_dir(data))
            _require_free(host, port, "--port")
            _require_free("127.0.0.1", admin_port, "--admin-port")
            key = SigningKey(data / "signing-key.pem")
            click.echo("Starting PostgreSQL ...", err=True)
            postgres = stack.enter_context(Postgres(data / "postgres"))
            fill(postgres.url())
            click.echo("Starting Redis ...", err=True)
            redis = stack.enter_context(RedisServer())
        except (KeyFileError, PostgresError, RedisServerError) as exc:
            raise click.ClickException(str(exc)) from None
        config = Config(
            server=Server(host=host, port=port, drain_seconds=1.0),
            admin=Admin(port=admin_port),
            auth=AuthSettings(jwt_key=key.public_pem),
            # Below the number of open files that laptops allow one process.
            limits=Limits(connections=500, unauthenticated=100),
            redis=RedisConfig(url=redis.url, shared_limits=redis.runs_scripts),
            database=Database(url=postgres.url()),
            log=Log(level=log_level),  # type: ignore[arg-type]  # one of the choices
        )
        _serve(stack, data, config, key, redis)


def _serve(
    stack: ExitStack, data: Path, config: Config, key: SigningKey, redis: RedisServer
) -> None:
    """Run the daemon with its page until Ctrl-C."""
    rest = RestStub(config.database.url, config.redis.url, config.redis.prefix)
    stack.enter_context(closing(rest))
    site = Site(key, rest, USERS, hosts(config.server)[0], redis)
    companion = data / "config.toml"
    stack.callback(companion.unlink, missing_ok=True)

    def announce(daemon: Daemon) -> None:
        site.show(daemon)
        _leave_config(companion, daemon)
        click.echo(greeting(daemon, key, data, redis.kind, default=DEFAULT_DATA))

    click.echo(warning(hosts(config.server)[0]), err=True, nl=False)
    output = log_output(config.log)
    stack.enter_context(output.attached())
    try:
        run(
            serve(
                config,
                output,
                systemd=Systemd({}, os.getpid(), time.monotonic),
                reload=None,
                pages=site.pages(),
                announce=announce,
            )
        )
    except* OSError as group:
        raise click.ClickException(str(group.exceptions[0])) from None


@click.command("token")
@data_option
@click.option("--user", "user_id", required=True, help="The user it speaks for.")
@click.option("--session", "session_id", help="Its `sid`; one per user by default.")
@click.option(
    "--expires-in",
    default=3600,
    show_default=True,
    help="Seconds; below 0 it has expired already.",
)
def token_command(
    data: Path, user_id: str, session_id: str | None, expires_in: int
) -> None:
    """Make a development token, valid for `typelets-ws dev` on the same data.

    \b
    Example:    typelets-ws token --user user_alice --expires-in 60
    """
    path = data / "signing-key.pem"
    if not path.exists():
        elsewhere = "" if data == DEFAULT_DATA else f" --data {shlex.quote(str(data))}"
        raise click.ClickException(
            f"no key in {data} yet: run `typelets-ws dev{elsewhere}` first"
        )
    try:
        click.echo(SigningKey(path).token(user_id, expires_in, session_id))
    except KeyFileError as exc:
        raise click.ClickException(str(exc)) from None


@contextmanager
def _lock_data_dir(data: Path) -> Iterator[None]:
    """Make the data directory if needed, and lock it against another `dev`."""
    try:
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = (data / "lock").open("a+")
    except OSError as exc:
        raise click.ClickException(
            f"cannot use --data {data}: {exc.strerror}"
        ) from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise click.ClickException(
                f"{data} is in use by another typelets-ws dev (process "
                f"{lock.read().strip()}): end it, or choose another --data"
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def _require_free(host: str, port: int, flag: str) -> None:
    """Raise `ClickException` before anything is started if the port is in use."""
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM
        )[0]
        with socket.socket(family, kind, proto) as probe:
            # As the daemon binds: connections in TIME_WAIT do not block the port.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as exc:
        raise click.ClickException(
            f"cannot listen on {host} port {port} ({exc.strerror}): "
            f"choose another {flag}"
        ) from None


def _leave_config(path: Path, daemon: Daemon) -> None:
    """Write the file by which `publish` and `status` find this daemon."""
    path.touch(mode=0o600)
    path.write_text(
        f'[redis]\nurl = "{daemon.config.redis.url}"\n'
        f'[admin]\nhost = "{daemon.config.admin.host}"\nport = {daemon.admin_port}\n'
    )
