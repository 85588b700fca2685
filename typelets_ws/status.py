"""`typelets-ws status`: readiness and figures from the admin listener of this host."""

import http.client
import json
from collections.abc import Mapping
from contextlib import closing
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import quote

__all__ = ["StatusError", "as_table", "as_user_table", "fetch", "fetch_user"]

TIMEOUT_S: Final = 5
MOST_USERS: Final = 20


class StatusError(Exception):
    """The admin listener did not answer; the text says why."""


def fetch_user(host: str, port: int, user_id: str) -> Mapping[str, Any]:
    """One user's connections and latest log lines. Raises `StatusError`."""
    path = f"/websocket/status?user={quote(user_id, safe='')}"
    return _get(host, port, path, "userId", "connections", "recent")


def fetch(host: str, port: int) -> Mapping[str, Any]:
    """Status and readiness as one object. Raises `StatusError`."""
    status = _get(host, port, "/websocket/status")
    return {**status, **_get(host, port, "/ready", "ready", "reasons")}


def _get(host: str, port: int, path: str, *keys: str) -> Mapping[str, Any]:
    """The members of an answer, those of `keys` if there are any."""
    base = f"http://{host}:{port}"
    try:
        with closing(http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)) as link:
            link.request("GET", path)
            # Of any status: 503 of /ready has the reasons.
            found = json.load(link.getresponse())
        return {key: found[key] for key in keys or {**found}}
    except (TypeError, KeyError):
        raise StatusError(f"{base} is another program's") from None
    except (OSError, ValueError, http.client.HTTPException) as exc:
        raise StatusError(f"no answer from {base}: {exc}") from None


def as_table(status: Mapping[str, Any]) -> str:
    """Format the status: figures first, then the users with the most devices."""
    connections = status["connections"]
    users = sorted(
        connections["perUser"], key=lambda user: (-user["deviceCount"], user["userId"])
    )
    rows = [
        ("status", status["status"]),
        ("ready", "yes" if status["ready"] else "no: " + ", ".join(status["reasons"])),
        ("uptime", status["uptime"]),
        ("connections", connections["total"]),
        ("authenticated", connections["authenticated"]),
        ("users", len(users)),
    ]
    lines = [f"{name:<15}{value}" for name, value in rows]
    if users:
        lines += ["", f"{'devices':>7}  user"]
        lines += [f"{u['deviceCount']:>7}  {u['userId']}" for u in users[:MOST_USERS]]
    if len(users) > MOST_USERS:
        lines.append(f"         and {len(users) - MOST_USERS} more; --json has all")
    return "\n".join(lines)


def as_user_table(found: Mapping[str, Any]) -> str:
    """Format a user: the connections here, then the latest log lines."""
    connections = found["connections"]
    count = len(connections) or "no"
    lines = [f"{found['userId']}: {count} connection(s) on this process"]
    lines += [
        f"  {each['connectionId']}  {each['address']}  since {_moment(each['since'])}"
        for each in connections
    ]
    lines += ["", "latest log lines:" if found["recent"] else "no log lines kept"]
    for line in found["recent"]:
        known = {"at", "level", "event", "user", "security"}
        rest = " ".join(f"{key}={line[key]}" for key in line if key not in known)
        lines.append(f"  {_moment(line['at'])}  {line['event']}  {rest}".rstrip())
    return "\n".join(lines)


def _moment(ms: int) -> str:
    moment = datetime.fromtimestamp(ms / 1000, UTC)
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")
