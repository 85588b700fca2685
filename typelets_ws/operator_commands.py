"""`publish`, `disconnect` and `status`: what an operator says to running daemons.

Invariant: a command that reached no process says so and exits with 1.
Tested by tests/e2e/test_command.py.
"""

import asyncio
import json
import time
from contextlib import closing
from importlib import import_module
from typing import Final

import click
import msgspec

from ._publisher.redis import client, publish_and_count
from ._publisher.revoke import revoke
from ._publisher.unsent import FAILED
from .command_options import Source, refuse, settings_options
from .config.model import Config
from .protocol import event_decoding, events
from .status import StatusError, as_table, as_user_table, fetch, fetch_user

__all__ = ["disconnect_command", "publish_command", "status_command"]

BARRED_S: Final = 3600
"""Longer than the tokens of a session live."""
USER = click.option("--user", "user_id", required=True, help="The Clerk user id.")


@click.command("publish")
@settings_options
@USER
@click.argument("event")
@click.argument("fields", default="{}")
def publish_command(source: Source, user_id: str, event: str, fields: str) -> None:
    """Publish an EVENT to a user's devices; FIELDS is a JSON object.

    \b
    Example:    typelets-ws publish --user user_alice note_deleted \\
                  '{"noteId": "00000000-0000-4000-8000-000000000001"}'
    """
    config = source.load()
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
        event_decoding.decode(payload)
    except event_decoding.EventError as exc:
        known = ", ".join(str(kind.__struct_config__.tag) for kind in events.EVENTS)
        refuse(f"not a valid event: {exc.reason} {exc.detail} (events: {known})", 2)
    _send(config, user_id, payload)


@click.command("disconnect")
@settings_options
@USER
@click.option(
    "--session", "session_id", help="Only this session (`sid`); it is barred."
)
def disconnect_command(source: Source, user_id: str, session_id: str | None) -> None:
    """Close a user's connections on every host, or those of one session.

    \b
    Example:    typelets-ws disconnect --user user_alice --session sess_1
    """
    event: events.Event = events.UserDisconnectedEvent(reason="operator")
    if session_id is not None:
        event = events.SessionRevokedEvent(sessionId=session_id)
    _send(source.load(), user_id, events.encode(event), session_id)


@click.command("status")
@settings_options
@click.option("--user", "user_id", help="Only this user, with the latest log lines.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def status_command(source: Source, user_id: str | None, as_json: bool) -> None:
    """Show how a daemon on this host is, or why a user is not connected to it.

    \b
    Example:    typelets-ws status --json
    One user:   typelets-ws status --user user_alice --instance 8771
    """
    admin = source.load().admin
    try:
        if user_id is None:
            found = fetch(admin.host, admin.port)
        else:
            found = fetch_user(admin.host, admin.port, user_id)
    except StatusError as exc:
        several = "" if source.instance else "; one of several needs --instance PORT"
        refuse(f"{exc} (settings: {source.config or 'defaults'}{several})")
    table = as_table if user_id is None else as_user_table
    click.echo(json.dumps(found, indent=2) if as_json else table(found))


def _send(
    config: Config, user_id: str, payload: bytes, barred: str | None = None
) -> None:
    channel = f"{config.redis.prefix}user:{user_id}"
    try:
        with closing(
            client(config.redis.url, config.redis.command_timeout_s, 1)
        ) as link:
            if barred is not None:
                # It stays out even if no process has the user just now.
                revoke(link, f"{config.redis.prefix}barred:{barred}", BARRED_S)
            heard = publish_and_count(link, channel, payload)
    except FAILED as exc:
        refuse("\n".join(_redis_problems(config)) or f"redis: {exc}")
    if heard:
        click.echo(f"published to {channel}; {heard} process(es) heard it")
    elif barred is not None:
        click.echo(f"session {barred} is barred; no process has a device of {user_id}")
    elif problems := _redis_problems(config):
        refuse("\n".join(problems))
    else:
        refuse(
            f"published to {channel}, and no process heard it: no device of {user_id} "
            "is connected, or the daemon uses another Redis or redis.prefix"
        )


def _redis_problems(config: Config) -> list[str]:
    """What is wrong with the servers of the address, where something is."""
    # Imported for a failure only: drivers and libraries take 0.2 s.
    servers = import_module(".checks.redis_servers", __package__)
    problems = asyncio.run(servers.server_problems(config.redis))
    return [f"redis: {each.text}" for each in problems]
