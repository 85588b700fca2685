"""The sliding window of one client, by arithmetic alone."""

from collections import deque

from hypothesis import given
from hypothesis import strategies as st

from typelets_ws.session.rate_limit import ByteWindow, RateVerdict, SlidingWindow

SERVED, REFUSED, FLOOD = RateVerdict.SERVED, RateVerdict.REFUSED, RateVerdict.FLOOD


def test_a_window_slides() -> None:
    window = SlidingWindow(2, 10)
    assert [window.count(t) for t in (0, 9, 9, 10, 11)] == [
        SERVED, SERVED, REFUSED, SERVED, REFUSED,
    ]  # fmt: skip
    assert window.count(19) is SERVED


def test_refused_arrivals_do_not_extend_the_window() -> None:
    window = SlidingWindow(2, 10)
    for now in (0, 1, 2, 3, 4):
        window.count(now)
    assert window.retry_after(4) == 6
    assert window.count(10) is SERVED


def test_retry_after_is_nothing_while_there_is_room() -> None:
    window = SlidingWindow(1, 10)
    assert window.retry_after(5) == 0
    window.count(5)
    assert window.retry_after(6) == 9
    assert window.retry_after(20) == 0


def test_three_times_the_limit_within_a_window_is_a_flood() -> None:
    window = SlidingWindow(3, 10)
    assert [window.count(1) for _ in range(8)] == [SERVED] * 3 + [REFUSED] * 5
    assert window.count(1) is FLOOD


def test_what_is_expensive_counts_as_so_many_more() -> None:
    window = SlidingWindow(4, 10)
    assert window.count(0) is RateVerdict.SERVED
    window.charge(2)
    assert window.count(0) is RateVerdict.SERVED
    assert window.count(0) is RateVerdict.REFUSED
    assert window.count(10) is RateVerdict.SERVED
    window.charge(1_000_000)
    assert window.retry_after(10) == 10
    assert window.count(10) is RateVerdict.FLOOD
    assert window.count(20) is RateVerdict.SERVED


def test_refusals_of_long_ago_make_no_flood() -> None:
    window = SlidingWindow(1, 10)
    window.count(0)
    assert window.count(1) is REFUSED
    assert window.count(10) is SERVED
    assert window.count(12) is REFUSED
    assert window.count(12) is FLOOD


@given(st.integers(1, 5), st.lists(st.integers(0, 4), max_size=60))
def test_no_window_ever_serves_more_than_its_limit(
    limit: int, steps: list[int]
) -> None:
    window = SlidingWindow(limit, 10)
    now, served = 0, deque[int]()
    for step in steps:
        now += step
        room = sum(at > now - 10 for at in served) < limit
        verdict = window.count(now)
        assert (verdict is SERVED) == room
        if room:
            served.append(now)


class PlainWindow:
    """The same rules, unit by unit and without a shortcut."""

    def __init__(self, limit: int, window: float) -> None:
        self.limit, self.window = limit, window
        self.served: list[float] = []
        self.refused: list[float] = []

    def count(self, now: float) -> RateVerdict:
        self.now = now
        self.served = [at for at in self.served if at > now - self.window]
        self.refused = [at for at in self.refused if at > now - self.window]
        if len(self.served) < self.limit:
            self.served.append(now)
            return SERVED
        if len(self.served) + len(self.refused) + 1 >= 3 * self.limit:
            return FLOOD
        self.refused.append(now)
        return REFUSED

    def charge(self, units: int) -> None:
        for _ in range(units):
            if len(self.served) < self.limit:
                self.served.append(self.now)
            elif len(self.served) + len(self.refused) + 1 < 3 * self.limit:
                self.refused.append(self.now)

    def retry_after(self, now: float) -> float:
        served = [at for at in self.served if at > now - self.window]
        return self.served[0] + self.window - now if len(served) >= self.limit else 0


@given(
    st.integers(1, 5),
    st.lists(st.tuples(st.integers(0, 6), st.integers(0, 20)), max_size=40),
)
def test_charges_count_like_so_many_arrivals(
    limit: int, arrivals: list[tuple[int, int]]
) -> None:
    window, plain, now = SlidingWindow(limit, 10), PlainWindow(limit, 10), 0
    for pause, units in arrivals:
        now += pause
        assert window.count(now) is plain.count(now)
        window.charge(units)
        plain.charge(units)
        assert window.retry_after(now) == plain.retry_after(now)


def test_bytes_are_counted_within_a_window_that_begins_with_its_first() -> None:
    window = ByteWindow(10, 30.0)
    assert [window.count(size, 1.0) for size in (10, 1, 19)] == [
        SERVED, REFUSED, REFUSED,
    ]  # fmt: skip
    assert window.count(1, 30.9) is FLOOD
    assert window.retry_after(30.0) == 1.0
    assert window.count(10, 31.0) is SERVED
    assert window.retry_after(31.0) == 30.0
    assert window.count(21, 60.9) is FLOOD
