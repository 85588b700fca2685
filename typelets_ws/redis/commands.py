"""The link that carries commands: publishing, leases, nonces.

Law: every command is answered once, with Redis' reply or with `RedisUnavailable`,
and commands reach Redis in the order in which they were given. While the link is
down they fail at once: what to do without Redis is the caller's decision, and
nothing piles up here.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Callable
from functools import partial
from typing import Any

import hiredis

from ..config.model import Redis as Config
from ..telemetry.telemetry import Telemetry
from .connection import RedisConnection, RedisUnavailable, pack
from .reconnect import Reconnector

__all__ = ["RedisClient", "ReplyCallback"]

ReplyCallback = Callable[[Any], None]
Argument = bytes | str | int

MOST_WAITING = 50_000
"""Two commands for each of the 20 000 devices of a reconnect storm, and some."""


class RedisClient:
    """Commands to Redis. `run` keeps the link; everything else is synchronous."""

    def __init__(
        self,
        config: Config,
        reconnector: Reconnector,
        telemetry: Telemetry,
    ) -> None:
        self._config = config
        self._reconnector = reconnector
        self._metrics = telemetry.metrics
        self._log = telemetry.log
        self._connection: CommandConnection | None = None
        self._on_connect: list[Callable[[], None]] = []
        self._when_lost: list[Callable[[str], None]] = []
        self._sent: Counter[bytes] = Counter()

    @property
    def up(self) -> bool:
        """True while there is a link."""
        return self._connection is not None

    def on_connect(self, callback: Callable[[], None]) -> None:
        """Call `tell` each time a link opens, before anybody else's command."""
        self._on_connect.append(callback)

    def when_lost(self, notify: Callable[[str], None]) -> None:
        """Call `tell` with the reason each time a link has ended.

        Every command that waited has its answer by then. The reason ``readonly``
        means that Redis has become a replica: a failover has happened.
        """
        self._when_lost.append(notify)

    def send(self, callback: ReplyCallback, *args: Argument) -> None:
        """Send a command; `then` gets the reply, or an exception object.

        It gets `hiredis.ReplyError` for an error reply and `RedisUnavailable`
        otherwise, perhaps before `send` returns.
        """
        connection = self._connection
        if connection is None:
            self._call_back(callback, RedisUnavailable("down"))
        elif len(connection.waiting) >= MOST_WAITING:
            self._call_back(callback, RedisUnavailable("full"))
        else:
            self._sent[args[0]] += 1  # type: ignore[index]  # names are bytes
            connection.write(pack(*args))
            connection.expect(callback)

    async def call(self, *args: Argument) -> Any:
        """Send a command and wait for its reply.

        Raises `RedisUnavailable`, or `hiredis.ReplyError` for an error reply.
        """
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.send(partial(_settle, answer), *args)
        reply = await answer
        try:
            if isinstance(reply, Exception):
                raise reply
            return reply
        finally:
            # The exception refers to this frame, which must not refer to it.
            del reply, answer

    def replace(self, reason: str) -> None:
        """Give this link up for a new one."""
        if self._connection is not None:
            self._connection.abort(reason)

    def healthy(self) -> None:
        """A probe has come back over a link that leads to a master."""
        self._reconnector.healthy()

    async def run(self) -> None:
        """Keep the link until cancelled."""
        timeout = self._config.command_timeout_s
        await self._reconnector.run(
            lambda: CommandConnection(timeout, self._answer, self._lost), self._opened
        )

    def count(self) -> None:
        """Bring the metrics up to date; done seldom, as it costs more than sending."""
        for name, times in self._sent.items():
            label = name.decode().lower()
            self._metrics.redis_commands.labels(command=label).inc(times)
        self._sent.clear()

    def _opened(self, connection: "CommandConnection") -> None:
        self._connection = connection
        self._reconnector.connected()
        for notify in self._on_connect:
            notify()

    def _lost(self, waiting: deque[tuple[float, ReplyCallback]], reason: str) -> None:
        self._connection = None
        failure = RedisUnavailable(reason)
        for _, callback in waiting:
            self._call_back(callback, failure)
        for notify in self._when_lost:
            notify(reason)

    def _answer(self, callback: ReplyCallback, reply: Any) -> None:
        self._call_back(callback, reply)
        if isinstance(reply, hiredis.ReplyError) and str(reply).startswith("READONLY"):
            self.replace("readonly")

    def _call_back(self, callback: ReplyCallback, reply: Any) -> None:
        try:
            callback(reply)
        except Exception:
            # One caller's mistake must not end the link of all the others.
            self._log.exception("redis_reply_handler_failed")


class CommandConnection(RedisConnection[ReplyCallback]):
    def __init__(
        self,
        timeout: float,
        answer: Callable[[ReplyCallback, Any], None],
        lost: Callable[[deque[tuple[float, ReplyCallback]], str], None],
    ) -> None:
        super().__init__(timeout)
        self._answer = answer
        self._lost = lost

    def received(self, reply: Any) -> None:
        if self.waiting:
            self._answer(self.waiting.popleft()[1], reply)
        elif not self.reason:
            self.abort("unexpected")

    def on_close(
        self, waiting: deque[tuple[float, ReplyCallback]], reason: str
    ) -> None:
        self._lost(waiting, reason)


def _settle(answer: asyncio.Future[Any], reply: Any) -> None:
    # As a result even if it is an exception: nobody may be waiting any more.
    if not answer.done():
        answer.set_result(reply)
