"""The signing key of `dev`."""

import stat
from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from typelets_ws.dev.keys import KeyFileError, SigningKey


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "key.pem"
    SigningKey(path)
    return path


def test_it_is_made_once_and_for_its_owner_alone(path: Path) -> None:
    before = path.read_bytes()
    assert SigningKey(path).public_pem == SigningKey(path).public_pem
    assert path.read_bytes() == before
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(path.parent.iterdir()) == [path]


def test_tokens_are_as_clerk_makes_them(path: Path) -> None:
    key = SigningKey(path)
    claims = jwt.decode(key.token("user_1", 60), key.public_pem, algorithms=["RS256"])
    assert claims["sub"] == "user_1"
    assert claims["sid"] == "sess_user_1"
    assert claims["exp"] - claims["iat"] == 60
    assert claims["nbf"] < claims["iat"]
    other = jwt.decode(
        key.token("user_1", 60, "sess_2"), key.public_pem, algorithms=["RS256"]
    )
    assert other["sid"] == "sess_2"


def test_a_token_can_have_expired_already(path: Path) -> None:
    key = SigningKey(path)
    with pytest.raises(jwt.ExpiredSignatureError):
        jwt.decode(key.token("user_1", -1), key.public_pem, algorithms=["RS256"])


def test_a_file_that_is_no_such_key(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    other_kind = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    for content in (b"", b"nonsense", other_kind):
        path.write_bytes(content)
        with pytest.raises(KeyFileError, match="delete it"):
            SigningKey(path)


def test_a_place_where_no_key_can_be_made(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="No such file or directory"):
        SigningKey(tmp_path / "missing" / "key.pem")


def test_what_a_killed_process_left_is_no_hindrance(tmp_path: Path) -> None:
    (tmp_path / "key.new").write_text("half a k")
    SigningKey(tmp_path / "key.pem")
    assert [file.name for file in tmp_path.iterdir()] == ["key.pem"]
