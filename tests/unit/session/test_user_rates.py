"""A user's messages are counted over all connections and reconnects."""

from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from typelets_ws.config.live import LiveConfig
from typelets_ws.config.model import Config, Limits
from typelets_ws.session import user_rates
from typelets_ws.session.rate_limit import RateVerdict, SlidingWindow
from typelets_ws.session.user_rates import SLOTS, UserRate, UserRates

SERVED, REFUSED, FLOOD = RateVerdict
LIMITS = Limits(rate_messages=3, rate_window_ms=30_000, user_rate_factor=2)


def test_beyond_the_limit_refused_and_at_three_times_a_flood() -> None:
    rate = UserRate(2, 30.0)
    assert [rate.count(0.5) for _ in range(6)] == [SERVED] * 2 + [REFUSED] * 3 + [FLOOD]
    assert rate.retry_after(0.5) == 30.5
    assert rate.count(30.9) is FLOOD
    assert rate.count(31.0) is SERVED
    assert rate.retry_after(31.0) == 0


def test_an_expensive_message_counts_as_so_many() -> None:
    rate = UserRate(10, 30.0)
    rate.charge(5)
    rate.count(0.0)
    rate.charge(5)
    assert [rate.count(1.0) for _ in range(5)] == [SERVED] * 4 + [REFUSED]
    rate.charge(1_000)
    assert rate.count(2.0) is REFUSED


def test_messages_of_one_part_of_the_window_are_one_number() -> None:
    rate = UserRate(100, 30.0)
    for _ in range(50):
        rate.count(0.5)
    rate.count(1.0)
    assert list(rate._slots) == [(0, 50, 0)]


def test_a_count_is_idle_as_soon_as_its_last_message_has_left_the_window() -> None:
    rate = UserRate(2, 30.0)
    rate.count(0.0)
    assert not rate.is_idle(30.5)
    assert rate.is_idle(31.0)


@given(st.integers(1, 5), st.lists(st.floats(0, 4), max_size=60))
def test_no_window_ever_serves_more_than_its_limit(
    limit: int, steps: list[float]
) -> None:
    rate = UserRate(limit, 10.0)
    now, served = 0.0, deque[float]()
    for step in steps:
        now += step
        if rate.count(now) is SERVED:
            served.append(now)
        assert sum(at > now - 10.0 for at in served) <= limit
        assert len(rate._slots) <= SLOTS + 2
        retry = rate.retry_after(now)
        if retry:
            now += retry + 1e-6
            assert rate.count(now) is SERVED
            served.append(now)


def test_all_connections_of_a_user_share_one_count() -> None:
    rates = UserRates(LiveConfig(Config(limits=LIMITS)))
    one, other = rates.of("alice", 0.0), rates.of("alice", 1.0)
    assert one is other
    assert rates.of("bob", 1.0) is not one


def test_the_count_outlives_its_connections_and_is_then_forgotten() -> None:
    rates = UserRates(LiveConfig(Config(limits=LIMITS)))
    for _ in range(6):
        assert rates.of("alice", 0.0).count(0.0) is SERVED
    assert rates.of("alice", 29.0).count(29.0) is REFUSED
    assert len(rates) == 1
    rates.of("bob", 90.0).count(90.0)
    rates.of("carol", 90.0)
    assert "alice" not in rates._recent
    assert "alice" not in rates._known


def test_so_many_are_kept_and_the_first_is_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(user_rates, "MOST_KEPT", 3)
    rates = UserRates(LiveConfig(Config(limits=LIMITS)))
    for number, kept in enumerate((1, 2, 3, 3, 3)):
        rates.of(f"user{number}", 0.0).count(0.0)
        assert len(rates) == kept


def test_a_flood_is_remembered_for_a_window() -> None:
    rates = UserRates(LiveConfig(Config(limits=LIMITS)))
    window = SlidingWindow(3, 30.0)
    while window.count(1.0) is not FLOOD:
        pass
    rates.remember_flood("alice", window, 1.0)
    assert rates.flood_of("bob", 1.0) is None
    again = rates.flood_of("alice", 30.0)
    assert again is not None
    assert [again.count(30.0), again.count(31.0)] == [REFUSED, SERVED]
    assert rates.flood_of("alice", 31.0) is None


def test_another_rate_is_counted_afresh() -> None:
    settings = LiveConfig(Config(limits=LIMITS))
    rates = UserRates(settings)
    one = rates.of("alice", 0.0)
    settings.current = Config(limits=LIMITS)
    assert rates.of("alice", 0.0) is one
    settings.current = Config(limits=Limits(rate_messages=4))
    assert rates.of("alice", 0.0) is not one
