"""When a connection must be looked at: each deadline, and the gravest first."""

from typelets_ws.config.live import LiveConfig
from typelets_ws.config.model import Config, Limits
from typelets_ws.websocket.timers import NEVER, ConnectionTimers, Timer

LIMITS = Limits(
    handshake_s=10, ping_interval_s=25, ping_timeout_s=20, stalled_s=15, abort_s=2
)


def opened(limits: Limits = LIMITS) -> ConnectionTimers:
    return ConnectionTimers(LiveConfig(Config(limits=limits)), 0)


def inside() -> ConnectionTimers:
    liveness = opened()
    liveness.authenticated()
    return liveness


def due(
    liveness: ConnectionTimers, now: float, *, reading: bool = True
) -> Timer | None:
    return liveness.expired(now, reading=reading)


def test_auth_must_come_and_pings_do_not_put_it_off() -> None:
    liveness = opened()
    assert liveness.next() == 25
    assert due(liveness, 25) is Timer.PING
    liveness.pong_received()
    assert due(liveness, 29.9) is None
    assert due(liveness, 30) is Timer.AUTH_TIMEOUT


def test_a_pong_must_follow_a_ping() -> None:
    liveness = inside()
    assert due(liveness, 25) is Timer.PING
    assert liveness.next() == 45
    assert due(liveness, 44.9) is None
    assert due(liveness, 45) is Timer.PONG_MISSING


def test_a_pong_puts_everything_right() -> None:
    liveness = inside()
    assert due(liveness, 25) is Timer.PING
    liveness.pong_received()
    assert liveness.next() == 50
    assert due(liveness, 50) is Timer.PING


def test_while_a_pong_is_missing_no_second_ping_is_sent() -> None:
    quick = opened(Limits(ping_interval_s=5, ping_timeout_s=20))
    quick.authenticated()
    assert due(quick, 5) is Timer.PING
    assert due(quick, 10) is None
    assert quick.next() == 15
    assert due(quick, 25) is Timer.PONG_MISSING


def test_while_we_do_not_read_the_pong_is_given_more_time() -> None:
    liveness = inside()
    assert due(liveness, 25) is Timer.PING
    assert due(liveness, 45, reading=False) is None
    assert due(liveness, 64.9) is None
    assert due(liveness, 65) is Timer.PONG_MISSING


def test_a_stalled_writer_is_one_from_which_not_a_byte_has_left() -> None:
    liveness = inside()
    liveness.write_blocked(1, 100)
    liveness.write_blocked(5, 999)
    assert liveness.next() == 16
    assert due(liveness, 16) is Timer.STALL_CHECK
    assert not liveness.stalled(16, 101, 50)
    assert liveness.next() == 25
    assert due(liveness, 25) is Timer.PING
    assert due(liveness, 31) is Timer.STALL_CHECK
    assert liveness.stalled(31, 101, 50)


def test_a_writer_that_has_drained_is_looked_at_no_more() -> None:
    liveness = inside()
    liveness.write_blocked(1, 100)
    assert not liveness.stalled(16, 100, 0)
    assert liveness.next() == 25
    liveness.write_blocked(20, 100)
    assert liveness.next() == 25
    assert due(liveness, 35) is Timer.STALL_CHECK


def test_the_resync_asked_for_first_and_due_first_is_reported() -> None:
    liveness = inside()
    liveness.ask_resync("late", 9)
    liveness.ask_resync("soon", 3)
    liveness.ask_resync("later", 5)
    assert (liveness.resync_reason, liveness.next()) == ("soon", 3)
    assert due(liveness, 3) is Timer.RESYNC
    liveness.take_resync()
    assert due(liveness, 4) is None


def test_from_a_close_only_the_abort_is_left() -> None:
    liveness = opened()
    liveness.write_blocked(0, 0)
    liveness.ask_resync("x", 1)
    liveness.closing(3)
    assert liveness.next() == 5
    liveness.closing(4)
    assert liveness.next() == 5
    assert due(liveness, 4.9) is None
    assert due(liveness, 5) is Timer.ABORT


def test_the_gravest_comes_first() -> None:
    liveness = opened()
    liveness.write_blocked(0, 0)
    liveness.ask_resync("x", 1)
    due(liveness, 0.5)
    assert due(liveness, 100) is Timer.AUTH_TIMEOUT
    liveness.authenticated()
    assert due(liveness, 100) is Timer.RESYNC
    liveness.take_resync()
    assert due(liveness, 100) is Timer.STALL_CHECK


def test_other_limits_hold_from_the_next_deadline_on() -> None:
    settings = LiveConfig(Config(limits=LIMITS))
    liveness = ConnectionTimers(settings, 0)
    liveness.authenticated()
    settings.current = Config(limits=Limits(ping_interval_s=1))
    assert liveness.next() == 25
    assert due(liveness, 25) is Timer.PING
    liveness.pong_received()
    assert liveness.next() == 26


def test_without_any_deadline_no_one_looks() -> None:
    liveness = inside()
    liveness._next_ping = NEVER
    assert liveness.next() is None


def test_an_unfinished_message_must_end() -> None:
    timers = inside()
    assert timers.message_unfinished(10)
    assert not timers.message_unfinished(20), "its first byte counts"
    assert due(timers, 39.9) is Timer.PING
    assert due(timers, 40) is Timer.UNFINISHED
    timers.message_finished()
    assert due(timers, 41) is None


def test_a_message_whose_rest_we_do_not_read_has_its_time_again() -> None:
    timers = inside()
    timers._next_ping = NEVER
    timers.message_unfinished(10)
    assert due(timers, 40, reading=False) is None
    assert timers.next() == 70
    assert due(timers, 70) is Timer.UNFINISHED


def test_one_pong_is_awaited_for_each_ping() -> None:
    timers = inside()
    assert not timers.awaits_pong
    assert not timers.pong_received()
    assert due(timers, 25) is Timer.PING
    assert timers.pong_received()
    assert not timers.pong_received()
