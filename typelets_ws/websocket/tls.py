"""TLS without a proxy: the certificate can be replaced while devices are connected.

Invariant: a handshake sees one certificate with its own key. A renewed pair is read
into a new context first, and replaces the old one only when it is complete.
Tested by tests/e2e/test_tls.py.
"""

import ssl

from ..config.model import ConfigError, Server

__all__ = ["Tls", "certificate"]


def certificate(server: Server) -> ssl.SSLContext | None:
    """Read the certificate and its key; None behind a proxy.

    Raises `ConfigError` for missing files, or files that do not belong together.
    """
    if not server.tls_certificate:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        # Without a password OpenSSL would ask for one on the terminal.
        context.load_cert_chain(
            server.tls_certificate, server.tls_key, password=lambda: b""
        )
    except (OSError, ValueError) as exc:
        # OpenSSL's own words quote nothing of a key.
        why = getattr(exc, "strerror", None) or getattr(exc, "reason", None) or exc
        raise ConfigError(
            f"[server] tls_certificate = {server.tls_certificate!r}, tls_key = "
            f"{server.tls_key!r}: expected a certificate and its key in PEM: {why}"
        ) from None
    return context


class Tls:
    """`context` is the listener's and stays; its certificate can be replaced."""

    def __init__(self, first: ssl.SSLContext) -> None:
        self.context = self._current = first
        first.sni_callback = self._choose

    def replace(self, current: ssl.SSLContext) -> None:
        """Use another certificate from the next handshake on."""
        self._current = current

    def _choose(
        self, link: ssl.SSLObject, _name: str | None, _outer: ssl.SSLContext
    ) -> None:
        # Called without a server name, too; the outer context only begins.
        link.context = self._current
