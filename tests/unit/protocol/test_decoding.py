"""Everything JSON.stringify can write is read; of repeated keys the last counts."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from typelets_ws.protocol import client_messages
from typelets_ws.protocol.decoding import decode
from typelets_ws.protocol.errors import ClientError, Code
from typelets_ws.protocol.json_members import (
    MAX_MEMBERS,
    MAX_VALUES,
    NotJsonError,
    members,
)

ID = "00000000-0000-4000-8000-000000000001"
javascript_text = st.text(st.characters(codec=None), max_size=12)
javascript_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | javascript_text,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(javascript_text, inner, max_size=3)
    ),
    max_leaves=5,
)


def stringify(value: Any) -> bytes:
    r"""As JavaScript: lone surrogates as escapes, all else as it is."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.encode("utf-8", "backslashreplace")


def refusal_of(data: bytes) -> tuple[Code, str, str | None]:
    with pytest.raises(ClientError) as caught:
        decode(data)
    return caught.value.code, caught.value.message, caught.value.request_id


@given(st.dictionaries(javascript_text, javascript_values, max_size=4))
def test_relayed_data_is_read_as_it_was_written(data: dict[str, Any]) -> None:
    written = stringify(data)
    message = decode(b'{"type":"note_created","noteData":%s}' % written)
    assert isinstance(message, client_messages.NoteCreated)
    assert bytes(message.noteData) == written


@given(javascript_text, javascript_values)
def test_ignored_keys_are_ignored(key: str, value: Any) -> None:
    written = {"type": "join_note", "noteId": ID, "x" + key: value, "requestId": "r"}
    message = decode(stringify(written))
    assert message == client_messages.JoinNote(noteId=ID, requestId="r")


def test_an_ignored_field_of_an_update_may_hold_half_a_pair() -> None:
    message = decode(
        rb'{"type":"note_update","noteId":"n","requestId":"7",'
        rb'"changes":{"starred":true,"tags":["a\ud83d"],"\udc00":1}}'
    )
    assert isinstance(message, client_messages.NoteUpdate)
    assert message.changes is not None
    assert bytes(message.changes["starred"]) == b"true"
    assert bytes(message.changes["tags"]) == rb'["a\ud83d"]'


@pytest.mark.parametrize(
    ("text", "field"),
    [
        (rb'{"type":"join_note","requestId":"7","noteId":"\ud83d"}', "noteId"),
        (rb'{"type":"auth","requestId":"7","token":"\udc00\ud83d"}', "token"),
        (rb'{"type":"join_note","noteId":5,"requestId":"7","x":"\ud83d"}', "noteId"),
        (rb'{"type":"note_update","requestId":"7","changes":["\ud83d"]}', "changes"),
        (rb'{"type":"sync","requestId":"7","ids":{},"cursor":5,"x":"\ud83d"}', "ids"),
    ],
)
def test_a_field_that_is_read_is_refused_by_name(text: bytes, field: str) -> None:
    assert refusal_of(text) == (Code.INVALID_FIELD, f"Invalid {field}", "7")


def test_half_a_pair_hides_no_mistake() -> None:
    assert refusal_of(rb'{"type":"x","requestId":"7","a":"\ud83d"}') == (
        Code.UNKNOWN_TYPE, "Unknown message type", "7",
    )  # fmt: skip
    assert refusal_of(rb'{"requestId":"7","a":"\ud83d"}')[0] is Code.INVALID_MESSAGE
    for broken in (rb'{"type":"ping","a":"\ud83d"', rb'["\ud83d"]', rb'{"a":"\ud83"}'):
        assert refusal_of(broken)[0] is Code.INVALID_MESSAGE


def test_a_whole_pair_stays_a_pair() -> None:
    message = decode(rb'{"type":"ping","requestId":"\ud83d\ude00","a":"\ud83d"}')
    assert message.requestId == "😀"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b'{"type":"auth","type":"ping"}', client_messages.Ping()),
        (b'{"type":"nonsense","type":"ping"}', client_messages.Ping()),
        (b'{"type":5,"type":"ping"}', client_messages.Ping()),
        (rb'{"type":"auth","t\u0079pe":"ping"}', client_messages.Ping()),
        (
            b'{"type":"join_note","noteId":"a","noteId":"b"}',
            client_messages.JoinNote(noteId="b"),
        ),
        (
            b'{"type":"join_note","noteId":5,"noteId":"b"}',
            client_messages.JoinNote(noteId="b"),
        ),
        (
            b'{"noteId":5,"type":"join_note","noteId":"b","noteId":null}',
            client_messages.JoinNote(),
        ),
    ],
)
def test_of_repeated_keys_the_last_counts(
    text: bytes, expected: client_messages.ClientMessage
) -> None:
    assert decode(text) == expected


def test_a_repeated_type_that_is_unknown_is_refused() -> None:
    assert refusal_of(b'{"type":"ping","type":"x"}')[0] is Code.UNKNOWN_TYPE
    assert refusal_of(b'{"type":"ping","type":null}')[0] is Code.INVALID_MESSAGE


def test_a_type_inside_the_data_is_not_the_messages() -> None:
    message = decode(b'{"type":"note_created","noteData":{"type":"ping"}}')
    assert isinstance(message, client_messages.NoteCreated)


@given(st.dictionaries(javascript_text, javascript_values, max_size=4))
def test_members_are_what_json_reads(value: dict[str, Any]) -> None:
    found = members(stringify(value).decode())
    assert {k: json.loads(v) for k, v in found.items()} == value


def test_too_many_values_are_not_read() -> None:
    with pytest.raises(NotJsonError):
        members('{"a":[' + "1," * MAX_VALUES + "1]}")


@pytest.mark.parametrize("key", ["k%d", "type", "\\u0074ype"])
def test_too_many_members_are_not_read_one_by_one(key: str) -> None:
    """Repeated keys are members, too: 70,000 of them took 0.1 s."""
    some = ",".join(f'"{key.replace("%d", str(n))}":1' for n in range(MAX_MEMBERS))
    assert members("{" + some + "}")
    with pytest.raises(NotJsonError):
        members("{" + some + ',"a":1}')


def test_many_members_beside_a_lone_surrogate_are_read_and_charged() -> None:
    some = b",".join(b'"k%d":"\\ud83d"' % number for number in range(5_000))
    charged: list[int] = []
    message = decode(b'{"type":"ping",%s,"requestId":"r"}' % some, charged.append)
    assert message.requestId == "r"
    assert sum(charged) >= 100
