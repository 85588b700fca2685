import json
from base64 import b64encode
from hashlib import sha256
from hmac import digest
from math import inf, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes import live
from tests.texts import CHARACTERS
from typelets_ws.session.signing import (
    Envelope,
    NonceMemory,
    Secrets,
    SignatureError,
    SignatureVerdict,
    check_age,
    judge,
    open_envelope,
    session_secret,
    verify,
)

NOW = 1_700_000_100_000
WINDOW = NOW // 300_000 * 300_000
SECRET = "5e" * 32


def sign(secret: str, payload: str, timestamp: str, nonce: str) -> str:
    text = f'{{"payload":{payload},"timestamp":{timestamp},"nonce":{nonce}}}'
    return b64encode(digest(secret.encode(), text.encode(), "sha256")).decode()


def wire(
    secret: str = SECRET,
    payload: str = '{"type":"ping"}',
    timestamp: str = str(NOW),
    nonce: str = '"n"',
    sent: tuple[str, str, str] | None = None,
) -> bytes:
    """A signed message; `sent`: what is on the wire instead of what was signed."""
    signature = sign(secret, payload, timestamp, nonce)
    p, t, n = sent or (payload, timestamp, nonce)
    return (
        f'{{"payload":{p},"signature":"{signature}","timestamp":{t},"nonce":{n}}}'
    ).encode()


def opened(data: bytes) -> Envelope:
    envelope = open_envelope(data)
    assert envelope is not None
    return envelope


# Opening


def test_the_received_bytes_are_kept() -> None:
    envelope = opened(
        b' {"extra":[1], "payload" : {"a" : 1.0} , "signature":"s",'
        b' "timestamp": 12.50 , "nonce" : "\\u006e\\/" }'
    )
    assert bytes(envelope.payload) == b'{"a" : 1.0}'
    assert bytes(envelope.raw_timestamp) == b"12.50"
    assert bytes(envelope.raw_nonce) == b'"\\u006e\\/"'
    assert (envelope.signature, envelope.timestamp, envelope.nonce) == ("s", 12.5, "n/")


def test_an_envelope_does_not_show_its_payload() -> None:
    assert "ping" not in repr(opened(wire()))


@pytest.mark.parametrize("payload", ["null", "0", '""', "[]", "false"])
def test_a_payload_may_be_anything(payload: str) -> None:
    assert bytes(opened(wire(payload=payload)).payload) == payload.encode()


@pytest.mark.parametrize("key", ["payload", "signature", "timestamp", "nonce"])
def test_one_key_missing_is_no_envelope(key: str) -> None:
    message = json.loads(wire())
    del message[key]
    message["text"] = '"signature"'
    assert open_envelope(json.dumps(message).encode()) is None


@pytest.mark.parametrize(
    ("key", "value"),
    [(key, value) for key in ("signature", "nonce") for value in ("5", "null", '["x"]')]
    + [("timestamp", value) for value in ('"5"', "null", "true", "[5]", "{}")],
)
def test_another_type_is_no_envelope(key: str, value: str) -> None:
    fields = {"payload": "1", "signature": '"s"', "timestamp": "5", "nonce": '"n"'}
    fields[key] = value
    data = "{" + ",".join(f'"{k}":{v}' for k, v in fields.items()) + "}"
    assert open_envelope(data.encode()) is None


def test_of_a_repeated_key_the_last_value_counts() -> None:
    data = wire().replace(b'{"payload"', b'{"signature":5,"nonce":"other","payload"', 1)
    assert opened(data).nonce == "n"
    assert open_envelope(wire()[:-1] + b',"signature":5}') is None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b'"signature"',
        b'["signature"]',
        b'{"signature":',
        wire() + b"x",
        wire()[:-1],
        b"\xef\xbb\xbf" + wire(),
        wire(payload="NaN"),
        wire(payload="01"),
        wire(payload='"\x01"'),
        wire(payload='"\\ud800', nonce='"n"'),
        wire(payload='"\\ud800\xff"').replace(b"\xc3\xbf", b"\xff"),
        wire(payload='{"\\ud800":NaN}'),
        wire(payload="[" * 500_000 + "]" * 500_000),
        wire(payload='["\\ud800",' + "[" * 500_000 + "]" * 500_001),
    ],
    ids=range(15),
)
def test_what_is_malformed_is_no_envelope(data: bytes) -> None:
    assert open_envelope(data) is None


def test_an_escaped_key_is_not_looked_for() -> None:
    data = wire().replace(b'"signature"', b'"\\u0073ignature"')
    assert open_envelope(data) is None


@given(st.binary(max_size=60))
def test_any_bytes_are_an_envelope_or_not(junk: bytes) -> None:
    for data in (
        b'{"signature":"s","timestamp":1,"nonce":"n","payload":' + junk + b"}",
        b'{"payload":"\\ud800","signature"' + junk,
    ):
        try:
            data.decode()
        except UnicodeDecodeError:
            continue
        open_envelope(data)


# Verifying


@pytest.mark.parametrize(
    ("payload", "timestamp", "nonce"),
    [
        ('{"type":"ping"}', str(NOW), '"n"'),
        ('{ "b" : 1.0, "1":2 }', "1.70e12", '"\\u0041"'),
        ('{"a":"\\ud800","b":"\\udc00x"}', str(NOW), '"n"'),
        ('"x"', str(NOW), '"\\uD800"'),
        ('{"\\uDFFF":1}', str(NOW), '"é😀"'),
    ],
)
def test_received_bytes_that_were_signed(
    payload: str, timestamp: str, nonce: str
) -> None:
    envelope = opened(wire(SECRET, payload, timestamp, nonce))
    assert verify(envelope, [SECRET])
    assert verify(envelope, iter(["00" * 32, SECRET]))
    assert not verify(envelope, ["00" * 32])
    assert not verify(envelope, [])


@pytest.mark.parametrize(
    ("signed", "sent"),
    [
        (('{"1":2,"b":1}', "1700", '"A"'), ('{ "b":1.0,"1":2}', "1.7e3", '"\\u0041"')),
        (('{"a":"\\ud800"}', "1", '"n"'), ('{"a":"\\uD800"}', "1.0", '"n"')),
        (('"/"', "1", '"\\udfff"'), ('"\\/"', "1", '"\\uDFFF"')),
    ],
)
def test_what_javascript_makes_of_the_received_bytes(
    signed: tuple[str, str, str], sent: tuple[str, str, str]
) -> None:
    envelope = opened(wire(SECRET, *signed, sent=sent))
    assert verify(envelope, iter(["00" * 32, SECRET]))
    assert not verify(envelope, ["00" * 32])


def test_a_message_that_reads_otherwise_is_refused() -> None:
    data = wire(sent=('{"type":"pong"}', str(NOW), '"n"'))
    assert not verify(opened(data), [SECRET])
    data = wire(sent=('{"type":"ping"}', str(NOW + 1), '"n"'))
    assert not verify(opened(data), [SECRET])
    data = wire(sent=('{"type":"ping"}', str(NOW), '"m"'))
    assert not verify(opened(data), [SECRET])


@pytest.mark.parametrize(
    "signature", ["", "é" * 44, "\\ud800" * 44, "A" * 44, "A" * 43, "A" * 45]
)
def test_a_signature_that_is_missing(signature: str) -> None:
    data = (
        '{"payload":1,"signature":"' + signature + '","timestamp":1,"nonce":"n"}'
    ).encode()
    assert not verify(opened(data), [SECRET])


def test_a_payload_with_too_many_values_is_verified_as_received_only() -> None:
    payload = "[" + "1," * 20_000 + "1]"
    assert verify(opened(wire(payload=payload)), [SECRET])
    spaced = payload.replace(",", ", ")
    data = wire(payload=payload, sent=(spaced, str(NOW), '"n"'))
    assert not verify(opened(data), [SECRET])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(CHARACTERS),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(CHARACTERS), inner),
)


@given(JSON, st.text(CHARACTERS), st.booleans())
def test_what_is_signed_verifies(payload: object, nonce: str, ascii: bool) -> None:
    text = json.dumps(payload, ensure_ascii=ascii)
    data = wire(SECRET, text, str(NOW), json.dumps(nonce, ensure_ascii=ascii))
    envelope = opened(data)
    assert envelope.nonce == nonce
    assert verify(envelope, [SECRET])
    assert not verify(envelope, ["00" * 32])


@given(st.data())
def test_one_changed_byte_is_noticed(data: st.DataObject) -> None:
    message = bytearray(wire(payload='{"type":"ping","x":"' + "y" * 50 + '"}'))
    position = data.draw(st.integers(0, len(message) - 1))
    message[position] ^= data.draw(st.integers(1, 127))
    try:
        message.decode()
    except UnicodeDecodeError:
        return
    envelope = open_envelope(bytes(message))
    assert envelope is None or not verify(envelope, [SECRET])


# Secrets


def test_the_secret_is_the_hash_of_token_user_and_window() -> None:
    for now in (WINDOW, WINDOW + 299_999, WINDOW + 299_999.5):
        expected = sha256(f"tok:ann:{WINDOW}".encode()).hexdigest()
        assert session_secret("tok", "ann", now) == expected
    assert session_secret("tok", "ann", WINDOW - 1) != expected
    assert session_secret("tok", "ann", WINDOW + 300_000) != expected


def candidates(secrets: Secrets, timestamp: float, now: int) -> list[str]:
    return list(secrets.candidates(timestamp, now))


def test_before_auth_no_secret_is_accepted() -> None:
    assert candidates(Secrets(), NOW, NOW) == []


def test_the_issued_secret_comes_first_and_once() -> None:
    secrets = Secrets()
    issued = secrets.issue("tok", "ann", WINDOW)
    assert issued == session_secret("tok", "ann", WINDOW)
    assert candidates(secrets, WINDOW + 299_999, WINDOW + 299_999) == [issued]


def test_the_secret_of_the_timestamps_window_is_accepted() -> None:
    secrets = Secrets()
    issued = secrets.issue("tok", "ann", WINDOW)
    edge = WINDOW + 300_000
    assert candidates(secrets, edge, edge) == [
        issued,
        session_secret("tok", "ann", edge),
    ]
    assert candidates(secrets, WINDOW - 1, edge) == [
        issued,
        session_secret("tok", "ann", WINDOW - 1),
    ]


def test_the_previous_secret_is_accepted_for_ten_minutes() -> None:
    secrets = Secrets()
    old = secrets.issue("old", "ann", WINDOW)
    new = secrets.issue("new", "ann", WINDOW + 1)
    assert candidates(secrets, WINDOW, WINDOW + 600_001) == [new, old]
    assert candidates(secrets, WINDOW, WINDOW + 600_002) == [new]
    assert candidates(secrets, WINDOW, WINDOW + 1) == [new]


def test_within_the_grace_both_tokens_derive_a_secret() -> None:
    secrets = Secrets()
    old = secrets.issue("old", "ann", WINDOW)
    new = secrets.issue("new", "ann", WINDOW + 1)
    edge = WINDOW + 300_000
    assert candidates(secrets, edge, edge) == [
        new,
        old,
        session_secret("new", "ann", edge),
        session_secret("old", "ann", edge),
    ]


def test_only_the_last_of_the_earlier_secrets_is_accepted() -> None:
    secrets = Secrets()
    issued = [secrets.issue(token, "ann", WINDOW) for token in ("a", "b", "c")]
    assert candidates(secrets, WINDOW, WINDOW) == [issued[2], issued[1]]


def test_the_same_secret_again_replaces_nothing() -> None:
    secrets = Secrets()
    old = secrets.issue("old", "ann", WINDOW)
    new = secrets.issue("new", "ann", WINDOW)
    assert secrets.issue("new", "ann", WINDOW + 200_000) == new
    assert candidates(secrets, WINDOW, WINDOW + 600_000) == [new, old]
    assert candidates(secrets, WINDOW, WINDOW + 600_001) == [new]


def test_the_same_token_in_another_window_derives_one_secret_only() -> None:
    secrets = Secrets()
    first = secrets.issue("tok", "ann", WINDOW)
    edge = WINDOW + 300_000
    second = secrets.issue("tok", "ann", edge)
    third = session_secret("tok", "ann", edge + 300_000)
    assert candidates(secrets, edge + 300_000, edge + 300_000) == [second, first, third]


def test_neither_token_nor_secret_is_shown() -> None:
    secrets = Secrets()
    issued = secrets.issue("the token", "ann", NOW)
    shown = repr(secrets) + repr(secrets._current)
    assert "the token" not in shown
    assert issued not in shown


# Age


@pytest.mark.parametrize(
    ("timestamp", "verdict"),
    [
        (NOW, SignatureVerdict.OK),
        (NOW - 300_000, SignatureVerdict.OK),
        (NOW - 300_000.5, SignatureVerdict.TOO_OLD),
        (NOW - 300_001, SignatureVerdict.TOO_OLD),
        (NOW + 60_000, SignatureVerdict.OK),
        (NOW + 60_000.5, SignatureVerdict.AHEAD),
        (NOW + 60_001, SignatureVerdict.AHEAD),
        (0, SignatureVerdict.TOO_OLD),
        (1e308, SignatureVerdict.AHEAD),
        (inf, SignatureVerdict.AHEAD),
        (-inf, SignatureVerdict.TOO_OLD),
        (nan, SignatureVerdict.TOO_OLD),
    ],
)
def test_age(timestamp: float, verdict: SignatureVerdict) -> None:
    assert check_age(timestamp, NOW) is verdict


# Judging


@pytest.fixture(name="secrets")
def secrets_of_ann() -> Secrets:
    secrets = Secrets()
    secrets.issue("tok", "ann", NOW)
    return secrets


def signed(nonce: str = "n", timestamp: float = NOW, token: str = "tok") -> Envelope:
    secret = session_secret(token, "ann", NOW)
    return opened(wire(secret, timestamp=str(timestamp), nonce=json.dumps(nonce)))


def test_a_message_counts_once(secrets: Secrets) -> None:
    nonces = NonceMemory(live(nonces_per_user=10))
    assert judge(signed(), secrets, nonces, NOW) is SignatureVerdict.OK
    assert judge(signed(), secrets, nonces, NOW) is SignatureVerdict.REPLAYED
    other = signed(timestamp=NOW + 1)
    assert judge(other, secrets, nonces, NOW) is SignatureVerdict.REPLAYED
    assert judge(signed("m"), secrets, nonces, NOW) is SignatureVerdict.OK


def test_a_message_from_ahead_cannot_come_again_later(secrets: Secrets) -> None:
    nonces = NonceMemory(live(nonces_per_user=10))
    ahead = signed(timestamp=NOW + 58_000)
    assert judge(ahead, secrets, nonces, NOW) is SignatureVerdict.OK
    for now, verdict in (
        (NOW + 302_000, SignatureVerdict.REPLAYED),
        (NOW + 358_000, SignatureVerdict.REPLAYED),
        (NOW + 358_001, SignatureVerdict.TOO_OLD),
    ):
        assert judge(ahead, secrets, nonces, now) is verdict


def test_a_failed_check_uses_up_no_nonce(secrets: Secrets) -> None:
    nonces = NonceMemory(live(nonces_per_user=10))
    for envelope, verdict in (
        (signed(token="other"), SignatureVerdict.BAD_SIGNATURE),
        (signed(timestamp=NOW - 300_001), SignatureVerdict.TOO_OLD),
        (signed(timestamp=NOW + 60_001), SignatureVerdict.AHEAD),
    ):
        assert judge(envelope, secrets, nonces, NOW) is verdict
    assert len(nonces) == 0
    assert judge(signed(), secrets, nonces, NOW) is SignatureVerdict.OK


def test_over_the_bound_a_good_message_is_refused(secrets: Secrets) -> None:
    nonces = NonceMemory(live(nonces_per_user=1))
    judge(signed("a"), secrets, nonces, NOW)
    assert judge(signed("b"), secrets, nonces, NOW) is SignatureVerdict.NONCES_FULL
    assert judge(signed("a"), secrets, nonces, NOW) is SignatureVerdict.REPLAYED


@pytest.mark.parametrize("timestamp", ["1e400", "-1e400", "1e308", "-1e308", "0"])
def test_an_absurd_timestamp_is_refused(secrets: Secrets, timestamp: str) -> None:
    envelope = opened(wire(timestamp=timestamp))
    verdict = judge(envelope, secrets, NonceMemory(live(nonces_per_user=1)), NOW)
    assert verdict in (SignatureVerdict.TOO_OLD, SignatureVerdict.AHEAD)


def test_a_refusal_is_counted_by_its_verdict() -> None:
    for verdict in SignatureVerdict:
        assert SignatureError(verdict, None).reason == str(verdict)
