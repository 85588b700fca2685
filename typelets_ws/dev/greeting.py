"""The greeting of `dev`: addresses, tokens, and commands that work as pasted."""

import ipaddress
import shlex
import shutil
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

from ..config.model import hosts
from ..daemon import Daemon
from .keys import SigningKey
from .samples import USERS, note_id

__all__ = ["greeting", "warning"]

SAMPLE_TOKEN_S: Final = 86_400
"""A pasted token works for a day; Clerk's own live 60 s."""


def greeting(
    daemon: Daemon, key: SigningKey, data: Path, redis_kind: str, *, default: Path
) -> str:
    """The text. Commands name `data` unless it is `default`."""
    config = daemon.config
    place = f"{_reachable(hosts(config.server)[0])}:{daemon.port}"
    elsewhere = data.resolve() != default.resolve()
    with_data = f" --data {_word(data)}" if elsewhere else ""
    with_config = f" -c {_word(data / 'config.toml')}" if elsewhere else ""
    fields = shlex.quote(f'{{"noteId": "{note_id(1, 1)}"}}')
    rows = [
        ("Page", f"http://{place}/"),
        ("WebSocket", f"ws://{place}/"),
        ("Metrics", f"http://{config.admin.host}:{daemon.admin_port}/metrics"),
        ("PostgreSQL", config.database.url),
        ("Redis", f"{config.redis.url}  ({redis_kind})"),
        ("Data", f"{data}"),
    ]
    tokens = [(user, key.token(user, SAMPLE_TOKEN_S)) for user in USERS]
    commands = [
        f"token{with_data} --user {USERS[0]}",
        f"publish{with_config} --user {USERS[0]} note_deleted {fields}",
        f"status{with_config}",
    ]
    return "\n".join([
        "",
        "Typelets WS is running. Ctrl-C ends it, the data stays.",
        "",
        *_aligned(rows),
        "",
        'Tokens for a day. The first message is {"type": "auth", "token": "..."}:',
        "",
        *_aligned(tokens),
        "",
        "In another terminal:",
        "",
        *(f"  {_program()} {command}" for command in commands),
        "",
    ])  # fmt: skip


def _program() -> str:
    """How to write this command in the caller's shell."""
    if shutil.which("typelets-ws"):
        return "typelets-ws"
    program = Path(sys.argv[0]).resolve()
    with suppress(ValueError):
        program = program.relative_to(Path.cwd())
    return shlex.quote(str(program))


def warning(host: str) -> str:
    """A line of warning if other machines may reach `host`, else an empty text."""
    try:
        private = ipaddress.ip_address(host).is_loopback
    except ValueError:
        private = host == "localhost"
    if private:
        return ""
    return f"Careful: who reaches {host} can sign in as any of the users.\n"


def _aligned(rows: list[tuple[str, str]]) -> list[str]:
    width = max(len(name) for name, _ in rows)
    return [f"  {name:<{width}}  {value}" for name, value in rows]


def _reachable(host: str) -> str:
    """The name under which a browser on this machine reaches `host`."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if address.is_unspecified:
        return "localhost"
    return f"[{host}]" if address.version == 6 else host


def _word(path: Path) -> str:
    return shlex.quote(str(path.resolve()))
