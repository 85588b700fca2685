"""Whether there are keys to check tokens with."""

import time
from typing import Final

from ..config.model import AuthSettings
from .finding import Finding, FindingKind

__all__ = ["check_keys"]

SUBJECT: Final = "keys"
_TRANSIENT: Final = ("timeout", "unreachable", "http_5xx")


async def check_keys(config: AuthSettings) -> list[Finding]:
    """Fetch the keys as the daemon does; a PEM needs no network."""
    if config.jwt_key:
        return [Finding(FindingKind.OK, SUBJECT, "jwt_key is an RSA public key")]
    # 0.1 s of each restart, for those who do not need it.
    from ..clerk import jwks  # noqa: PLC0415

    url, secret = jwks.jwks_source(config)
    try:
        keys = jwks.parse_keys(await jwks.http_fetch(url, secret, time.monotonic)())
    except jwks.KeyFetchError as exc:
        kind = FindingKind.AWAY if exc.reason in _TRANSIENT else FindingKind.WRONG
        why = f"{url}: {exc.reason} {exc.error}".rstrip()
        return [Finding(kind, SUBJECT, why)]
    return [Finding(FindingKind.OK, SUBJECT, f"{len(keys.by_kid)} key(s) from {url}")]
