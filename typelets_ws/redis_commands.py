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

from .config import Redis as Config
from .log import FilteringBoundLogger
from .metrics import Metrics
from .redis_link import Link, RedisUnavailable, pack
from .redis_upkeep import Upkeep

__all__ = ["CommandLink", "Then"]

Then = Callable[[Any], None]
Argument = bytes | str | int

MOST_WAITING = 50_000
"""Two commands for each of the 20 000 devices of a reconnect storm, and some."""


class CommandLink:
    """Commands to Redis. `run` keeps the link; everything else is synchronous."""

    def __init__(
        self,
        config: Config,
        upkeep: Upkeep,
        *,
        metrics: Metrics,
        log: FilteringBoundLogger,
    ) -> None:
        self._config = config
        self._upkeep = upkeep
        self._metrics = metrics
        self._log = log
        self._link: _Replies | None = None
        self._when_up: list[Callable[[], None]] = []
        self._when_lost: list[Callable[[str], None]] = []
        self._sent: Counter[bytes] = Counter()

    @property
    def up(self) -> bool:
        """True while there is a link."""
        return self._link is not None

    def when_up(self, tell: Callable[[], None]) -> None:
        """Call `tell` each time a link opens, before anybody else's command."""
        self._when_up.append(tell)

    def when_lost(self, tell: Callable[[str], None]) -> None:
        """Call `tell` with the reason each time a link has ended.

        Every command that waited has its answer by then. The reason ``readonly``
        means that Redis has become a replica: a failover has happened.
        """
        self._when_lost.append(tell)

    def send(self, then: Then, *args: Argument) -> None:
        """Send a command; `then` gets the reply, or an exception object.

        It gets `hiredis.ReplyError` for an error reply and `RedisUnavailable`
        otherwise, perhaps before `send` returns.
        """
        link = self._link
        if link is None:
            self._tell(then, RedisUnavailable("down"))
        elif len(link.waiting) >= MOST_WAITING:
            self._tell(then, RedisUnavailable("full"))
        else:
            self._sent[args[0]] += 1  # type: ignore[index]  # names are bytes
            link.write(pack(*args))
            link.expect(then)

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
        if self._link is not None:
            self._link.drop(reason)

    def proven(self) -> None:
        """A probe has come back over a link that leads to a master."""
        self._upkeep.proven()

    async def run(self) -> None:
        """Keep the link until cancelled."""
        timeout = self._config.command_timeout_s
        await self._upkeep.run(
            lambda: _Replies(timeout, self._answer, self._lost), self._opened
        )

    def count(self) -> None:
        """Bring the metrics up to date; done seldom, as it costs more than sending."""
        for name, times in self._sent.items():
            label = name.decode().lower()
            self._metrics.redis_commands.labels(command=label).inc(times)
        self._sent.clear()

    def _opened(self, link: "_Replies") -> None:
        self._link = link
        self._upkeep.usable()
        for tell in self._when_up:
            tell()

    def _lost(self, waiting: deque[tuple[float, Then]], reason: str) -> None:
        self._link = None
        failure = RedisUnavailable(reason)
        for _, then in waiting:
            self._tell(then, failure)
        for tell in self._when_lost:
            tell(reason)

    def _answer(self, then: Then, reply: Any) -> None:
        self._tell(then, reply)
        if isinstance(reply, hiredis.ReplyError) and str(reply).startswith("READONLY"):
            self.replace("readonly")

    def _tell(self, then: Then, reply: Any) -> None:
        try:
            then(reply)
        except Exception:
            # One caller's mistake must not end the link of all the others.
            self._log.exception("redis_reply_handler_failed")


class _Replies(Link[Then]):
    def __init__(
        self,
        timeout: float,
        answer: Callable[[Then, Any], None],
        lost: Callable[[deque[tuple[float, Then]], str], None],
    ) -> None:
        super().__init__(timeout)
        self._answer = answer
        self._lost = lost

    def received(self, reply: Any) -> None:
        if self.waiting:
            self._answer(self.waiting.popleft()[1], reply)
        elif not self.reason:
            self.drop("unexpected")

    def ended(self, waiting: deque[tuple[float, Then]], reason: str) -> None:
        self._lost(waiting, reason)


def _settle(answer: asyncio.Future[Any], reply: Any) -> None:
    # As a result even if it is an exception: nobody may be waiting any more.
    if not answer.done():
        answer.set_result(reply)
