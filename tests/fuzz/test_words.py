"""Messages, envelopes and events: accepted, or refused by a documented error."""

import json

from hypothesis import given
from hypothesis import strategies as st

from tests.fakes import live
from tests.texts import CHARACTERS
from typelets_ws.protocol import (
    client_messages,
    decoding,
    event_decoding,
    events,
    messages,
    replies,
)
from typelets_ws.protocol.errors import ClientError, Code
from typelets_ws.protocol.event_decoding import EventError
from typelets_ws.session import signing

PIECES = [
    b'"type"', b'"ping"', b'"auth"', b'"note_update"', b'"noteId"', b'"changes"',
    b'"requestId"', b'"payload"', b'"signature"', b'"timestamp"', b'"nonce"',
    b'"event"', b'"note_updated"', b'"updatedNote"', b'"user_disconnected"',
    b"{", b"}", b"[", b"]", b":", b",", b'"', b"\\", b"\\u", b"\\ud800", b"d834",
    b"1", b"-0", b"1e400", b"1e999999", b"true", b"null", b"\xff", b"\xc3\xa9",
    b"\x00", b" ", b"\xef\xbb\xbf", b'"__proto__"', b"[" * 2000,
]  # fmt: skip
soup = st.lists(st.sampled_from(PIECES), max_size=30).map(b"".join)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False)
    | st.text(CHARACTERS, max_size=70),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.text(CHARACTERS, max_size=9), inner,
                      max_size=3),
    max_leaves=6,
)  # fmt: skip
WORDS = sorted(
    {str(kind.__struct_config__.tag) for kind in client_messages.CLIENT_MESSAGES}
    | {str(kind.__struct_config__.tag) for kind in events.EVENTS}
    | {"nonsense", ""}
)
KEYS = [
    "requestId", "token", "noteId", "changes", "noteData", "folderId", "folderData",
    "updatedFolder", "updatedNote", "sessionId", "reason", "fromUserId", "version",
    "exceptConnectionId", "publishedAt", "payload", "signature", "timestamp", "nonce",
]  # fmt: skip
shaped = st.builds(
    lambda word, rest: json.dumps({"type": word, "event": word} | rest).encode(),
    st.sampled_from(WORDS) | values,
    st.dictionaries(st.sampled_from(KEYS), values, max_size=5),
)
anything = st.binary(max_size=200) | soup | shaped


def is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


@given(anything.filter(is_utf8))
def test_a_message_is_read_or_refused(data: bytes) -> None:
    refusal = None
    try:
        message = decoding.decode(data)
    except ClientError as exc:
        refusal = exc
    else:
        assert isinstance(message, client_messages.CLIENT_MESSAGES)
    if refusal is not None:
        documented = {Code.INVALID_MESSAGE, Code.UNKNOWN_TYPE, Code.INVALID_FIELD}
        assert refusal.code in documented
        assert messages.encode(replies.error(refusal)).startswith(b'{"type":"error"')


@given(anything)
def test_a_request_id_is_found_in_anything_or_not(data: bytes) -> None:
    found = decoding.request_id(data)
    assert found is None or len(found) <= 64


@given(anything.filter(is_utf8))
def test_an_envelope_is_opened_or_none(data: bytes) -> None:
    envelope = signing.open_envelope(data)
    if envelope is None:
        return
    secrets = signing.Secrets()
    secrets.issue("token", "user", 0)
    nonces = signing.NonceMemory(live(nonces_per_user=10))
    verdict = signing.judge(envelope, secrets, nonces, 0)
    assert verdict is not signing.SignatureVerdict.OK
    assert len(nonces) == 0


@given(anything)
def test_an_event_is_read_or_dropped_by_one_word(data: bytes) -> None:
    try:
        event = event_decoding.decode(data)
    except EventError:
        return
    if not isinstance(event, events.ControlEvent):
        message = messages.encode(event.message(int(event.publishedAt or 0)))
        assert is_utf8(message)
        json.loads(message)
