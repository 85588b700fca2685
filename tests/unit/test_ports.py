"""What the outside world may answer."""

from typelets_ws.ports import StoreUnavailable, TokenRejected, TokenRejectReason


def test_only_an_expired_token_may_be_replaced_by_a_fresh_one() -> None:
    patient = [why for why in TokenRejectReason if TokenRejected(why).expired]
    assert patient == [TokenRejectReason.EXPIRED]


def test_failures_say_one_word() -> None:
    assert str(TokenRejected(TokenRejectReason.REVOKED)) == "revoked"
    failure = StoreUnavailable("timeout")
    assert (str(failure), failure.reason) == ("timeout", "timeout")
