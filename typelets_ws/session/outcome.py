"""What a handler is given and what it returns.

Invariant: a handler returns what to send and never sends, so that a reply, its event
and its acknowledgement leave in one order, decided by the dispatcher.
"""

from collections.abc import Callable
from dataclasses import dataclass

from ..config.model import Messages
from ..delivery.recovery import Recovery
from ..ports import Store, Updated
from ..protocol import events, messages
from ..telemetry.metrics import Metrics

__all__ = ["Context", "Outcome"]


@dataclass(frozen=True, slots=True)
class Context:
    """What every handler may use; `now_ms` is the wall clock."""

    store: Store
    recovery: Recovery
    rules: Messages
    metrics: Metrics
    now_ms: Callable[[], int]
    new_id: Callable[[], str]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a message.

    `row` is set when the reply shows a row that was just written: whoever sends
    the reply notes it in `delivery.shown`.
    `announced` is the reply to send once Redis has taken the event.
    """

    reply: messages.Reply | None = None
    event: events.Event | None = None
    row: Updated | None = None
    announced: messages.Announced | None = None
