"""JSON as JavaScript reads and writes it: `JSON.stringify(JSON.parse(text))`.

Clients sign the text that `JSON.stringify` gives them, and the bytes on the wire may
differ from it (spec section 4). Python's own JSON differs in numbers, key order and
lone surrogates, hence this module; Node is the oracle of its tests.

For any text the work is linear in its length, nothing recurses, and at most
`MAX_VALUES` values are read: a hostile text costs milliseconds, not the event loop.
"""

import json
import re
from typing import Final, TypeAlias

from ..protocol.json_members import STRING, WS, NotJsonError, unquote

__all__ = ["MAX_VALUES", "NotJsonError", "json_stringify"]

# A note has some 30 values. A message with more values than this is accepted only if
# it was signed as it is sent; that bounds the time for a hostile one to some 10 ms.
MAX_VALUES: Final = 2_000

# The largest array index, ECMA-262 section 6.1.7: such keys come first, by number.
_LAST_INDEX: Final = 2**32 - 2

# The groups of a number are not possessive: see `json_members.STRING`.
_NUMBER: Final = r"-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?(?:[eE][+-]?[0-9]++)?"
_KEY_PART: Final = rf"{WS}(?P<key>{STRING}){WS}:"
_VALUE_PART: Final = (
    rf"{WS}(?:(?P<string>{STRING})|(?P<number>{_NUMBER})|(?P<word>true|false|null)"
    rf"|(?P<nothing>\{{{WS}\}}|\[{WS}\])|(?P<open>[\[{{]))"
)
_element: Final = re.compile(_VALUE_PART)
_member: Final = re.compile(_KEY_PART + _VALUE_PART)
_after: Final = re.compile(rf"{WS}([,\]}}])")
_end: Final = re.compile(rf"{WS}\Z")
_short_integer: Final = re.compile(r"-?[1-9][0-9]{0,14}|0")
_index: Final = re.compile(r"0|[1-9][0-9]{0,9}")

# Text in pieces. Containers stay nested until the end: joining them level by level
# would copy the innermost text once for each level.
_Piece: TypeAlias = "str | list[_Piece]"


class _Array:
    """An array that is being read."""

    __slots__ = ("_items",)
    end = "]"

    def __init__(self) -> None:
        self._items: list[_Piece] = []

    def next(self, text: str, at: int) -> "re.Match[str] | None":
        return _element.match(text, at)

    def add(self, piece: _Piece) -> None:
        self._items += (",", piece)

    def close(self) -> _Piece:
        self._items[0] = "["
        self._items.append("]")
        return self._items


class _Object:
    """An object that is being read; `_key` is the member whose value comes next."""

    __slots__ = ("_key", "_members")
    end = "}"

    def __init__(self) -> None:
        self._members: dict[str, _Piece] = {}
        self._key = ""

    def next(self, text: str, at: int) -> "re.Match[str] | None":
        found = _member.match(text, at)
        if found is not None:
            self._key = unquote(found["key"])
        return found

    def add(self, piece: _Piece) -> None:
        self._members[self._key] = piece

    def close(self) -> _Piece:
        pieces: list[_Piece] = []
        for key in _ordered(self._members):
            pieces += (",", _quote(key), ":", self._members[key])
        pieces[0] = "{"
        pieces.append("}")
        return pieces


def json_stringify(text: str) -> str:
    """`JSON.stringify(JSON.parse(text))`. Raises `NotJsonError`.

    The result has no lone surrogates (they are escaped): it can be encoded.
    """
    at = 0
    piece: _Piece
    stack: list[_Array | _Object] = []
    for _ in range(MAX_VALUES):
        found = stack[-1].next(text, at) if stack else _element.match(text, at)
        if found is None:
            raise NotJsonError
        at = found.end()
        if found["open"]:
            stack.append(_Array() if found["open"] == "[" else _Object())
            continue
        piece = _scalar(found)
        while stack:
            stack[-1].add(piece)
            after = _after.match(text, at)
            if after is None:
                raise NotJsonError
            at = after.end()
            if after[1] == ",":
                break
            if after[1] != stack[-1].end:
                raise NotJsonError
            piece = stack.pop().close()
        else:
            if _end.match(text, at) is None:
                raise NotJsonError
            return _joined(piece)
    raise NotJsonError


_encoder: Final = json.JSONEncoder(ensure_ascii=False)


def _scalar(found: "re.Match[str]") -> str:
    """Return JavaScript's text for a value that holds no other value."""
    if (string := found["string"]) is not None:
        return string if "\\" not in string else _quote(unquote(string))
    if (number := found["number"]) is not None:
        return _number(number)
    if (empty := found["nothing"]) is not None:
        return empty[0] + empty[-1]
    return found["word"]


def _quote(text: str) -> str:
    r"""Write a string; a lone surrogate as \ud800 (well-formed JSON.stringify)."""
    return _encoder.encode(text).encode("utf-8", "backslashreplace").decode()


def _number(literal: str) -> str:
    """Write a number as ECMA-262's Number::toString does (section 6.1.6.1.20)."""
    if _short_integer.fullmatch(literal):
        return literal
    value = float(literal)
    if value == 0:
        return "0"
    if value in (float("inf"), float("-inf")):
        return "null"
    sign = "-" if value < 0 else ""
    # repr finds the same shortest digits as JavaScript and only sets them differently.
    mantissa, _, exponent = repr(abs(value)).partition("e")
    whole, _, fraction = mantissa.partition(".")
    point = len(whole) + int(exponent or 0)
    digits = (whole + fraction).lstrip("0")
    point -= len(whole + fraction) - len(digits)
    return sign + _positioned(digits.rstrip("0"), point)


def _positioned(digits: str, point: int) -> str:
    """Write 0.digits times 10 to the power of point; 21 and -6 are the standard's."""
    if len(digits) <= point <= 21:
        return digits.ljust(point, "0")
    if 0 < point <= 21:
        return f"{digits[:point]}.{digits[point:]}"
    if -6 < point <= 0:
        return f"0.{'0' * -point}{digits}"
    fraction = f".{digits[1:]}" if len(digits) > 1 else ""
    return f"{digits[0]}{fraction}e{point - 1:+d}"


def _ordered(keys: dict[str, _Piece]) -> list[str]:
    """Array indices first, by number; then the others as they first appeared."""
    indices = [k for k in keys if _index.fullmatch(k) and int(k) <= _LAST_INDEX]
    if not indices:
        return list(keys)
    rest = keys.keys() - indices
    return [*sorted(indices, key=int), *(k for k in keys if k in rest)]


def _joined(root: _Piece) -> str:
    texts: list[str] = []
    stack = [root]
    while stack:
        piece = stack.pop()
        if isinstance(piece, str):
            texts.append(piece)
        else:
            stack.extend(reversed(piece))
    return "".join(texts)
