"""`typelets-ws status`: the table for people, and answers that are none."""

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from typelets_ws.status import StatusError, as_table, fetch


@contextmanager
def admin(answers: Mapping[str, tuple[int, bytes]]) -> Iterator[int]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = answers[self.path]
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def status(per_user: list[dict[str, Any]], **changed: Any) -> dict[str, Any]:
    connections = {"total": 12, "authenticated": 11, "perUser": per_user}
    return {
        "status": "healthy",
        "connections": connections,
        "uptime": "2h 30m",
        "ready": True,
        "reasons": [],
        **changed,
    }


def test_status_and_readiness_are_one_object() -> None:
    body = {"status": "degraded", "connections": {}, "uptime": "0h 0m"}
    ready = {"ready": False, "reasons": ["postgres does not answer"]}
    with admin({
        "/websocket/status": (200, json.dumps(body).encode()),
        "/ready": (503, json.dumps(ready).encode()),
    }) as port:  # fmt: skip
        assert fetch("127.0.0.1", port) == {**body, **ready}


@pytest.mark.parametrize(
    "answer",
    [(200, b"<html>"), (200, b"[]"), (404, b"Not found.\n"), (200, b"{}")],
)
def test_another_program_on_the_port_is_said_to_be_one(
    answer: tuple[int, bytes],
) -> None:
    with (
        admin({"/websocket/status": answer, "/ready": answer}) as port,
        pytest.raises(StatusError, match=f"127.0.0.1:{port}"),
    ):
        fetch("127.0.0.1", port)


def test_no_one_on_the_port_is_one_line() -> None:
    with admin({}) as port:
        pass
    with pytest.raises(StatusError) as refused:
        fetch("127.0.0.1", port)
    assert "\n" not in str(refused.value)


def test_the_table_has_the_figures_and_the_users_with_most_devices() -> None:
    users = [{"userId": f"user_{n}", "deviceCount": n % 3 + 1} for n in range(25)]
    lines = as_table(status(users)).splitlines()
    assert "status         healthy" in lines
    assert "connections    12" in lines
    assert "authenticated  11" in lines
    assert "users          25" in lines
    first = lines[lines.index("devices  user") + 1]
    assert first.split() == ["3", "user_11"]
    assert lines[-1].strip() == "and 5 more; --json has all"


def test_the_table_says_why_it_is_not_ready() -> None:
    found = status([], ready=False, reasons=["draining", "postgres does not answer"])
    table = as_table(found)
    assert "ready          no: draining, postgres does not answer" in table
    assert "devices  user" not in table
