"""Which users are looked at next, and what is known of them."""

import math

from typelets_ws.delivery.user_states import (
    MIXED,
    FirstLook,
    UserState,
    UserStates,
)
from typelets_ws.recovery_ports import RowKey, RowKind

KEY = RowKey("ann", RowKind.NOTE, "n1")


def states_of(*users: str) -> UserStates:
    """Users whose last look was at 0, 1, 2 and so on."""
    states = UserStates()
    for number, user in enumerate(users):
        states.add(user, float(number))
    return states


def due_of(states: UserStates, user: str) -> float | None:
    state = states.get(user)
    assert state is not None
    return state.due


def test_a_look_is_due_once_at_the_earliest_time_it_was_scheduled_for() -> None:
    states = states_of("ann", "bob", "eve")
    assert states.next_due() is None
    for user, when in (("ann", 5.0), ("ann", 3.0), ("ann", 4.0), ("bob", 3.5)):
        states.schedule(user, when)
    states.schedule("nobody", 0.0)
    assert (due_of(states, "ann"), states.next_due()) == (3.0, 3.0)
    assert states.take_due(2.9, 9) == []
    assert states.take_due(3.0, 9) == ["ann"]
    assert due_of(states, "ann") is None
    assert states.take_due(9.0, 9) == ["bob"], "later times of ann count for nothing"
    assert states.next_due() is None


def test_no_more_are_taken_than_asked_for_and_none_that_has_gone() -> None:
    states = states_of("ann", "bob", "eve", "joe")
    for number, user in enumerate(("ann", "bob", "eve", "joe")):
        states.schedule(user, float(number))
    states.discard("bob")
    states.discard("nobody")
    assert states.take_due(9.0, 2) == ["ann", "eve"]
    assert states.take_due(9.0, 2) == ["joe"]


def test_the_audit_takes_the_oldest_looks_that_have_none_scheduled() -> None:
    states = states_of("ann", "bob", "eve", "joe")
    states.schedule("ann", 50.0)
    assert states.oldest(2.0, 9) == ["bob", "eve"]
    assert states.oldest(9.0, 2) == ["bob", "eve"]
    assert states.next_audit(10.0) == 11.0
    assert states.staleness(7.0) == 7.0
    states.looked("ann", 8.0)
    states.looked("bob", 9.0)
    states.looked("nobody", 9.0)
    assert states.oldest(8.9, 9) == ["eve", "joe"]
    assert states.next_audit(10.0) == 12.0
    assert list(states) == ["eve", "joe", "ann", "bob"]
    assert states.staleness(7.0) == 5.0


def test_without_users_nothing_is_old() -> None:
    states = UserStates()
    assert states.oldest(math.inf, 9) == []
    assert (states.next_audit(1.0), states.staleness(9.0)) == (math.inf, 0.0)
    states.schedule("ann", 1.0)
    states.add("ann", 0.0)
    states.schedule("ann", 5.0)
    assert states.next_audit(1.0) == math.inf
    assert len(states) == 1


def test_a_look_begins_for_the_users_that_are_here() -> None:
    states = states_of("ann", "bob")
    (found,) = states.begun(["nobody", "bob"])
    assert found == ("bob", states.get("bob"))
    assert found[1].begun
    ann = states.get("ann")
    assert ann is not None
    assert not ann.begun
    assert states.add("ann", 9.0) is ann
    assert ann.looked_at == 0.0


def test_pages_of_different_numbers_of_rows_prove_nothing() -> None:
    state = UserState(0.0)
    for count, paged in ((3, 3), (3, 3), (4, MIXED), (4, MIXED), (3, MIXED)):
        state.add_page(count)
        assert state.paged == paged
    assert MIXED < 0, "no number of rows"


def test_what_was_read_of_another_database_is_forgotten() -> None:
    states = states_of("ann")
    state = states.get("ann")
    assert state is not None
    state.horizon = state.following = state.count = 5
    state.cursor, state.after = "c", (RowKind.NOTE, "n1")
    state.known = {KEY: "1"}
    state.waiting, state.collected = {KEY: FirstLook("1", 0.0)}, {}
    state.reason = "gap"
    states.restart()
    assert state == UserState(0.0, reason="gap", recount=True)
