"""A signing key in place of Clerk's, for development and tests."""

import time
from pathlib import Path
from typing import Final

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

__all__ = ["KeyFileError", "SigningKey"]

KEY_BITS: Final = 2048


class KeyFileError(Exception):
    """The file has no usable key; the text names the remedy."""


class SigningKey:
    """An RSA key in a file, created if missing; only the owner may read the file.

    Raises `KeyFileError`.
    """

    def __init__(self, path: Path) -> None:
        try:
            if not path.exists():
                _make(path)
            key = serialization.load_pem_private_key(path.read_bytes(), password=None)
        except OSError as exc:
            raise KeyFileError(f"{path}: {exc.strerror}") from None
        except ValueError:
            key = None
        if not isinstance(key, rsa.RSAPrivateKey):
            raise KeyFileError(f"{path} is no signing key: delete it to get a new one")
        self._key = key

    @property
    def public_pem(self) -> str:
        """The value of `auth.jwt_key`."""
        return (
            self._key.public_key()
            .public_bytes(
                serialization.Encoding.PEM,
                serialization.PublicFormat.SubjectPublicKeyInfo,
            )
            .decode()
        )

    def token(self, user_id: str, lives_s: int, session_id: str | None = None) -> str:
        """A session token as Clerk makes them, for `lives_s` seconds from now."""
        now = int(time.time())
        claims = {
            "sub": user_id,
            "sid": session_id or f"sess_{user_id}",
            "iat": now,
            "nbf": now - 5,
            "exp": now + lives_s,
        }
        return jwt.encode(claims, self._key, algorithm="RS256")


def _make(path: Path) -> None:
    key = rsa.generate_private_key(public_exponent=65_537, key_size=KEY_BITS)
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    # Renamed when complete. Its mode is set before the key is written.
    unfinished = path.with_suffix(".new")
    unfinished.unlink(missing_ok=True)
    unfinished.touch(mode=0o600)
    unfinished.write_bytes(pem)
    unfinished.rename(path)
