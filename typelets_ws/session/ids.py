"""Ids of connections and of failures: unguessable, unique without coordination."""

import os
from binascii import b2a_base64
from typing import Final

__all__ = ["new_id"]

BYTES: Final = 12
"""A multiple of three: base64 needs no padding."""
_URL_SAFE: Final = bytes.maketrans(b"+/", b"-_")


def new_id() -> str:
    """Return 16 characters of the URL-safe base64 alphabet: 96 random bits."""
    # As `secrets.token_urlsafe(BYTES)`, which takes seven calls: each device has one.
    random = b2a_base64(os.urandom(BYTES), newline=False)
    return random.translate(_URL_SAFE).decode()
