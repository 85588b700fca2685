"""Which stored rows a look sends, which it waits for, and which devices hold."""

import json

import pytest

from typelets_ws.delivery.judging import ABSENT, Judge, Verdict
from typelets_ws.delivery.shown import ShownRows
from typelets_ws.delivery.shown_row import NOTE_NAMES
from typelets_ws.delivery.user_states import FirstLook, UserState
from typelets_ws.ports import VersionedRow
from typelets_ws.recovery_ports import RowKey, RowKind, StoredRow

KEY = RowKey("alice", RowKind.NOTE, "n1")
QUIET_S = 3.0


def at(number: int) -> str:
    return f"2026-01-01T00:00:00.{number:03d}Z"


def stored(number: int = 1, *, settled: bool = True) -> StoredRow:
    row = dict.fromkeys(NOTE_NAMES) | {"updatedAt": at(number), "id": "n1"}
    return StoredRow(KEY, f"v{number}", settled, at(number), json.dumps(row).encode())


class Looks:
    """Looks at one user, each with what waited in the one before."""

    def __init__(self) -> None:
        self.shown = ShownRows(100_000)
        self.shown.add_user("alice")
        self.state = UserState(0.0)

    def begin(self, now: float) -> Judge:
        return Judge(self.shown, self.state, self.shown.sequence, now, QUIET_S)

    def end(self, judge: Judge) -> None:
        self.state.waiting = judge.waiting or None


def test_a_settled_row_that_no_event_has_shown_is_sent() -> None:
    looks = Looks()
    judge = looks.begin(10.0)
    assert judge.judge(stored()) is Verdict.UNANNOUNCED
    assert judge.waiting == {}


def test_a_row_that_was_sent_is_held_until_it_changes_or_is_shown() -> None:
    looks = Looks()
    looks.begin(10.0).held(stored(1))
    assert looks.state.known == {KEY: "v1"}
    assert not looks.shown.is_unverified(KEY)
    assert looks.begin(11.0).judge(stored(2)) is Verdict.UNANNOUNCED
    looks.shown.forget(KEY)  # as when there is no room for its text
    assert looks.begin(11.0).judge(stored(1)) is Verdict.HELD
    changes = b'{"title":"x"}'
    looks.shown.updated(KEY, changes, changes, at(1))
    assert looks.begin(11.0).judge(stored(1)) is Verdict.SEND


def test_a_row_that_was_shown_whole_counts_as_known_from_then_on() -> None:
    looks = Looks()
    looks.shown.sent(stored())
    judge = looks.begin(10.0)
    assert judge.judge(stored(settled=False)) is Verdict.HELD
    assert looks.state.known == {KEY: "v1"}
    assert not looks.shown.is_unverified(KEY)


def test_a_row_shown_in_part_is_sent_and_was_announced() -> None:
    looks = Looks()
    changes = json.dumps({"title": "x", "updatedAt": at(1)}).encode()
    looks.shown.updated(KEY, changes, changes, at(1))
    judge = looks.begin(10.0)
    assert judge.judge(stored(1)) is Verdict.SEND
    assert judge.judge(stored(2)) is Verdict.UNANNOUNCED


def test_a_row_is_sent_when_it_has_rested() -> None:
    looks = Looks()
    for now in (10.0, 12.9):
        judge = looks.begin(now)
        assert judge.judge(stored(1, settled=False)) is Verdict.WAIT
        assert judge.waiting == {KEY: FirstLook("v1", 10.0)}
        looks.end(judge)
    assert looks.begin(13.0).judge(stored(1, settled=False)) is Verdict.UNANNOUNCED
    judge = looks.begin(13.0)
    assert judge.judge(stored(2, settled=False)) is Verdict.WAIT
    assert judge.waiting == {KEY: FirstLook("v2", 13.0)}


def test_a_row_that_is_shown_while_it_is_read_is_not_judged() -> None:
    looks = Looks()
    judge = looks.begin(10.0)
    looks.shown.sent(stored())
    assert judge.judge(stored()) is Verdict.WAIT
    assert judge.waiting == {KEY: FirstLook("v1", 10.0)}
    judge = looks.begin(11.0)
    looks.shown.deleted(KEY)
    assert judge.absent(KEY) is Verdict.WAIT
    assert judge.waiting == {KEY: FirstLook(ABSENT, 11.0)}


def test_a_row_that_a_page_may_have_shown_while_it_was_read_is_not_judged() -> None:
    """A page is not noted of rows that are not remembered."""
    looks = Looks()
    judge = looks.begin(10.0)
    looks.shown.page_sent("alice")
    assert judge.judge(stored()) is Verdict.WAIT
    assert looks.begin(11.0).judge(stored()) is Verdict.UNANNOUNCED
    looks.begin(11.0).held(stored())
    judge = looks.begin(12.0)
    looks.shown.page_sent("alice")
    looks.shown.page_sent("bob")
    assert judge.judge(stored()) is Verdict.HELD


def test_a_shown_row_that_has_changed_since_the_changes_were_read_waits() -> None:
    looks = Looks()
    looks.shown.sent(stored())
    judge = looks.begin(10.0)
    assert judge.judge_shown(stored(settled=False)) is Verdict.WAIT
    assert judge.waiting == {KEY: FirstLook("v1", 10.0)}
    assert judge.judge_shown(stored()) is Verdict.HELD


def test_fields_that_no_event_named_are_right_below_a_horizon() -> None:
    """The row is as it was when the devices were known to hold it."""
    for horizon, verdict in ((None, Verdict.SEND), (7, Verdict.HELD)):
        looks = Looks()
        looks.state.horizon = horizon
        changes = json.dumps({"title": None, "updatedAt": at(1)}).encode()
        looks.shown.updated(KEY, changes, changes, at(1))
        assert looks.begin(10.0).judge_shown(stored(1)) is verdict


def test_a_row_that_is_gone_is_sent_as_deleted_when_it_stays_away() -> None:
    looks = Looks()
    looks.shown.replied(KEY, VersionedRow(stored().text, at(1)), "c1")
    judge = looks.begin(10.0)
    assert judge.absent(KEY) is Verdict.WAIT
    assert judge.waiting == {KEY: FirstLook(ABSENT, 10.0)}
    looks.end(judge)
    assert looks.begin(12.0).absent(KEY) is Verdict.WAIT
    assert looks.begin(13.0).absent(KEY) is Verdict.UNANNOUNCED


def test_a_row_whose_deletion_was_shown_is_done_with() -> None:
    looks = Looks()
    looks.shown.deleted(KEY)
    assert looks.begin(10.0).absent(KEY) is Verdict.HELD
    assert looks.shown.get(KEY) is None


@pytest.mark.parametrize("way", ["page", "reply"])
def test_a_row_that_was_shown_to_one_device_since_its_deletion_was_is_missed(
    way: str,
) -> None:
    """An event of a deletion may mean that the row is in the trash."""
    looks = Looks()
    looks.shown.deleted(KEY)
    show = looks.shown.sent_to_one if way == "page" else looks.shown.replied
    show(KEY, VersionedRow(stored().text, at(1)), "c1")
    judge = looks.begin(10.0)
    assert judge.absent(KEY) is Verdict.WAIT
    looks.end(judge)
    assert looks.begin(13.0).absent(KEY) is Verdict.UNANNOUNCED


def test_a_row_that_is_not_remembered_is_missed_when_it_has_gone() -> None:
    """There was no room for what devices were shown: they may hold it."""
    looks = Looks()
    judge = looks.begin(10.0)
    assert judge.absent(KEY) is Verdict.WAIT
    looks.end(judge)
    assert looks.begin(13.0).absent(KEY) is Verdict.UNANNOUNCED


@pytest.mark.parametrize("same", [True, False])
def test_a_creation_does_not_reach_a_device_that_was_shown_the_row(
    same: bool,
) -> None:
    looks = Looks()
    looks.shown.deleted(KEY)
    first = stored(1).text
    looks.shown.sent_to_one(KEY, VersionedRow(first, at(1)), "c1")
    row = stored(1 if same else 2)
    looks.shown.created(KEY, row.text, row.updated_at)
    expected = Verdict.HELD if same else Verdict.SEND
    assert looks.begin(10.0).judge(row) is expected


def test_a_creation_does_not_reach_its_holder_that_has_removed_the_row() -> None:
    looks = Looks()
    looks.shown.deleted(KEY)
    looks.shown.created(KEY, stored().text, at(1), holder="c1")
    assert looks.begin(10.0).judge(stored()) is Verdict.SEND
