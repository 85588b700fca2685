"""Node itself is asked in tests/integration/session/test_signing_node.py."""

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.texts import CHARACTERS
from typelets_ws.protocol.json_members import members
from typelets_ws.session.json_stringify import MAX_VALUES, NotJsonError, json_stringify


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", "0"),
        ("-0", "0"),
        ("-0.0e5", "0"),
        ("1", "1"),
        ("-17", "-17"),
        ("1.0", "1"),
        ("10e-1", "1"),
        ("100", "100"),
        ("1.50", "1.5"),
        ("123.456", "123.456"),
        ("-123.456e2", "-12345.6"),
        ("0.000001", "0.000001"),
        ("0.0000001", "1e-7"),
        ("-0.00000012", "-1.2e-7"),
        ("1e20", "100000000000000000000"),
        ("1e21", "1e+21"),
        ("1.5E21", "1.5e+21"),
        ("123456789012345678901", "123456789012345680000"),
        ("9007199254740993", "9007199254740992"),
        ("999999999999999", "999999999999999"),
        ("1000000000000001", "1000000000000001"),
        ("5e-324", "5e-324"),
        ("1e-400", "0"),
        ("1e400", "null"),
        ("-1e400", "null"),
        ("1.7976931348623157e308", "1.7976931348623157e+308"),
    ],
)
def test_numbers(text: str, expected: str) -> None:
    assert json_stringify(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r'"\/"', '"/"'),
        (r'"\u0041\u001F"', r'"A\u001f"'),
        (r'"\u0008\u0009\u000a\u000c\u000d"', r'"\b\t\n\f\r"'),
        (r'"\"\\"', r'"\"\\"'),
        (r'"\u2028\u2029\u007f"', '"\u2028\u2029\x7f"'),
        ('"\u2028\x7f"', '"\u2028\x7f"'),
        (r'"\uD800"', r'"\ud800"'),
        (r'"\uDC00\uD800x"', r'"\udc00\ud800x"'),
        (r'"\uD83D\uDE00"', '"😀"'),
        (r'"\uD83D\uD83D\uDE00"', r'"\ud83d😀"'),
    ],
)
def test_strings(text: str, expected: str) -> None:
    assert json_stringify(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (" [ ] ", "[]"),
        ("\t{\n}\r", "{}"),
        ("[true, false ,null]", "[true,false,null]"),
        ('{"b":1,"a":[2,{"c":{}}]}', '{"b":1,"a":[2,{"c":{}}]}'),
        ('{"b":1,"10":2,"9":3,"a":4}', '{"9":3,"10":2,"b":1,"a":4}'),
        ('{"01":1,"0":2,"-1":3,"1.0":4}', '{"0":2,"01":1,"-1":3,"1.0":4}'),
        ('{"4294967295":1,"4294967294":2}', '{"4294967294":2,"4294967295":1}'),
        (r'{"x":1,"\u0031":2}', '{"1":2,"x":1}'),
        ('{"x":1,"٣":2}', '{"x":1,"٣":2}'),
        ('{"a":1,"b":2,"a":3}', '{"a":3,"b":2}'),
        ('{"a":1,"__proto__":{"b":2}}', '{"a":1,"__proto__":{"b":2}}'),
        (r'{"\ud800":1}', r'{"\ud800":1}'),
    ],
)
def test_containers(text: str, expected: str) -> None:
    assert json_stringify(text) == expected


NOT_JSON = [
    "", " ", "01", "1.", ".5", "+1", "-", "1e", "1_0", "NaN", "Infinity", "tru", "١",
    '"', '"\\x"', '"\\u12"', '"\x01"', "'a'", "[1,]", "[,1]", "[1 2]", "[1}", "{]",
    '{"a":1]', '{"a"}', '{"a":}', "{a:1}", '{"a":1,}', "[", '{"a":', "1 2", "[]]",
    "\ufeff1", "\x0b1", "/**/1", "\u00a01", "1e+", "[1e,2]", '"\\u"', '{"a\\u":1}',
]  # fmt: skip


@pytest.mark.parametrize("text", NOT_JSON)
def test_what_is_not_json_is_refused(text: str) -> None:
    with pytest.raises(NotJsonError):
        json_stringify(text)
    with pytest.raises(NotJsonError):
        members(text)
    with pytest.raises(NotJsonError):
        members('{"a":' + text + "}")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(CHARACTERS),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(CHARACTERS), inner),
)


@given(VALUES, st.sampled_from([None, 1]))
def test_the_value_stays_and_a_second_time_changes_nothing(
    value: object, indent: int | None
) -> None:
    once = json_stringify(json.dumps(value, indent=indent))
    assert json.loads(once) == value
    assert json_stringify(once) == once


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_keeps_its_value(value: float) -> None:
    assert float(json_stringify(repr(value))) == value


@given(st.text(st.sampled_from('{}[]":,\\u0d8-1eE.+ tnf/\x00é'), max_size=40))
def test_any_text_is_rewritten_or_refused(text: str) -> None:
    try:
        rewritten = json_stringify(text)
    except NotJsonError:
        return
    assert json.loads(rewritten) == json.loads(text)


def test_as_many_values_as_the_bound_are_read() -> None:
    fits = "[" + "1," * (MAX_VALUES - 2) + "1]"
    assert json_stringify(fits) == fits
    with pytest.raises(NotJsonError):
        json_stringify("[" + "1," * (MAX_VALUES - 1) + "1]")


def test_nesting_up_to_the_bound_is_read() -> None:
    fits = "[" * (MAX_VALUES - 1) + "1" + "]" * (MAX_VALUES - 1)
    assert json_stringify(fits) == fits


@pytest.mark.parametrize(
    "hostile",
    [
        "[" * 200_000 + "]" * 200_000,
        '{"a":' * 200_000 + "1" + "}" * 200_000,
        "[" + "[]," * 300_000 + "[]]",
        "9" * 1_000_000,
        "0." + "0" * 1_000_000 + "1",
        '"' + "\\u0041" * 170_000 + '"',
        '"' + "\\ud800" * 170_000 + '"',
        '"' + "\\" * 999_999,
        " " * 1_000_000,
        "[" * 5_000 + '"' + "x" * 900_000 + '"' + "]" * 5_000,
        "{" + ",".join(f'"{n}":1' for n in range(9_000, 0, -1)) + "}",
    ],
    ids=lambda text: text[:8],
)
@pytest.mark.timeout(20)
def test_a_hostile_text_ends(hostile: str) -> None:
    """A few milliseconds each; anything quadratic would run into the timeout."""
    with contextlib.suppress(NotJsonError):
        json_stringify(hostile)
    with contextlib.suppress(NotJsonError):
        members('{"a":' + hostile + "}")


def test_members_are_the_very_text() -> None:
    assert members(' { "a" : [1 , 2.0 ] , "b":"\\ud800","\\u0061": -0 }\n') == {
        "a": "-0",
        "b": '"\\ud800"',
    }


@pytest.mark.parametrize("text", ["[1]", "", '{"a":1}x', '{"a":1]', '{"a":1 "b":2}'])
def test_members_of_something_else(text: str) -> None:
    with pytest.raises(NotJsonError):
        members(text)


def test_members_of_very_long_numbers() -> None:
    assert members('{"a":' + "9" * 5_000 + "}")["a"] == "9" * 5_000
