"""The result of a check of another service."""

import os
import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from ..telemetry.redact import scrub

__all__ = ["TIMEOUT_S", "Finding", "FindingKind", "first_line"]

TIMEOUT_S: Final = 5.0
"""For all checks of one server."""

_CALL_FAILED: Final = re.compile(
    r"(Error (\d+) connecting to \S+) Connect call failed .*"
)
"""asyncio's words for any failure, as redis-py repeats them."""


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
    line = scrub(str(exc).strip().partition("\n")[0]) or type(exc).__name__
    return _CALL_FAILED.sub(lambda m: f"{m[1]} {os.strerror(int(m[2]))}.", line)
