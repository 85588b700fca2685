"""Shares between addresses: an address keeps its share only while others want one."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from typelets_ws.websocket.fair_share import OVERDRAFT, FairRate, FairSlots, Strikes


def filled(limit: int, **held: int) -> FairSlots[str]:
    slots: FairSlots[str] = FairSlots()
    for key, count in held.items():
        for number in range(count):
            assert slots.allows(key, limit)
            slots.acquire(key, f"{key}{number}", limit)
    return slots


def test_an_address_may_take_all_slots_while_no_one_else_wants_one() -> None:
    slots = filled(3, a=3)
    assert not slots.allows("a", 3)
    assert slots.held("a") == len(slots) == 3


def test_the_oldest_of_the_largest_holder_gives_way() -> None:
    slots = filled(5, a=3, b=2)
    assert slots.allows("c", 5)
    assert slots.acquire("c", "c0", 5) == "a0"
    assert (slots.held("a"), slots.held("b"), slots.held("c")) == (2, 2, 1)
    assert not slots.allows("c", 5)
    assert not slots.allows("b", 5)


def test_an_evicted_holder_gives_no_slot_back_again() -> None:
    slots = filled(2, a=2)
    assert slots.acquire("b", "b0", 2) == "a0"
    slots.release("a", "a0")
    assert len(slots) == 2
    slots.release("a", "a1")
    slots.release("a", "a1")
    slots.release("b", "b0")
    assert len(slots) == 0
    assert not slots._holders
    assert not slots._by_size


def test_ten_addresses_cannot_keep_an_eleventh_out() -> None:
    slots = filled(2_000, **{f"a{n}": 200 for n in range(10)})
    for number in range(181):
        assert slots.allows("honest", 2_000)
        assert slots.acquire("honest", f"h{number}", 2_000) is not None
    assert slots.held("honest") == 181
    assert not slots.allows("a0", 2_000)


def test_many_addresses_with_one_slot_each_keep_no_other_out() -> None:
    slots = filled(3, a=1, b=1, c=1)
    assert slots.allows("d", 3)
    assert slots.acquire("d", "d0", 3) == "a0"
    assert not slots.allows("b", 3), "it has its share"
    assert slots.acquire("a", "a1", 3) == "b0"


def test_a_slot_can_be_handed_over() -> None:
    slots = filled(2, a=1)
    slots.replace("a", "a0", "a1")
    slots.replace("a", "gone", "a2")
    slots.release("a", "a0")
    assert slots.held("a") == 1
    slots.release("a", "a1")
    assert len(slots) == 0


@given(
    st.integers(1, 6),
    st.lists(st.tuples(st.sampled_from("abcd"), st.booleans()), max_size=80),
)
def test_slots_are_bounded_and_fair(limit: int, steps: list[tuple[str, bool]]) -> None:
    slots: FairSlots[int] = FairSlots()
    mine: dict[int, str] = {}
    for number, (key, leave) in enumerate(steps):
        if leave:
            for holder in [h for h, k in mine.items() if k == key][:1]:
                slots.release(key, holder)
                del mine[holder]
        elif slots.allows(key, limit):
            evicted = slots.acquire(key, number, limit)
            if evicted is not None:
                assert Counter(mine.values())[mine[evicted]] >= slots.held(key)
                del mine[evicted]
            mine[number] = key
        else:
            assert len(mine) == limit
            assert max(Counter(mine.values()).values()) <= slots.held(key) + 1
        assert len(slots) == len(mine) <= limit
        assert {k: slots.held(k) for k in "abcd"} == {
            k: Counter(mine.values())[k] for k in "abcd"
        }


def test_one_address_alone_has_the_whole_rate() -> None:
    rate = FairRate(1.0)
    assert sum(rate.try_acquire("a", 0.0, 5, 0.4) for _ in range(6)) == 5
    assert rate.try_acquire("a", 1.0, 5, 0.4)


def test_beside_others_one_address_has_its_part() -> None:
    rate = FairRate(1.0)
    assert rate.try_acquire("b", 0.0, 10, 0.2)
    assert sum(rate.try_acquire("a", 0.1, 10, 0.2) for _ in range(3)) == 2


def test_a_flood_of_one_address_leaves_others_their_share() -> None:
    rate = FairRate(1.0)
    assert sum(rate.try_acquire("flood", 0.0, 100, 1.0) for _ in range(1_000)) == 100
    assert sum(rate.try_acquire("honest", 0.1, 100, 1.0) for _ in range(40)) == 40
    assert not rate.try_acquire("flood", 0.2, 100, 1.0)


@given(
    st.integers(1, 8),
    st.floats(0.05, 1.0),
    st.lists(st.tuples(st.sampled_from("abcde"), st.integers(0, 3)), max_size=100),
)
def test_a_rate_is_bounded_and_forgets(
    limit: int, share: float, steps: list[tuple[str, int]]
) -> None:
    rate = FairRate(10.0)
    now, served = 0.0, []
    for key, step in steps:
        now += step
        if rate.try_acquire(key, now, limit, share):
            served.append((now, key))
        recent = [k for at, k in served if at > now - 10.0]
        assert len(recent) <= limit * OVERDRAFT
        assert max(Counter(recent).values(), default=0) <= limit
        assert rate._counts == Counter(recent)


def test_an_address_is_shut_out_for_the_rest_of_the_window() -> None:
    strikes = Strikes(60.0, 100)
    for at in (0.0, 10.0, 20.0):
        assert strikes.retry_after("a", at, 3) == 0
        strikes.add("a", at, 3)
    assert strikes.retry_after("a", 20.0, 3) == 40.0
    assert strikes.retry_after("b", 20.0, 3) == 0
    assert strikes.retry_after("a", 60.0, 3) == 0
    strikes.add("a", 65.0, 3)
    assert strikes.retry_after("a", 65.0, 3) == 5.0


def test_strikes_are_bounded_and_forgotten() -> None:
    strikes = Strikes(60.0, 3)
    for number in range(9):
        strikes.add(f"a{number}", 0.0, 1)
    assert len(strikes) == 3
    assert strikes.retry_after("a8", 1.0, 1) > 0
    strikes.add("b", 61.0, 1)
    assert len(strikes) == 1


def test_another_limit_of_strikes_holds_at_once() -> None:
    strikes = Strikes(60.0, 100)
    for at in (0.0, 10.0, 20.0):
        strikes.add("a", at, 9)
    assert strikes.retry_after("a", 20.0, 9) == 0
    assert strikes.retry_after("a", 20.0, 3) == 40.0
    assert strikes.retry_after("a", 20.0, 1) == 60.0
    strikes.add("a", 30.0, 1)
    assert strikes.retry_after("a", 30.0, 1) == 60.0
    assert strikes.retry_after("a", 30.0, 2) == 0
