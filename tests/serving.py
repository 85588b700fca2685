"""A TCP server of a test that leaves nothing open."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

__all__ = ["serving"]

Handler = Callable[
    [asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]
]


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[int]:
    """Serve on a free port of loopback, and yield it.

    At the end each connection is cut, also one whose handler has not begun, and each
    handler is cancelled and has ended.
    """
    links: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(handler(reader, writer))
        links[task] = writer

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task, writer in links.items():
            task.cancel()
            writer.transport.abort()
        await asyncio.gather(*links, return_exceptions=True)
