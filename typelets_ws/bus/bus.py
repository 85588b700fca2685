"""Events between processes: published to Redis and received from it.

Invariant: nothing is lost silently. Each event published either comes back to every
process that wants its user, or the handler is called: `on_gap` on the receiving side,
`on_unpublished` and a resynchronisation on the sending side.

`Subscriber` receives and `EventPublisher` publishes, over two connections; `Probe`
publishes on one and receives on the other. The connection for commands is shared with
`redis.limits`, so it is built and run by the composition.
Tested by tests/integration/bus/test_bus.py.
"""

import asyncio
import random
from collections.abc import Coroutine
from typing import Any

from ..config.model import Redis as Config
from ..ports import Clock, OnPublished
from ..redis.build import RedisConnections
from ..redis.connection import RedisUnavailableError
from ..telemetry.telemetry import Telemetry
from .handler import EventHandler
from .health import BusHealth
from .probe import Probe
from .publisher import RESYNC_EVERYBODY, EventPublisher
from .sharded import ShardedSubscriber
from .subscriber import Subscriber

__all__ = ["Bus"]


class Bus:
    """Users' events. Build it in a running loop, then keep `run` running.

    Over `redis.client` it publishes; the other connections of `redis` receive.
    """

    def __init__(
        self,
        config: Config,
        redis: RedisConnections,
        handler: EventHandler,
        clock: Clock,
        telemetry: Telemetry,
        rng: random.Random,
    ) -> None:
        self._telemetry = telemetry
        self._handler = handler
        self.commands = redis.client
        self._watch = redis.watch
        channel = f"{config.prefix}probe:{rng.getrandbits(64):016x}".encode()
        self._health = BusHealth(
            telemetry, handler, lambda: self._subscriber.heard_users
        )
        self._probe_channel = channel
        self._probe = Probe(
            config, channel, self, monotonic=clock.monotonic, metrics=telemetry.metrics
        )
        self._publisher = EventPublisher(
            config,
            redis.client,
            clock=clock,
            telemetry=telemetry,
            on_unpublished=self._on_unpublished,
        )
        self._subscriber = Subscriber(
            config,
            redis.events,
            handler,
            telemetry=telemetry,
            health=self._health,
            internal={
                channel: self._on_probe,
                f"{config.prefix}control".encode(): self._on_control,
            },
            on_listening=self._probe.soon,
        )
        self._sharded: ShardedSubscriber | None = None
        if redis.shards is not None:
            self._sharded = ShardedSubscriber(
                config, redis.shards, handler, telemetry=telemetry, health=self._health
            )
        self.commands.on_connect(self._publisher.publish_resyncs)
        self.commands.on_connect(self._probe.soon)
        self.commands.on_lost(self._on_commands_lost)
        self.commands.on_settled(self._on_settled)

    @property
    def listening(self) -> bool:
        """True while connected with all subscriptions confirmed."""
        sharded = self._sharded is None or self._sharded.listening
        return self._subscriber.listening and sharded

    @property
    def proven(self) -> bool:
        """True while events are known to arrive: see `BusHealth`."""
        return self._health.proven

    def probe_age(self) -> float | None:
        """Seconds since a probe last came back through Redis; None: never yet."""
        return self._probe.age()

    def subscribe(self, user_id: str) -> Coroutine[Any, Any, bool]:
        """Subscribe to the user's events: see `Subscriber.subscribe`."""
        if self._sharded is None:
            return self._subscriber.subscribe(user_id)
        return self._subscribe_twice(user_id, self._sharded)

    async def _subscribe_twice(self, user_id: str, sharded: ShardedSubscriber) -> bool:
        heard = await asyncio.gather(
            self._subscriber.subscribe(user_id), sharded.subscribe(user_id)
        )
        return all(heard)

    def unsubscribe(self, user_id: str) -> None:
        """Stop hearing the user, after a while."""
        self._subscriber.unsubscribe(user_id)
        if self._sharded is not None:
            self._sharded.unsubscribe(user_id)

    def publish(
        self, user_id: str, event: bytes, on_published: OnPublished | None = None
    ) -> None:
        """Send one event to every process: see `EventPublisher.publish`.

        While nothing is received, the handler gets it for this process' devices.
        """
        if not self.listening:
            self._handler.on_unpublished(user_id, event)
        self._publisher.publish(user_id, event, on_published)

    async def flush(self) -> bool:
        """Wait for Redis' answers to all that was published. False: not all came."""
        try:
            await self.commands.flush()
        except RedisUnavailableError:
            return False
        return True

    async def run(self) -> None:
        """Keep the subscriptions and the probe until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._subscriber.run())
            if self._sharded is not None:
                group.create_task(self._sharded.run())
            group.create_task(self._probe.run(self.commands, self._subscriber))

    def on_probe_due(self) -> None:
        """Bring metrics up to date and publish the resynchronisations still owed."""
        self.commands.count()
        self._publisher.publish_resyncs()
        if self._watch is not None and self._subscriber.listening:
            self._watch.probe(self._probe_channel, self._subscriber.connection)

    def on_probe_sent(self) -> None:
        """Acknowledgements from now on are not proven by this probe."""
        self._publisher.begin_proof()
        self._health.begin_proof()

    def on_probe_failed(self, reason: str) -> None:
        """Redis refused a probe, or a server is not known to be a master."""
        if reason != "full":
            self._health.doubt(reason)

    def on_proof(self) -> None:
        """A probe came back over connections that lead to a master."""
        self._publisher.proven()
        self._health.prove()

    def _on_commands_lost(self, reason: str) -> None:
        self._publisher.lost()
        self._health.doubt(reason)
        # Subscribers of the old master do not receive from the new one.
        if reason == "failover":
            self._subscriber.leave()
        elif reason == "readonly":
            self._subscriber.replace(reason)

    def _on_unpublished(self, user_id: str, event: bytes) -> None:
        # While not listening, `publish` has passed it on already.
        if self.listening:
            self._handler.on_unpublished(user_id, event)

    def _on_settled(self) -> None:
        """Others published at the old master until now: this process missed some."""
        self._subscriber.end_left()
        self._health.report(self._subscriber.heard_users, "failover")

    def _on_probe(self, payload: bytes) -> None:
        if self._watch is None or not self._watch.heard(payload):
            self._probe.heard(payload)

    def _on_control(self, payload: bytes) -> None:
        """A message on the control channel."""
        if payload != RESYNC_EVERYBODY:
            self._telemetry.metrics.events.labels(
                event="unknown", result="refused"
            ).inc()
            self._telemetry.log.warning("control_message_refused", size=len(payload))
            return
        self._health.report(list(self._subscriber.users), "publish_failed")
