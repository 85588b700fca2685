"""The result of a handler.

Invariant: a handler returns what to send and never sends, so that a reply, its event
and its acknowledgement leave in one order, decided by the dispatcher.
Tested by tests/unit/session/test_handlers.py.
"""

from dataclasses import dataclass

from ..ports import VersionedRow
from ..protocol import events, messages

__all__ = ["Outcome"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """The reply, and the event for other devices.

    `row` is set when the reply shows a row that was just written: the dispatcher
    notes it in `delivery.shown`.
    `announced` is the reply to send once Redis has taken the event.
    """

    reply: messages.Reply | None = None
    event: events.Event | None = None
    row: VersionedRow | None = None
    announced: messages.Announced | None = None
