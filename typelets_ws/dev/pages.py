"""The files that only `dev` serves."""

from collections.abc import Mapping, Sequence

from ..endpoints import Page
from .keys import SigningKey

__all__ = ["pages"]


def pages(key: SigningKey, users: Sequence[str]) -> Mapping[str, Page]:
    """By path."""
    return {}
