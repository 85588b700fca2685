"""Judging a token with a cached key: no socket, no event loop, time passed in."""

import base64
import hmac
import io
import json
import string
from collections.abc import Coroutine
from typing import Any, TypeVar

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes import make_logger
from tests.texts import CHARACTERS
from tests.tokens import AZP, ISSUER, jwk, key_pair, mint, public_pem
from typelets_ws.clerk.tokens import Clerk
from typelets_ws.config.model import AuthSettings
from typelets_ws.ports import Clock, Identity, TokenError, TokenRejectReason
from typelets_ws.telemetry.metrics import Metrics
from typelets_ws.telemetry.telemetry import Telemetry

NOW = 1_800_000_000.0
CLOCK = Clock(lambda: NOW, lambda: 0.0)
T = TypeVar("T")


def make(log: io.StringIO | None = None, **auth: Any) -> Clerk:
    config = AuthSettings(**{"jwt_key": public_pem(), **auth})
    logger = make_logger(log or io.StringIO(), lambda: NOW)
    return Clerk(config, CLOCK, Telemetry(Metrics(), logger))


def at_once(work: Coroutine[Any, Any, T]) -> T:
    """Run what must not wait for anything."""
    try:
        work.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    work.close()
    raise AssertionError("gave up the event loop")


def judge(token: str, **auth: Any) -> Identity | TokenRejectReason:
    try:
        return at_once(make(**auth).verify(token))
    except TokenError as rejection:
        return rejection.reason


def token(user: str = "user_1", **options: Any) -> str:
    return mint(user, **{"now": NOW, **options})


def encoded(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def test_valid_token_tells_user_session_and_times() -> None:
    identity = judge(token(), issuer=ISSUER, authorized_parties=(AZP,))
    assert identity == Identity("user_1", "sess_1", NOW)


def test_pem_goes_for_any_kid_or_none() -> None:
    for kid in (None, "ins_other", ""):
        assert isinstance(judge(token(kid=kid)), Identity)


def test_token_without_session_is_accepted_only_on_request() -> None:
    assert judge(token(sid=None)) is TokenRejectReason.NO_SESSION
    identity = judge(token(sid=None), accept_without_session=True)
    assert isinstance(identity, Identity)
    assert identity.session_id is None


def test_pending_session_is_accepted_only_on_request() -> None:
    pending = token(claims={"sts": "pending"})
    assert judge(pending) is TokenRejectReason.PENDING
    assert isinstance(judge(pending, accept_pending=True), Identity)
    assert isinstance(judge(token(claims={"sts": "active"})), Identity)


@pytest.mark.parametrize(
    ("category", "session", "lenient"),
    [
        ("cl_B7d4PD111AAA", True, True),
        ("cl_I7d4PD111III", True, True),
        ("cl_B7d4PD222AAA", False, True),
        ("cl_B7d4PD333AAA", False, False),
        ("cl_B7d4PD444AAA", False, False),
        ("", False, False),
        (None, False, False),
        (["cl_B7d4PD111AAA"], False, False),
    ],
)
def test_classes_of_tokens(category: object, session: bool, lenient: bool) -> None:
    made = token(headers={"cat": category})
    for setting, accepted in ((False, session), (True, lenient)):
        verdict = judge(made, accept_without_session=setting)
        assert verdict is TokenRejectReason.WRONG_CATEGORY or accepted
        assert isinstance(verdict, Identity) is accepted


def test_age_of_accepted_tokens_is_counted() -> None:
    clerk = make()
    at_once(clerk.verify(token(now=NOW - 3)))
    registry = clerk._telemetry.metrics.registry
    name = "typelets_ws_token_age_seconds_bucket"
    counts = [registry.get_sample_value(name, {"le": le}) for le in ("1.0", "5.0")]
    assert counts == [0, 1]


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"exp": NOW + 0.5}, None),
        ({"exp": NOW - 4.9}, None),
        ({"exp": NOW - 5}, TokenRejectReason.EXPIRED),
        ({"exp": NOW - 3600}, TokenRejectReason.EXPIRED),
        ({"exp": 0}, TokenRejectReason.EXPIRED),
        ({"nbf": NOW + 5}, None),
        ({"nbf": NOW + 5.1}, TokenRejectReason.NOT_ACTIVE_YET),
        ({"iat": NOW + 5}, None),
        ({"iat": NOW + 5.1}, TokenRejectReason.ISSUED_IN_FUTURE),
    ],
)
def test_times_have_the_leeway_and_no_more(
    claims: dict[str, float], reason: TokenRejectReason | None
) -> None:
    verdict = judge(token(claims=claims))
    assert verdict is reason if reason else isinstance(verdict, Identity)


def test_leeway_is_a_setting() -> None:
    late = token(claims={"exp": NOW - 1})
    assert judge(late, leeway_s=0.0) is TokenRejectReason.EXPIRED
    assert judge(token(claims={"exp": NOW}), leeway_s=0.0) is TokenRejectReason.EXPIRED
    assert isinstance(judge(late, leeway_s=2.0), Identity)


@pytest.mark.parametrize("name", ["exp", "iat", "nbf", "sub"])
def test_required_claim_is_missing(name: str) -> None:
    assert judge(token(without=[name])) is TokenRejectReason.MISSING_CLAIM


@pytest.mark.parametrize("name", ["exp", "iat", "nbf"])
@pytest.mark.parametrize(
    "value", [None, True, "1800000000", [], {}, 10**400, 1e300, 253_402_300_800, -1]
)
def test_times_must_be_numbers_of_this_age(name: str, value: object) -> None:
    assert judge(token(claims={name: value})) is TokenRejectReason.BAD_CLAIM


@pytest.mark.parametrize("text", ["NaN", "Infinity", "1e999"])
def test_numbers_beyond_json_are_refused(text: str) -> None:
    key = key_pair()
    body = token(without=["exp"]).split(".")[1]
    claims = base64.urlsafe_b64decode(body + "==")[:-1] + f', "exp": {text}}}'.encode()
    signed = jwt.api_jws.encode(claims, key, "RS256")
    assert judge(signed) in {TokenRejectReason.BAD_CLAIM, TokenRejectReason.MALFORMED}


@pytest.mark.parametrize(
    "sub",
    ["", " ", "a b", "a\n", "\x00", "a\x7fb", "a\u2028", "a\u00a0", "x" * 257, None, 7,
     True, ["user_1"], {"id": 1}],
)  # fmt: skip
def test_subject_must_be_a_plain_name(sub: object) -> None:
    assert judge(token(claims={"sub": sub})) is TokenRejectReason.BAD_SUBJECT


def test_machine_without_a_category_is_known_by_its_subject() -> None:
    assert judge(token("mch_2x")) is TokenRejectReason.WRONG_CATEGORY
    forged = token("mch_2x", key=key_pair("forger"))
    assert judge(forged) is TokenRejectReason.BAD_SIGNATURE


def test_name_of_a_key_pair_is_the_pair() -> None:
    assert key_pair() is key_pair("clerk") is key_pair(name="clerk", bits=2048)
    assert key_pair("other") is not key_pair()


def test_longest_subject() -> None:
    assert isinstance(judge(token("x" * 256)), Identity)


@pytest.mark.parametrize(
    "sid", ["", " ", "a b", "a\n", "\x00", "a\u2028", "x" * 257, None, 7, ["sess_1"]]
)
def test_session_id_must_be_a_plain_name(sid: object) -> None:
    assert judge(token(claims={"sid": sid})) is TokenRejectReason.BAD_CLAIM


@pytest.mark.parametrize("iss", [None, "", ISSUER + "/", 7, [ISSUER]])
def test_other_issuer(iss: object) -> None:
    other = token(claims={"iss": iss})
    assert judge(other, issuer=ISSUER) is TokenRejectReason.WRONG_ISSUER
    assert isinstance(judge(other), Identity)


def test_missing_issuer() -> None:
    assert (
        judge(token(without=["iss"]), issuer=ISSUER) is TokenRejectReason.WRONG_ISSUER
    )
    assert isinstance(judge(token(without=["iss"])), Identity)


@pytest.mark.parametrize("azp", [None, "", "https://evil.example", 7, [AZP]])
def test_other_party(azp: object) -> None:
    other = token(claims={"azp": azp})
    assert judge(other, authorized_parties=(AZP,)) is TokenRejectReason.WRONG_PARTY
    assert isinstance(judge(other), Identity)


def test_missing_party_is_refused_only_where_parties_are_listed() -> None:
    bare = token(without=["azp"])
    assert judge(bare, authorized_parties=(AZP,)) is TokenRejectReason.WRONG_PARTY
    assert isinstance(judge(bare), Identity)


def test_audience_is_not_looked_at() -> None:
    assert isinstance(judge(token(claims={"aud": "https://other"})), Identity)


def test_what_no_fresh_token_cures_is_reported_before_expiry() -> None:
    old = token(claims={"exp": NOW - 60, "iss": "https://other"})
    assert judge(old, issuer=ISSUER) is TokenRejectReason.WRONG_ISSUER


def test_forged_expired_token_is_not_reported_that_it_is_expired() -> None:
    forged = token(key=key_pair("forger"), expires_in=-3600)
    assert judge(forged) is TokenRejectReason.BAD_SIGNATURE


def test_swapped_payload() -> None:
    (head, _, signature), (_, other, _) = (
        token(user).split(".") for user in ("user_1", "user_2")
    )
    assert judge(f"{head}.{other}.{signature}") is TokenRejectReason.BAD_SIGNATURE


def test_algorithm_none() -> None:
    head, body, signature = token().split(".")
    for name in ("none", "None", "NONE", ""):
        bare = encoded(json.dumps({"alg": name}).encode())
        assert judge(f"{bare}.{body}.") is TokenRejectReason.BAD_ALGORITHM
        assert judge(f"{bare}.{body}.{signature}") is TokenRejectReason.BAD_ALGORITHM
    assert judge(f"{head}.{body}.") is TokenRejectReason.BAD_SIGNATURE


def test_hs256_signed_with_the_public_key() -> None:
    head = encoded(b'{"alg":"HS256","typ":"JWT"}')
    text = f"{head}.{token().split('.')[1]}"
    mac = hmac.digest(public_pem().encode(), text.encode(), "sha256")
    assert judge(f"{text}.{encoded(mac)}") is TokenRejectReason.BAD_ALGORITHM


@pytest.mark.parametrize("algorithm", ["RS384", "RS512", "PS256"])
def test_other_algorithm_with_the_right_key(algorithm: str) -> None:
    assert judge(token(algorithm=algorithm)) is TokenRejectReason.BAD_ALGORITHM


def test_rs512_signature_under_an_rs256_header() -> None:
    head, body, _ = token().split(".")
    text = f"{head}.{body}".encode()
    signature = jwt.get_algorithm_by_name("RS512").sign(text, key_pair())
    assert (
        judge(f"{head}.{body}.{encoded(signature)}") is TokenRejectReason.BAD_SIGNATURE
    )


def test_key_inside_the_header_is_no_key() -> None:
    forger = key_pair("forger")
    headers = {"jwk": jwk(forger), "jku": "http://evil.example", "x5u": "http://x"}
    forged = token(key=forger, headers=headers)
    assert judge(forged) is TokenRejectReason.BAD_SIGNATURE


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ({"cat": "cl_B7d4PD333AAA"}, TokenRejectReason.WRONG_CATEGORY),
        ({"typ": "at+jwt"}, TokenRejectReason.WRONG_CATEGORY),
        ({"crit": ["exp"], "exp": 1}, TokenRejectReason.MALFORMED),
        ({"crit": None}, TokenRejectReason.MALFORMED),
        ({"crit": []}, TokenRejectReason.MALFORMED),
        ({"cat": "cl_I7d4PD111III", "oiat": 17, "new": {"a": [1]}}, None),
        ({"cat": 7}, TokenRejectReason.WRONG_CATEGORY),
        ({"typ": "jwt"}, None),
        ({"typ": None}, None),
    ],
)
def test_header(headers: dict[str, Any], reason: TokenRejectReason | None) -> None:
    sound = token()
    _, body, _ = sound.split(".")
    head = {"alg": "RS256", "typ": "JWT"} | headers
    head = {name: head[name] for name in head if name != "typ" or head[name]}
    text = f"{encoded(json.dumps(head).encode())}.{body}"
    signature = jwt.get_algorithm_by_name("RS256").sign(text.encode(), key_pair())
    verdict = judge(f"{text}.{encoded(signature)}")
    assert verdict is reason if reason else isinstance(verdict, Identity)


@pytest.mark.parametrize(
    "text",
    ["", ".", "..", "...", "a.b", "a.b.c.d", "é.é.é", "\ud800..", "a b.c.d", "=.=.=",
     encoded(b"[]") + ".e30.", encoded(b"{}") + ".e30", encoded(b"\xff") + ".e30.",
     encoded(b'{"alg":7}') + ".e30.", encoded(b'{"alg":"RS256","kid":7}') + ".e30.",
     encoded(b"[" * 9000) + ".e30.", encoded(b'{"a":' + b"[" * 9000) + ".e30."],
)  # fmt: skip
def test_what_is_no_token_is_malformed(text: str) -> None:
    assert judge(text) is TokenRejectReason.MALFORMED


def test_one_spelling_of_each_token() -> None:
    sound = token()
    assert isinstance(judge(sound), Identity)
    for other in (sound + "=", sound + "==", sound + "\n", " " + sound, sound + "!"):
        assert judge(other) is TokenRejectReason.MALFORMED
    # The last character of 256 bytes carries four bits that mean nothing.
    twin = sound[:-1] + {"A": "B", "Q": "R", "g": "h", "w": "x"}[sound[-1]]
    assert judge(twin) is TokenRejectReason.MALFORMED


@pytest.mark.parametrize("size", range(1, 5))
def test_of_the_last_characters_only_those_that_leave_no_bit_over(size: int) -> None:
    head, _, signature = token().split(".")
    for last in string.ascii_letters + string.digits + "-_+/=é":
        segment = "A" * size + last
        sound = last not in "+/=é" and len(segment) % 4 != 1
        if sound:
            raw = base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4))
            sound = base64.urlsafe_b64encode(raw).decode().rstrip("=") == segment
        expected = (
            TokenRejectReason.BAD_SIGNATURE if sound else TokenRejectReason.MALFORMED
        )
        assert judge(f"{head}.{segment}.{signature}") is expected, segment


def test_signed_payload_that_is_no_object() -> None:
    for payload in (
        b"",
        b"7",
        b"[]",
        b"\xff",
        b'{"sub":"\xff"}',
        b'{"a":' + b"[" * 9000,
    ):
        signed = jwt.api_jws.encode(payload, key_pair(), "RS256")
        assert judge(signed) in {
            TokenRejectReason.MALFORMED,
            TokenRejectReason.BAD_CLAIM,
        }


@pytest.mark.parametrize("name", ["sub", "pla"])
def test_signed_claim_that_is_no_utf8(name: str) -> None:
    body = token(claims={name: "user_~"}).split(".")[1]
    payload = base64.urlsafe_b64decode(body + "==")
    broken = payload.replace(b"~", b"\xff")
    assert broken != payload
    signed = jwt.api_jws.encode(broken, key_pair(), "RS256")
    assert judge(signed) is TokenRejectReason.MALFORMED


def test_long_tokens_are_not_even_taken_apart() -> None:
    long = token(claims={"pla": "x" * 11_000})
    assert isinstance(judge(long), Identity)
    assert judge(token(claims={"pla": "x" * 12_300})) is TokenRejectReason.MALFORMED
    assert judge("." * 5_000_000) is TokenRejectReason.MALFORMED


@pytest.mark.parametrize(
    "pem",
    ["no key at all", "-----BEGIN PUBLIC KEY-----\nQUJD\n-----END PUBLIC KEY-----",
     public_pem(key_pair("small", 1024))],
)  # fmt: skip
def test_pem_that_is_no_key_is_refused_without_showing_it(pem: str) -> None:
    with pytest.raises(ValueError, match=r"auth\.jwt_key: expected an RSA") as caught:
        make(jwt_key=pem)
    assert pem not in str(caught.value)
    assert caught.value.__context__ is None


def test_settings_change_from_the_next_token_on() -> None:
    clerk = make()
    other = token(key=key_pair("other"))
    assert at_once(clerk.verify(token())).user_id == "user_1"
    clerk.reconfigure(AuthSettings(jwt_key=public_pem(), issuer="https://other"))
    with pytest.raises(TokenError, match="wrong_issuer"):
        at_once(clerk.verify(token()))
    clerk.reconfigure(AuthSettings(jwt_key=public_pem(key_pair("other"))))
    assert at_once(clerk.verify(other)).user_id == "user_1"
    with pytest.raises(ValueError, match="jwt_key"):
        clerk.reconfigure(AuthSettings(jwt_key="junk", issuer="https://other"))
    assert at_once(clerk.verify(other)).user_id == "user_1"


def test_nothing_of_a_token_is_reported() -> None:
    stream = io.StringIO()
    forged = token(key=key_pair("forger"), user="user_private")
    with pytest.raises(TokenError) as caught:
        at_once(make(stream).verify(forged))
    assert str(caught.value) == "bad_signature"
    assert not stream.getvalue()


@given(
    st.text(CHARACTERS)
    | st.from_regex(r"[\w-]{0,9}(\.[\w-]{0,9}){0,4}", alphabet=CHARACTERS)
)
def test_any_text_is_accepted_or_refused(text: str) -> None:
    assert isinstance(judge(text), TokenRejectReason)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(CHARACTERS),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(CHARACTERS), inner, max_size=3)
    ),
    max_leaves=5,
)
NAMES = st.sampled_from(["exp", "iat", "nbf", "sub", "iss", "azp", "sid", "aud"])


@given(st.dictionaries(NAMES, JSON, max_size=3))
def test_any_signed_claims_are_accepted_or_refused(claims: dict[str, Any]) -> None:
    signed = token(claims=claims)
    verdict = judge(signed, issuer=ISSUER, authorized_parties=(AZP,))
    assert isinstance(verdict, Identity | TokenRejectReason)


@given(st.data())
def test_nothing_passes_that_pyjwt_would_refuse(data: st.DataObject) -> None:
    sound = token()
    at = data.draw(st.integers(0, len(sound)))
    cut = data.draw(st.integers(0, 2))
    put = data.draw(st.text("abcXYZ019-_=.+/ é", max_size=2))
    spoiled = sound[:at] + put + sound[at + cut :]
    if isinstance(judge(spoiled), Identity):
        options: Any = {"verify_exp": False, "verify_nbf": False, "verify_iat": False}
        jwt.decode(spoiled, key_pair().public_key(), ["RS256"], options)
