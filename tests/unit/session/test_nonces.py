import gc
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes import live
from typelets_ws.session import nonces
from typelets_ws.session.nonces import (
    NonceMemory,
    NonceRegistry,
    NonceVerdict,
    nonce_digest,
    nonce_ttl_ms,
)

NOW = 1_700_000_000_000
FRESH, USED, FULL = NonceVerdict.FRESH, NonceVerdict.USED, NonceVerdict.FULL


def test_a_nonce_counts_once_any_its_timestamp() -> None:
    memory = NonceMemory(live(nonces_per_user=10))
    assert memory.claim("a", NOW, NOW) is FRESH
    assert memory.claim("a", NOW, NOW) is USED
    assert memory.claim("a", NOW + 1, NOW + 1) is USED
    assert memory.claim("", NOW, NOW) is FRESH
    assert memory.claim("", NOW, NOW) is USED


@pytest.mark.parametrize("ahead", [-300_000, -1, 0, 0.5, 60_000])
def test_a_nonce_is_remembered_as_long_as_its_message_may_come_again(
    ahead: float,
) -> None:
    memory = NonceMemory(live(nonces_per_user=10))
    memory.claim("a", NOW + ahead, NOW)
    last = int(NOW + ahead + 300_000)
    assert memory.claim("a", last, last) is USED
    assert memory.claim("a", last + 10_001, last + 10_001) is FRESH


def test_over_the_bound_new_ones_are_refused_and_none_is_forgotten() -> None:
    memory = NonceMemory(live(nonces_per_user=2))
    memory.claim("a", NOW, NOW)
    memory.claim("b", NOW, NOW)
    assert memory.claim("c", NOW, NOW) is FULL
    assert memory.claim("a", NOW, NOW) is USED
    assert memory.claim("b", NOW, NOW) is USED
    later = NOW + 310_000
    assert memory.claim("c", later, later) is FRESH
    assert len(memory) == 1


@given(
    st.lists(
        st.tuples(
            st.sampled_from("abcdef"),
            st.integers(-300_000, 60_000),
            st.integers(0, 100_000),
        )
    )
)
def test_no_message_is_accepted_twice(
    steps: list[tuple[str, int, int]],
) -> None:
    memory = NonceMemory(live(nonces_per_user=4))
    now = NOW
    fresh: dict[str, int] = {}
    for nonce, offset, wait in steps:
        now += wait
        if memory.claim(nonce, now + offset, now) is FRESH:
            assert now > fresh.get(nonce, 0) + (300_000 if nonce in fresh else 0)
            fresh[nonce] = now + offset
        assert len(memory) <= 4


def test_a_digest_is_short_for_any_nonce() -> None:
    assert len(nonce_digest("x" * 1_000_000)) == 16
    assert len({nonce_digest(n) for n in ("", "a", "\ud800", "\udc00")}) == 4


def test_a_shared_memory_keeps_a_nonce_ten_seconds_longer() -> None:
    assert nonce_ttl_ms(NOW, NOW) == 310_000
    assert nonce_ttl_ms(NOW + 0.5, NOW) == 310_001
    assert nonce_ttl_ms(NOW - 400_000, NOW) == 1


def test_all_connections_of_a_user_share_one_memory() -> None:
    registry = NonceRegistry(live(nonces_per_user=10))
    first = registry.of("ann", NOW)
    assert first is registry.of("ann", NOW)
    assert first.claim("a", NOW, NOW) is FRESH
    assert registry.of("ann", NOW).claim("a", NOW, NOW) is USED
    assert registry.of("bob", NOW).claim("a", NOW, NOW) is FRESH


def test_a_memory_outlives_the_connections_while_its_nonces_count() -> None:
    registry = NonceRegistry(live(nonces_per_user=10))
    registry.of("ann", NOW).claim("a", NOW, NOW)
    gc.collect()
    assert registry.of("ann", NOW + 300_000).claim("a", NOW, NOW + 300_000) is USED


def test_a_connection_may_keep_a_memory_that_was_idle() -> None:
    registry = NonceRegistry(live(nonces_per_user=10))
    held = registry.of("ann", NOW)
    held.claim("a", NOW, NOW)
    later = NOW + 400_000
    registry.of("bob", later)
    assert held.claim("b", later, later) is FRESH
    del held
    gc.collect()
    assert registry.of("ann", later).claim("b", later, later) is USED


def test_users_without_nonces_are_forgotten() -> None:
    registry = NonceRegistry(live(nonces_per_user=10))
    for number in range(100):
        registry.of(f"quiet {number}", NOW)
        registry.of(f"user {number}", NOW).claim("a", NOW, NOW)
    assert len(registry) == 100
    later = NOW + 400_000
    sizes = Counter[int]()
    for number in range(100):
        registry.of(f"new {number}", later).claim("a", later, later)
        sizes[len(registry)] += 1
    assert len(registry) <= 101
    assert max(sizes) <= 101


def test_another_limit_holds_for_memories_in_use_and_for_new_ones() -> None:
    settings = live(nonces_per_user=1)
    registry = NonceRegistry(settings)
    used = registry.of("alice", NOW)
    assert used.claim("1", NOW, NOW) is NonceVerdict.FRESH
    assert used.claim("2", NOW, NOW) is NonceVerdict.FULL
    settings.current = live(nonces_per_user=2).current
    new = registry.of("bob", NOW)
    for memory in (used, new):
        memory.claim("3", NOW, NOW)
        assert memory.claim("1", NOW, NOW) is not NonceVerdict.FULL
        assert memory.claim("4", NOW, NOW) is NonceVerdict.FULL


def test_all_users_together_are_bounded_and_a_small_user_is_served(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(nonces, "MOST_NONCES", 100)
    registry = NonceRegistry(live(nonces_per_user=1_000))
    hogs = [registry.of(f"hog{n}", NOW) for n in range(4)]
    for number in range(300):
        for hog in hogs:
            hog.claim(f"{number}", NOW, NOW)
    honest = [registry.of(f"user{n}", NOW) for n in range(4)]
    assert {one.claim("a", NOW, NOW) for one in honest} == {FRESH}
    assert hogs[0].claim("new", NOW, NOW) is FULL
    assert hogs[0].claim("1", NOW, NOW) is USED, "nothing is forgotten early"
    assert registry.total == sum(map(len, (*hogs, *honest))) <= 200
    later = NOW + 400_000
    assert hogs[0].claim("new", later, later) is FRESH
    assert registry.total < 200
    for number in range(10):
        registry.of(f"new{number}", later)
    assert registry.total == 1


def test_a_user_alone_has_the_share_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nonces, "MOST_NONCES", 10)
    registry = NonceRegistry(live(nonces_per_user=1_000))
    alone = registry.of("ann", NOW)
    claims = [alone.claim(f"{number}", NOW, NOW) for number in range(12)]
    assert claims == [FRESH] * 11 + [FULL]
