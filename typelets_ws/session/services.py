"""The collaborators that all connections of a process share.

Invariant: a reload replaces settings here and nowhere else in `session`, and it holds
from the next message on.
"""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Any

import structlog

from ..config.model import Config
from ..delivery.hub import Device
from ..delivery.recovery import Recovery
from ..ports import OnPublished
from ..telemetry.metrics import Metrics
from .authenticator import Authenticator
from .outcome import Context

__all__ = ["Services"]


@dataclass(slots=True)
class Services:
    """What every conversation uses; times: `now_ms` wall, `monotonic` seconds."""

    context: Context
    authenticator: Authenticator
    publish: Callable[[str, bytes, OnPublished | None], None]
    spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]
    metrics: Metrics
    log: structlog.typing.FilteringBoundLogger
    monotonic: Callable[[], float]
    inbox_bytes_before_auth: int
    debug: bool = False
    """True while the log level is debug: a line for each message."""

    def reconfigure(self, config: Config) -> None:
        """Go by other settings from the next message on."""
        limits, admission = config.limits, self.authenticator
        self.context = replace(self.context, rules=config.messages)
        self.inbox_bytes_before_auth = limits.unread_bytes_before_auth
        self.debug = config.log.level == "debug"
        admission.devices_per_user = limits.devices_per_user
        admission.nonces.reconfigure(limits.nonces_per_user)
        admission.rates.reconfigure(limits)

    @property
    def recovery(self) -> Recovery:
        """What devices may have missed."""
        return self.context.recovery

    @property
    def now_ms(self) -> Callable[[], int]:
        """Wall clock, ms since the epoch."""
        return self.context.now_ms

    def observe(self, name: str, result: str, device: Device) -> None:
        """Count a message and its outcome, both names of ours; log it at debug."""
        self.metrics.messages.labels(name, result).inc()
        if self.debug:
            about = device.log_fields
            self.log.debug("message_handled", type=name, result=result, **about)
