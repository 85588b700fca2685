"""Reading client messages (spec section 3). Pure.

Invariants. A message is decoded in one pass. A message that does not fit is
read again, to name the field at fault. Everything `JSON.stringify` can write
is read: lone surrogates are passed on unchanged in relayed data, ignored in ignored
keys, and refused by name in a field that is read. Of repeated keys the last counts.
UTF-8 is checked by the caller: msgspec does not look inside strings that it skips.
Tested by tests/unit/protocol/test_decoding.py.
"""

import re
from collections.abc import Mapping
from typing import Final

import msgspec
from msgspec import Raw, Struct

from .client_messages import CLIENT_MESSAGES, AnyClientMessage, ClientMessage
from .errors import CURSOR_EXPIRED, INVALID_MESSAGE, UNKNOWN_TYPE, ClientError, Code
from .json_members import (
    Charge,
    MemberError,
    NotJsonError,
    build,
    cost,
    free,
    has_surrogates,
    members,
    repeats,
    text,
)
from .messages import ECHO_LENGTH

__all__ = ["decode", "request_id"]

SLOW_ECHO_BYTES: Final = 65_536
"""A refused message of more bytes is not read a second time for its `requestId`."""
_NOTHING: Final = Raw(b"")


class _MessageHead(Struct):
    """The fields needed to explain what is wrong with a message."""

    type: Raw = _NOTHING
    requestId: Raw = _NOTHING
    payload: Raw = _NOTHING


_decoder: Final = msgspec.json.Decoder(AnyClientMessage)
_head: Final = msgspec.json.Decoder(_MessageHead)
_text: Final = msgspec.json.Decoder(str)
_KINDS: Final[Mapping[str, type[ClientMessage]]] = {
    str(kind.__struct_config__.tag): kind for kind in CLIENT_MESSAGES
}
_FIELD: Final = re.compile(r"at `\$\.(\w+)")
"""msgspec ends its error text with the path: "... - at `$.noteId`"."""


def decode(data: bytes, charge: Charge = free) -> ClientMessage:
    """Read one client message from valid UTF-8. Raises `ClientError`."""
    try:
        message: ClientMessage = _decoder.decode(data)
    except msgspec.ValidationError as exc:
        message = _decode_misfit(data, str(exc), charge)
    except (msgspec.DecodeError, RecursionError):
        if not has_surrogates(data):
            raise ClientError(Code.INVALID_MESSAGE, INVALID_MESSAGE) from None
        message = _decode_members(data, charge)
    else:
        if repeats(data, b'"type"') and _last_type(data) != _tag(message):
            message = _decode_members(data, charge)
    if message.requestId is not None and len(message.requestId) > ECHO_LENGTH:
        raise _invalid_field("requestId", message.requestId[:ECHO_LENGTH])
    return message


def request_id(data: bytes) -> str | None:
    """Return the `requestId` of a message that is not decoded, if it has one.

    That of a signed message is in its payload. At most `ECHO_LENGTH` characters;
    `data` may be anything.
    """
    if b'"requestId"' not in data:
        return None
    found: str | None
    try:
        head = _head.decode(data)
        found = _text.decode(head.requestId or _head.decode(head.payload).requestId)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        if len(data) > SLOW_ECHO_BYTES or not has_surrogates(data):
            return None
        found = _request_id_of_members(data)
    return None if found is None else found[:ECHO_LENGTH]


def _request_id_of_members(data: bytes) -> str | None:
    try:
        found = members(data.decode())
        if "requestId" not in found and "payload" in found:
            found = members(found["payload"])
    except (NotJsonError, UnicodeDecodeError):
        return None
    return text(found.get("requestId"))


def _tag(message: ClientMessage) -> str:
    return str(message.__struct_config__.tag)


def _last_type(data: bytes) -> str | None:
    try:
        return _text.decode(_head.decode(data).type)
    except (msgspec.DecodeError, RecursionError):
        return None


def _decode_misfit(data: bytes, complaint: str, charge: Charge) -> ClientMessage:
    """Read a message that msgspec refused for a type. Raises `ClientError`."""
    if has_surrogates(data) or repeats(data, b'"type"'):
        return _decode_members(data, charge)
    wire_type = _last_type(data)
    if wire_type is None:
        raise ClientError(
            Code.INVALID_MESSAGE, INVALID_MESSAGE, request_id=request_id(data)
        )
    if wire_type not in _KINDS:
        raise ClientError(Code.UNKNOWN_TYPE, UNKNOWN_TYPE, request_id=request_id(data))
    field = _FIELD.search(complaint)
    if field is None:
        raise ClientError(
            Code.INVALID_MESSAGE, INVALID_MESSAGE, request_id=request_id(data)
        )
    if repeats(data, b'"%s"' % field[1].encode()):
        return _decode_members(data, charge)
    raise _invalid_field(field[1], request_id(data))


def _decode_members(data: bytes, charge: Charge) -> ClientMessage:
    """Read a message member by member. Raises `ClientError`."""
    charge(cost(data))
    try:
        found = members(data.decode())
    except NotJsonError:
        raise ClientError(Code.INVALID_MESSAGE, INVALID_MESSAGE) from None
    echo = text(found.get("requestId"))
    echo = None if echo is None else echo[:ECHO_LENGTH]
    wire_type = text(found.get("type"))
    if wire_type is None:
        raise ClientError(Code.INVALID_MESSAGE, INVALID_MESSAGE, request_id=echo)
    kind = _KINDS.get(wire_type)
    if kind is None:
        raise ClientError(Code.UNKNOWN_TYPE, UNKNOWN_TYPE, request_id=echo)
    try:
        return build(kind, found)
    except MemberError as invalid:
        raise _invalid_field(invalid.name, echo) from None


def _invalid_field(name: str, echo: str | None) -> ClientError:
    if name == "cursor":
        # As any cursor that is malformed: the client would keep it after another code.
        return ClientError(Code.CURSOR_EXPIRED, CURSOR_EXPIRED, request_id=echo)
    return ClientError(Code.INVALID_FIELD, f"Invalid {name}", request_id=echo)
