"""The result of a check of another service."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from ..telemetry.redact import scrub

__all__ = ["TIMEOUT_S", "Finding", "FindingKind", "first_line"]

TIMEOUT_S: Final = 5.0
"""For all checks of one server."""


class FindingKind(StrEnum):
    """How bad a finding is."""

    OK = "ok"
    NOTE = "note"
    """It works; something that is optional does not."""
    AWAY = "away"
    """No answer: it may be there in a moment."""
    WRONG = "wrong"
    """The server answered, and what the daemon needs is refused or missing."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report; `text` has no secret in it."""

    kind: FindingKind
    subject: str
    text: str


def first_line(exc: Exception) -> str:
    """The first line of an error without secrets, or its type."""
    return scrub(str(exc).strip().partition("\n")[0]) or type(exc).__name__
