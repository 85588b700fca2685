"""The hub delivers to all of a user's devices but one, and to no other user's."""

from hypothesis import given
from hypothesis import strategies as st

from typelets_ws.delivery.hub import Hub
from typelets_ws.protocol.errors import CloseCode
from typelets_ws.wire.frames import Frame


class Fake:
    session_id: str | None = None
    open, behind = True, False

    def __init__(self, connection_id: str) -> None:
        self.connection_id = connection_id
        self.since_ms = 0
        self.log_fields = {"connection": connection_id}
        self.frames: list[Frame] = []

    def send_frame(self, frame: Frame) -> None:
        self.frames.append(frame)

    def close(self, code: CloseCode, reason: str) -> None:
        raise AssertionError

    def token_refused(self) -> None:
        raise AssertionError

    def ask_resync(self, reason: str, delay: float) -> None:
        raise AssertionError


def test_a_frame_reaches_all_of_a_users_devices_but_one() -> None:
    hub, frame = Hub(), Frame(b"x")
    phone, laptop, other = Fake("1"), Fake("2"), Fake("3")
    hub.attach("alice", phone)
    hub.attach("alice", laptop)
    hub.attach("bob", other)
    assert hub.queue("alice", frame) == 2
    assert hub.queue("alice", frame, "1") == 1
    assert hub.queue("alice", frame, "3") == 2
    assert hub.queue("nobody", frame) == 0
    assert phone.frames == laptop.frames == []
    for _ in range(2):
        hub.flush()  # the second time there is nothing left to send
    got = [b"".join(f.plain for f in d.frames) for d in (phone, laptop, other)]
    assert got == [2 * frame.plain, 3 * frame.plain, b""]


def test_frames_delivered_together_leave_as_one_joined_once_for_all() -> None:
    hub, one, two = Hub(), Frame(b"1"), Frame(b"2")
    phone, laptop = Fake("1"), Fake("2")
    hub.attach("alice", phone)
    hub.attach("alice", laptop)
    hub.queue("alice", one)
    hub.flush()
    assert phone.frames == laptop.frames == [one]
    hub.queue("alice", one)
    hub.queue("alice", two, "elsewhere")
    hub.flush()
    assert phone.frames[1] is laptop.frames[1]
    assert phone.frames[1].plain == one.plain + two.plain
    assert phone.frames[1].deflated == one.deflated + two.deflated
    assert phone.frames[1].deflated is phone.frames[1].deflated


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("123x")), max_size=20))
def test_each_gets_what_is_not_its_own_in_the_order_of_the_calls(
    calls: list[tuple[str, str]],
) -> None:
    hub = Hub()
    devices = {user: [Fake(f"{user}{n}") for n in range(1, 4)] for user in "ab"}
    for user, those in devices.items():
        for device in those:
            hub.attach(user, device)
    for number, (user, but) in enumerate(calls):
        hub.queue(user, Frame(b"%d" % number), f"{user}{but}")
    hub.flush()
    for user, those in devices.items():
        for device in those:
            wanted = [
                Frame(b"%d" % number).plain
                for number, (whose, but) in enumerate(calls)
                if whose == user and f"{user}{but}" != device.connection_id
            ]
            assert [f.plain for f in device.frames] == [b"".join(wanted)][: len(wanted)]


def test_who_is_detached_gets_nothing_and_leaves_nothing() -> None:
    hub, device = Hub(), Fake("1")
    hub.attach("alice", device)
    assert (len(hub), hub.devices, hub.count("alice")) == (1, 1, 1)
    assert list(hub.users()) == [("alice", 1)]
    assert hub.devices_of("alice") == (device,)
    hub.detach("alice", device)
    assert hub.queue("alice", Frame(b"x")) == 0
    hub.flush()
    assert device.frames == []
    assert (len(hub), hub.devices, hub.count("alice")) == (0, 0, 0)
    assert hub.devices_of("alice") == ()
    assert list(hub.users()) == []


def test_it_is_known_whether_somebody_else_is_there_to_be_reported() -> None:
    hub = Hub()
    assert not hub.has_other("alice", None)
    hub.attach("alice", Fake("1"))
    assert not hub.has_other("alice", "1")
    assert hub.has_other("alice", "2")
    assert hub.has_other("alice", None)
    hub.attach("alice", Fake("2"))
    assert hub.has_other("alice", "1")


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 5)), max_size=40))
def test_the_index_is_who_came_and_has_not_gone(steps: list[tuple[str, int]]) -> None:
    hub = Hub()
    here: dict[tuple[str, int], Fake] = {}
    for user, number in steps:
        if (user, number) in here:
            hub.detach(user, here.pop((user, number)))
        else:
            here[user, number] = device = Fake(f"{number}")
            hub.attach(user, device)
        assert hub.devices == len(here)
        for who in "ab":
            assert hub.count(who) == sum(one == who for one, _ in here)
        assert len(hub) == len({one for one, _ in here})
