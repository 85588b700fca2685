"""Opens a TCP socket to a host name with several addresses, on the event loop.

Invariants. Attempts start one after the other, at most `ATTEMPT_DELAY_S` apart, and
run side by side (RFC 8305 section 5): an address that swallows packets delays the next
one and never uses up the timeout. One socket is returned; every other one is closed.

uvloop has no `happy_eyeballs_delay`, so `loop.create_connection` is no alternative.
Tested by tests/integration/redis/test_dial.py.
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Final, TypeVar

__all__ = ["ATTEMPT_DELAY_S", "dial", "first_success"]

ATTEMPT_DELAY_S: Final = 0.25
Result = TypeVar("Result")


async def dial(host: str, port: int, timeout_s: float) -> socket.socket:
    """Return a connected non-blocking socket.

    The caller limits the time to `timeout_s`; every address is tried in it. Raises
    `OSError`: that of the first address when every address failed, `socket.gaierror`
    for an unknown name.
    """
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = _alternate_families([(each[0], each[4]) for each in found])
    return await first_success(
        [partial(_connect, *target) for target in addresses],
        delay_s=min(ATTEMPT_DELAY_S, timeout_s / (len(addresses) + 1)),
        discard=socket.socket.close,
    )


async def first_success(
    attempts: Sequence[Callable[[], Awaitable[Result]]],
    *,
    delay_s: float,
    discard: Callable[[Result], None] = lambda _: None,
) -> Result:
    """Return the first result; start the next attempt after `delay_s` or a failure.

    All other attempts are cancelled, and a second result goes to `discard`. Raises
    the first attempt's exception when all fail.
    """
    results: list[Result] = []
    failures: dict[int, Exception] = {}
    tasks: list[asyncio.Task[None]] = []
    changed = asyncio.Event()

    async def attempt(index: int) -> None:
        try:
            results.append(await attempts[index]())
        except Exception as exc:
            # Without its frames: they refer to `failures`.
            failures[index] = exc.with_traceback(None)
        changed.set()

    kept = 0
    try:
        async with asyncio.TaskGroup() as group:
            for index in range(len(attempts)):
                changed.clear()
                tasks.append(group.create_task(attempt(index)))
                await _wait(changed, delay_s)
                if results:
                    break
            while not results and len(failures) < len(attempts):
                changed.clear()
                await changed.wait()
            for task in tasks:
                task.cancel()
        if not results:
            raise failures[0]
        kept = 1
    finally:
        for result in results[kept:]:
            discard(result)
        # The exception refers to this frame, so the frame must not refer to it.
        failures.clear()
    return results[0]


async def _wait(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass


def _alternate_families(targets: list[tuple[int, Any]]) -> list[tuple[int, Any]]:
    """Keep the resolver's order, with the two families in turn."""
    first = [target for target in targets if target[0] == targets[0][0]]
    others = [target for target in targets if target[0] != targets[0][0]]
    ordered = []
    while first or others:
        ordered += first[:1] + others[:1]
        del first[:1], others[:1]
    return ordered


async def _connect(family: int, address: Any) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, address)
    except BaseException:
        sock.close()
        raise
    return sock
