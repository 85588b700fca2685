"""One client's state machine, without a clock or a socket."""

import base64
import hashlib
import hmac
import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.fakes import NOW_MS, live
from typelets_ws.config.live import LiveConfig
from typelets_ws.config.model import Config, Limits, Messages
from typelets_ws.ports import Identity, TokenError, TokenRejectReason
from typelets_ws.protocol import client_messages
from typelets_ws.protocol.errors import ClientError, CloseCode, Code, Disconnect
from typelets_ws.session.session import FEW_MESSAGES, Session, State
from typelets_ws.session.signing import NonceRegistry, SignatureError, SignatureVerdict
from typelets_ws.session.user_rates import UserRate, UserRates

LIMITS = Limits(rate_messages=3, rate_window_ms=1000, message_bytes=100)
ALICE = Identity("alice", "s1", 0)


def session(limits: Limits = LIMITS, *, signed: bool = False) -> Session:
    rules = Messages(require_signed_messages=signed)
    return Session("c1", LiveConfig(Config(limits=limits, messages=rules)))


def let_in(
    one: Session,
    who: Identity = ALICE,
    token: str = "t",
    registry: NonceRegistry | None = None,
) -> str:
    auth = client_messages.Auth(token=token, requestId="r")
    # An empty registry counts as false.
    nonces = NonceRegistry(live(nonces_per_user=10)) if registry is None else registry
    return one.auth_succeeded(who, auth, nonces, NOW_MS)


def said(message: object) -> bytes:
    return json.dumps(message).encode()


def signed(secret: str, payload: object, nonce: str = "n", at: int = NOW_MS) -> bytes:
    body = {"payload": payload, "timestamp": at, "nonce": nonce}
    text = json.dumps(body, separators=(",", ":")).encode()
    mac = hmac.new(secret.encode(), text, hashlib.sha256).digest()
    return said({**body, "signature": base64.b64encode(mac).decode()})


def refused(verdict: object) -> ClientError:
    assert isinstance(verdict, ClientError)
    return verdict


def refusal(action: Callable[[], object]) -> ClientError:
    with pytest.raises(ClientError) as caught:
        action()
    return caught.value


def disconnect(action: Callable[[], object]) -> Disconnect:
    with pytest.raises(Disconnect) as caught:
        action()
    return caught.value


# count


def test_size_and_rate_are_counted_together() -> None:
    one = session()
    assert one.count(100, 0) is None
    assert refused(one.count(101, 0)).code is Code.MESSAGE_TOO_LARGE
    one.count(0, 0.4)
    late = refused(one.count(10**6, 0.5))
    assert (late.code, late.retry_after_ms) == (Code.RATE_LIMITED, 500)
    one.count(1, 1)


def test_a_flood_ends_it() -> None:
    one = session()
    for _ in range(3):
        one.count(1, 0)
    for _ in range(5):
        assert refused(one.count(1, 0)).code is Code.RATE_LIMITED
    last = one.count(1, 0)
    assert isinstance(last, Disconnect)
    assert (last.close_code, last.reason) == (CloseCode.TOO_MANY, "flood")


def test_a_flood_is_remembered_over_a_new_connection() -> None:
    rates = UserRates(LiveConfig(Config(limits=LIMITS)))
    first, second = session(), session()
    for one in (first, second):
        let_in(one)
    first.limit_user(rates, 0)
    while not isinstance(first.count(1, 0), Disconnect):
        pass
    second.limit_user(rates, 0.5)
    assert refused(second.count(1, 0.5)).code is Code.RATE_LIMITED


def test_the_rate_of_an_address_is_asked_for_after_a_few_messages() -> None:
    """Until the user is known; most connections send one message before."""
    asked: list[float] = []
    rate = UserRate(FEW_MESSAGES + 1, 1.0)

    def of_address(now: float) -> UserRate:
        asked.append(now)
        return rate

    one = session(Limits(rate_messages=100, rate_window_ms=1000))
    one.limit_address(of_address)
    for number in range(FEW_MESSAGES):
        assert one.count(1, number / 100) is None
    assert asked == []
    assert one.count(1, 0.5) is None
    assert one.count(1, 0.6) is None
    assert asked == [0.5]


def test_other_limits_hold_at_once_and_only_another_rate_counts_afresh() -> None:
    settings = LiveConfig(Config(limits=LIMITS))
    one = Session("c1", settings)
    for _ in range(3):
        one.count(1, 0)
    same = Limits(rate_messages=3, rate_window_ms=1000, message_bytes=5)
    settings.current = Config(limits=same)
    assert refused(one.count(1, 0.5)).code is Code.RATE_LIMITED
    settings.current = Config(limits=Limits(rate_messages=4, message_bytes=5))
    assert refused(one.count(6, 2)).code is Code.MESSAGE_TOO_LARGE


# admit, before authentication


@pytest.mark.parametrize("kind", client_messages.CLIENT_MESSAGES)
def test_before_auth_only_auth_and_ping_may_be_said(kind: Any) -> None:
    word = kind.__struct_config__.tag
    data = said({"type": word, "requestId": "r"})
    one = session()
    if word in {"auth", "ping"}:
        assert type(one.accept(data, NOW_MS).message) is kind
        return
    no = refusal(lambda: one.accept(data, NOW_MS))
    assert (no.code, no.request_id) == (Code.AUTH_REQUIRED, "r")


def test_before_auth_an_auth_in_an_envelope_is_unwrapped() -> None:
    admitted = session().accept(signed("x", {"type": "auth", "token": "t"}), NOW_MS)
    assert admitted.message == client_messages.Auth(token="t")
    assert admitted.envelope is None


@pytest.mark.parametrize(
    ("payload", "request_id"),
    [
        ({"type": "ping", "requestId": "r"}, "r"),
        ({"type": "nonsense", "requestId": "r"}, "r"),
        (None, None),
    ],
)
def test_before_auth_any_other_envelope_is_refused(
    payload: object, request_id: str | None
) -> None:
    no = refusal(lambda: session().accept(signed("x", payload), NOW_MS))
    assert (no.code, no.request_id) == (Code.AUTH_REQUIRED, request_id)


# admit, after authentication


def test_after_auth_everything_may_be_said_plain_or_signed() -> None:
    one = session()
    secret = let_in(one)
    plain = one.accept(said({"type": "join_note"}), NOW_MS)
    assert plain.envelope is None
    admitted = one.accept(signed(secret, {"type": "join_note"}), NOW_MS)
    assert isinstance(admitted.message, client_messages.JoinNote)
    assert admitted.envelope is not None
    assert refusal(lambda: one.accept(b"junk", NOW_MS)).code is Code.INVALID_MESSAGE


def test_a_bad_signature_is_charged_by_its_size() -> None:
    one = session(Limits())
    let_in(one)
    forged = signed("x", {"type": "ping", "x": "y" * 1_000_000})
    refusal(lambda: one.accept(forged, NOW_MS))
    served = [one.count(1, 0) is None for _ in range(101)]
    assert served == [True] * 100 + [False]
    refusal(lambda: one.accept(forged, NOW_MS))
    refusal(lambda: one.accept(forged, NOW_MS))
    refusal(lambda: one.accept(forged, NOW_MS))
    assert isinstance(one.count(1, 0), Disconnect)


def test_a_message_that_only_the_second_reader_reads_is_charged_by_its_size() -> None:
    one = session(Limits())
    lone = b'{"type":"ping","x":"\\ud83d' + b"y" * 999_000 + b'"}'
    assert one.accept(lone, NOW_MS).message == client_messages.Ping()
    served = [one.count(1, 0) is None for _ in range(202)]
    assert served == [True] * 201 + [False]


def test_an_envelope_is_charged_by_its_whole_size() -> None:
    """A nonce of 1 MB is signed text as well, and costs as much as a payload."""
    one = session(Limits())
    let_in(one)
    forged = b'{"payload":{},"signature":"%s=","timestamp":%d,"nonce":"%s"}' % (
        b"A" * 43, NOW_MS, b"y" * 1_000_000,
    )  # fmt: skip
    refusal(lambda: one.accept(forged, NOW_MS))
    served = [one.count(1, 0) is None for _ in range(101)]
    assert served == [True] * 100 + [False]


def test_an_envelope_that_only_the_second_reader_reads_is_charged() -> None:
    one = session(Limits())
    lone = b",".join(b'"k%d":"\\ud83d"' % number for number in range(5_000))
    text = b'{"payload":{"type":"ping"},"signature":"","timestamp":1,"nonce":"",%s}'
    refusal(lambda: one.accept(text % lone, NOW_MS))
    served = [one.count(1, 0) is None for _ in range(300)]
    assert served.count(True) < 200


def test_a_message_of_very_many_members_is_not_read_twice() -> None:
    members = b",".join(b'"k%d":"\\ud83d"' % number for number in range(60_000))
    text = b'{"type":"ping",' + members + b',"requestId":"r"}'
    assert refusal(lambda: session().accept(text, NOW_MS)).code is Code.INVALID_MESSAGE


def test_a_signature_must_hold_and_counts_once() -> None:
    one = session()
    secret = let_in(one)
    payload = {"type": "ping", "requestId": "r"}
    forged = refusal(lambda: one.accept(signed("x", payload), NOW_MS))
    assert isinstance(forged, SignatureError)
    assert forged.verdict is SignatureVerdict.BAD_SIGNATURE
    assert (forged.code, forged.request_id) == (Code.SIGNATURE_REJECTED, "r")
    one.accept(signed(secret, payload), NOW_MS)
    again = refusal(lambda: one.accept(signed(secret, payload), NOW_MS))
    assert isinstance(again, SignatureError)
    assert again.verdict is SignatureVerdict.REPLAYED


def test_who_never_signs_has_no_memory_of_nonces() -> None:
    one, registry = session(), NonceRegistry(live(nonces_per_user=10))
    secret = let_in(one, registry=registry)
    one.accept(said({"type": "join_note", "noteId": "n"}), NOW_MS)
    assert len(registry) == 0
    one.accept(signed(secret, {"type": "join_note"}), NOW_MS)
    assert len(registry) == 1


def test_where_signatures_are_required_only_ping_may_be_plain() -> None:
    one = session(signed=True)
    one.accept(said({"type": "auth", "token": "t"}), NOW_MS)
    secret = let_in(one)
    one.accept(said({"type": "ping"}), NOW_MS)
    one.accept(signed(secret, {"type": "join_note"}), NOW_MS)
    for word in ("auth", "join_note"):
        data = said({"type": word, "requestId": "r"})
        no = refusal(lambda data=data: one.accept(data, NOW_MS))  # type: ignore[misc]
        assert (no.code, no.request_id) == (Code.SIGNATURE_REJECTED, "r")


# the outcome of auth


def test_a_valid_token_authenticates_and_another_replaces_it() -> None:
    one = session()
    assert (one.state, one.authenticated) == (State.CONNECTED, False)
    first = let_in(one)
    assert (one.state, one.user_id, one.session_id) == (
        State.AUTHENTICATED,
        "alice",
        "s1",
    )
    second = let_in(one, Identity("alice", "s2", 0), "other")
    assert first != second
    assert one.session_id == "s2"
    one.accept(signed(first, {"type": "ping"}, "n1"), NOW_MS)
    one.accept(signed(second, {"type": "ping"}, "n2"), NOW_MS)


def test_a_token_of_another_user_ends_it() -> None:
    one = session()
    let_in(one)
    end = disconnect(lambda: let_in(one, Identity("bob", None, 0)))
    assert (end.close_code, end.reason) == (CloseCode.UNAUTHENTICATED, "other_user")
    assert json.loads(end.answer or b"") == {
        "type": "auth_failed", "message": "Authentication failed",
        "reason": "auth-failed", "requestId": "r",
    }  # fmt: skip
    assert (one.state, one.user_id) == (State.CLOSED, "alice")


def failed(one: Session, reason: TokenRejectReason) -> dict[str, Any]:
    auth = client_messages.Auth(requestId="r")
    answer = json.loads(one.auth_failed(TokenError(reason), auth))
    assert answer["requestId"] == "r"
    assert isinstance(answer, dict)
    return answer


def test_an_expired_token_may_be_replaced_twice() -> None:
    one = session()
    for _ in range(2):
        assert failed(one, TokenRejectReason.EXPIRED)["reason"] == "token-expired"
    end = disconnect(lambda: failed(one, TokenRejectReason.EXPIRED))
    assert end.close_code is CloseCode.UNAUTHENTICATED
    assert b"Token expired" in (end.answer or b"")
    assert one.state is State.CLOSED


def test_any_other_failure_before_auth_is_final() -> None:
    end = disconnect(lambda: failed(session(), TokenRejectReason.BAD_SIGNATURE))
    assert b"auth-failed" in (end.answer or b"")


def test_a_failed_re_auth_changes_nothing_twice_and_success_starts_again() -> None:
    one = session()
    let_in(one)
    for _ in range(2):
        for _ in range(2):
            assert failed(one, TokenRejectReason.MALFORMED)["reason"] == "auth-failed"
        assert one.authenticated
        let_in(one)
    failed(one, TokenRejectReason.EXPIRED)
    failed(one, TokenRejectReason.MALFORMED)
    disconnect(lambda: failed(one, TokenRejectReason.EXPIRED))


def test_a_revoked_session_is_final_at_once() -> None:
    one = session()
    let_in(one)
    disconnect(lambda: failed(one, TokenRejectReason.REVOKED))
    assert not one.authenticated


def test_a_closed_session_is_no_longer_authenticated() -> None:
    one = session()
    let_in(one)
    one.close()
    assert (one.state, one.authenticated) == (State.CLOSED, False)


def test_authenticated_without_a_secret_cannot_be() -> None:
    one = session()
    one.state = State.AUTHENTICATED
    with pytest.raises(AssertionError):
        one.accept(signed("x", {"type": "ping"}), NOW_MS)
