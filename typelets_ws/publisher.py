"""For Python REST services: publishes changes to a user's devices.

::

    publisher = Publisher("redis://127.0.0.1:6379/0")
    publisher.notify_note_deleted("user_2abc", note_id)

Publish after the commit, never before: devices may fetch as soon as they hear. Every
method returns how many daemon processes heard it; 0 is no error: no device of this
user is connected.

A wrong argument raises `ValueError` that names it, before anything is sent. A Redis
that does not answer raises nothing: the database has the change already, so the request
must succeed. A call waits at most `timeout_s` and returns 0; `failures` counts it,
`on_failure` is called, and the user's devices get `resync_required` as soon as Redis
answers (`_publisher.unsent`). Until then calls do not wait. With `raise_errors` the
error is raised as well.

Data (`changes`, `note_data` and so on) is a mapping, or JSON of an object as bytes,
which then travels byte for byte. In a mapping a `datetime` becomes
`YYYY-MM-DDTHH:MM:SS.mmmZ` (UTC, as a naive one is taken to be; what is below a
millisecond is cut off) and a `UUID` its text.

`AsyncPublisher` has the same methods, to be awaited. Both need redis-py and msgspec
only, none of the daemon's other dependencies.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Final, Self

import redis
import redis.asyncio

from ._publisher.events import Data, Notifications
from ._publisher.redis import async_client, client
from ._publisher.revoke import revoke, revoke_async
from ._publisher.unsent import (
    FAILED,
    Failure,
    OnFailure,
    Publication,
    reset_is_failure,
)

__all__ = ["AsyncPublisher", "Data", "Failure", "Publisher"]

TIMEOUT_S: Final = 0.25
CONNECTIONS: Final = 16
"""16,000 events a second at 1 ms each."""
FIRST_PAUSE_S: Final = 0.1
LONGEST_PAUSE_S: Final = 2.0


class Publisher(Notifications[int]):
    """Publishes over `link`: a redis-py client of any kind, or a URL for one.

    `prefix` as the daemon's `redis.prefix`; `timeout_s` is the longest wait of a call,
    of which at most `CONNECTIONS` are under way at once. A client made from a URL is
    closed by `close` or at the end of a `with`; a given one is left alone. Threads may
    share a publisher.
    """

    def __init__(
        self,
        link: "redis.Redis | str",
        *,
        prefix: str = "typelets:",
        timeout_s: float = TIMEOUT_S,
        on_failure: OnFailure | None = None,
        raise_errors: bool = False,
        sharded: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(prefix, clock, on_failure)
        self._own = isinstance(link, str)
        self._redis = (
            client(link, timeout_s, CONNECTIONS) if isinstance(link, str) else link
        )
        self._timeout_s = timeout_s
        self._raise_errors = raise_errors
        self._publish_one = self._redis.spublish if sharded else self._redis.publish
        self._slots = threading.BoundedSemaphore(CONNECTIONS)
        self._closed = threading.Event()
        self._healing = threading.Lock()
        self._healer: threading.Thread | None = None

    def _send(self, message: Publication) -> int:
        try:
            self._outcomes.raise_if_down()
            if not self._slots.acquire(timeout=self._timeout_s):
                raise TimeoutError("all connections are busy")
            try:
                # Another call may have waited in vain meanwhile.
                self._outcomes.raise_if_down()
                return self._publish_now(message)
            finally:
                self._slots.release()
        except FAILED as error:
            self._outcomes.failed(message, error)
            self._heal_soon()
            if self._raise_errors:
                raise
            return 0

    def _publish_now(self, message: Publication) -> int:
        if message.revocation is not None:
            revoke(self._redis, *message.revocation)
        return int(self._publish_one(message.channel, message.payload))

    def _heal_soon(self) -> None:
        with self._healing:
            if self._healer is None or not self._healer.is_alive():
                self._healer = threading.Thread(
                    target=self._heal, name="typelets-ws-publisher", daemon=True
                )
                self._healer.start()

    def _heal(self) -> None:
        """Send what is owed until nothing is, or the publisher is closed."""
        pause = FIRST_PAUSE_S
        while not self._closed.wait(pause):
            with self._healing:
                message = self._outcomes.take()
                if message is None:
                    # In the lock: a failure from now on starts another thread.
                    self._healer = None
                    return
            try:
                self._publish_now(message)
            except FAILED:
                self._outcomes.give_back(message)
                pause = min(pause * 2 or FIRST_PAUSE_S, LONGEST_PAUSE_S)
            else:
                self._outcomes.sent()
                pause = 0.0

    def close(self) -> None:
        """Stop, and close the connections if they are ours."""
        self._closed.set()
        healer = self._healer
        if healer is not None:
            healer.join(self._timeout_s)
        if self._own:
            self._redis.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class AsyncPublisher(Notifications[Coroutine[Any, Any, int]]):
    """The same for asyncio: over a redis.asyncio client of any kind, or a URL.

    Mistakes raise at the call, before anything is awaited.
    """

    def __init__(
        self,
        link: "redis.asyncio.Redis | str",
        *,
        prefix: str = "typelets:",
        timeout_s: float = TIMEOUT_S,
        on_failure: OnFailure | None = None,
        raise_errors: bool = False,
        sharded: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(prefix, clock, on_failure)
        self._own = isinstance(link, str)
        self._redis = (
            async_client(link, timeout_s, CONNECTIONS)
            if isinstance(link, str)
            else link
        )
        self._timeout_s = timeout_s
        self._raise_errors = raise_errors
        self._publish_one = self._redis.spublish if sharded else self._redis.publish
        self._slots = asyncio.Semaphore(CONNECTIONS)
        self._healer: asyncio.Task[None] | None = None

    async def _send(self, message: Publication) -> int:
        try:
            self._outcomes.raise_if_down()
            async with asyncio.timeout(self._timeout_s), self._slots:
                return await self._publish_now(message)
        except FAILED as error:
            self._failed(message, error)
            if self._raise_errors:
                raise
            return 0
        except asyncio.CancelledError as error:
            # The request is gone, and the change is committed all the same.
            self._failed(message, error)
            raise

    def _failed(self, message: Publication, error: BaseException) -> None:
        self._outcomes.failed(message, error)
        if self._healer is None or self._healer.done():
            loop = asyncio.get_running_loop()
            self._healer = loop.create_task(self._heal())

    async def _publish_now(self, message: Publication) -> int:
        with reset_is_failure():
            if message.revocation is not None:
                await revoke_async(self._redis, *message.revocation)
            return int(await self._publish_one(message.channel, message.payload))

    async def _heal(self) -> None:
        """Send what is owed until nothing is."""
        pause = FIRST_PAUSE_S
        while True:
            await asyncio.sleep(pause)
            message = self._outcomes.take()
            if message is None:
                return
            try:
                async with asyncio.timeout(self._timeout_s):
                    await self._publish_now(message)
            except FAILED:
                self._outcomes.give_back(message)
                pause = min(pause * 2 or FIRST_PAUSE_S, LONGEST_PAUSE_S)
            else:
                self._outcomes.sent()
                pause = 0.0

    async def aclose(self) -> None:
        """Stop, and close the connections if they are ours, also when cancelled."""
        loop = asyncio.get_running_loop()
        closing = loop.create_task(self._close())
        cancelled = False
        while not closing.done():
            try:
                await asyncio.shield(closing)
            except asyncio.CancelledError:
                cancelled = True
        if cancelled:
            raise asyncio.CancelledError

    async def _close(self) -> None:
        if self._healer is not None:
            self._healer.cancel()
            await asyncio.wait([self._healer])
        if self._own:
            await self._redis.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()
