"""Which keys of a JWK set may be used."""

from typing import Any

import pytest

from tests.tokens import jwk, jwks, key_pair
from typelets_ws.jwks import KeysUnavailable, parse_keys


def test_set_with_one_key_serves_tokens_without_kid() -> None:
    keys = parse_keys(jwks(jwk(kid="a")))
    assert keys.only is keys.by_kid["a"]
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
    with pytest.raises(KeysUnavailable, match="no_keys"):
        parse_keys(jwks(odd))


def test_private_parts_in_a_set_are_not_used() -> None:
    assert parse_keys(jwks(jwk(kid="a", d="AQAB"))).only is not None


def test_first_of_two_entries_with_one_kid() -> None:
    keys = parse_keys(jwks(jwk(kid="a"), jwk(key_pair("b"), kid="a")))
    mine = key_pair().public_key().public_numbers()
    assert keys.by_kid["a"].public_numbers() == mine


def test_at_most_32_entries() -> None:
    keys = parse_keys(jwks(*(jwk(kid=f"k{n}") for n in range(40))))
    assert set(keys.by_kid) == {f"k{n}" for n in range(32)}


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>", b"[]", b"{}", b'{"keys":{}}', b"\xff", b'{"keys":[', b"[" * 9000,
     b'{"keys":[' + b"[" * 9000],
)  # fmt: skip
def test_body_that_is_no_set(body: bytes) -> None:
    with pytest.raises(KeysUnavailable, match="junk"):
        parse_keys(body)


def test_entry_nested_without_end() -> None:
    deep = b"[" * 500 + b"]" * 500
    with pytest.raises(KeysUnavailable):
        parse_keys(b'{"keys":[' + deep + b"]}")
