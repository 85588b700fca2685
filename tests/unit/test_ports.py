"""The answers of the ports."""

from typelets_ws.ports import StoreError, TokenError, TokenRejectReason


def test_only_an_expired_token_may_be_replaced_by_a_fresh_one() -> None:
    patient = [why for why in TokenRejectReason if TokenError(why).expired]
    assert patient == [TokenRejectReason.EXPIRED]


def test_failures_say_one_word() -> None:
    assert str(TokenError(TokenRejectReason.REVOKED)) == "revoked"
    failure = StoreError("timeout")
    assert (str(failure), failure.reason) == ("timeout", "timeout")
