"""The connection to one server that carries commands: publishing, leases, nonces.

Invariants. Every command is answered once, with Redis' reply or with
`RedisUnavailableError`, and commands reach Redis in the order of the calls. Without a
connection they fail at once: the caller decides what follows, and no queue grows here.
Tested by tests/integration/redis/test_limits.py.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import hiredis

from ..telemetry.telemetry import Telemetry
from .connection import RedisConnection, RedisUnavailableError, pack
from .reconnect import Reconnector

__all__ = ["Argument", "NodeClient", "ReplyCallback", "reply_to"]

ReplyCallback = Callable[[Any], None]
Argument = bytes | str | int

MOST_WAITING = 50_000
"""Two commands for each of the 20 000 devices of a reconnect storm, and some."""


class NodeClient:
    """Commands to one server. `run` keeps the connection; all else is synchronous.

    `timeout_s` is the longest wait for a reply.
    """

    def __init__(
        self, reconnector: Reconnector, timeout_s: float, telemetry: Telemetry
    ) -> None:
        self._timeout_s = timeout_s
        self._reconnector = reconnector
        self._metrics = telemetry.metrics
        self._log = telemetry.log
        self._connection: CommandConnection | None = None
        self._on_connect: list[Callable[[], None]] = []
        self._on_lost: list[Callable[[str], None]] = []
        self._sent: Counter[bytes] = Counter()

    @property
    def up(self) -> bool:
        """True while there is a connection."""
        return self._connection is not None

    @property
    def node(self) -> str:
        """The server of the newest attempt as `host:port`; empty before it."""
        return self._reconnector.node

    def on_connect(self, callback: Callable[[], None]) -> None:
        """Call `callback` each time a connection opens, before other commands."""
        self._on_connect.append(callback)

    def on_lost(self, callback: Callable[[str], None]) -> None:
        """Call `callback` with the reason each time a connection has ended.

        Every command that waited has its answer by then. The reason ``readonly``
        means that Redis has become a replica: a failover has happened.
        """
        self._on_lost.append(callback)

    def send(self, callback: ReplyCallback, *args: Argument) -> None:
        """Send a command; `callback` gets the reply, or an exception object.

        It gets `hiredis.ReplyError` for an error reply and `RedisUnavailableError`
        otherwise, perhaps before `send` returns.
        """
        connection = self._connection
        if connection is None:
            reason = "refused" if self._reconnector.refused else "down"
            self._call_back(callback, RedisUnavailableError(reason))
        elif len(connection.waiting) >= MOST_WAITING:
            self._call_back(callback, RedisUnavailableError("full"))
        else:
            self._sent[args[0]] += 1  # type: ignore[index]  # names are bytes
            connection.write(pack(*args))
            connection.expect(callback)

    def call(self, *args: Argument) -> Coroutine[Any, Any, Any]:
        """Send a command and wait for its reply.

        Raises `RedisUnavailableError`, or `hiredis.ReplyError` for an error reply.
        """
        return reply_to(self.send, *args)

    def replace(self, reason: str) -> None:
        """Close this connection; a new one is opened."""
        if self._connection is not None:
            self._connection.abort(reason)

    def healthy(self) -> None:
        """A probe has come back over a connection that leads to a master."""
        self._reconnector.healthy()

    async def run(self) -> None:
        """Keep the connection until cancelled."""
        timeout = self._timeout_s
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
        self._reconnector.connected(connection.node)
        for notify in self._on_connect:
            notify()

    def _lost(self, waiting: deque[tuple[float, ReplyCallback]], reason: str) -> None:
        self._connection = None
        failure = RedisUnavailableError(reason)
        for _, callback in waiting:
            self._call_back(callback, failure)
        self._notify_lost(reason)

    def _notify_lost(self, reason: str) -> None:
        for notify in self._on_lost:
            notify(reason)

    def _answer(self, callback: ReplyCallback, reply: Any) -> None:
        self._call_back(callback, reply)
        if isinstance(reply, hiredis.ReplyError) and str(reply).startswith("READONLY"):
            self.replace("readonly")

    def _call_back(self, callback: ReplyCallback, reply: Any) -> None:
        try:
            callback(reply)
        except Exception:
            # One caller's mistake must not end the connection of all the others.
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


async def reply_to(send: Callable[..., None], *args: Argument) -> Any:
    """Return the reply to a command; raise it when it is an error."""
    answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    send(partial(_settle, answer), *args)
    reply = await answer
    try:
        if isinstance(reply, Exception):
            raise reply
        return reply
    finally:
        # The exception refers to this frame, which must not refer to it.
        del reply, answer


def _settle(answer: asyncio.Future[Any], reply: Any) -> None:
    """Set a reply as the future's result, an exception too."""
    # As a result even if it is an exception: the caller may have been cancelled.
    if not answer.done():
        answer.set_result(reply)
