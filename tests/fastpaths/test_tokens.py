"""Tokens are judged alike by the fast decoder and by PyJWT's.

One difference is intended: the fast decoder accepts one spelling of a token, PyJWT's
base64 ignores bits behind the end. Here every token is spelt canonically.
"""

from typing import Any

import jwt
import structlog
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.texts import CHARACTERS
from tests.tokens import key_pair, mint, public_pem
from typelets_ws.clerk.tokens import Clerk
from typelets_ws.config.model import AuthSettings
from typelets_ws.fastpaths import FastPaths
from typelets_ws.ports import Clock, Identity, TokenError, TokenRejectReason
from typelets_ws.telemetry.metrics import Metrics
from typelets_ws.telemetry.telemetry import Telemetry

NOW = 1_800_000_000.0
Verdict = Identity | TokenRejectReason


def judge(token: str, *, fast: bool) -> Verdict:
    clerk = Clerk(
        AuthSettings(jwt_key=public_pem()),
        Clock(lambda: NOW, lambda: 0.0),
        Telemetry(Metrics(), structlog.get_logger()),
        fast=FastPaths(tokens=fast),
    )
    work = clerk.verify(token)
    try:
        # A PEM key is there: nothing is waited for.
        work.send(None)
    except StopIteration as done:
        identity: Identity = done.value
        return identity
    except TokenError as rejected:
        return rejected.reason
    raise AssertionError("gave up the event loop")


def agreed(token: str) -> Verdict:
    verdict = judge(token, fast=True)
    assert verdict == judge(token, fast=False)
    return verdict


JSON = st.none() | st.booleans() | st.integers() | st.text(CHARACTERS, max_size=8)
CLAIMS = st.sampled_from(["exp", "iat", "nbf", "sub", "iss", "azp", "sid", "aud"])
HEADERS = st.sampled_from(["typ", "cat", "oiat", "b64", "crit"])


def test_a_sound_token_passes_both() -> None:
    assert isinstance(agreed(mint(now=NOW)), Identity)


@given(st.dictionaries(CLAIMS, JSON, max_size=3))
def test_signed_claims(claims: dict[str, Any]) -> None:
    agreed(mint(now=NOW, claims=claims))


@given(st.dictionaries(HEADERS, JSON, max_size=2))
def test_signed_headers(headers: dict[str, Any]) -> None:
    try:
        token = mint(now=NOW, headers=headers)
    except jwt.InvalidTokenError:
        assume(False)  # PyJWT signs no header that it would refuse to read
    agreed(token)


@given(st.sampled_from(["RS384", "RS512", "PS256"]))
def test_other_algorithms(algorithm: str) -> None:
    assert agreed(mint(now=NOW, algorithm=algorithm)) == "bad_algorithm"


def test_a_forged_token() -> None:
    assert agreed(mint(now=NOW, key=key_pair("forger"))) == "bad_signature"


@given(
    st.text(CHARACTERS, max_size=30)
    | st.from_regex(r"[A-Za-z0-9]{0,8}(\.[A-Za-z0-9]{0,8}){0,3}", alphabet=CHARACTERS)
)
def test_text_that_is_no_token(text: str) -> None:
    assert agreed(text) == "malformed"
