"""Revoked sessions: how long, how many, and that other processes learn of them."""

from typelets_ws.delivery.revocations import RevokedSessions

TTL_S = 60.0


class Shared:
    """Records what is written to Redis."""

    def __init__(self) -> None:
        self.revoked: list[tuple[str, int]] = []

    def revoke_session(self, session_id: str, ttl_ms: int) -> None:
        self.revoked.append((session_id, ttl_ms))


def sessions(limit: int = 3) -> tuple[RevokedSessions, Shared]:
    shared = Shared()
    return RevokedSessions(TTL_S, limit, shared), shared  # type: ignore[arg-type]


def test_a_session_is_revoked_for_its_time_on_every_process() -> None:
    revoked, shared = sessions()
    assert not revoked.is_revoked("s1", 0.0)
    revoked.revoke("s1", 10.0)
    assert shared.revoked == [("s1", 60_000)]
    assert revoked.is_revoked("s1", 10.0)
    assert revoked.is_revoked("s1", 69.9)
    assert not revoked.is_revoked("s1", 70.0)
    assert not revoked.is_revoked("s2", 10.0)


def test_no_session_is_never_revoked() -> None:
    revoked, _ = sessions()
    revoked.revoke("s1", 0.0)
    assert not revoked.is_revoked(None, 1.0)


def test_revoking_again_begins_the_time_again() -> None:
    revoked, shared = sessions()
    revoked.revoke("s1", 0.0)
    revoked.revoke("s1", 50.0)
    assert revoked.is_revoked("s1", 100.0)
    assert not revoked.is_revoked("s1", 110.0)
    assert len(shared.revoked) == 2


def test_over_the_limit_the_oldest_is_dropped() -> None:
    revoked, _ = sessions(limit=3)
    for number in range(3):
        revoked.revoke(f"s{number}", float(number))
    assert all(revoked.is_revoked(f"s{number}", 5.0) for number in range(3))
    revoked.revoke("s0", 5.0)
    revoked.revoke("s3", 6.0)
    found = [revoked.is_revoked(f"s{number}", 6.0) for number in range(4)]
    assert found == [True, False, True, True]


def test_expired_entries_take_no_room() -> None:
    revoked, _ = sessions(limit=3)
    for number in range(3):
        revoked.revoke(f"s{number}", float(number))
    revoked.revoke("s3", 61.5)
    assert [revoked.is_revoked(f"s{number}", 61.6) for number in (2, 3)] == [True, True]
    revoked.revoke("s4", 61.7)
    assert revoked.is_revoked("s2", 61.8)


def test_a_session_revoked_again_is_the_newest() -> None:
    revoked, _ = sessions(limit=3)
    revoked.revoke("s0", 0.0)
    revoked.revoke("s1", 1.0)
    revoked.revoke("s0", 50.0)
    for session, now in (("s2", 61.0), ("s3", 61.0)):
        revoked.revoke(session, now)
    assert all(revoked.is_revoked(f"s{number}", 62.0) for number in (0, 2, 3))
