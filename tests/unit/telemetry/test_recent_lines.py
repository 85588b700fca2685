"""Which log lines are kept in memory, and how many."""

from tests.fakes import Log
from typelets_ws.telemetry.recent_lines import SHOWN, RecentLines


def test_lines_of_a_user_are_kept_newest_first_and_go_on_to_the_log() -> None:
    log, clock = Log(), iter(range(100))
    lines = RecentLines(100, lambda: next(clock))
    logger = lines.kept_from(log.bound()).bind(worker=1)
    logger.warning("auth_rejected", user="alice", reason="expired")
    logger.info("connection_closed", user="bob")
    logger.info("started")
    logger.debug("message_handled", user="alice")
    logger.error("internal_error", user="alice", exc_info=ValueError("x"))
    assert [line["event"] for line in lines.about("alice")] == [
        "internal_error",
        "auth_rejected",
    ]
    assert lines.about("alice")[1] == {
        "at": 0, "level": "warning", "event": "auth_rejected", "user": "alice",
        "reason": "expired", "worker": 1,
    }  # fmt: skip
    assert len(log.lines) == 5
    assert isinstance(log.lines[-1]["exc_info"], ValueError)


def test_memory_is_bounded_and_secrets_are_not_kept() -> None:
    lines = RecentLines(30, lambda: 0)
    logger = lines.kept_from(Log().bound())
    for number in range(40):
        logger.warning("a", user="alice" if number < 20 else "bob", token="SECRET")
    assert len(lines.about("alice")) == 10
    assert len(lines.about("bob")) == SHOWN == 20
    assert "SECRET" not in str(lines.about("bob"))
