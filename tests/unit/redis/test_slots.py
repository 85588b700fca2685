"""The map of a Cluster, redirections, and the keys that share a slot."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.texts import CHARACTERS
from typelets_ws.redis.keys import RedisKeys
from typelets_ws.redis.role import Mode, role_error
from typelets_ws.redis.slots import SlotMap, parse_slots, redirection, slot_of

ASKED = ("asked.example", 7000)


def test_owners_and_slots_without_one() -> None:
    a, b = ("a", 1), ("b", 2)
    slots = SlotMap([(100, 200, b), (0, 99, a), (300, 16383, a)])
    assert [slots.owner(slot) for slot in (0, 99, 100, 200, 201, 299, 300)] == [
        a, a, b, b, None, None, a,
    ]  # fmt: skip
    assert slots.masters == {a, b}
    assert SlotMap().owner(0) is None


@pytest.mark.parametrize("host", [None, b"", b"?"])
def test_a_node_that_does_not_know_its_address_is_the_asked_one(host: object) -> None:
    slots = parse_slots([[0, 16383, [host, 6379, b"id"]]], ASKED)
    assert slots.owner(5) == ("asked.example", 6379)


def test_a_reply_without_slots_is_refused() -> None:
    with pytest.raises(ValueError, match="no slots"):
        parse_slots([], ASKED)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        ("MOVED 3999 10.0.0.1:6381", ("MOVED", ("10.0.0.1", 6381))),
        ("ASK 3999 [::1]:6381", ("ASK", ("::1", 6381))),
        ("MOVED 3999 :6381", ("MOVED", ("asked.example", 6381))),
        ("TRYAGAIN Multiple keys request during rehashing", None),
        ("ERR unknown command", None),
    ],
)
def test_redirections(error: str, expected: object) -> None:
    assert redirection(error, ASKED) == expected


@given(st.text(CHARACTERS))
def test_a_users_keys_share_a_slot(user: str) -> None:
    keys = RedisKeys("typelets:", cluster=True)
    lease = keys.lease_prefix(keys.bucket(user)) + b"0123456789abcdef"
    assert slot_of(keys.devices(user)) == slot_of(lease)


def test_one_server_has_the_documented_names() -> None:
    keys = RedisKeys("typelets:", cluster=False)
    assert keys.devices("u{1}") == b"typelets:devices:u{1}"
    assert keys.lease_prefix(keys.bucket("u")) == b"typelets:era:"
    for cluster in (True, False):
        keys = RedisKeys("typelets:", cluster=cluster)
        assert keys.revoked("sess") == b"typelets:barred:sess"
        assert keys.nonce("u", b"n") == b"typelets:nonce:u:n"


def hello(mode: bytes, role: bytes) -> list[object]:
    return [b"server", b"redis", b"proto", 2, b"mode", mode, b"role", role]


def test_roles() -> None:
    assert role_error(hello(b"standalone", b"master"), Mode.SERVER) == ""
    assert "replica" in role_error(hello(b"standalone", b"replica"), Mode.SERVER)
    assert "redis+cluster" in role_error(hello(b"cluster", b"master"), Mode.SERVER)
    assert "redis+sentinel" in role_error(hello(b"sentinel", b"master"), Mode.SERVER)
    assert "single server" in role_error(hello(b"standalone", b"master"), Mode.CLUSTER)
    replica = hello(b"cluster", b"replica")
    assert role_error(replica, Mode.CLUSTER, replica_allowed=True) == ""
    for other in (None, b"PONG", [], [b"mode", b"proxy"]):
        assert role_error(other, Mode.SERVER) == ""
