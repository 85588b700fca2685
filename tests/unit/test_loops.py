"""What a test leaves open fails it, and hides no earlier failure."""

import asyncio

import pytest

from tests.loops import run


async def leave_open() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0)
    await loop.create_connection(asyncio.Protocol, *server.sockets[0].getsockname())


async def fail() -> None:
    await leave_open()
    raise LookupError


def test_what_is_left_open_is_named() -> None:
    with pytest.raises(AssertionError, match=r"unclosed resource <TCPServer"):
        run(leave_open())


def test_the_failure_of_the_test_comes_first() -> None:
    with pytest.raises(LookupError):
        run(fail())
