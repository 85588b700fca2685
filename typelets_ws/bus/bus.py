"""The one road between processes: users' events out to Redis and in from it.

Law: nothing is lost silently. Each event published either comes back to every
process that wants its user, or somebody is told: `on_gap` on the receiving side,
`on_unpublished` and a resynchronisation on the sending side.

`Subscriber` hears, `EventPublisher` speaks, over two connections; `Probe` speaks on one
and listens on the other. `run` owns the tasks of all of them. The command link is
lent to `redis.limits`.
"""

import asyncio
import random
from collections.abc import Callable

import hiredis

from ..config.model import Redis as Config
from ..redis.commands import RedisClient
from ..redis.connection import RedisUnavailable
from ..redis.connector import RedisConnector
from ..redis.reconnect import Outage, Reconnector
from ..telemetry.log import FilteringBoundLogger
from ..telemetry.metrics import Metrics
from .health import BusHealth, OnGap
from .probe import Probe
from .publisher import RESYNC_EVERYBODY, EventPublisher, OnUnpublished
from .subscriber import OnEvent, Subscriber

__all__ = ["Bus"]


class Bus:
    """Users' events. Make it in a running loop, then keep `run` running.

    `clock` is the wall clock and `monotonic` the other one, both in seconds.
    `on_event(user_id, payload)` is called in order and must be quick.
    `on_gap(user_ids, reason)` names users who may have missed events; reasons:
    ``lost timeout deaf garbled refused unexpected readonly`` (how a connection ended,
    or why a probe proved nothing), ``unreachable`` (there was no connection yet),
    ``publish_failed`` (another process could not publish).
    `on_unpublished`: see `EventPublisher`.
    """

    def __init__(
        self,
        config: Config,
        *,
        metrics: Metrics,
        log: FilteringBoundLogger,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
        rng: random.Random,
        on_event: OnEvent,
        on_gap: OnGap,
        on_unpublished: OnUnpublished,
    ) -> None:
        redis = RedisConnector(config.url, config.connect_timeout_s)
        outage = Outage(metrics, log, monotonic)
        self._log = log
        self._metrics = metrics
        self.commands = RedisClient(
            config,
            Reconnector("commands", redis, outage, rng),
            metrics=metrics,
            log=log,
        )
        channel = f"{config.prefix}probe:{rng.getrandbits(64):016x}".encode()
        self._health = BusHealth(
            metrics, log, on_gap, lambda: self._subscriber.heard_users
        )
        self._probe = Probe(config, channel, self, monotonic=monotonic, metrics=metrics)
        self._publisher = EventPublisher(
            config,
            self.commands,
            clock=clock,
            metrics=metrics,
            log=log,
            on_unpublished=on_unpublished,
        )
        self._subscriber = Subscriber(
            config,
            Reconnector("events", redis, outage, rng),
            metrics=metrics,
            log=log,
            on_event=on_event,
            health=self._health,
            internal={
                channel: self._probe.heard,
                f"{config.prefix}control".encode(): self._on_control,
            },
            on_listening=self._probe.soon,
        )
        self.commands.on_connect(self._publisher.publish_resyncs)
        self.commands.on_connect(self._probe.soon)
        self.commands.when_lost(self._commands_lost)

    @property
    def listening(self) -> bool:
        """True while connected with all subscriptions confirmed."""
        return self._subscriber.listening

    @property
    def proven(self) -> bool:
        """True while events are known to arrive: see `BusHealth`."""
        return self._health.proven

    def probe_age(self) -> float | None:
        """Seconds since a probe last came back through Redis; None: never yet."""
        return self._probe.age()

    async def subscribe(self, user_id: str) -> bool:
        """Hear the user's events: see `Subscriber.subscribe`."""
        return await self._subscriber.subscribe(user_id)

    def on_batch(self, callback: Callable[[], None]) -> None:
        """Tell when all events at hand were passed on: see `Subscriber.on_batch`."""
        self._subscriber.on_batch(callback)

    def unsubscribe(self, user_id: str) -> None:
        """Stop hearing the user, after a while."""
        self._subscriber.unsubscribe(user_id)

    def publish(self, user_id: str, event: bytes) -> None:
        """Send one event to every process: see `EventPublisher.publish`."""
        self._publisher.publish(user_id, event)

    async def flush(self) -> bool:
        """Wait for Redis' answers to all that was published. False: not all came."""
        try:
            await self.commands.call(b"PING")
        except RedisUnavailable:
            return False
        except hiredis.ReplyError:
            # Refused, but in its turn: all that was before it has been answered.
            return True
        return True

    async def run(self) -> None:
        """Keep both links and the probe until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.commands.run())
            group.create_task(self._subscriber.run())
            group.create_task(self._probe.run(self.commands, self._subscriber))

    def on_probe_due(self) -> None:
        """Bring metrics up to date and publish the resynchronisations still owed."""
        self.commands.count()
        self._publisher.publish_resyncs()

    def on_probe_sent(self) -> None:
        """What is acknowledged from now on is not proven by this probe."""
        self._publisher.begin_proof()

    def on_probe_refused(self) -> None:
        """Redis answered a probe with an error."""
        self._health.doubt("refused")

    def on_proof(self) -> None:
        """A probe came back over connections that lead to a master."""
        self._publisher.proven()
        self._health.prove()

    def _commands_lost(self, reason: str) -> None:
        self._publisher.lost()
        self._health.doubt(reason)
        if reason == "readonly":
            # A replica's subscribers hear only what the master passes on.
            self._subscriber.replace(reason)

    def _on_control(self, payload: bytes) -> None:
        """A message on the control channel."""
        if payload != RESYNC_EVERYBODY:
            self._metrics.events.labels(event="unknown", result="refused").inc()
            self._log.warning("control_message_refused", size=len(payload))
            return
        self._health.report(list(self._subscriber.users), "publish_failed")
