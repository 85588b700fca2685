"""Which rows have gone, by their number and by the ids that are kept."""

from uuid import UUID

from tests.unit.delivery.recovering import NOTE, OTHER, Device
from tests.unit.delivery.table import key_of
from typelets_ws.delivery.deletions import Deletions
from typelets_ws.delivery.hub import Hub
from typelets_ws.delivery.kept_ids import MOST_IDS, KeptIds
from typelets_ws.delivery.senders import RowSender
from typelets_ws.delivery.shown import ShownRows
from typelets_ws.delivery.user_states import UserState
from typelets_ws.recovery_ports import (
    Digest,
    PackedIds,
    StoredRow,
    TableContents,
    UserChanges,
)
from typelets_ws.telemetry.metrics import Metrics

DIGEST = Digest(TableContents(0, ""), TableContents(0, ""))
NOTE_KEY, OTHER_KEY = key_of(NOTE), key_of(OTHER)


def packed(*note_ids: str) -> PackedIds:
    return PackedIds(b"".join(UUID(one).bytes for one in note_ids), b"")


def changes(
    count: int, *, ids: PackedIds | None = None, rows: tuple[str, ...] = ()
) -> UserChanges:
    stored = [StoredRow(key_of(one), "1", True, "t", b"{}") for one in rows]
    return UserChanges(stored, False, None, None, count, ids)


class World:
    def __init__(self) -> None:
        self.hub, self.shown = Hub(), ShownRows(100_000)
        self.kept = KeptIds(100_000, 60.0)
        sender = RowSender(self.hub, Metrics(), lambda: 0)
        self.deletions = Deletions(self.kept, self.shown, sender)
        self.state = UserState(0.0)
        self.shown.add_user("alice")
        self.device = Device("c1")
        self.hub.attach("alice", self.device)

    def keep(self, *note_ids: str) -> None:
        self.kept.replace("alice", packed(*note_ids), 0.0)

    def compare(self, found: UserChanges) -> list[str] | None:
        gone = self.deletions.compare("alice", self.state, found, 0.0)
        return None if gone is None else [key.row_id for key in gone]

    def wants_ids(self, *, few: bool = True) -> bool:
        return self.deletions.wants_ids("alice", self.state, few=few)


def test_ids_are_read_when_they_are_not_known_and_there_are_not_too_many() -> None:
    world = World()
    assert [world.wants_ids(), world.wants_ids(few=False)] == [True, False]
    world.state.horizon = 0
    assert world.wants_ids(few=False), "it has had a look: this is the audit"
    world.state.count = MOST_IDS
    assert world.wants_ids()
    world.state.count = MOST_IDS + 1
    world.state.recount = True
    assert not world.wants_ids()
    world.state.count = 2
    world.keep(NOTE, OTHER)
    assert world.wants_ids(few=False)
    world.state.recount = False
    assert not world.wants_ids()


def test_rows_that_have_gone_are_named_by_the_ids_kept() -> None:
    world = World()
    assert world.compare(changes(2)) is None
    assert world.state.count == 2
    world.keep(NOTE, OTHER)
    assert world.compare(changes(2)) is None
    assert world.compare(changes(1)) == [], "which is not known yet"
    assert world.compare(changes(1, ids=packed(OTHER))) == [NOTE]
    assert world.compare(changes(1, ids=packed(OTHER))) is None
    assert world.state.count == 1


def test_a_row_whose_deletion_was_shown_is_not_named_again() -> None:
    world = World()
    world.keep(NOTE, OTHER)
    world.shown.created(NOTE_KEY, b"{}", None)
    world.shown.deleted(OTHER_KEY)
    assert world.compare(changes(0, ids=packed())) == [NOTE]


def test_without_ids_a_new_row_may_make_up_for_one_that_has_gone() -> None:
    world = World()
    assert world.compare(changes(2, rows=(NOTE,))) is None, "a first look"
    assert world.compare(changes(2, rows=(NOTE,))) == []
    world.keep(NOTE, OTHER)
    assert world.compare(changes(2, rows=(NOTE,))) is None


def test_a_page_of_other_rows_than_are_known_has_the_digest_sent() -> None:
    world = World()
    state = world.state
    world.deletions.begin("alice", state)
    assert (state.count, state.recount, state.sent) == (None, False, False)
    state.add_page(2)
    world.deletions.begin("alice", state)
    assert (state.count, state.paged, state.recount) == (2, None, False)
    state.add_page(2)
    world.deletions.begin("alice", state)
    assert (state.recount, state.sent) == (False, False)
    state.add_page(3)
    world.deletions.begin("alice", state)
    assert (state.count, state.recount, state.sent) == (2, True, True)
    state.recount = state.sent = False
    world.keep(NOTE)
    state.add_page(2)
    world.deletions.begin("alice", state)
    assert (state.recount, state.sent) == (True, True), "the ids kept tell the number"


def test_deletions_of_late_are_sent_once_more_to_all_or_to_one() -> None:
    world = World()
    world.kept.replace("alice", packed(NOTE), 0.0)
    world.kept.replace("alice", packed(), 0.0)
    world.deletions.repeat("alice", 60.1)
    world.hub.flush()
    assert world.device.heard() == []
    world.deletions.repeat("alice", 60.0)
    world.hub.flush()
    assert [one["noteId"] for one in world.device.messages] == [NOTE]
    world.shown.deleted(OTHER_KEY)
    other = Device("c2")
    assert world.deletions.repeat_to("alice", other, 0.0)
    assert [one["noteId"] for one in other.messages] == [NOTE, OTHER]
    assert world.device.heard() == ["note_deleted_sync"]
    assert not world.deletions.repeat_to("bob", other, 0.0)


def test_rows_deleted_of_late_may_be_in_another_database() -> None:
    world = World()
    world.keep(NOTE)
    world.keep()
    world.deletions.restart(["alice", "bob"])
    assert world.shown.deletions("alice") == [NOTE_KEY]
    assert world.kept.gone("alice", 0.0) == []


def test_another_look_tells_more_unless_this_one_had_ids_and_digest() -> None:
    lacks = Deletions.lacks_ids
    assert lacks(UserChanges([], False, None, None, 1, packed()))
    assert lacks(UserChanges([], False, DIGEST, None, 1, None))
    assert lacks(UserChanges([], False, DIGEST, None, MOST_IDS, None))
    assert not lacks(UserChanges([], False, DIGEST, None, MOST_IDS + 1, None))
    assert not lacks(UserChanges([], False, DIGEST, None, 1, packed()))
