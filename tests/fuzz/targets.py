"""Properties that hold for any input: a function per reader, an input per call.

Each takes a random generator and raises `AssertionError`, or what the reader
raises against its word. `json.loads` is the oracle of what a message says.
"""

import base64
import hashlib
import hmac
import json
import random
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Final

import jwt
import msgspec
from msgspec import Raw

from tests.fuzz.inputs import document, javascript_json, spoiled, text
from tests.tokens import ISSUER, key_pair, mint, public_pem
from typelets_ws.clerk import tokens
from typelets_ws.clerk.claims import Claims, signed_identity
from typelets_ws.clerk.keys import FixedKey
from typelets_ws.config import load
from typelets_ws.config.addresses import ClientAddresses, canonical
from typelets_ws.config.model import AuthSettings, Config, ConfigError
from typelets_ws.config.origins import AllowedOrigins, canonical_origin
from typelets_ws.ports import TokenError
from typelets_ws.protocol import (
    client_messages,
    decoding,
    event_decoding,
    events,
    messages,
    replies,
)
from typelets_ws.protocol.errors import ClientError, Code
from typelets_ws.session import signing

__all__ = ["TARGETS"]

KINDS = {str(k.__struct_config__.tag): k for k in client_messages.CLIENT_MESSAGES}
FIELDS = sorted({name for kind in KINDS.values() for name in kind.__struct_fields__})
EVENTS = [str(kind.__struct_config__.tag) for kind in events.EVENTS]
EVENT_FIELDS = sorted({f for kind in events.EVENTS for f in kind.__struct_fields__})
NOT_JSON: Final = object()


def _refuse(word: str) -> Any:
    raise ValueError(word)


def oracle(data: bytes) -> Any:
    """The value that `JSON.parse` returns, or `NOT_JSON`."""
    try:
        return json.loads(data.decode(), parse_constant=_refuse, parse_int=float)
    except (ValueError, RecursionError):
        return NOT_JSON


def is_text(found: object) -> bool:
    """Whether it is a string that UTF-8 can hold."""
    if not isinstance(found, str):
        return False
    try:
        found.encode()
    except UnicodeEncodeError:
        return False
    return True


def fits(kind: Any, found: object) -> bool:
    """Whether a value may stand in a field of this type."""
    choices = getattr(kind, "__args__", (kind,))
    if Raw in choices:
        return True
    if found is None:
        return type(None) in choices
    if "dict" in str(kind):
        return isinstance(found, dict)
    if bool in choices:
        return isinstance(found, bool)
    return is_text(found)


def expected_code(found: Any) -> Code | None:
    """The code a message is refused with when it is decoded; None: it is accepted."""
    if not isinstance(found, dict) or not is_text(found.get("type")):
        return Code.INVALID_MESSAGE
    kind = KINDS.get(found["type"])
    if kind is None:
        return Code.UNKNOWN_TYPE
    types = {field.name: field.type for field in msgspec.structs.fields(kind)}
    for name, value in found.items():  # the first in the text decides
        if name in types and not fits(types[name], value):
            return Code.CURSOR_EXPIRED if name == "cursor" else Code.INVALID_FIELD
    if len(found.get("requestId") or "") > messages.ECHO_LENGTH:
        return Code.INVALID_FIELD
    return None


def client_message(rng: random.Random) -> None:
    """A message is read as JavaScript means it, or refused with the right code."""
    written = document(rng, "type", list(KINDS), FIELDS)
    data = javascript_json(rng, written)
    if rng.random() < 0.5:
        data = spoiled(rng, data)
    found = oracle(data)
    try:
        data.decode()
    except UnicodeDecodeError:
        return
    code, request_id = None, None
    try:
        message = decoding.decode(data)
    except ClientError as refused:
        code, request_id = refused.code, refused.request_id
        messages.encode(replies.error(refused))
    if found is NOT_JSON:
        # Nesting that only one of the two readers can follow.
        assert code is Code.INVALID_MESSAGE or data.count(b"[") > 500, data
        return
    assert code is expected_code(found), (data, code)
    if isinstance(found, dict) and is_text(found.get("requestId")):
        echo = found["requestId"][: messages.ECHO_LENGTH]
        assert request_id == echo if code else message.requestId == echo, data
    if code is None:
        _same(message, found, data)


def _same(message: Any, found: Mapping[str, Any], data: bytes) -> None:
    for name in message.__struct_fields__:
        read, said = getattr(message, name), found.get(name)
        if isinstance(read, Raw):
            assert not bytes(read) or oracle(bytes(read)) == said, data
            assert bytes(read) in data or not bytes(read), data
        elif isinstance(read, dict):
            assert read.keys() == {k for k in said or () if is_text(k)}, data
        else:
            assert read == said, data


def event(rng: random.Random) -> None:
    """An event is read and becomes valid JSON, or is rejected for one known reason."""
    data = javascript_json(rng, document(rng, "event", EVENTS, EVENT_FIELDS))
    if rng.random() < 0.5:
        data = spoiled(rng, data)
    try:
        found = event_decoding.decode(data)
    except event_decoding.EventError:
        return
    assert found.publishedAt is None or 0 <= found.publishedAt <= 253_402_300_799_999
    if not isinstance(found, events.ControlEvent):
        sent = messages.encode(found.message(int(found.publishedAt or 0)))
        assert oracle(sent)["timestamp"] == int(found.publishedAt or 0)


SECRETS = signing.Secrets()
SECRET = SECRETS.issue("token", "user", 0)


def envelope(rng: random.Random) -> None:
    """Only what was signed is accepted, however the envelope around it is changed."""
    payload = document(rng, "type", list(KINDS), FIELDS)
    body = {"payload": payload, "timestamp": rng.randrange(1_000), "nonce": text(rng)}
    signed = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
    raw = signed.encode("utf-8", "backslashreplace")
    mac = base64.b64encode(hmac.digest(SECRET.encode(), raw, hashlib.sha256)).decode()
    data = raw[:-1] + b',"signature":"' + mac.encode() + b'"}'
    changed = rng.random() < 0.7
    if changed:
        data = spoiled(rng, data)
    try:
        data.decode()
    except UnicodeDecodeError:
        return
    opened = signing.open_envelope(data)
    accepted = opened is not None and signing.verify(opened, [SECRET])
    if not changed:
        assert accepted, data
    elif accepted:
        found, said = oracle(data), oracle(raw)
        assert all(found[name] == said[name] for name in said), data


@cache
def _tokens() -> list[str]:
    kinds: list[dict[str, Any]] = [
        {}, {"headers": {"cat": "cl_B7d4PD111AAA"}}, {"claims": {"sts": "active"}},
    ]  # fmt: skip
    return [mint("user_1", now=1_800_000_000, **kind) for kind in kinds]


@cache
def _key() -> FixedKey:
    return FixedKey(public_pem())


def token(rng: random.Random) -> None:
    """A token that is changed anywhere is not accepted, and PyJWT agrees."""
    sound = rng.choice(_tokens())
    data = sound.encode()
    changed = rng.random() < 0.95
    if changed:
        data = _changed_token(rng, data)
    spelled = data.decode("latin-1")
    config = AuthSettings(jwt_key="x", issuer=ISSUER)
    try:
        parts = tokens._parts(spelled, config)
        tokens._check_signature(parts, _key())
        claims = msgspec.json.decode(parts.payload, type=Claims)
        signed_identity(claims, config, 1_800_000_010)
    except TokenError:
        assert changed, spelled
        return
    assert spelled in _tokens(), spelled
    options: Any = {"verify_exp": False, "verify_nbf": False, "verify_iat": False}
    jwt.decode(spelled, key_pair().public_key(), ["RS256"], options)


def _changed_token(rng: random.Random, data: bytes) -> bytes:
    found = bytearray(data)
    at = rng.randrange(len(found) + 1)
    found[at : at + rng.randrange(3)] = rng.choice(
        (b"", b"a", b"Z", b"0", b"-", b"_", b"=", b".", b"+", b"/", b"\xe9", b" ")
    )
    return bytes(found)


def claims(rng: random.Random) -> None:
    """Signed claims of any kind give an identity or one known reason."""
    found = document(
        rng, "sub", ["user_1", "mch_1", ""],
        ["exp", "iat", "nbf", "iss", "azp", "sid", "sts"],
    )  # fmt: skip
    if rng.random() < 0.5:
        found |= {"exp": 100, "iat": 10, "nbf": 10, "sid": "sess_1"}
    config = AuthSettings(
        accept_without_session=rng.random() < 0.5, accept_pending=rng.random() < 0.5
    )
    try:
        data = json.dumps(found).encode()
        found = json.loads(data)
        read = msgspec.json.decode(data, type=Claims)
    except msgspec.DecodeError:
        return
    try:
        identity = signed_identity(read, config, 50)
    except TokenError:
        return
    assert identity.user_id == found["sub"]
    assert identity.session_id == found.get("sid")
    assert identity.session_id or config.accept_without_session
    assert found.get("sts") != "pending" or config.accept_pending


SECTIONS = [field.name for field in msgspec.structs.fields(Config)]
SECRET_TEXT = "hunter2secret"
VALUES = (
    "true", "1", "-1", "1.5", "1e9", '""', '"x"', '"::"', '["a"]', "[]", "{}", "inf",
    "nan", '"10.0.0.0/8"', f'"redis://u:{SECRET_TEXT}@h/0"', f'"{SECRET_TEXT}"',
    '"https://a"', "1979-05-27", "[1]",
)  # fmt: skip


def configuration(rng: random.Random) -> None:
    """A configuration is read, or refused by `ConfigError` without a secret in it."""
    lines = []
    for section in rng.sample(SECTIONS, rng.randrange(1, 4)):
        lines.append(f"[{section}]")
        fields = [
            f.name for f in msgspec.structs.fields(type(getattr(Config(), section)))
        ]
        lines += [
            f"{name} = {rng.choice(VALUES)}"
            for name in rng.sample(fields, rng.randrange(3))
        ]
    data = "\n".join(lines).encode()
    if rng.random() < 0.2:
        data = spoiled(rng, data)
    try:
        found = load.parse(data.decode("utf-8", "replace"), "file", {}, {})
    except ConfigError as refused:
        shown = str(refused)
        secret = ("jwt_key", "secret_key", "status_token", "url")
        for line in shown.splitlines():
            assert SECRET_TEXT not in line or not any(f"] {k}" in line for k in secret)
    else:
        assert isinstance(found, Config)
        load.describe(found)


def address(rng: random.Random) -> None:
    """Any text in a proxy's header gives an address or leaves the peer's."""
    parts = ("1.2.3.4", "::1", "::ffff:1.2.3.4", "[", "]", ":", "%eth0", "80", ",", " ",
             "10.0.0.1", "unknown", '"', "2001:db8::1", ".")  # fmt: skip
    header = "".join(rng.choices(parts, k=rng.randrange(8)))
    addresses = ClientAddresses(["10.0.0.0/8", "unix"])
    client = addresses.client("10.0.0.9", header, header)
    assert canonical(client) == client
    origin = canonical_origin(header)
    assert origin is None or canonical_origin(origin) == origin
    AllowedOrigins(["https://a"]).allows(header)


TARGETS: Final[Mapping[str, Callable[[random.Random], None]]] = {
    "messages": client_message,
    "envelopes": envelope,
    "events": event,
    "tokens": token,
    "claims": claims,
    "configuration": configuration,
    "addresses": address,
}
