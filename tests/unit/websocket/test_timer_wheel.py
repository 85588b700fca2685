"""One wheel: who has a deadline is looked at in time, and stands in one slot."""

from hypothesis import given
from hypothesis import strategies as st

from typelets_ws.websocket.timer_wheel import TimerWheel


class Thing:
    def __init__(self, *following: float | None) -> None:
        self.slot = 0
        self.looked_at: list[float] = []
        self._following = list(following)

    def on_timer(self, now: float) -> float | None:
        self.looked_at.append(now)
        return self._following.pop(0) if self._following else None


def test_a_thing_is_looked_at_when_due_and_asked_for_its_next_time() -> None:
    wheel, thing = TimerWheel(0.1), Thing(2.0)
    wheel.schedule(thing, 1.0)
    wheel.advance(0.9)
    assert thing.looked_at == []
    wheel.advance(1.15)
    wheel.advance(1.9)
    wheel.advance(2.2)
    wheel.advance(9.0)
    assert thing.looked_at == [1.15, 2.2]


def test_a_deadline_is_brought_forward_and_never_put_off() -> None:
    wheel, thing = TimerWheel(0.1), Thing()
    wheel.schedule(thing, 5.0)
    wheel.schedule(thing, 1.0)
    wheel.schedule(thing, 3.0)
    wheel.advance(1.2)
    assert thing.looked_at == [1.2]
    wheel.advance(9.0)
    assert thing.looked_at == [1.2]


def test_who_is_forgotten_is_looked_at_no_more() -> None:
    wheel, thing = TimerWheel(0.1), Thing()
    wheel.schedule(thing, 1.0)
    wheel.cancel(thing)
    wheel.advance(2.0)
    assert thing.looked_at == []


def test_a_deadline_in_the_past_is_met_by_the_next_sweep() -> None:
    wheel, thing = TimerWheel(0.1), Thing()
    wheel.advance(5.0)
    wheel.schedule(thing, 1.0)
    wheel.advance(5.0)
    assert thing.looked_at == []
    wheel.advance(5.11)
    assert thing.looked_at == [5.11]


def test_a_thing_that_asks_again_while_it_is_looked_at_stands_once() -> None:
    wheel = TimerWheel(0.1)

    class Eager(Thing):
        def on_timer(self, now: float) -> float | None:
            super().on_timer(now)
            wheel.schedule(self, now + 0.5)
            return now + 3.0

    thing = Eager()
    wheel.schedule(thing, 1.0)
    wheel.advance(1.2)
    wheel.advance(1.9)
    assert thing.looked_at == [1.2, 1.9]


def test_whom_another_sends_away_in_the_same_sweep_is_not_looked_at() -> None:
    wheel, victim = TimerWheel(0.1), Thing()

    class Bouncer(Thing):
        def on_timer(self, now: float) -> float | None:
            wheel.cancel(victim)
            return super().on_timer(now)

    bouncer = Bouncer()
    wheel.schedule(bouncer, 1.0)
    wheel.schedule(victim, 1.0)
    wheel.advance(2.0)
    wheel.schedule(victim, 2.5)
    wheel.advance(3.0)
    assert (len(bouncer.looked_at), victim.looked_at) == (1, [])


@given(st.lists(st.floats(0, 20), max_size=20), st.floats(0.05, 2))
def test_no_one_is_early_by_a_grain_or_ever_missed(
    deadlines: list[float], tick: float
) -> None:
    wheel = TimerWheel(tick)
    things = [(Thing(), when) for when in deadlines]
    for thing, when in things:
        wheel.schedule(thing, when)
    now = 0.0
    while now < 25:
        now += tick
        wheel.advance(now)
    for thing, when in things:
        (seen,) = thing.looked_at
        assert when <= seen + 1e-6
        assert seen <= when + 3 * tick
