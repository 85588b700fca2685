"""A signing key of one's own, in Clerk's place, for development and tests."""

import time
from pathlib import Path
from typing import Final

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

__all__ = ["SigningKey"]

KEY_BITS: Final = 2048


class SigningKey:
    """An RSA key in a file, made when there is none; only its owner may read it."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            key = rsa.generate_private_key(public_exponent=65_537, key_size=KEY_BITS)
            path.touch(mode=0o600)
            path.write_bytes(
                key.private_bytes(
                    serialization.Encoding.PEM,
                    serialization.PrivateFormat.PKCS8,
                    serialization.NoEncryption(),
                )
            )
        self._pem = path.read_bytes()

    @property
    def public_pem(self) -> str:
        """What goes into `jwt_key`."""
        key = serialization.load_pem_private_key(self._pem, password=None)
        return (
            key.public_key()
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
        return jwt.encode(claims, self._pem, algorithm="RS256")
