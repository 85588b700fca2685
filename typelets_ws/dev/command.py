"""`typelets-ws dev` and `typelets-ws token`: the whole thing, with nothing installed.

A private real PostgreSQL, a Redis and a signing key of its own. Everything lives
in one directory, survives restarts, and ends with Ctrl-C. Never for production:
whoever can read that directory can sign in as anybody.
"""

import os
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import click

from ..app import Daemon
from ..config import Admin, Auth, Config, Database, Log, Server
from ..config import Redis as RedisConfig
from ..log import Output
from ..service import run, serve
from ..systemd import Systemd
from .keys import SigningKey
from .pages import pages
from .postgres import Postgres, PostgresFailed
from .redis import Redis, RedisFailed
from .samples import USERS, fill, note_id

__all__ = ["DEFAULT_DATA", "dev_command", "token_command"]

DEFAULT_DATA: Final = (
    Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    / "typelets-ws"
    / "dev"
)
SAMPLE_TOKEN_S: Final = 86_400
"""A pasted token shall work all day; Clerk's own live a minute."""

data_option = click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    default=DEFAULT_DATA,
    show_default=True,
    help="Where the database and the key live.",
)


@click.command("dev")
@data_option
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=8765, show_default=True, type=int)
@click.option("--admin-port", default=9464, show_default=True, type=int)
@click.option("--log-level", default="info", show_default=True)
def dev_command(
    data: Path, host: str, port: int, admin_port: int, log_level: str
) -> None:
    """Run everything on this machine, with sample users and notes.

    \b
    Example:    typelets-ws dev --port 8765
    """
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    key = SigningKey(data / "signing-key.pem")
    with ExitStack() as stack:
        click.echo("Starting PostgreSQL ...", err=True)
        try:
            postgres = stack.enter_context(Postgres(data / "postgres"))
            fill(postgres.url())
            click.echo("Starting Redis ...", err=True)
            redis = stack.enter_context(Redis())
        except (PostgresFailed, RedisFailed) as exc:
            raise click.ClickException(str(exc)) from None
        config = Config(
            server=Server(host=host, port=port, drain_seconds=1.0),
            admin=Admin(port=admin_port),
            auth=Auth(jwt_key=key.public_pem),
            redis=RedisConfig(url=redis.url),
            database=Database(url=postgres.url()),
            log=Log(level=log_level),  # type: ignore[arg-type]
        )
        companion = data / "config.toml"
        _leave_config(companion, config)
        stack.callback(companion.unlink, missing_ok=True)
        click.echo(f"{redis.kind} on port {redis.port}", err=True)
        output = Output(config.log, sys.stderr, time.time)
        stack.enter_context(output.attached())
        try:
            run(
                serve(
                    config,
                    log=output.logger(),
                    systemd=Systemd({}, os.getpid(), time.monotonic),
                    reload=lambda: None,
                    pages=pages(key, USERS),
                    announce=lambda daemon: _greet(daemon, key),
                )
            )
        except* OSError as group:
            raise click.ClickException(
                f"cannot listen on {host}:{port} or 127.0.0.1:{admin_port}: "
                f"{group.exceptions[0]}"
            ) from None


@click.command("token")
@data_option
@click.option("--user", "user_id", required=True, help="The user it speaks for.")
@click.option("--session", "session_id", help="Its `sid`; one per user by default.")
@click.option("--expires-in", default=3600, show_default=True, help="Seconds.")
def token_command(
    data: Path, user_id: str, session_id: str | None, expires_in: int
) -> None:
    """Make a development token, valid for `typelets-ws dev` on the same data.

    \b
    Example:    typelets-ws token --user user_alice --expires-in 60
    """
    path = data / "signing-key.pem"
    if not path.exists():
        raise click.ClickException(f"{path} is not there: run typelets-ws dev first")
    click.echo(SigningKey(path).token(user_id, expires_in, session_id))


def _leave_config(path: Path, config: Config) -> None:
    """Leave a file from which `publish` and `status` find this daemon."""
    path.touch(mode=0o600)
    path.write_text(
        f'[redis]\nurl = "{config.redis.url}"\n'
        f'[admin]\nhost = "{config.admin.host}"\nport = {config.admin.port}\n'
    )


def _greet(daemon: Daemon, key: SigningKey) -> None:
    """What a newcomer can paste."""
    server = daemon.config.server
    where = f"{server.host}:{daemon.port}"
    click.echo(f"\nTypelets WS is running.   Page:       http://{where}/")
    click.echo(f"                          WebSocket:  ws://{where}/\n")
    for user in USERS:
        click.echo(f"A token for {user}:\n{key.token(user, SAMPLE_TOKEN_S)}\n")
    click.echo("To authenticate, send as the first message:")
    click.echo('  {"type": "auth", "token": "..."}\n')
    click.echo("To publish an event, as the REST service does:")
    click.echo(
        f"  typelets-ws publish --user {USERS[0]} note_deleted "
        f'\'{{"noteId": "{note_id(1, 1)}"}}\'\n'
    )
    click.echo("Ctrl-C ends it all; the data stays.")
