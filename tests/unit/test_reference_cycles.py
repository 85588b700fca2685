"""Refused input is freed at once: no refusal leaves work for the garbage collector.

The collector is off in these tests, and counts what it would have had to find. A
daemon tells it to run rarely, so that garbage is as good as a leak.
"""

import ast
import asyncio
import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

import typelets_ws
from tests.collector import uncollected
from tests.fakes import FOLDER, NOTE, UNOWNED, Stubs
from tests.unit.session.test_dispatcher import DispatcherHarness
from typelets_ws.clerk import keys
from typelets_ws.clerk.tokens import Clerk
from typelets_ws.config.model import AuthSettings
from typelets_ws.ports import Clock, StoreError, TokenError
from typelets_ws.protocol import event_decoding
from typelets_ws.protocol.event_decoding import EventError

BIG = "x" * 10_000
BIG_RAW = b"x" * 10_000
UPDATE = {"type": "note_update", "noteId": NOTE}


def text(**message: object) -> bytes:
    return json.dumps(message).encode()


MESSAGES = {
    "not JSON": BIG_RAW,
    "not an object": b'["' + BIG_RAW + b'"]',
    "too deep": b"[" * 10_000,
    "unknown type": text(type=BIG, requestId="r"),
    "wrong field": text(type="join_note", noteId=[BIG]),
    "request id": text(type="ping", requestId=BIG),
    "malformed id": text(type="join_note", noteId=BIG),
    "missing id": text(type="leave_note", x=BIG),
    "other user's note": text(type="join_note", noteId=UNOWNED, x=BIG),
    "no valid field": text(**UPDATE, changes={BIG: BIG}),
    "field of another type": text(**UPDATE, changes={"title": [BIG]}),
    "NUL": text(**UPDATE, changes={"title": BIG + "\0"}),
    "folder id": text(**UPDATE, changes={"folderId": BIG}),
    "other user's data": text(type="note_created", noteData={"userId": BIG}),
    "data of another type": text(type="note_created", noteData=[BIG]),
    "other user's folder": text(type="folder_deleted", folderId=UNOWNED, x=BIG),
    "too large": text(type="ping", x=BIG * 10),
    "empty": b"",
    "signature": text(payload={"x": BIG}, signature=BIG, timestamp=1, nonce=BIG),
    "token": text(type="auth", token="malformed"),
}  # fmt: skip


def conversation(act: Callable[[DispatcherHarness], object], **limits: int) -> None:
    """Let a client that is authenticated act ten times, without the collector."""

    async def scenario() -> None:
        async with asyncio.TaskGroup() as group:
            talk = DispatcherHarness(Stubs(**limits), group)
            talk.world.store.add_note(UNOWNED, "bob")
            talk.world.store.add_folder(UNOWNED, "bob")
            await talk.come_in()
            act(talk)
            await talk.idle()
            with uncollected():
                for _ in range(10):
                    act(talk)
                    await talk.idle()
            talk.heard()

    asyncio.run(scenario())


@pytest.mark.parametrize("name", MESSAGES)
def test_a_refused_message_is_freed(name: str) -> None:
    conversation(lambda talk: talk.say(MESSAGES[name]), message_bytes=50_000)


@pytest.mark.parametrize("name", MESSAGES)
def test_a_message_refused_behind_a_busy_one_is_freed(name: str) -> None:
    def act(talk: DispatcherHarness) -> None:
        talk.say({"type": "join_note", "noteId": NOTE})
        talk.say(MESSAGES[name])

    conversation(act, message_bytes=50_000)


def test_a_message_over_the_rate_is_freed() -> None:
    conversation(lambda talk: talk.say(BIG_RAW), rate_messages=5)


@pytest.mark.parametrize("message", [
    text(**UPDATE, changes={"content": BIG}),
    text(type="join_note", noteId=NOTE, x=BIG),
    text(type="note_created", noteId=NOTE, noteData={"x": BIG}),
    text(type="folder_updated", folderId=FOLDER, changes={"x": BIG}),
])  # fmt: skip
def test_a_message_of_an_outage_is_freed(message: bytes) -> None:
    def act(talk: DispatcherHarness) -> None:
        talk.world.store.down = True
        talk.world.store.answer = StoreError("down")
        talk.say(message)

    conversation(act)


def test_a_message_that_meets_a_mistake_of_the_daemon_is_freed() -> None:
    def act(talk: DispatcherHarness) -> None:
        talk.world.store.answer = ZeroDivisionError()
        talk.say(text(**UPDATE, changes={"content": BIG}))

    conversation(act)


@pytest.mark.parametrize("payload", [
    BIG_RAW,
    b"\xff" + BIG_RAW,
    b"[" * 10_000,
    text(event=BIG),
    text(event="note_updated", noteId=BIG),
    text(event="note_created", noteData=BIG),
])  # fmt: skip
def test_a_malformed_event_is_freed(payload: bytes) -> None:
    with uncollected():
        for _ in range(10):
            with suppress(EventError):
                event_decoding.decode(payload)


@pytest.mark.parametrize("token", [
    BIG, BIG * 2, "a.b.c", "e30.e30.e30", "", "eyJhbGciOiJSUzI1NiJ9.e30.AAAA",
])  # fmt: skip
async def test_a_refused_token_is_freed(
    token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The last one waits for a key that never comes.
    monkeypatch.setattr(keys, "_WAIT_S", 0.001)

    async def no_keys() -> bytes:
        raise OSError

    clerk = Clerk(
        AuthSettings(secret_key="k"),
        Clock(lambda: 0.0, lambda: 0.0),
        Stubs().telemetry,
        fetch=no_keys,
    )
    with suppress(TokenError):
        await clerk.verify(token)
    with uncollected():
        for _ in range(10):
            with suppress(TokenError):
                await clerk.verify(token)


def sources() -> list[Path]:
    return sorted(Path(typelets_ws.__file__).parent.rglob("*.py"))


@pytest.mark.parametrize("path", sources(), ids=lambda path: path.name)
def test_no_exception_has_a_name_when_it_is_raised(path: Path) -> None:
    """`raise name` makes a cycle unless the name is deleted on the way out."""
    for function in ast.walk(ast.parse(path.read_text())):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            deleted = {
                target.id
                for node in ast.walk(function)
                if isinstance(node, ast.Delete)
                for target in node.targets
                if isinstance(target, ast.Name)
            }
            for node in ast.walk(function):
                if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Name):
                    name = node.exc.id
                    assert name[0].isupper() or name in deleted, (path, node.lineno)


@pytest.mark.parametrize("path", sources(), ids=lambda path: path.name)
def test_no_caught_exception_gets_a_second_name(path: Path) -> None:
    """Python deletes the name of `except … as name`, and that name alone."""
    for handler in ast.walk(ast.parse(path.read_text())):
        if isinstance(handler, ast.ExceptHandler) and handler.name:
            for node in ast.walk(handler):
                if isinstance(node, ast.Assign) and isinstance(node.value, ast.Name):
                    assert node.value.id != handler.name, (path, node.lineno)
