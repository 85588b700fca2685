"""The steps of the model. Each is atomic; `None` means that it cannot happen now.

`locations` names the code of each step. Between two steps everything else may happen;
within one step nothing does. In the code a step is a stretch without an `await`, or
one statement of the database.
"""

from collections.abc import Callable
from dataclasses import replace

from tests.model.rules import Broken
from tests.model.state import ALICE, Device, Event, Process, Read, Row, State

__all__ = ["Step", "environment"]

Step = Callable[[State, int, Broken | None], State | None]
"""From a state, the acting actor's number, and the broken rule."""

# Writers: the REST service, any host.


def write(stamp: int, owner: str = ALICE, content: int | None = None) -> Step:
    """Update the row in an open transaction, with the clock of that host.

    The content is a new one, unless it is given.
    """

    def step(state: State, actor: int, _: Broken | None) -> State | None:
        if state.running is not None:
            return None  # the row is locked
        xid = state.next_xid
        row = Row(owner, stamp, xid, xid if content is None else content)
        state = replace(state, running=row, next_xid=row.xid + 1)
        return _remember(state, actor, row)

    return step


def commit(state: State, actor: int, _: Broken | None) -> State | None:
    """End the actor's transaction; the row is visible from now on."""
    row = state.written[actor]
    assert row is not None
    return replace(state, row=row, running=None)


def rollback(state: State, actor: int, _: Broken | None) -> State | None:
    """End the actor's transaction without a trace."""
    return replace(state, running=None)


def publish(state: State, actor: int, _: Broken | None) -> State | None:
    """Publish the row as the actor wrote it."""
    row = state.written[actor]
    assert row is not None
    return _publish(state, Event(row.owner, row))


# Devices and their process.


def load(device: int) -> Step:
    """Fetch the row from the REST service, before the socket is there."""

    def step(state: State, actor: int, _: Broken | None) -> State | None:
        return state.device(device, screen=state.row.content)

    return step


def subscribe(device: int) -> Step:
    """Subscribe the process to the channel of the device's user."""

    def step(state: State, actor: int, _: Broken | None) -> State | None:
        process = state.devices[device].process
        if not state.processes[process].linked:
            return None
        return state.process(process, subscribed=True)

    return step


def acquire(device: int) -> Step:
    """Ask Redis for a slot; a barred session gets none."""

    def step(state: State, actor: int, _: Broken | None) -> State | None:
        return state.device(
            device, granted=state.devices[device].session not in state.barred
        )

    return step


def attach(device: int) -> Step:
    """Add the device to the hub, and heal it from long before it loaded the row."""

    def step(state: State, actor: int, broken: Broken | None) -> State | None:
        joining = state.devices[device]
        process = state.processes[joining.process]
        remembered = broken is not Broken.REVOCATION_IS_REMEMBERED
        if not joining.granted or (remembered and joining.session in process.revoked):
            return state
        state = state.device(device, attached=True, known=None)
        if joining.user != ALICE:
            return state
        if broken is Broken.SIGN_IN_IS_HEALED:
            horizon = process.horizon or state.oldest_running
            return state.process(joining.process, horizon=horizon)
        return state.process(joining.process, horizon=1, heal_due=True)

    return step


def leave(device: int, process: int) -> Step:
    """Lose the socket; the device goes to another process, and keeps its screen."""

    def step(state: State, actor: int, _: Broken | None) -> State | None:
        return state.device(
            device, attached=False, granted=False, known=None, process=process
        )

    return step


def update(device: int) -> Step:
    """Write the row for a device: one statement, its own transaction."""

    def step(state: State, actor: int, _: Broken | None) -> State | None:
        if not state.devices[device].attached:
            return state
        if state.running is not None or state.row.owner != ALICE:
            return None
        row = Row(ALICE, state.row.stamp + 1, state.next_xid, state.next_xid)
        return _remember(replace(state, row=row, next_xid=row.xid + 1), actor, row)

    return step


def answer(device: int) -> Step:
    """Reply to the sender and publish; without Redis, deliver in this process."""

    def step(state: State, actor: int, broken: Broken | None) -> State | None:
        row, sender = state.written[actor], state.devices[device]
        if row is None or not sender.attached:
            return state
        state = _reply(state, device, row, broken)
        event = Event(ALICE, row, exclude=device)
        if state.processes[sender.process].linked:
            return _publish(state, event)
        if broken is not Broken.UNPUBLISHED_IS_REPAIRED:
            state = state.process(sender.process, unsynced=True)
        if broken is Broken.UNPUBLISHED_IS_SERVED_HERE:
            return state
        return _deliver(state, sender.process, event, broken)

    return step


def _reply(state: State, device: int, row: Row, broken: Broken | None) -> State:
    sender = state.devices[device]
    newer_known = sender.known is not None and sender.known > row.stamp
    if newer_known and broken is not Broken.REPLY_IS_NOT_OLDER:
        # The reply carries the newest row known; whether that is so is read.
        return state.process(sender.process, heal_due=True, unchecked=True)
    # The statement may have ended before a read that has shown a later row.
    state = state.process(sender.process, unchecked=True)
    if broken is Broken.REPLY_COUNTS_AS_SHOWN:
        return state.device(device, screen=row.content)
    return _show(state, device, row)


def ask(device: int) -> Step:
    """Read the row for a page of a sync, or for the refusal of an update."""

    def step(state: State, actor: int, _: Broken | None) -> State | None:
        if not state.devices[device].attached or state.row.owner != ALICE:
            return state
        return _remember(state, actor, state.row)

    return step


def page(device: int) -> Step:
    """Send that row to the device that asked, and to no other."""

    def step(state: State, actor: int, broken: Broken | None) -> State | None:
        row, asking = state.written[actor], state.devices[device]
        if row is None or not asking.attached:
            return state
        if broken is Broken.PAGE_COUNTS_AS_SHOWN:
            return state.device(device, screen=row.content)
        state = state.process(asking.process, unchecked=True)
        return _show(state, device, row)

    return step


# Revocation: the REST service.


def bar(session: int) -> Step:
    """Bar the session in Redis."""

    def step(state: State, actor: int, _: Broken | None) -> State | None:
        return replace(state, barred=state.barred | {session})

    return step


def revoke(session: int) -> Step:
    """Publish the revocation."""

    def step(state: State, actor: int, _: Broken | None) -> State | None:
        return _publish(state, Event(ALICE, revoked=session))

    return step


# Redis, the database and time: what a process does and what is done to it.


def cut(process: int) -> Step:
    """Close the process's connections to Redis; unread messages are lost."""

    def step(state: State, actor: int, broken: Broken | None) -> State | None:
        early = broken is Broken.HEAL_AFTER_SUBSCRIBING
        return state.process(
            process,
            linked=False,
            subscribed=False,
            queue=(),
            heal_due=state.processes[process].heal_due or early,
        )

    return step


def relink(process: int) -> Step:
    """Connect again, subscribe, heal the gap, and have other processes heal theirs."""

    def step(state: State, actor: int, broken: Broken | None) -> State | None:
        one = state.processes[process]
        gap = broken not in (Broken.HEAL_AFTER_SUBSCRIBING, Broken.GAP_IS_HEALED)
        state = state.process(
            process,
            linked=True,
            subscribed=True,
            unsynced=False,
            heal_due=one.heal_due or gap,
        )
        return _publish(state, Event(ALICE)) if one.unsynced else state

    return step


def audit(process: int) -> Step:
    """Visit the user, although nothing is known to be missing."""

    def step(state: State, actor: int, _: Broken | None) -> State | None:
        if state.processes[process].horizon is None:
            return state
        return state.process(process, heal_due=True)

    return step


def database_fails(process: int) -> Step:
    """Fail the read under way, if there is one."""

    def step(state: State, actor: int, broken: Broken | None) -> State | None:
        if state.processes[process].reading is None:
            return state
        due = broken is not Broken.FAILED_HEAL_STAYS_DUE
        return state.process(process, reading=None, heal_due=due, unchecked=True)

    return step


# Steps that happen by themselves, as soon as they can.


def receive(index: int) -> Step:
    """Read the next message from Redis and deliver it."""

    def step(state: State, actor: int, broken: Broken | None) -> State | None:
        one = state.processes[index]
        if not one.queue:
            return None
        event, rest = one.queue[0], one.queue[1:]
        state = state.process(index, queue=rest)
        if event.revoked is not None:
            return _end_session(state, index, event.revoked)
        if event.row is None:
            return state.process(index, heal_due=True)
        return _deliver(state, index, event, broken)

    return step


def read(index: int) -> Step:
    """Read the row and the next horizon in one statement."""

    def step(state: State, actor: int, broken: Broken | None) -> State | None:
        one = state.processes[index]
        if not one.heal_due or one.reading is not None or one.horizon is None:
            return None
        found: Row | None = state.row if _is_read(state, one, broken) else None
        horizon = state.oldest_running
        if broken is Broken.HORIZON_IS_THE_OLDEST:
            horizon = state.next_xid
        return state.process(
            index,
            heal_due=False,
            unchecked=False,
            reading=Read(found, horizon, state.devices),
        )

    return step


def _is_read(state: State, one: Process, broken: Broken | None) -> bool:
    if state.row.owner != ALICE and broken is not Broken.HEAL_READS_ONE_USER:
        return False
    if one.unchecked and broken is not Broken.EVENTS_ARE_CHECKED:
        return True
    assert one.horizon is not None
    if broken is Broken.HORIZON_IS_INCLUDED:
        return state.row.xid > one.horizon
    return state.row.xid >= one.horizon


def show(index: int) -> Step:
    """Send the row that was read to each device that does not have it."""

    def step(state: State, actor: int, broken: Broken | None) -> State | None:
        reading = state.processes[index].reading
        if reading is None:
            return None
        state, again = state.process(index, reading=None), False
        for number, device in enumerate(state.devices):
            if not _is_here(device, index, ALICE) or reading.row is None:
                continue
            changed = device != reading.devices[number]
            if changed and broken is not Broken.HEAL_YIELDS_TO_EVENTS:
                again = True
            elif not _holds(device, reading.row, broken):
                state = _show(state, number, reading.row)
        if again:
            return state.process(index, heal_due=True)
        horizon = reading.horizon
        if broken is Broken.HORIZON_OF_THE_SNAPSHOT:
            horizon = state.oldest_running
        # An attach during the read has asked for an older horizon.
        if state.processes[index].heal_due:
            horizon = min(horizon, state.processes[index].horizon or horizon)
        return state.process(index, horizon=horizon)

    return step


def environment(processes: int) -> dict[str, Step]:
    """All steps that need no actor, by name."""
    kinds = {"receive": receive, "read": read, "show": show}
    return {
        f"{name} {index}": step(index)
        for index in range(processes)
        for name, step in kinds.items()
    }


# Shared by steps.


def _remember(state: State, actor: int, row: Row) -> State:
    written = (*state.written[:actor], row, *state.written[actor + 1 :])
    return replace(state, written=written)


def _publish(state: State, event: Event) -> State:
    for index, one in enumerate(state.processes):
        if one.linked and one.subscribed:
            state = state.process(index, queue=(*one.queue, event))
    return state


def _holds(device: Device, row: Row, broken: Broken | None) -> bool:
    if broken is Broken.HELD_BY_CONTENT:
        return device.known == row.stamp
    return device.shown == row.content and device.known is not None


def _is_here(device: Device, process: int, user: str) -> bool:
    return device.attached and device.process == process and device.user == user


def _deliver(state: State, index: int, event: Event, broken: Broken | None) -> State:
    row = event.row
    assert row is not None
    state = state.process(index, unchecked=True)
    for number, device in enumerate(state.devices):
        users = broken is Broken.EVENTS_BELONG_TO_A_USER
        if not _is_here(device, index, device.user if users else event.user):
            continue
        if number == event.exclude:
            continue
        if device.known is None or row.stamp > device.known:
            state = _show(state, number, row)
        elif row.stamp < device.known:
            if broken is Broken.OLDER_IS_NOT_SHOWN:
                state = _show(state, number, row)
            elif broken is not Broken.OLDER_IS_READ_AGAIN:
                state = state.process(index, heal_due=True)
    return state


def _show(state: State, number: int, row: Row) -> State:
    device = state.devices[number]
    if row.owner != device.user:
        state = replace(state, wrong=f"device {number} was shown another user's row")
    content = row.content
    return state.device(number, screen=content, shown=content, known=row.stamp)


def _end_session(state: State, index: int, session: int) -> State:
    revoked = state.processes[index].revoked | {session}
    state = state.process(index, revoked=revoked)
    for number, device in enumerate(state.devices):
        if device.attached and device.process == index and device.session == session:
            state = state.device(number, attached=False, granted=False)
    return state
