"""The limits of the listener: in all, unauthenticated, by address, by rate."""

from tests.fakes import live
from typelets_ws.protocol.errors import CloseCode
from typelets_ws.websocket.limiter import ConnectionLimiter, LimiterVerdict


class Guest:
    """A connection, as the door sees it."""

    def close(self, code: CloseCode, reason: str) -> None:
        raise AssertionError


OPEN = LimiterVerdict.OPEN


def door(**limits: int) -> ConnectionLimiter:
    return ConnectionLimiter(live(**limits))


def test_the_door_counts_all_those_unauthenticated_and_by_address() -> None:
    way_in = door(connections=3, unauthenticated=2, per_address=2)
    a, b, c = Guest(), Guest(), Guest()
    assert way_in.acquire("a", a, 0) == (OPEN, None, 5.0)
    assert way_in.acquire("a", b, 0).verdict is OPEN
    assert way_in.acquire("a", c, 0).verdict is LimiterVerdict.ADDRESS
    assert way_in.acquire("b", c, 0) == (OPEN, a, 5.0)
    assert way_in.acquire("c", Guest(), 0).verdict is LimiterVerdict.FULL
    assert (way_in.total, way_in.unauthenticated) == (3, 2)
    way_in.release("a", a)
    assert way_in.acquire("a", a, 0).verdict is LimiterVerdict.UNAUTHENTICATED
    way_in.authenticated("a", b)
    assert way_in.acquire("a", a, 0).verdict is OPEN
    for address, guest in ("a", b), ("b", c), ("a", a):
        way_in.release(address, guest)
    assert (way_in.total, way_in.unauthenticated) == (0, 0)
    assert way_in._addresses == {}


def test_the_door_bounds_the_rate_and_takes_other_limits() -> None:
    settings = live(accepts_per_second=1)
    way_in = ConnectionLimiter(settings)
    first = Guest()
    assert way_in.acquire("a", first, 0).verdict is OPEN
    assert way_in.acquire("a", Guest(), 0.9).verdict is LimiterVerdict.RATE
    assert way_in.acquire("a", Guest(), 1).verdict is OPEN
    settings.current = live(accepts_per_second=100, connections=2).current
    assert way_in.acquire("a", Guest(), 1).verdict is LimiterVerdict.FULL
    way_in.release("a", first)
    assert way_in.acquire("a", Guest(), 1).verdict is OPEN


def test_refused_tokens_shut_out_their_address_only() -> None:
    way_in = door(refused_tokens=2)
    way_in.token_refused("2001:db8::1", 0)
    way_in.token_refused("2001:db8::2", 10)
    shut_out = way_in.acquire("2001:db8::3", Guest(), 10)
    assert shut_out == (LimiterVerdict.TOKENS, None, 50.0)
    assert way_in.acquire("2001:db8:0:1::3", Guest(), 10).verdict is OPEN
    assert way_in.acquire("2001:db8::3", Guest(), 60).verdict is OPEN
