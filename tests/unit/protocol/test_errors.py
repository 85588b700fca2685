"""The vocabulary of refusals is whole and free of traps."""

from typelets_ws.protocol import errors
from typelets_ws.protocol.errors import ClientError, CloseCode, Code, Disconnect


def test_codes_are_those_of_the_specification() -> None:
    assert " ".join(Code) == (
        "AUTH_REQUIRED RATE_LIMITED MESSAGE_TOO_LARGE INVALID_MESSAGE UNKNOWN_TYPE "
        "INVALID_FIELD NOT_FOUND ACCESS_DENIED SIGNATURE_REJECTED UNAVAILABLE INTERNAL "
        "TOO_MANY_DEVICES CONFLICT CURSOR_EXPIRED"
    )


def test_close_codes_make_the_web_client_reconnect() -> None:
    assert 1000 not in set(CloseCode)
    assert {1001, 1007, 1009, 1012, 1013, 4401, 4408, 4429} <= set(CloseCode)


def test_close_codes_may_stand_in_a_close_frame() -> None:
    for code in CloseCode:
        ours = 4000 <= code < 5000
        assert ours or code in {1001, 1002, 1007, 1008, 1009, 1011, 1012, 1013}


def test_texts_are_those_clients_have_seen_before() -> None:
    assert errors.NOTE_NOT_FOUND == "Note not found or access denied"
    assert errors.SIGNATURE_REJECTED == "Message authentication failed"
    assert errors.RATE_LIMITED == "Rate limit exceeded. Please slow down."
    assert errors.TOO_MANY_DEVICES == "Maximum connections exceeded for this user"


def test_refusal_says_its_message() -> None:
    refusal = ClientError(Code.RATE_LIMITED, errors.RATE_LIMITED, retry_after_ms=5)
    assert str(refusal) == refusal.message
    assert refusal.retry_after_ms == 5
    assert refusal.note_id is None


def test_disconnect_says_its_reason() -> None:
    disconnect = Disconnect(CloseCode.RESTARTING, "restart")
    assert (str(disconnect), disconnect.close_code) == ("restart", 1012)
