"""The result of a check of another service."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

__all__ = ["TIMEOUT_S", "Finding", "FindingKind", "guarded"]

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


async def guarded(
    subject: str, timed_out: str, check: Callable[[], Awaitable[list[Finding]]]
) -> list[Finding]:
    """Run a check; what takes longer than `TIMEOUT_S` is away."""
    try:
        return await check()
    except TimeoutError:
        return [Finding(FindingKind.AWAY, subject, timed_out)]
