"""The command line: `typelets-ws`.

Exit codes: 0 ok, 1 failed, 2 usage, 78 bad configuration (sysexits' EX_CONFIG).
"""

import json
import os
import sys
import time
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Final, NoReturn

import click
import msgspec
import redis as redis_client

from . import __version__, events, settings
from .config import Config, ConfigError
from .dev.command import DEFAULT_DATA, dev_command, token_command
from .log import Output
from .schema_command import schema_command
from .service import run, serve
from .status import StatusUnavailable, as_table, fetch
from .systemd import Systemd
from .tls import certificate

__all__ = ["main"]

EX_CONFIG: Final = 78
BARRED_S: Final = 3600
"""Longer than the tokens of a session live."""


def refuse(text: str, code: int = 1) -> NoReturn:
    """Say why in plain words and leave with `code`."""
    for line in text.splitlines():
        click.echo(f"typelets-ws: {line}", err=True)
    raise SystemExit(code)


def load(
    path: Path | None,
    flags: Mapping[tuple[str, str], object] | None = None,
    *,
    serving: bool = False,
) -> Config:
    """Read the configuration, or leave with 78; `serving` as in `settings.load`."""
    try:
        return settings.load(path, os.environ, flags, serving=serving)
    except ConfigError as exc:
        refuse(str(exc), EX_CONFIG)


config_option = click.option(
    "-c",
    "--config",
    "path",
    type=click.Path(path_type=Path),
    help="TOML file; see config.example.toml.",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="typelets-ws")
def main() -> None:
    """Keep the notes on all of a person's devices in step.

    \b
    Try it:     typelets-ws dev
    Serve:      typelets-ws serve -c /etc/typelets-ws/config.toml
    """


@main.command("serve")
@config_option
@click.option("--host", help="Address to listen on.")
@click.option("--port", type=int, help="Port to listen on.")
def serve_command(path: Path | None, host: str | None, port: int | None) -> None:
    """Run the daemon with production settings.

    \b
    Example:    typelets-ws serve -c /etc/typelets-ws/config.toml --port 8765
    """

    flags = {("server", "host"): host, ("server", "port"): port}

    config = load(path, flags, serving=True)
    output = Output(config.log, sys.stderr, time.time)
    log = output.logger()

    def reload() -> Config | None:
        try:
            return settings.load(path, os.environ, flags, serving=True)
        except ConfigError as exc:
            log.error("reload_refused", text=str(exc))
            return None

    systemd = Systemd(os.environ, os.getpid(), time.monotonic)
    with output.attached():
        try:
            run(
                serve(
                    config,
                    log=log,
                    systemd=systemd,
                    reload=reload,
                    output=output,
                    # Nothing of ours is left to be closed: the kernel does it.
                    leave=lambda: os._exit(0),
                )
            )
        except ConfigError as exc:
            refuse(str(exc), EX_CONFIG)
        except OSError as exc:
            refuse(str(exc))
        except Exception as exc:
            # Not left to Python, whose traceback may quote anything.
            log.critical("crashed", exc_info=exc)
            raise SystemExit(1) from None


@main.command("check-config")
@config_option
def check_config_command(path: Path | None) -> None:
    """Say whether the configuration is good, and what it amounts to.

    \b
    Example:    typelets-ws check-config -c config.toml
    """
    config = load(path, serving=True)
    for setting in settings.describe(config):
        mark = " " if setting.is_default else "*"
        click.echo(f"{mark} {setting.name} = {setting.shown}")
    try:
        certificate(config.server)
    except ConfigError as exc:
        refuse(str(exc), EX_CONFIG)
    click.echo("ok: (* differs from the default)")


@main.command("publish")
@config_option
@click.option("--user", "user_id", required=True, help="The Clerk user id.")
@click.argument("event")
@click.argument("fields", default="{}")
def publish_command(path: Path | None, user_id: str, event: str, fields: str) -> None:
    """Publish an EVENT to a user's devices; FIELDS is a JSON object.

    \b
    Example:    typelets-ws publish --user user_alice note_deleted \\
                  '{"noteId": "00000000-0000-4000-8000-000000000001"}'
    """
    config = load(path or _dev_config())
    try:
        given = json.loads(fields)
        if not isinstance(given, dict):
            raise ValueError("not an object")
    except ValueError as exc:
        refuse(f"FIELDS must be a JSON object: {exc}", 2)
    payload = msgspec.json.encode(
        {"event": event, "publishedAt": int(time.time() * 1000), **given}
    )
    try:
        events.decode(payload)
    except events.EventRejected as exc:
        known = ", ".join(str(kind.__struct_config__.tag) for kind in events.EVENTS)
        refuse(f"not a valid event: {exc.reason} {exc.detail} (events: {known})", 2)
    _send(config, user_id, payload)


@main.command("disconnect")
@config_option
@click.option("--user", "user_id", required=True, help="The Clerk user id.")
@click.option(
    "--session", "session_id", help="Only this session (`sid`); it is barred."
)
def disconnect_command(path: Path | None, user_id: str, session_id: str | None) -> None:
    """Close a user's connections on every host, or those of one session.

    \b
    Example:    typelets-ws disconnect --user user_alice --session sess_1
    """
    event: events.Event = events.UserDisconnected(reason="operator")
    if session_id is not None:
        event = events.SessionRevoked(sessionId=session_id)
    _send(load(path or _dev_config()), user_id, events.encode(event), session_id)


@main.command("status")
@config_option
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def status_command(path: Path | None, as_json: bool) -> None:
    """Show how the daemon on this host is, from its admin listener.

    \b
    Example:    typelets-ws status --json
    """
    config = load(path or _dev_config())
    try:
        found = fetch(config.admin.host, config.admin.port)
    except StatusUnavailable as exc:
        refuse(str(exc))
    click.echo(json.dumps(found, indent=2) if as_json else as_table(found))


@main.command("client")
@click.option("--types", is_flag=True, help="The TypeScript declarations instead.")
def client_command(types: bool) -> None:
    """Print the JavaScript client, one module without dependencies.

    \b
    Example:    typelets-ws client > typelets-client.mjs
                typelets-ws client --types > typelets-client.d.mts
    """
    name = "typelets-client.d.ts" if types else "typelets-client.js"
    path = files(__package__) / "client" / name
    click.echo(path.read_text("utf-8"), nl=False)


def _send(
    config: Config, user_id: str, payload: bytes, barred: str | None = None
) -> None:
    channel = f"{config.redis.prefix}user:{user_id}"
    try:
        with redis_client.Redis.from_url(config.redis.url) as link:
            if barred is not None:
                # It stays out even if no process has the user just now.
                link.set(f"{config.redis.prefix}barred:{barred}", b"1", ex=BARRED_S)
            heard = link.publish(channel, payload)
    except redis_client.RedisError as exc:
        refuse(f"redis: {exc}")
    click.echo(f"published to {channel}; {heard} process(es) heard it")


def _dev_config() -> Path | None:
    """The file `typelets-ws dev` leaves for its companions, if it is there."""
    path = DEFAULT_DATA / "config.toml"
    return path if path.exists() else None


main.add_command(dev_command)
main.add_command(token_command)
main.add_command(schema_command)
