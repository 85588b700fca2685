"""Any sequence of messages on any number of connections: no forbidden state, no leak.

Sessions, admission and conversations are real; the outside world is made of fakes
that answer at once. Every exception but a refusal or a disconnect would end the run.
"""

import asyncio
import base64
import hashlib
import hmac
import json
from collections.abc import Coroutine
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.fakes import FOLDER, NOTE, UNOWNED, FakeTransport, Stubs
from typelets_ws.ports import TokenRejectReason
from typelets_ws.protocol import client_messages
from typelets_ws.session.dispatcher import Dispatcher
from typelets_ws.session.session import State

LIMIT = 2
TOKENS = ["alice/s1", "alice/s2", "bob/s3", *TokenRejectReason]
PAYLOADS: list[dict[str, Any]] = [
    {"type": str(kind.__struct_config__.tag), "noteId": row, "folderId": row, **more}
    for kind in client_messages.CLIENT_MESSAGES
    if kind is not client_messages.Auth
    for row in (NOTE, FOLDER, UNOWNED, "junk")
    for more in (
        {},
        {
            "changes": {"title": "t"},
            "noteData": {"id": NOTE},
            "folderData": {"id": FOLDER},
        },
    )
]
JUNK = [b"", b"junk", b"[]", b"null", b'{"type":"?"}', b"\xff"]
numbers = st.integers(0, 3)


class One:
    """A client: its connection, and the secret it believes in."""

    def __init__(self, name: str) -> None:
        self.link = FakeTransport(name)
        self.secret = "none"
        self.user = ""


class Clients(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.world = Stubs(devices_per_user=LIMIT, rate_messages=8)
        self.loop = asyncio.new_event_loop()
        self.tasks: list[asyncio.Task[None]] = []
        self.published: list[str] = []
        self.count = 0
        self.log = self.world.log
        self.context = self.world.context(
            lambda user, _event, _done: self.published.append(user)
        )
        self.clients: dict[int, tuple[One, Dispatcher]] = {}

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        self.tasks.append(self.loop.create_task(work))
        return self.tasks[-1]

    def client(self, number: int) -> tuple[One, Dispatcher]:
        """The connection of that number, made when it is not there."""
        if number not in self.clients:
            self.count += 1
            one = One(f"c{self.count}")
            one.link.spawn = self.spawn
            session = self.world.session(one.link.connection_id)
            talk = Dispatcher(one.link, session, self.context)
            self.clients[number] = one, talk
        return self.clients[number]

    def settle(self) -> None:
        """Let all that is being handled end; then look at what was answered."""
        while self.tasks:
            self.loop.run_until_complete(self.tasks.pop(0))
        for number, (one, talk) in list(self.clients.items()):
            self.check(one, talk)
            if one.link.closed_with is not None:
                self.depart(number)

    def check(self, one: One, talk: Dispatcher) -> None:
        for text in one.link.sent:
            answer = json.loads(text)
            if answer["type"] == "auth_success":
                assert one.user in {"", answer["userId"]}
                one.user, one.secret = answer["userId"], answer["sessionSecret"]
            assert answer.get("code") != "INTERNAL"
        one.link.sent.clear()
        assert not talk.busy
        assert not one.link.paused
        if one.link.closed_with is not None:
            assert one.link.closed_with.close_code in {4401, 4429}

    def depart(self, number: int) -> None:
        """As `Connection` does when its socket is gone."""
        one, talk = self.clients.pop(number)
        one.link.open = False
        if one.link.is_authenticated:
            self.world.authenticator.detach(one.link, talk.session)
        talk.session.close()

    def say(self, number: int, data: bytes, *, text: bool = True) -> None:
        one, talk = self.client(number)
        if one.link.open:
            one.link.session_id = talk.session.session_id
            talk.receive(data, text=text)

    @rule(number=numbers, token=st.sampled_from(TOKENS), wait=st.booleans())
    def auth(self, number: int, token: str, wait: bool) -> None:
        self.say(number, json.dumps({"type": "auth", "token": token}).encode())
        if wait:
            self.settle()

    @rule(number=numbers, payload=st.sampled_from(PAYLOADS), wait=st.booleans())
    def plain(self, number: int, payload: dict[str, Any], wait: bool) -> None:
        self.say(number, json.dumps(payload).encode())
        if wait:
            self.settle()

    @rule(
        number=numbers,
        payload=st.sampled_from([*PAYLOADS, {"type": "auth", "token": "alice/s1"}]),
        nonce=st.integers(0, 5),
        good=st.booleans(),
    )
    def signed(
        self, number: int, payload: dict[str, Any], nonce: int, good: bool
    ) -> None:
        one, _ = self.client(number)
        body = {"payload": payload, "timestamp": self.world.now_ms, "nonce": f"{nonce}"}
        text = json.dumps(body, separators=(",", ":")).encode()
        key = one.secret if good else "wrong"
        mac = hmac.new(key.encode(), text, hashlib.sha256).digest()
        envelope = {**body, "signature": base64.b64encode(mac).decode()}
        self.say(number, json.dumps(envelope).encode())

    @rule(number=numbers, data=st.sampled_from(JUNK))
    def junk(self, number: int, data: bytes) -> None:
        self.say(number, data, text=data != b"\xff")

    @rule(number=numbers)
    def drop(self, number: int) -> None:
        if number in self.clients:
            self.depart(number)

    @rule(ms=st.sampled_from([1, 1_000, 60_000, 400_000]))
    def pass_time(self, ms: int) -> None:
        self.world.now_ms += ms

    @rule(session=st.sampled_from(["s1", "s2", "s3"]))
    def revoke(self, session: str) -> None:
        self.world.revoked.revoke(session, self.world.now_ms)

    @rule(down=st.booleans())
    def store_goes(self, down: bool) -> None:
        self.world.store.down = down

    @precondition(lambda self: self.tasks)
    @rule()
    def all_is_handled(self) -> None:
        self.settle()

    @invariant()
    def the_hub_has_just_those_who_are_in(self) -> None:
        inside = [(o, t) for o, t in self.clients.values() if o.link.is_authenticated]
        assert self.world.hub.devices == len(inside)
        for one, talk in inside:
            assert one.link in self.world.hub.devices_of(talk.session.user_id)
            if talk.session.state is State.CLOSED:
                assert one.link.closed_with is not None
        for _user, count in self.world.hub.users():
            assert count <= LIMIT
        assert set(self.published) <= {"alice", "bob"}

    def teardown(self) -> None:
        self.settle()
        for number in list(self.clients):
            self.depart(number)
        self.loop.close()
        world = self.world
        assert (world.hub.devices, len(world.hub)) == (0, 0)
        assert len(world.presence) == 0
        assert world.subscriptions.held == set()
        assert world.shared.slots == {}
        assert "internal_error" not in {line["event"] for line in self.log.lines}


Clients.TestCase.settings = settings(stateful_step_count=30)
TestClients = Clients.TestCase
