"""`typelets-ws status`: readiness and figures from the admin listener of this host."""

import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Mapping
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
    base = f"http://{host}:{port}"
    try:
        found: dict[str, Any] = _get(
            f"{base}/websocket/status?user={quote(user_id, safe='')}"
        )
        return {key: found[key] for key in ("userId", "connections", "recent")}
    except (TypeError, KeyError):
        raise StatusError(f"{base} is another program's") from None
    except (OSError, ValueError, http.client.HTTPException) as exc:
        raise StatusError(f"no answer from {base}: {exc}") from None


def fetch(host: str, port: int) -> Mapping[str, Any]:
    """Status and readiness as one object. Raises `StatusError`."""
    base = f"http://{host}:{port}"
    try:
        status: dict[str, Any] = _get(f"{base}/websocket/status")
        ready = _get(f"{base}/ready")
        return {**status, "ready": ready["ready"], "reasons": ready["reasons"]}
    except (TypeError, KeyError):
        raise StatusError(f"{base} is another program's") from None
    except (OSError, ValueError, http.client.HTTPException) as exc:
        raise StatusError(f"no answer from {base}: {exc}") from None


def _get(url: str) -> Any:
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:  # noqa: S310
            return json.load(answer)
    except urllib.error.HTTPError as answer:
        # 503 of /ready carries the reasons.
        with answer:
            return json.load(answer)


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
