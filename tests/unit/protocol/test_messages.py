"""The wire protocol: what is read, what is written, what is named when refused."""

import json

import msgspec
import pytest

from typelets_ws.protocol import client_messages, decoding, messages, replies
from typelets_ws.protocol.errors import ClientError, Code


def refusal_of(data: bytes) -> ClientError:
    with pytest.raises(ClientError) as caught:
        decoding.decode(data)
    return caught.value


@pytest.mark.parametrize("kind", client_messages.CLIENT_MESSAGES)
def test_each_client_message_is_read_by_its_type(kind: type) -> None:
    word = kind.__struct_config__.tag  # type: ignore[attr-defined]
    data = json.dumps({"x": 1, "requestId": "r", "type": word}).encode()
    message = decoding.decode(data)
    assert type(message) is kind
    assert message.requestId == "r"
    assert messages.echo(message) == "r"


def test_without_a_request_id_nothing_is_echoed() -> None:
    message = decoding.decode(b'{"type":"ping"}')
    assert messages.echo(message) is msgspec.UNSET


@pytest.mark.parametrize(
    ("data", "code", "text", "request_id"),
    [
        (b"", Code.INVALID_MESSAGE, "Invalid message format", None),
        (b"[]", Code.INVALID_MESSAGE, "Invalid message format", None),
        (b"{}", Code.INVALID_MESSAGE, "Invalid message format", None),
        (b'{"type":5}', Code.INVALID_MESSAGE, "Invalid message format", None),
        (b'{"type":"\\ud800"}', Code.INVALID_MESSAGE, "Invalid message format", None),
        (b"[" * 100_000, Code.INVALID_MESSAGE, "Invalid message format", None),
        (
            b'{"type":"x","requestId":"r"}',
            Code.UNKNOWN_TYPE,
            "Unknown message type",
            "r",
        ),
        (
            b'{"type":"join_note","noteId":5,"requestId":"r"}',
            Code.INVALID_FIELD,
            "Invalid noteId",
            "r",
        ),
        (
            b'{"type":"ping","requestId":5}',
            Code.INVALID_FIELD,
            "Invalid requestId",
            None,
        ),
        (
            b'{"type":"ping","requestId":"%s"}' % (b"x" * 65),
            Code.INVALID_FIELD,
            "Invalid requestId",
            "x" * 64,
        ),
    ],
)
def test_what_does_not_fit_is_named(
    data: bytes, code: Code, text: str, request_id: str | None
) -> None:
    refusal = refusal_of(data)
    assert (refusal.code, refusal.message) == (code, text)
    assert refusal.request_id == request_id


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b'{"requestId":"r"}', "r"),
        (b'{"payload":{"requestId":"r"}}', "r"),
        (b'{"payload":{"requestId":"r"},"requestId":"s"}', "s"),
        (b'{"payload":5,"requestId":5}', None),
        (b'{"payload":"\\"requestId\\""}', None),
        (b'{"requestId":"%s"}' % (b"x" * 65), "x" * 64),
        (b'{"requestId":"r","x":"\\ud83d"}', "r"),
        (b'{"payload":{"requestId":"r","x":"\\ud83d"}}', "r"),
        (b'{"requestId":"\\ud83d"}', None),
        (b'{"requestId":"\xff"}', None),
        (b'"requestId"', None),
        (b'{"x":' + b"[" * 100_000 + b'"requestId"', None),
        (b"{}", None),
    ],
)
def test_the_request_id_of_what_is_not_decoded(data: bytes, found: str | None) -> None:
    assert decoding.request_id(data) == found


def test_an_error_has_only_what_applies() -> None:
    bare = replies.error(ClientError(Code.NOT_FOUND, "x"))
    assert messages.encode(bare) == b'{"type":"error","message":"x","code":"NOT_FOUND"}'
    full = ClientError(
        Code.UNAVAILABLE, "x", folder_id="f", retry_after_ms=0, correlation_id="c",
        request_id="",
    )  # fmt: skip
    full.note_id = "n"
    assert json.loads(messages.encode(replies.error(full))) == {
        "type": "error", "message": "x", "code": "UNAVAILABLE", "noteId": "n",
        "folderId": "f", "retryAfterMs": 0, "correlationId": "c", "requestId": "",
    }  # fmt: skip


def test_types_of_server_messages_are_distinct_from_the_clients() -> None:
    def words(kinds: tuple[type[msgspec.Struct], ...]) -> set[str]:
        return {str(kind.__struct_config__.tag) for kind in kinds}

    assert len(words(messages.SERVER_MESSAGES)) == len(messages.SERVER_MESSAGES)
    assert not words(messages.SERVER_MESSAGES) & words(client_messages.CLIENT_MESSAGES)


def test_no_server_message_looks_like_an_envelope() -> None:
    """The web client would take it for one and end the connection for good."""
    for kind in messages.SERVER_MESSAGES:
        fields = set(kind.__struct_fields__)
        assert not {"payload", "signature", "timestamp", "nonce"} <= fields
