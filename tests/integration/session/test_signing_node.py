"""Node is the oracle: what it parses, rewrites and signs, we must too."""

import json
import os
import re
import shutil
import subprocess
from base64 import b64encode
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.texts import CHARACTERS
from tests.within import PATIENCE_S
from typelets_ws.protocol.json_members import members
from typelets_ws.session.json_stringify import NotJsonError, json_stringify
from typelets_ws.session.signing import open_envelope, session_secret, verify

pytestmark = pytest.mark.slow

ORACLE = r"""
const crypto = require("crypto");
const hmac = (secret, text) =>
  crypto.createHmac("sha256", secret).update(text).digest("base64");
const answers = {
  rewrite({ text }) {
    return JSON.stringify(JSON.parse(text));
  },
  // The envelope as it is received, and what the earlier server compared it with.
  sign({ secret, payload, timestamp, nonce }) {
    const envelope = JSON.parse(
      `{"payload":${payload},"timestamp":${timestamp},"nonce":${nonce}}`);
    return hmac(secret, JSON.stringify(envelope));
  },
  // What a client puts on the wire.
  send({ secret, payload, timestamp, nonce }) {
    const message = { payload: JSON.parse(payload), timestamp, nonce };
    const signature = hmac(secret, JSON.stringify(message));
    return JSON.stringify({ payload: message.payload, signature, timestamp, nonce });
  },
  secret({ token, user, now }) {
    const window = Math.floor(now / 300000) * 300000;
    return crypto.createHash("sha256").update(`${token}:${user}:${window}`)
      .digest("hex");
  },
};
let rest = "";
process.stdin.setEncoding("utf8");
process.stdin.on("data", (chunk) => {
  const lines = (rest + chunk).split("\n");
  rest = lines.pop();
  for (const line of lines) {
    let answer;
    try {
      const question = JSON.parse(line);
      answer = { is: answers[question.ask](question) };
    } catch (error) {
      answer = { error: error.name };
    }
    process.stdout.write(JSON.stringify(answer) + "\n");
  }
});
"""


class Node:
    """One process, a question and an answer a line."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def ask(self, kind: str, **question: object) -> str | None:
        """The answer; None when Node found that the text is not JSON."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps({"ask": kind, **question}) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        if "error" in answer:
            assert answer["error"] == "SyntaxError"
            return None
        text = answer["is"]
        assert isinstance(text, str)
        return text

    def rewrites(self, text: str) -> str | None:
        return self.ask("rewrite", text=text)


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    if shutil.which("node") is None:
        if os.environ.get("CI"):
            pytest.fail("node is not installed")
        pytest.skip("node is not installed")
    with subprocess.Popen(
        ["node", "-e", ORACLE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        encoding="utf-8",
    ) as process:
        yield Node(process)
        assert process.stdin
        process.stdin.close()
        process.wait(PATIENCE_S)


def ours(text: str) -> str | None:
    try:
        return json_stringify(text)
    except NotJsonError:
        return None


NUMBERS = re.findall(
    r"\S+",
    """
0 -0 -0.0 0e5 -0e-5 1 -1 1.0 1.10 10 100 1e2 1E2 1e+2 1e-2 12e-1 120e-1 1e20 1e21 1e22
1.5e20 1.5e21 123456789012345678901 1234567890123456789012 0.1 0.01 0.001 0.0001
0.00001 0.000001 0.0000001 1e-6 1e-7 1.5e-6 1.5e-7 123e-8 9007199254740991
9007199254740992 9007199254740993 -9007199254740993 18446744073709551615
0.30000000000000004 0.1000000000000000055511151231257827 2.2250738585072014e-308
2.225073858507201e-308 5e-324 4.9e-324 2e-324 1e-400 1.7976931348623157e308
1.7976931348623158e308 1.7976931348623159e308 1e308 1e309 1e400 -1e400 1e99999999999
1e-99999999999 4.35 0.5 5e-1 1.005 100000000000000000000000 1e23 9.5e-7
999999999999999900000 999999999999999999999 1000000000000000128 1000000000000000127
1700000000000 1700000000000.5 1.7e12 4294967294 123.456e10 01 1. .1 +1 - -a 1e 1e+ 0x1
1_0 NaN Infinity -Infinity 1a --1
""",
)


@pytest.mark.parametrize("number", NUMBERS)
def test_numbers(node: Node, number: str) -> None:
    for text in (number, f"[{number} ]", f'{{"a":{number}}}'):
        assert ours(text) == node.rewrites(text)


def test_very_long_numbers(node: Node) -> None:
    for text in ("9" * 5_000, "0." + "0" * 320 + "7" * 5_000, "1" * 300 + ".5e-250"):
        assert ours(text) == node.rewrites(text)


def test_every_character_raw_and_escaped(node: Node) -> None:
    for start in range(0, 0x10000, 0x400):
        codes = range(start, start + 0x400)
        # A space between, so that surrogates do not join.
        for form in ("\\u{:04x}", "\\u{:04X}"):
            text = '"' + " ".join(form.format(code) for code in codes) + '"'
            assert ours(text) == node.rewrites(text)
        if not 0xD800 <= start < 0xE000:
            raw = '"' + "".join(
                chr(c) for c in codes if c >= 0x20 and c not in (34, 92)
            )
            assert ours(raw + '"') == node.rewrites(raw + '"') == raw + '"'
    for code in range(0x20):
        assert ours(f'"{chr(code)}"') is node.rewrites(f'"{chr(code)}"') is None
    for code in range(0x20, 0x80):
        text = f'"\\{chr(code)}"'
        assert ours(text) == node.rewrites(text)


HALVES = (r"\ud83d", r"\uDE00", r"\uD800", r"\udfff", "a", "😀", r"\u0041", r"\\ud800")


def test_surrogates_in_every_order(node: Node) -> None:
    for a in HALVES:
        for b in HALVES:
            for c in HALVES:
                text = f'{{"{a}{b}{c}":"{c}{a}{b}"}}'
                assert ours(text) == node.rewrites(text)


KEYS = (
    '"0"', '"00"', '"1"', '"01"', '"-1"', '"-0"', '"1.0"', '"1e3"', '" 1"', '"9"',
    '"10"', '"4294967293"', '"4294967294"', '"4294967295"', '"4294967296"',
    '"9007199254740991"', '"9007199254740993"', '"99999999999"', '""', '"a"',
    '"__proto__"', '"constructor"', '"toJSON"', '"toString"', '"length"',
    r'"\u0031"', r'"\u005f_proto__"', r'"\/"', r'"\ud800"', r'"\u0000"', '"\u2028"',
    '"\u0663"', '"b"',
)  # fmt: skip
SPACE = st.text(" \t\n\r", max_size=2)


@given(keys=st.lists(st.sampled_from(KEYS), max_size=40))
def test_keys_in_any_order_and_repeated(node: Node, keys: list[str]) -> None:
    text = "{" + ",".join(f"{key}:{n}" for n, key in enumerate(keys)) + "}"
    assert ours(text) == node.rewrites(text)


ESCAPES = (
    r"\"", r"\\", r"\/", r"\b", r"\f", r"\n", r"\r", r"\t",
    r"\u0000", r"\u001F", r"\u007f", r"\u2028", r"\u2029",
)  # fmt: skip


def strings() -> st.SearchStrategy[str]:
    piece = st.one_of(
        st.sampled_from(ESCAPES),
        st.sampled_from(HALVES),
        st.characters(min_codepoint=0x20, exclude_categories=["Cs"]).filter(
            lambda c: c not in '"\\'
        ),
        st.integers(0, 0xFFFF).map("\\u{:04x}".format),
        st.integers(0, 0xFFFF).map("\\u{:04X}".format),
    )
    return st.lists(piece, max_size=8).map(lambda p: '"' + "".join(p) + '"')


def numbers() -> st.SearchStrategy[str]:
    spelled = st.from_regex(
        r"-?(0|[1-9][0-9]{0,25})(\.[0-9]{1,25})?([eE][+-]?[0-9]{1,3})?",
        fullmatch=True,
        alphabet=CHARACTERS,
    ).filter(str.isascii)
    floats = st.floats(allow_nan=False, allow_infinity=False)
    return st.one_of(spelled, floats.map(repr), floats.map("{:.25e}".format))


def arranged(values: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    spaced = st.tuples(SPACE, values, SPACE).map("".join)
    keys = st.one_of(st.sampled_from(KEYS), strings())
    member = st.tuples(SPACE, keys, SPACE, st.just(":"), spaced).map("".join)
    return st.one_of(
        st.lists(spaced, max_size=5).map(lambda v: "[" + ",".join(v) + "]"),
        st.lists(member, max_size=8).map(lambda m: "{" + ",".join(m) + "}"),
    )


TEXTS = st.recursive(
    st.one_of(strings(), numbers(), st.sampled_from(["true", "false", "null", "[ ]"])),
    arranged,
    max_leaves=25,
)
MANY = settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow])


@MANY
@given(text=TEXTS, data=st.data())
def test_any_damaged_json_text(node: Node, text: str, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(text)))
    junk = data.draw(st.sampled_from([*'{}[]":,\\u0 1-.eE+\x00\x0b\ufefft\u00a0', ""]))
    damaged = text[:at] + junk + text[at + data.draw(st.integers(0, 2)) :]
    expected = node.rewrites(damaged)
    assert ours(damaged) == expected
    # The slicing reader and JSON.parse accept the same texts.
    try:
        members('{"a":' + damaged + "}")
    except NotJsonError:
        assert expected is None


def test_deep_nesting(node: Node) -> None:
    for depth in (10, 500, 1_900):
        for text in ("[" * depth + "]" * depth, '{"a":' * depth + "1" + "}" * depth):
            assert ours(text) == node.rewrites(text)


LARGE = [
    '"' + "x" * 1_000_000 + '"',
    '"' + "\\u00e9\\/" * 125_000 + '"',
    '{"b":"' + "é" * 400_000 + '","1":[1.0,2]}',
]


@pytest.mark.parametrize("text", LARGE, ids=["plain", "escapes", "utf-8"])
def test_a_megabyte(node: Node, text: str) -> None:
    assert ours(text) == node.rewrites(text)


SECRET = "0123456789abcdef" * 4
OTHER = "f" * 64


@MANY
@given(
    payload=TEXTS,
    timestamp=numbers(),
    nonce=strings(),
    random=st.binary(max_size=16),
)
def test_any_json_text_is_rewritten_and_signed(
    node: Node, payload: str, timestamp: str, nonce: str, random: bytes
) -> None:
    """One draw for the three, because to draw costs more than they do."""
    expected = node.rewrites(payload)
    assert expected is not None
    assert ours(payload) == expected
    what_the_earlier_server_accepts_we_accept(node, payload, timestamp, nonce)
    what_a_client_sends_is_accepted_as_received(node, payload, random)


def what_the_earlier_server_accepts_we_accept(
    node: Node, payload: str, timestamp: str, nonce: str
) -> None:
    signature = node.ask(
        "sign", secret=SECRET, payload=payload, timestamp=timestamp, nonce=nonce
    )
    envelope = open_envelope(
        f'{{"payload":{payload},"signature":"{signature}",'
        f'"timestamp":{timestamp},"nonce":{nonce}}}'.encode()
    )
    assert envelope is not None
    assert envelope.nonce == json.loads(nonce)
    assert verify(envelope, [OTHER, SECRET])
    assert not verify(envelope, [OTHER])


def what_a_client_sends_is_accepted_as_received(
    node: Node, payload: str, nonce: bytes
) -> None:
    sent = node.ask(
        "send",
        secret=SECRET,
        payload=payload,
        timestamp=1_700_000_000_000,
        nonce=b64encode(nonce).decode(),
    )
    assert sent is not None
    envelope = open_envelope(sent.encode())
    assert envelope is not None
    assert verify(envelope, [SECRET])
    assert bytes(envelope.payload).decode() == ours(payload)


@pytest.mark.parametrize("payload", LARGE, ids=["plain", "escapes", "utf-8"])
def test_a_signed_megabyte(node: Node, payload: str) -> None:
    signature = node.ask(
        "sign", secret=SECRET, payload=payload, timestamp="1.0", nonce='"n"'
    )
    data = (
        f'{{"payload":{payload},"signature":"{signature}","timestamp":1.0,"nonce":"n"}}'
    )
    envelope = open_envelope(data.encode())
    assert envelope is not None
    assert verify(envelope, [SECRET])


@given(
    token=st.text(CHARACTERS),
    user=st.text(CHARACTERS),
    now=st.integers(0, 2**42) | st.integers(0, 2**34).map(lambda n: n * 300_000),
)
def test_session_secret(node: Node, token: str, user: str, now: int) -> None:
    expected = node.ask("secret", token=token, user=user, now=now)
    assert session_secret(token, user, now) == expected
