r"""JSON objects member by member: what JavaScript writes and msgspec refuses. Pure.

`JSON.stringify` writes half a surrogate pair as an escape (``\ud83d``, ECMA-262
section 25.5.2); RFC 8259 section 8.2 allows it. msgspec refuses the whole text then,
also where the string is skipped or passed on as `Raw`. Of repeated keys the last
counts in JavaScript; msgspec's tagged unions go by the first tag, and it judges every
repetition of a field.

Invariants. This is the second reader: it is used only for text that msgspec refused
or whose tag is repeated. Each value is the text it was written in. At most
`MAX_VALUES` values and `MAX_MEMBERS` members of an object are read, which bounds the
time for 1 MB to some 30 ms; `decoding` charges it to the sender.
Tested by tests/unit/protocol/test_decoding.py.
"""

import json
import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Final, NoReturn, TypeVar, get_args, get_origin

import msgspec
from msgspec import Raw, Struct

__all__ = [
    "STRING", "WS", "Charge", "MemberError", "NotJsonError", "build", "cost", "free",
    "has_surrogates", "mapping", "members", "raw_members", "repeats", "text", "unquote",
]  # fmt: skip

MAX_VALUES: Final = 100_000
"""A message of 1 MB with more is refused where only this reader can read it."""
MAX_MEMBERS: Final = 10_000
"""The same for one object: its members are walked in Python, 1.3 to 2.3 µs each. A
repeated key counts each time."""
SLOW_BYTES: Final = 10_000
"""So many bytes for this reader count as one more message: 0.1 ms."""
SLOW_MEMBERS: Final = 50
"""So many members, too."""
Charge = Callable[[int], None]
"""Called with the number of messages that an expensive one counts for."""
WS: Final = r"[ \t\n\r]*+"
# Python before 3.11.5 does not step back from a possessive group that fails halfway
# (CPython issue 106052), hence any escape will do here; `unquote` reads it exactly.
STRING: Final = r'"[^"\\\x00-\x1f]*+(?:\\[^\x00-\x1f][^"\\\x00-\x1f]*+)*+"'
_key: Final = re.compile(rf"{WS}(?P<key>{STRING}){WS}:{WS}")
_after: Final = re.compile(rf"{WS}([,\]}}])")
_open: Final = re.compile(rf"{WS}\{{{WS}(\}})?")
_end: Final = re.compile(rf"{WS}\Z")
_surrogate: Final = re.compile(rb"\\u[dD][89a-fA-F]")
_text: Final = msgspec.json.Decoder(str)
_raw_members: Final = msgspec.json.Decoder(dict[str, Raw])
_T = TypeVar("_T", bound=Struct)


class NotJsonError(ValueError):
    """The text is not JSON, or has more values than are read."""


class MemberError(ValueError):
    """A member does not fit its field; `name` is the field's."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


def free(_units: int) -> None:
    """Charge nothing."""


def cost(data: bytes) -> int:
    """How many messages more it counts for that this text is read here."""
    return len(data) // SLOW_BYTES + data.count(b',"') // SLOW_MEMBERS


def has_surrogates(data: bytes) -> bool:
    """Whether an escape of a surrogate may be in there, alone or in a pair."""
    return _surrogate.search(data) is not None


def repeats(data: bytes, quoted_key: bytes) -> bool:
    """Whether the key may be there twice, also where its letters are escapes."""
    return data.count(quoted_key) > 1 or rb"\u00" in data


def members(source: str) -> dict[str, str]:
    """Return the members of a JSON object, each value as the text it is written in.

    Of a repeated key the last value counts. Raises `NotJsonError`, also for nesting
    deeper than the interpreter's recursion limit.
    """
    if source.count(",") + source.count("[") + source.count("{") > MAX_VALUES:
        raise NotJsonError
    opened = _open.match(source)
    if opened is None:
        raise NotJsonError
    found: dict[str, str] = {}
    at = opened.end()
    closed = opened[1] is not None
    walked = 0
    while not closed:
        key = _key.match(source, at)
        walked += 1
        if key is None or walked > MAX_MEMBERS:
            raise NotJsonError
        try:
            _, at = _decoder.raw_decode(source, key.end())
        except (ValueError, RecursionError):
            raise NotJsonError from None
        found[unquote(key["key"])] = source[key.end() : at]
        after = _after.match(source, at)
        if after is None or after[1] == "]":
            raise NotJsonError
        at = after.end()
        closed = after[1] == "}"
    if _end.match(source, at) is None:
        raise NotJsonError
    return found


def unquote(literal: str) -> str:
    """Read a JSON string; lone surrogates stay in the text. Raises `NotJsonError`."""
    if "\\" not in literal:
        return literal[1:-1]
    try:
        found: str = json.loads(literal)
    except ValueError:
        raise NotJsonError from None
    return found


def text(literal: str | None) -> str | None:
    """Return a JSON string that UTF-8 can hold; None for all else."""
    if literal is None:
        return None
    try:
        return _text.decode(literal)
    except (msgspec.DecodeError, UnicodeEncodeError):
        return None


def raw_members(data: bytes) -> Mapping[str, Raw]:
    """Return the members of a valid JSON object in UTF-8. Raises `NotJsonError`."""
    try:
        return _raw_members.decode(data)
    except (msgspec.DecodeError, RecursionError):
        return mapping(data.decode())


def mapping(literal: str) -> dict[str, Raw]:
    """Return the members of a JSON object as raw slices. Raises `NotJsonError`."""
    found = members(literal)
    return {
        name: Raw(value.encode())
        for name, value in found.items()
        if name.isascii() or _encodes(name)
    }


def build(kind: type[_T], found: Mapping[str, str]) -> _T:
    """Make a struct of an object's members; those it has no field for are ignored.

    Raises `MemberError` for a value of the wrong type, text that UTF-8 cannot hold
    where text is wanted, and a required member that is missing. Of several wrong ones
    the first in the text is named, as msgspec does.
    """
    values, readers = {}, _readers(kind)
    for name, literal in found.items():
        read = readers.get(name)
        if read is None:
            continue
        try:
            values[name] = read(literal)
        except (msgspec.DecodeError, NotJsonError, UnicodeEncodeError, RecursionError):
            raise MemberError(name) from None
    try:
        return kind(**values)
    except TypeError:
        fields = msgspec.structs.fields(kind)
        missing = [f.name for f in fields if f.required and f.name not in values]
        raise MemberError(missing[0]) from None


@cache
def _readers(kind: type[Struct]) -> Mapping[str, Callable[[str], Any]]:
    return {f.encode_name: _reader(f.type) for f in msgspec.structs.fields(kind)}


def _reader(kind: Any) -> Callable[[str], Any]:
    choices = get_args(kind) or (kind,)
    if Raw in choices:
        return lambda literal: Raw(literal.encode())
    if any(get_origin(choice) is dict for choice in choices) or kind == dict[str, Raw]:
        return lambda literal: None if literal == "null" else mapping(literal)
    return msgspec.json.Decoder(kind).decode


def _encodes(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _refuse(word: str) -> NoReturn:
    raise NotJsonError(word)


# parse_int=float: Python refuses to convert more than 4300 digits to an int.
_decoder: Final = json.JSONDecoder(parse_constant=_refuse, parse_int=float)
