"""Client addresses: one canonical form, and which address a request counts for. Pure.

Invariants. Two spellings of one address give the same text (`canonical`): a port,
brackets, quotes and a zone id are dropped, an IPv4-mapped IPv6 address is IPv4. A
header of a peer that is not a trusted proxy never changes the address. Text that is
no address is never returned. Tested by tests/unit/config/test_addresses.py.
(spec section 1)
"""

import re
from collections.abc import Iterable
from functools import lru_cache
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from typing import Final

__all__ = ["UNIX", "ClientAddresses", "canonical", "limit_key", "network"]

UNIX: Final = "unix"
"""The address of a peer that has none: a Unix socket."""
_LONGEST: Final = 128
_MAX_HOPS: Final = 64
_BRACKETS: Final = re.compile(r"\[([^\[\]]+)\](?::[0-9]{1,5})?")
_IPV4_PORT: Final = re.compile(r"([0-9.]+):[0-9]{1,5}")
_SITE_BITS: Final = 64
"""The part of an IPv6 address that one customer is given (RFC 6177)."""


def canonical(text: str) -> str | None:
    """Return the one spelling of an address, or None when `text` is no address."""
    found = _parse(text)
    return None if found is None else str(found)


def limit_key(address: str) -> str:
    """Return what limits count for a canonical address: an IPv6 client is its /64."""
    return _site(address) if ":" in address else address


@lru_cache(maxsize=4_096)
def _site(address: str) -> str:
    """The /64 of an IPv6 address; a connection asks for it six times."""
    return str(ip_network((address, _SITE_BITS), strict=False))


def network(text: str) -> IPv4Network | IPv6Network:
    """Read an address or a network, an IPv4-mapped one as IPv4. Raises `ValueError`."""
    found = ip_network(text)
    if isinstance(found, IPv6Network) and found.prefixlen >= 96:
        mapped = found.network_address.ipv4_mapped
        if mapped is not None:
            return IPv4Network((mapped, found.prefixlen - 96))
    return found


class ClientAddresses:
    """Whose request it is: the peer's, or that of the client a proxy names.

    `trusted_proxies` are addresses, networks and the word ``unix``. Raises
    `ValueError` for other text.
    """

    def __init__(self, trusted_proxies: Iterable[str]) -> None:
        names = set(trusted_proxies)
        self._unix = UNIX in names
        self._networks = [network(name) for name in names - {UNIX}]

    @staticmethod
    def peer(peername: object) -> str:
        """Return the canonical address of an accepted socket's peer, or `UNIX`."""
        if not isinstance(peername, tuple):
            return UNIX
        text = str(peername[0])
        # A dotted address of the kernel's is canonical already.
        return text if ":" not in text else canonical(text) or text

    def trusts(self, address: str) -> bool:
        """Whether headers of a peer with this canonical address are believed."""
        if address == UNIX:
            return self._unix
        if not self._networks:
            return False
        found = _parse(address)
        return found is not None and any(found in one for one in self._networks)

    def client(self, peer: str, forwarded_for: str, real_ip: str) -> str:
        """Return the canonical address that a request counts for.

        `peer` is canonical; the two others are the request's headers. Of
        X-Forwarded-For the rightmost address that is no trusted proxy counts: what
        stands left of it was written by the client.
        """
        if not self.trusts(peer):
            return peer
        hops = [hop for hop in forwarded_for.split(",")[-_MAX_HOPS:] if hop.strip()]
        for hop in reversed(hops or [real_ip]):
            address = canonical(hop)
            if address is None:
                break
            peer = address
            if not self.trusts(address):
                break
        return peer


def _parse(text: str) -> IPv4Address | IPv6Address | None:
    if len(text) > _LONGEST:
        return None
    bare = text.strip(" \t").strip('"')
    if found := _BRACKETS.fullmatch(bare) or _IPV4_PORT.fullmatch(bare):
        bare = found[1]
    try:
        address = ip_address(bare.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address
