"""Defaults, the example that shows them, and rules of the whole."""

import tomllib
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from msgspec import structs

from tests.tokens import public_pem
from typelets_ws.config.load import load, parse
from typelets_ws.config.model import (
    AuthSettings,
    Config,
    ConfigError,
    Server,
    secret_keys,
)
from typelets_ws.config.types import key_types
from typelets_ws.config.validate import errors, require_keys, warnings

EXAMPLE = Path(__file__).parents[3] / "config.example.toml"


EC = (
    ec.generate_private_key(ec.SECP256R1())
    .public_key()
    .public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    .decode()
)


def test_example_is_exactly_the_defaults() -> None:
    assert load(EXAMPLE, {}) == Config()


def test_example_has_every_key_in_order() -> None:
    tables = tomllib.loads(EXAMPLE.read_text("utf-8"))
    listed = [(section, key) for section, keys in tables.items() for key in keys]
    assert listed == list(key_types())


def test_defaults_keep_all_rules() -> None:
    assert list(errors(Config())) == []


def test_every_secret_is_a_key() -> None:
    assert secret_keys() <= set(key_types())


def test_no_section_or_key_is_ambiguous_in_the_environment() -> None:
    for section, key in key_types():
        assert "_" not in section
        assert not key.endswith("_file")


@pytest.mark.parametrize(
    "origin",
    [
        "https://app.example.com",
        "http://localhost:3000",
        "http://127.0.0.1:5173",
        "http://[::1]:3000",
        "capacitor://localhost",
        "https://xn--bcher-kva.example",
    ],
)
def test_origin_as_browsers_send_it_is_accepted(origin: str) -> None:
    server = Server(allowed_origins=(origin,))
    assert list(errors(structs.replace(Config(), server=server))) == []


@pytest.mark.parametrize(
    "origin",
    [
        "*",
        "app.example.com",
        "https://app.example.com/",
        "https://*.example.com",
        "https://user@app.example.com",
        "https://app.example.com:99999",
        "https://[::1",
        "https://:8080",
        "https://b\u00fccher.example",
    ],
)
def test_origin_that_could_never_match_is_refused(origin: str) -> None:
    config = structs.replace(Config(), server=Server(allowed_origins=(origin,)))
    assert [each[:2] for each in errors(config)] == [("server", "allowed_origins")]


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("[server]\ntrusted_proxies = ['proxy']", "[server] trusted_proxies"),
        ("[server]\ntrusted_proxies = ['10.0.0.1/8']", "[server] trusted_proxies"),
        ("[server]\ntls_key = 'k'", "[server] tls_certificate"),
        ("[server]\ntls_certificate = 'c'", "[server] tls_key"),
        ("[admin]\nport = 8765", "[admin] port"),
        ("[auth]\njwt_key = 'x'", "[auth] jwt_key"),
        ("[auth]\njwks_url = 'example.com'", "[auth] jwks_url"),
        ("[auth]\napi_url = ''", "[auth] api_url"),
        ("[auth]\napi_url = 'https://[::1'", "[auth] api_url"),
        ("[limits]\nunread_bytes = 1", "[limits] unread_bytes"),
        ("[redis]\nurl = 'localhost:6379'", "[redis] url"),
        ("[redis]\nurl = ''", "[redis] url"),
        ("[redis]\nurl = 'redis://'", "[redis] url"),
        ("[database]\nurl = 'host=x dbname=y'", "[database] url"),
        ("[database]\nurl = 'postgres:/u:p@h/d'", "[database] url"),
        ("[database]\nurl = 'postgresql://u:p%zz@h/d'", "[database] url"),
        ("[database]\nurl = 'postgresql://u:p@p@h/d'", "[database] url"),
        ("[database]\nurl = 'postgresql://u:p/p@h/d'", "[database] url"),
        ("[database]\nurl = 'postgresql://u:p p@h/d'", "[database] url"),
        ("[database]\npool_max = 1", "[database] pool_min"),
    ],
)
def test_what_does_not_go_together_is_refused(text: str, place: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text, "t.toml", {}, {})
    assert str(caught.value).startswith(f"t.toml: {place} = ")


@pytest.mark.parametrize(
    "text",
    [
        "[server]\ntrusted_proxies = ['10.0.0.0/8', '::1', '127.0.0.1']",
        "[server]\nport = 0\n[admin]\nport = 0",
        "[server]\nport = 9464\n[admin]\nenabled = false",
        "[redis]\nurl = 'unix:///run/redis.sock'",
        "[redis]\nurl = 'rediss://u:p@h:6380/1'",
        "[database]\nurl = 'postgresql:///typelets?host=/run/postgresql'",
        "[database]\nurl = 'postgresql://a:1,b:2/typelets'",
        "[database]\nurl = 'postgres://u:p%40:#!~@[::1]:5432/d?sslmode=require'",
        "[database]\nurl = 'postgresql://%2Frun%2Fpg?user=u'",
        "[database]\nurl = 'postgresql://'",
    ],
)
def test_what_goes_together_is_accepted(text: str) -> None:
    parse(text, "t.toml", {}, {})


def test_jwt_key_is_an_rsa_key() -> None:
    assert list(errors(Config(auth=AuthSettings(jwt_key=public_pem())))) == []
    said = list(errors(Config(auth=AuthSettings(jwt_key=EC))))
    assert [each[:2] for each in said] == [("auth", "jwt_key")]


def test_jwt_key_may_have_written_out_newlines() -> None:
    one_line = public_pem().replace("\n", "\\n")
    assert parse("", "t", {"CLERK_JWT_KEY": one_line}, {}).auth.jwt_key == public_pem()
    assert (
        parse(f"[auth]\njwt_key = '{one_line}'", "t", {}, {}).auth.jwt_key
        == public_pem()
    )


def test_serving_needs_something_to_check_tokens_with() -> None:
    with pytest.raises(ConfigError, match="CLERK_SECRET_KEY"):
        require_keys(Config())
    require_keys(Config(auth=AuthSettings(secret_key="sk_test_x")))
    require_keys(Config(auth=AuthSettings(jwks_url="https://a.example/jwks")))
    require_keys(Config(auth=AuthSettings(jwt_key=public_pem())))


def test_open_origins_and_plain_http_are_cautioned() -> None:
    assert len(list(warnings(Config()))) == 1
    server = Server(allowed_origins=("https://a.example",))
    assert list(warnings(Config(server=server))) == []
    plain = AuthSettings(
        jwks_url="http://keys.example/jwks", api_url="http://127.0.0.1:1/v1"
    )
    (said,) = warnings(Config(server=server, auth=plain))
    assert "jwks_url" in said
