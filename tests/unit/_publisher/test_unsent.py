"""A publisher's unsent events: bounded, in turns, nothing twice."""

import redis

from typelets_ws._publisher import unsent as _publisher_unsent
from typelets_ws._publisher.unsent import MOST_ORDERS, MOST_USERS, Outcomes, Publication

LOST = redis.ConnectionError("lost")


def change(user: str) -> Publication:
    return Publication(user, "note_deleted", f"c:{user}", b"{}")


def order(user: str) -> Publication:
    return Publication(user, "user_disconnected", f"c:{user}", b"order", is_order=True)


def resync(user: str) -> Publication:
    return Publication(user, "resync_required", f"c:{user}", b"resync")


def outcomes() -> Outcomes:
    return Outcomes(resync, None)


def taken(given: Outcomes) -> list[tuple[str, str]]:
    found = []
    while (message := given.take()) is not None:
        found.append((message.user_id, message.event))
    return found


def test_a_user_is_reported_once_and_orders_go_as_they_were() -> None:
    given = outcomes()
    for message in (change("a"), change("a"), order("x"), change("b"), order("x")):
        given.failed(message, LOST)
    assert (given.failures, given.pending) == (5, 4)
    assert taken(given) == [
        ("x", "user_disconnected"),
        ("a", "resync_required"),
        ("x", "user_disconnected"),
        ("b", "resync_required"),
    ]
    assert given.pending == 0


def test_a_message_is_pending_until_redis_has_taken_it() -> None:
    """A service that ends once nothing is pending must not end while it is sent."""
    given = outcomes()
    given.failed(change("a"), LOST)
    message = given.take()
    assert message is not None
    assert given.pending == 1
    given.give_back(message)
    assert given.pending == 1
    assert given.take() is not None
    given.sent()
    assert given.pending == 0
    assert given.take() is None
    assert given.pending == 0


def test_what_is_refused_for_ever_delays_no_one_else() -> None:
    given = outcomes()
    given.failed(order("x"), LOST)
    given.failed(change("a"), LOST)
    given.failed(change("b"), LOST)
    seen = []
    for _ in range(4):
        message = given.take()
        assert message is not None
        seen.append(message.user_id)
        if message.user_id in "xa":
            given.give_back(message)
    assert set(seen) == {"x", "a", "b"}


def test_memory_is_bounded_and_what_is_forgotten_is_counted() -> None:
    given = outcomes()
    for number in range(MOST_USERS + 5):
        given.failed(change(f"u{number}"), LOST)
    for number in range(MOST_ORDERS + 7):
        given.failed(order(f"o{number}"), LOST)
    assert given.pending == MOST_USERS + MOST_ORDERS
    assert given.forgotten == 12
    assert _publisher_unsent.MOST_USERS <= 10_000


def test_redis_is_not_asked_again_until_it_has_answered() -> None:
    given = outcomes()
    given.failed(change("a"), redis.ResponseError("NOPERM"))
    given.raise_if_down()
    given.failed(change("a"), LOST)
    try:
        given.raise_if_down()
    except redis.ConnectionError:
        given.sent()
    given.raise_if_down()
