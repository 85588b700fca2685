"""What the outside world may answer."""

from typelets_ws.ports import RejectReason, StoreUnavailable, TokenRejected


def test_only_an_expired_token_may_be_replaced_by_a_fresh_one() -> None:
    patient = [why for why in RejectReason if TokenRejected(why).expired]
    assert patient == [RejectReason.EXPIRED]


def test_failures_say_one_word() -> None:
    assert str(TokenRejected(RejectReason.REVOKED)) == "revoked"
    failure = StoreUnavailable("timeout")
    assert (str(failure), failure.reason) == ("timeout", "timeout")
