"""A host name with several addresses: one that is dead costs a fraction of a second."""

import asyncio
import contextlib
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from tests.tokens import KeyServer
from tests.within import within
from typelets_ws.clerk.happy_eyeballs import alternating, connect
from typelets_ws.clerk.jwks import http_fetch

GOOD = "127.0.0.1"
HOLE = "127.7.7.2"
"""No other test connects from it: its ports are free."""


@contextmanager
def black_hole(port: int) -> Iterator[None]:
    """An address whose backlog is full: it answers no connection attempt."""
    with ExitStack() as held:
        listener = held.enter_context(socket.socket())
        listener.bind((HOLE, port))
        listener.listen(0)
        for _ in range(8):
            waiting = held.enter_context(socket.socket())
            waiting.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                waiting.connect((HOLE, port))
        yield


def resolve(monkeypatch: pytest.MonkeyPatch, *hosts: str) -> None:
    """Let the name `keys.test` stand for these addresses."""
    real = socket.getaddrinfo

    def getaddrinfo(host: Any, port: Any, *more: Any, **named: Any) -> Any:
        if host != "keys.test":
            return real(host, port, *more, **named)
        return [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, int(port)))
            for one in hosts
        ]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


@pytest.fixture
def listener() -> Iterator[int]:
    with socket.socket() as sock:
        sock.bind((GOOD, 0))
        sock.listen()
        yield sock.getsockname()[1]


def test_dead_address_before_a_good_one(
    listener: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve(monkeypatch, HOLE, GOOD)
    with within(2), black_hole(listener), connect(("keys.test", listener), 5) as sock:
        assert sock.getpeername() == (GOOD, listener)
        assert sock.gettimeout() == 5


def test_refusing_address_costs_nothing(
    listener: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve(monkeypatch, HOLE, GOOD)
    with connect(("keys.test", listener), 5) as sock:
        assert sock.getpeername() == (GOOD, listener)


def test_all_refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as unused:
        unused.bind((GOOD, 0))
        port = unused.getsockname()[1]
    resolve(monkeypatch, HOLE, GOOD)
    with pytest.raises(ConnectionRefusedError):
        connect(("keys.test", port), 5)


def test_all_are_dead(listener: int, monkeypatch: pytest.MonkeyPatch) -> None:
    resolve(monkeypatch, HOLE, HOLE)
    with black_hole(listener), pytest.raises(TimeoutError):
        connect(("keys.test", listener), 0.3)


def test_unknown_name() -> None:
    with pytest.raises(socket.gaierror):
        connect(("name.invalid", 1), 5)


def test_families_by_turns() -> None:
    six, four = socket.AF_INET6, socket.AF_INET
    given = [(six, 1), (six, 2), (six, 3), (four, 4)]
    assert alternating(list(given)) == [(six, 1), (four, 4), (six, 2), (six, 3)]
    assert alternating([]) == []


async def fetch(url: str) -> bytes:
    return await http_fetch(url, "", time.monotonic)()


def test_dead_address_beside_a_good_one(monkeypatch: pytest.MonkeyPatch) -> None:
    resolve(monkeypatch, HOLE, GOOD)
    with KeyServer() as server:
        port = int(server.url.split(":")[2].partition("/")[0])
        url = server.url.replace(GOOD, "keys.test")
        with black_hole(port):
            body = asyncio.run(fetch(url))
    assert b'"keys"' in body
