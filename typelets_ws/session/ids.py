"""Ids of connections and of failures: unguessable, unique without coordination."""

import secrets

__all__ = ["new_id"]


def new_id() -> str:
    """Return 16 characters of the URL-safe base64 alphabet: 96 random bits."""
    return secrets.token_urlsafe(12)
