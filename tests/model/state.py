"""The model's state: one row, its writers, Redis, processes and devices.

The model is small on purpose: one note, two users, at most two processes. Every
value is immutable, so that the explorer can compare and remember whole states.
A row's `content` is a number: no process can compare two contents, except for being
equal. It can only order rows by `stamp` (`updatedAt`), which comes from the clocks of
different hosts and may go backwards. A content may come back with another `xid`.
"""

from dataclasses import dataclass, replace

__all__ = ["ALICE", "BOB", "Device", "Event", "Process", "Row", "State"]

ALICE, BOB = "alice", "bob"


@dataclass(frozen=True)
class Row:
    """The note as one transaction wrote it; `xid` is its xmin."""

    owner: str = ALICE
    stamp: int = 0
    xid: int = 1
    content: int = 1


@dataclass(frozen=True)
class Event:
    """A message on the channel of `user`: a row, a revoked session, or a resync."""

    user: str
    row: Row | None = None
    revoked: int | None = None
    exclude: int | None = None


@dataclass(frozen=True)
class Device:
    """One device; `screen` is the content that it shows to its owner."""

    process: int
    user: str = ALICE
    session: int = 0
    attached: bool = False
    granted: bool = False
    """Whether it holds a slot."""

    screen: int = 1
    known: int | None = None
    """The stamp last sent to it, as the process remembers; None before the first."""

    shown: int = 1
    """The content last sent to it, as the process remembers."""


@dataclass(frozen=True)
class Read:
    """A heal under way: what one statement returned, and the devices at that time."""

    row: Row | None
    horizon: int
    devices: tuple[Device, ...]


@dataclass(frozen=True)
class Process:
    """One daemon process and what it knows about alice."""

    linked: bool = True
    """Whether its Redis connections are up."""

    subscribed: bool = False
    queue: tuple[Event, ...] = ()
    """Messages that Redis has sent and that the process has not read yet."""

    revoked: frozenset[int] = frozenset()
    horizon: int | None = None
    """Each transaction with a smaller id was shown to the devices of the process."""

    heal_due: bool = False
    unchecked: bool = False
    """Whether the row was shown from an event since the last read."""

    unsynced: bool = False
    """Whether an event could not be published."""

    reading: Read | None = None


@dataclass(frozen=True)
class State:
    """Everything there is. `places` are the actors' positions in their scripts."""

    row: Row = Row()
    running: Row | None = None
    """The row as an open transaction has written it; it holds the row's lock."""

    next_xid: int = 2
    written: tuple[Row | None, ...] = ()
    """The row as each actor wrote it, for its event or its reply."""

    barred: frozenset[int] = frozenset()
    processes: tuple[Process, ...] = ()
    devices: tuple[Device, ...] = ()
    places: tuple[int, ...] = ()
    wrong: str = ""
    """The first broken invariant."""

    @property
    def oldest_running(self) -> int:
        """`pg_snapshot_xmin`: each transaction with a smaller id has ended."""
        return self.next_xid if self.running is None else self.running.xid

    def process(self, index: int, **changes: object) -> "State":
        """Return the state with a changed process."""
        changed = replace(self.processes[index], **changes)  # type: ignore[arg-type]
        found = (*self.processes[:index], changed, *self.processes[index + 1 :])
        return replace(self, processes=found)

    def device(self, index: int, **changes: object) -> "State":
        """Return the state with a changed device."""
        changed = replace(self.devices[index], **changes)  # type: ignore[arg-type]
        found = (*self.devices[:index], changed, *self.devices[index + 1 :])
        return replace(self, devices=found)
