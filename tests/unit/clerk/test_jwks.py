"""Which keys of a JWK set may be used."""

from typing import Any

import pytest

from tests.tokens import jwk, jwks, key_pair
from typelets_ws.clerk.jwks import KeyFetchError, parse_keys


def test_set_with_one_key_serves_tokens_without_kid() -> None:
    keys = parse_keys(jwks(jwk(kid="a")))
    assert (keys.only,) == keys.by_kid["a"]
    assert keys.only is not None
    assert keys.only.public_numbers() == key_pair().public_key().public_numbers()


def test_set_with_several_keys_has_no_only_one() -> None:
    keys = parse_keys(jwks(jwk(kid="a"), jwk(key_pair("b"), kid="b")))
    assert keys.only is None
    assert set(keys.by_kid) == {"a", "b"}


def test_key_without_kid_counts() -> None:
    assert parse_keys(jwks(jwk(kid=None))).only is not None
    keys = parse_keys(jwks(jwk(kid=None), jwk(key_pair("b"), kid="b")))
    assert keys.only is None
    assert set(keys.by_kid) == {"b"}


@pytest.mark.parametrize(
    "odd",
    [
        {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA", "kid": "x"},
        {"kty": "oct", "k": "AAAA", "kid": "x"},
        jwk(kid="x", use="enc"),
        jwk(kid="x", alg="RS512"),
        jwk(kid="x", n="AQAB"),
        jwk(kid="x", n="!!"),
        jwk(kid="x", n=7),
        jwk(kid="x", n=""),
        jwk(kid="x", e="AA"),
        jwk(kid="x", n="_" * 5000),
        jwk(key_pair("small", 1024), kid="x"),
        jwk(kid="x") | {"kid": 7},
        [],
        None,
        "text",
    ],
)
def test_odd_entry_is_passed_over(odd: Any) -> None:
    keys = parse_keys(jwks(odd, jwk(kid="good")))
    assert set(keys.by_kid) == {"good"}
    with pytest.raises(KeyFetchError, match="no_keys"):
        parse_keys(jwks(odd))


def test_private_parts_in_a_set_are_not_used() -> None:
    assert parse_keys(jwks(jwk(kid="a", d="AQAB"))).only is not None


def test_keys_with_one_kid_are_kept_side_by_side() -> None:
    keys = parse_keys(jwks(jwk(kid="a"), jwk(key_pair("b"), kid="a")))
    numbers = [key.public_numbers() for key in keys.by_kid["a"]]
    pairs = (key_pair(), key_pair("b"))
    assert numbers == [pair.public_key().public_numbers() for pair in pairs]


def test_keys_with_one_kid_are_bounded() -> None:
    keys = parse_keys(jwks(*(jwk(kid="a") for _ in range(9))))
    assert len(keys.by_kid["a"]) == 4


def test_a_key_behind_many_others_is_found() -> None:
    keys = parse_keys(jwks(*(jwk(kid=f"k{n}") for n in range(200))))
    assert len(keys.by_kid) == 200


def test_entries_are_bounded() -> None:
    odd = [{"kty": "EC"}] * 1_000
    with pytest.raises(KeyFetchError, match="no_keys"):
        parse_keys(jwks(*odd, jwk()))


def test_a_byte_order_mark_is_passed_over() -> None:
    assert parse_keys(b"\xef\xbb\xbf" + jwks()).only is not None


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>", b"[]", b"{}", b'{"keys":{}}', b"\xff", b'{"keys":[', b"[" * 9000,
     b'{"keys":[' + b"[" * 9000],
)  # fmt: skip
def test_body_that_is_no_set(body: bytes) -> None:
    with pytest.raises(KeyFetchError, match="junk"):
        parse_keys(body)


def test_entry_nested_without_end() -> None:
    deep = b"[" * 500 + b"]" * 500
    with pytest.raises(KeyFetchError):
        parse_keys(b'{"keys":[' + deep + b"]}")
