"""A device for the tests of apps and REST services, on websockets' own client.

    async with connect("ws://127.0.0.1:8765/", user="user_alice") as phone:
        publisher.notify_note_deleted("user_alice", note_id)
        await phone.expect("note_deleted_sync", noteId=note_id)
        assert await phone.barrier() == []

Invariants: messages are handed out in the order received, and none is skipped but by
`expect`. Each wait has a limit in seconds. `barrier` needs no sleeping: the daemon
answers a ping after all that it sent before.
Tested by tests/integration/test_testing.py.
"""

import asyncio
import base64
import hashlib
import hmac
import itertools
import json
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final
from urllib.error import HTTPError
from urllib.parse import urlencode, urlsplit
from urllib.request import Request, urlopen

from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as connect_socket
from websockets.exceptions import ConnectionClosed

__all__ = ["DeviceClient", "Message", "connect", "dev_token"]

TIMEOUT_S: Final = 10.0
Message = dict[str, Any]


class DeviceClient:
    """The client's end of one connection.

    `user_id`, `secret` and `connection_id` are set by `auth`.
    """

    def __init__(self, socket: ClientConnection, timeout_s: float = TIMEOUT_S) -> None:
        self.socket = socket
        self.user_id = self.secret = self.connection_id = ""
        self._timeout_s = timeout_s
        self._numbers = itertools.count(1)

    async def send(self, message: Mapping[str, Any] | str | bytes) -> None:
        """Send a message; text and bytes are sent as they are."""
        data = message if isinstance(message, str | bytes) else json.dumps(message)
        await self.socket.send(data)

    async def receive_raw(self) -> str:
        """The next message as text. Raises `TimeoutError` and `ConnectionClosed`."""
        async with asyncio.timeout(self._timeout_s):
            data = await self.socket.recv()
        assert isinstance(data, str)
        return data

    async def receive(self) -> Message:
        """The next message."""
        message = json.loads(await self.receive_raw())
        assert isinstance(message, dict)
        return message

    async def next_of(self, wire_type: str) -> Message:
        """The next message of this type; those before it are passed over."""
        while (message := await self.receive())["type"] != wire_type:
            pass
        return message

    async def expect(self, wire_type: str, **fields: Any) -> Message:
        """The next message of this type with these fields; others are passed over.

        Raises `AssertionError` with the messages that came instead.
        """
        passed: list[Message] = []
        try:
            while True:
                message = await self.receive()
                found = {name: message.get(name) for name in fields}
                if message["type"] == wire_type and found == fields:
                    return message
                passed.append(message)
        except (TimeoutError, ConnectionClosed) as exc:
            raise AssertionError(
                f"no {wire_type} with {fields}; {exc!r} after {passed}"
            ) from None

    async def ask(self, message: Mapping[str, Any] | str | bytes) -> Message:
        """Send, and return the next message.

        Rows healed at sign-in may come first: `send` and `expect` pass them over.
        """
        await self.send(message)
        return await self.receive()

    async def auth(self, token: str) -> Message:
        """Authenticate; returns the answer, `auth_success` or not."""
        answer = await self.ask({"type": "auth", "token": token})
        if answer["type"] == "auth_success":
            self.user_id = answer["userId"]
            self.secret = answer["sessionSecret"]
            self.connection_id = answer["connectionId"]
        return answer

    async def barrier(self) -> list[Message]:
        """All messages up to the pong of a ping sent now, without the pong."""
        mark = f"barrier-{next(self._numbers)}"
        await self.send({"type": "ping", "requestId": mark})
        found: list[Message] = []
        while True:
            message = await self.receive()
            if message["type"] == "pong" and message.get("requestId") == mark:
                return found
            found.append(message)

    async def closed(self) -> int | None:
        """Wait for the close; returns the code (messages before it are dropped)."""
        async with asyncio.timeout(self._timeout_s):
            try:
                while True:
                    await self.socket.recv()
            except ConnectionClosed as exc:
                return exc.rcvd.code if exc.rcvd else None

    def signed(self, payload: Mapping[str, Any], **changed: Any) -> Message:
        """The payload in an envelope, signed as the web client does."""
        timestamp = changed.get("timestamp", int(time.time() * 1000))
        nonce = changed.get("nonce", f"nonce-{next(self._numbers)}-{id(self)}")
        body = {"payload": payload, "timestamp": timestamp, "nonce": nonce}
        text = json.dumps(body, separators=(",", ":"), ensure_ascii=False)
        secret = changed.get("secret", self.secret)
        mac = hmac.new(secret.encode(), text.encode(), hashlib.sha256).digest()
        return {**body, "signature": base64.b64encode(mac).decode(), **changed}


@asynccontextmanager
async def connect(
    url: str,
    *,
    token: str | None = None,
    user: str | None = None,
    timeout_s: float = TIMEOUT_S,
) -> AsyncIterator[DeviceClient]:
    """A connected device, authenticated with `token`, or as a `user` of `dev`.

    Raises `AssertionError` when the daemon refuses the token.
    """
    if user is not None:
        token = await asyncio.to_thread(dev_token, url, user)
    async with connect_socket(
        url, compression=None, max_size=None, max_queue=None
    ) as socket:
        device = DeviceClient(socket, timeout_s)
        assert (await device.receive())["type"] == "connection_established"
        if token is not None:
            answer = await device.auth(token)
            assert answer["type"] == "auth_success", answer
        yield device


def dev_token(
    url: str, user: str, *, session: str | None = None, expires_in: int = 60
) -> str:
    """A token of `typelets-ws dev` at `url`; below 0 s it has expired already.

    Raises `PermissionError` for a session that was revoked.
    """
    query: dict[str, str | int] = {"user": user, "expires": expires_in}
    if session is not None:
        query["session"] = session
    place = f"http://{urlsplit(url).netloc}/dev/token?{urlencode(query)}"
    request = Request(place, headers={"X-Typelets-Dev": "1"})
    try:
        with urlopen(request, timeout=TIMEOUT_S) as answer:  # noqa: S310 - http
            token: str = json.load(answer)["token"]
    except HTTPError as exc:
        with exc:
            if exc.code == 401:
                raise PermissionError(json.load(exc)["error"]) from None
            raise
    return token
