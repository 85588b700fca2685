"""Messages of one client in their order: at once, waiting, refused, or blamed on us."""

import asyncio
import base64
import hashlib
import hmac
import json
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest
from msgspec import structs

from tests.fakes import NOTE, NOW_MS, UNOWNED, FakeTransport, Stubs
from typelets_ws.config.model import Config, Limits, Messages
from typelets_ws.ports import OnPublished
from typelets_ws.protocol import messages
from typelets_ws.protocol.errors import ClientError, Disconnect
from typelets_ws.recovery_ports import RowKey, RowKind
from typelets_ws.session.dispatcher import (
    INBOX_MESSAGES,
    REFUSAL_BYTES,
    Dispatcher,
)
from typelets_ws.session.nonces import nonce_digest
from typelets_ws.session.session import Received, Session, State

UPDATE = {"type": "note_update", "noteId": NOTE, "changes": {"title": "x"}}


class DispatcherHarness:
    """One conversation with everything it needs; tasks belong to `group`."""

    def __init__(self, world: Stubs, group: asyncio.TaskGroup) -> None:
        self.world = world
        self.tasks: list[asyncio.Task[None]] = []
        self._group = group
        self.link = FakeTransport("c1")
        self.published: list[tuple[str, dict[str, Any]]] = []
        self.link.spawn = self.spawn
        limits = structs.replace(world.limits, unread_bytes_before_auth=100)
        world.live.current = Config(limits=limits)
        self.answers: list[OnPublished | None] = []
        """Of Redis, to each event."""
        self.context = world.context(self._publish)
        self.log = world.log
        self.talk = Dispatcher(self.link, world.session(), self.context)

    def _publish(self, user: str, event: bytes, done: OnPublished | None) -> None:
        self.published.append((user, json.loads(event)))
        self.answers.append(done)

    def say(self, message: object, *, text: bool = True) -> None:
        data = message if isinstance(message, bytes) else json.dumps(message).encode()
        self.talk.receive(data, text=text)

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        self.tasks.append(self._group.create_task(work))
        return self.tasks[-1]

    async def idle(self) -> None:
        """Let all that is being handled end."""
        while self.tasks:
            await self.tasks.pop(0)
        assert not self.talk.busy

    async def let_go(self, gate: asyncio.Event) -> None:
        """Let what waits at the gate end; reading goes on then."""
        gate.set()
        await self.idle()
        assert not self.link.paused

    def holds(self) -> bool:
        """Whether the link was asked not to read on."""
        return self.link.paused

    def heard(self) -> list[dict[str, Any]]:
        """The messages to the client since the last call."""
        told, self.link.sent = self.link.sent, []
        return [json.loads(text) for text in told]

    async def ask(self, message: object) -> dict[str, Any]:
        self.say(message)
        await self.idle()
        (answer,) = self.heard()
        return answer

    async def come_in(self, token: str = "alice/s1") -> dict[str, Any]:
        return await self.ask({"type": "auth", "token": token})


@asynccontextmanager
async def talking(**limits: int) -> AsyncIterator[DispatcherHarness]:
    async with asyncio.TaskGroup() as group:
        yield DispatcherHarness(Stubs(**limits), group)


def kinds(found: list[dict[str, Any]]) -> list[str]:
    return [str(message.get("code", message["type"])) for message in found]


async def test_what_needs_no_one_is_answered_in_the_same_turn() -> None:

    async with talking() as talk:
        talk.say({"type": "ping"})
        talk.say(b"")
        talk.say(b'{"type":"ping"}', text=False)
        talk.say({"type": "join_note"})
        assert kinds(talk.heard()) == [
            "pong", "INVALID_MESSAGE", "INVALID_MESSAGE", "AUTH_REQUIRED",
        ]  # fmt: skip
        assert not talk.talk.busy


async def test_what_is_pipelined_waits_for_its_turn() -> None:

    async with talking() as talk:
        talk.world.clerk.gate.clear()
        talk.say({"type": "auth", "token": "alice"})
        talk.say({"type": "ping"})
        talk.say(b"junk")
        talk.say({"type": "join_note", "noteId": NOTE})
        talk.say({"type": "ping"})
        await asyncio.sleep(0)
        assert talk.heard() == []
        talk.world.clerk.gate.set()
        await talk.idle()
        assert kinds(talk.heard()) == [
            "auth_success", "pong", "INVALID_MESSAGE", "note_joined", "pong",
        ]  # fmt: skip
        assert talk.link.is_authenticated


async def test_an_inbox_that_is_full_stops_the_reading_until_it_is_empty() -> None:

    async with talking() as talk:
        talk.world.clerk.gate.clear()
        talk.say({"type": "auth", "token": "alice"})
        talk.say(b"x" * 100)
        assert not talk.holds()
        talk.say(b"x")
        assert talk.holds()
        await talk.let_go(talk.world.clerk.gate)
        talk.world.store.gate.clear()
        talk.say({"type": "join_note", "noteId": NOTE})
        for _ in range(INBOX_MESSAGES):
            talk.say({"type": "ping"})
        assert not talk.holds()
        talk.say({"type": "ping"})
        assert talk.holds()
        await talk.let_go(talk.world.store.gate)


async def test_while_it_is_paused_messages_wait_and_are_counted() -> None:
    """The client has not read its replies; it gets no more until it has."""
    async with talking() as talk:
        dispatcher = talk.talk
        dispatcher.pause()
        first, rest = {"type": "ping"}, [{"type": "auth", "token": "alice"}, b"junk"]
        sizes = [len(json.dumps(first)), len(json.dumps(rest[0])), len(b"junk")]
        for number, message in enumerate([first, *rest], 1):
            talk.say(message)
            assert dispatcher.held_bytes == sum(sizes[:number])
        assert (talk.tasks, talk.heard()) == ([], [])
        talk.world.clerk.gate.clear()
        dispatcher.resume()
        assert kinds(talk.heard()) == ["pong"]
        assert dispatcher.held_bytes == sum(sizes[1:])
        dispatcher.resume()
        assert len(talk.tasks) == 1
        await talk.let_go(talk.world.clerk.gate)
        assert kinds(talk.heard()) == ["auth_success", "INVALID_MESSAGE"]
        assert dispatcher.held_bytes == 0


async def test_frames_that_are_no_message_are_counted_too() -> None:
    async with talking(rate_messages=2) as talk:
        found = [talk.talk.count_frame() for _ in range(6)]
        assert found[:2] == [None, None]
        assert {type(one) for one in found[2:5]} == {ClientError}
        assert isinstance(found[5], Disconnect)
        assert (talk.heard(), talk.link.open) == ([], True), "the link acts on it"


async def test_a_message_being_handled_is_held_until_it_is_answered() -> None:
    async with talking() as talk:
        gate = talk.world.clerk.gate
        gate.clear()
        message = {"type": "auth", "token": "alice"}
        size = len(json.dumps(message))
        talk.say(message)
        assert talk.talk.held_bytes == size
        accounted = talk.link.accounted
        talk.say({"type": "ping"})
        talk.say(b"junk", text=False)
        assert talk.talk.held_bytes == size + len('{"type": "ping"}') + REFUSAL_BYTES
        assert talk.link.accounted == accounted + 2
        await talk.let_go(gate)
        assert talk.talk.held_bytes == 0


async def test_a_client_that_is_gone_has_nothing_handled_any_more() -> None:
    async with talking() as talk:
        await talk.come_in()
        gate = talk.world.store.gate
        gate.clear()
        update = json.dumps(UPDATE).encode()
        talk.say(update)
        for _ in range(3):
            talk.say({"type": "note_deleted", "noteId": NOTE})
        await asyncio.sleep(0)
        talk.talk.close()
        talk.talk.release()
        assert talk.talk.session.state is State.CLOSED
        assert talk.talk.held_bytes == len(update)
        gate.set()
        await talk.idle()
        assert [event["event"] for _, event in talk.published] == ["note_updated"]
        assert talk.talk.held_bytes == 0
        assert not hasattr(talk.talk, "_transport"), "it would make a cycle"


async def test_a_client_that_waits_for_nothing_is_released_at_once() -> None:
    async with talking() as talk:
        await talk.come_in()
        talk.talk.pause()
        talk.say(b"x" * 1_000)
        talk.talk.close()
        assert (talk.talk.held_bytes, talk.talk._inbox) == (0, None)
        talk.talk.release()
        assert not hasattr(talk.talk, "_transport")


async def test_a_paused_client_that_is_busy_goes_on_with_the_rest_later() -> None:
    async with talking() as talk:
        gate = talk.world.clerk.gate
        gate.clear()
        talk.say({"type": "auth", "token": "alice"})
        talk.say({"type": "ping"})
        await asyncio.sleep(0)
        talk.talk.pause()
        talk.talk.pause()
        talk.link.pause_reading()
        gate.set()
        await talk.idle()
        assert kinds(talk.heard()) == ["auth_success"]
        assert talk.link.paused, "what waits has not been handled"
        talk.talk.resume()
        assert kinds(talk.heard()) == ["pong"]
        assert (talk.link.paused, talk.tasks) == (False, [])
        talk.talk.resume()
        assert talk.heard() == []


@pytest.mark.parametrize("taken", [True, False])
async def test_an_announcement_with_an_id_is_answered_once_redis_has(
    *, taken: bool
) -> None:
    async with talking() as talk:
        await talk.come_in()
        talk.say({"type": "note_deleted", "noteId": NOTE, "requestId": "r"})
        await talk.idle()
        assert talk.heard() == []
        talk.world.now_ms += 5
        (done,) = talk.answers
        assert done is not None
        done(taken)
        (answer,) = talk.heard()
        assert answer["requestId"] == "r"
        if taken:
            assert (answer["type"], answer["timestamp"]) == ("announced", NOW_MS + 5)
        else:
            assert answer["code"] == "UNAVAILABLE"


async def test_messages_are_counted_with_their_result_and_their_time() -> None:
    async with talking() as talk:
        await talk.come_in()
        await talk.ask({"type": "ping"})
        await talk.ask(UPDATE | {"noteId": UNOWNED})
        figure = talk.world.figure
        assert figure("messages_total", type="auth", result="ok") == 1
        assert figure("messages_total", type="ping", result="ok") == 1
        assert figure("messages_total", type="note_update", result="NOT_FOUND") == 1
        assert figure("handling_seconds_count", type="note_update") == 1
        assert figure("handling_seconds_sum", type="note_update") == 0.0


async def test_reading_held_for_half_a_message_goes_on_after_auth() -> None:

    async with talking() as talk:
        talk.world.clerk.gate.clear()
        talk.say({"type": "auth", "token": "alice"})
        talk.link.pause_reading()
        await talk.let_go(talk.world.clerk.gate)


async def test_behind_a_final_failure_nothing_is_handled() -> None:

    async with talking() as talk:
        talk.say({"type": "auth", "token": "malformed"})
        talk.say({"type": "ping"})
        await talk.idle()
        assert kinds(talk.heard()) == ["auth_failed"]
        assert talk.link.closed_with
        assert talk.link.closed_with.close_code == 4401


async def test_the_rate_refuses_and_a_flood_ends_it() -> None:

    async with talking(rate_messages=2) as talk:
        for _ in range(5):
            talk.say({"type": "ping", "requestId": "r"})
        answers = talk.heard()
        assert kinds(answers) == ["pong", "pong"] + ["RATE_LIMITED"] * 3
        assert answers[-1]["requestId"] == "r"
        talk.say({"type": "ping"})
        assert talk.link.closed_with
        assert talk.link.closed_with.close_code == 4429


async def test_a_refusal_keeps_its_place_in_line_and_large_ones_are_not_kept() -> None:

    async with talking(message_bytes=500) as talk:
        talk.world.clerk.gate.clear()
        limits = Limits(message_bytes=500, unread_bytes_before_auth=REFUSAL_BYTES)
        talk.world.live.current = Config(limits=limits)
        talk.say({"type": "auth", "token": "alice"})
        talk.say(b'{"requestId":"r"}' + b" " * 1000)
        assert not talk.holds()
        talk.world.clerk.gate.set()
        await talk.idle()
        answers = talk.heard()
        assert kinds(answers) == ["auth_success", "MESSAGE_TOO_LARGE"]
        assert answers[1]["requestId"] == "r"


async def test_an_update_is_answered_and_reported() -> None:

    async with talking() as talk:
        await talk.come_in()
        answer = await talk.ask(UPDATE)
        assert answer["type"] == "note_update_success"
        ((user, event),) = talk.published
        assert (user, event["event"]) == ("alice", "note_updated")


async def test_a_reply_in_conflict_with_what_was_shown_has_the_row_read() -> None:
    """An event with a newer version arrived while the update was under way."""

    async with talking() as talk:
        await talk.come_in()
        key = RowKey("alice", RowKind.NOTE, NOTE)
        shown = talk.world.recovery.shown
        talk.world.store.gate.clear()
        talk.say(UPDATE)
        await asyncio.sleep(0)  # it begins
        newer = "2026-01-02T00:00:00.000Z"
        shown.updated(key, b"{}", b"{}", newer)
        talk.world.store.gate.set()
        await talk.idle()
        (reply,) = talk.heard()
        assert reply["type"] == "note_update_success"
        assert list(talk.world.recovery.conflicts.waiting) == [key]
        assert (await talk.ask(UPDATE))["type"] == "note_update_success"
        known = shown.get(key)
        assert known is not None
        assert known.replied, "it began after all that was shown: it is the newest"


async def test_a_row_that_refuses_an_update_is_noted_as_shown_to_its_sender() -> None:
    """And read again, if an event showed it meanwhile: it may be older."""
    update = {**UPDATE, "baseUpdatedAt": "2020-01-01T00:00:00.000Z"}
    async with talking() as talk:
        await talk.come_in()
        key = RowKey("alice", RowKind.NOTE, NOTE)
        shown = talk.world.recovery.shown
        conflicts = talk.world.recovery.conflicts.waiting
        await talk.ask(UPDATE)
        sequence = shown.sequence
        assert (await talk.ask(update))["code"] == "CONFLICT"
        assert shown.touched(key, sequence)
        assert not conflicts
        talk.world.store.gate.clear()
        talk.say(update)
        await asyncio.sleep(0)  # it begins
        shown.updated(key, b"{}", b"{}", None)
        talk.world.store.gate.set()
        await talk.idle()
        assert list(conflicts) == [key]


async def test_a_page_is_read_once_the_client_has_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Events that leave while a client is slow to read would overtake its rows."""

    async with talking() as talk:
        await talk.come_in()
        order: list[str] = []

        async def drained() -> None:
            order.append("drained")

        async def page(*_: object) -> messages.SyncPage:
            order.append("read")
            return messages.SyncPage(notes=[], folders=[], cursor="c", more=False)

        monkeypatch.setattr(talk.link, "drained", drained)
        monkeypatch.setattr(talk.world.recovery, "sync", page)
        talk.world.recovery.on = True
        assert (await talk.ask({"type": "sync"}))["type"] == "sync_page"
        assert order == ["drained", "read"]


async def test_an_announcement_is_reported_and_not_answered() -> None:

    async with talking() as talk:
        await talk.come_in()
        talk.say({"type": "note_deleted", "noteId": NOTE})
        await talk.idle()
        assert talk.heard() == []
        assert talk.published[0][1]["event"] == "note_deleted"


async def test_a_failure_of_the_store_is_logged_under_the_id_that_is_reported() -> None:

    async with talking() as talk:
        await talk.come_in()
        talk.world.store.down = True
        answer = await talk.ask(UPDATE)
        assert answer["code"] == "UNAVAILABLE"
        (line,) = talk.log.lines
        assert line["event"] == "message_failed"
        assert line["correlation_id"] == answer["correlationId"]
        assert line["cause"] == "down"


async def test_what_no_one_thought_of_is_an_internal_error_and_no_more() -> None:

    async with talking() as talk:
        await talk.come_in()
        talk.world.store.answer = RuntimeError("secret detail")
        answer = await talk.ask(UPDATE | {"requestId": "r"})
        assert answer == {
            "type": "error", "message": "Internal error", "code": "INTERNAL",
            "requestId": "r", "correlationId": answer["correlationId"],
        }  # fmt: skip
        assert talk.log.lines[-1]["event"] == "internal_error"
        assert talk.log.lines[-1]["correlation_id"] == answer["correlationId"]
        talk.world.store.answer = None
        assert (await talk.ask(UPDATE))["type"] == "note_update_success"


def envelope(secret: str, payload: object, nonce: str = "n") -> dict[str, Any]:
    body = {"payload": payload, "timestamp": NOW_MS, "nonce": nonce}
    text = json.dumps(body, separators=(",", ":")).encode()
    mac = hmac.new(secret.encode(), text, hashlib.sha256).digest()
    return {**body, "signature": base64.b64encode(mac).decode()}


async def test_a_signed_message_uses_up_its_nonce_everywhere() -> None:

    async with talking() as talk:
        secret = (await talk.come_in())["sessionSecret"]
        assert (await talk.ask(envelope(secret, UPDATE, "n1")))["noteId"] == NOTE
        assert talk.world.shared.used["alice", nonce_digest("n1")] == 1
        talk.world.shared.used["alice", nonce_digest("n2")] = 1
        signed = envelope(secret, UPDATE | {"requestId": "r"}, "n2")
        answer = await talk.ask(signed)
        assert (answer["code"], answer["requestId"]) == ("SIGNATURE_REJECTED", "r")
        pong = await talk.ask(envelope(secret, {"type": "ping"}, "n3"))
        assert pong["type"] == "pong"
        assert talk.world.shared.used["alice", nonce_digest("n3")] == 0


async def test_a_refused_signature_is_counted_and_logged_by_its_verdict() -> None:

    async with talking() as talk:
        await talk.come_in()
        answer = await talk.ask(envelope("wrong", UPDATE))
        assert answer["code"] == "SIGNATURE_REJECTED"
        (line,) = talk.log.lines
        assert (line["event"], line["verdict"]) == (
            "signature_rejected",
            "bad_signature",
        )
        kind = "signature_bad_signature"
        assert talk.world.figure("security_events_total", kind=kind) == 1


async def test_other_settings_hold_from_the_next_message_on() -> None:

    async with talking() as talk:
        await talk.come_in()
        rules = Messages(require_encrypted=True)
        talk.world.live.current = Config(messages=rules)
        assert (await talk.ask(UPDATE))["message"] == "title must be encrypted"


async def test_a_mistake_in_reading_a_message_ends_neither_task_nor_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with talking() as talk:
        await talk.come_in()
        accept = Session.accept

        def broken(session: Session, data: bytes, now_ms: int) -> Received:
            if b"broken" in data:
                raise ZeroDivisionError
            return accept(session, data, now_ms)

        monkeypatch.setattr(Session, "accept", broken)
        talk.say({"type": "join_note", "noteId": NOTE})
        talk.say({"type": "broken"})
        talk.say({"type": "ping"})
        await talk.idle()
        talk.say({"type": "broken"})
        assert kinds(talk.heard())[-3:] == ["INTERNAL", "pong", "INTERNAL"]
        assert talk.link.open
