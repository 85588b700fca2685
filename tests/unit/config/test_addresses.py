"""One form for each address, and one rule for whom a proxy speaks."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.texts import CHARACTERS
from typelets_ws.config.addresses import (
    UNIX,
    ClientAddresses,
    canonical,
    limit_key,
    network,
)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("1.2.3.4", "1.2.3.4"),
        (" 1.2.3.4\t", "1.2.3.4"),
        ("1.2.3.4:5678", "1.2.3.4"),
        ('"1.2.3.4:5678"', "1.2.3.4"),
        ("::1", "::1"),
        ("[::1]", "::1"),
        ("[::1]:5678", "::1"),
        ("::ffff:1.2.3.4", "1.2.3.4"),
        ("[::ffff:1.2.3.4]:5678", "1.2.3.4"),
        ("0:0:0:0:0:FFFF:102:304", "1.2.3.4"),
        ("fe80::1%eth0", "fe80::1"),
        ("[fe80::1%25eth0]:443", "fe80::1"),
        ("2001:DB8:0:0::1", "2001:db8::1"),
    ],
)
def test_every_spelling_has_one_canonical_form(text: str, address: str) -> None:
    assert canonical(text) == address


@pytest.mark.parametrize(
    "text",
    ["", "unknown", "_hidden", "1.2.3", "1.2.3.4:", "1.2.3.4:x", "[1.2.3.4", "::1]:80",
     "[::1]x", "1.2.3.4, 5.6.7.8", "1.2.3.4:123456", "a" * 10_000, "unix", "01.2.3.4"],
)  # fmt: skip
def test_text_that_is_no_address_is_refused(text: str) -> None:
    assert canonical(text) is None


@given(st.ip_addresses(), st.integers(0, 65_535))
def test_a_port_never_changes_the_address(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int
) -> None:
    bare = f"[{address}]" if address.version == 6 else str(address)
    assert canonical(f"{bare}:{port}") == canonical(str(address)) is not None


@given(st.text(CHARACTERS, max_size=60))
def test_no_text_raises(text: str) -> None:
    ClientAddresses(["10.0.0.0/8", UNIX]).client(UNIX, text, text)


def test_an_ipv6_client_counts_as_its_64() -> None:
    assert limit_key("2001:db8:1:2::5") == limit_key("2001:db8:1:2:ffff::") != "::"
    assert limit_key("2001:db8:1:3::5") != limit_key("2001:db8:1:2::5")
    assert limit_key("1.2.3.4") == "1.2.3.4"
    assert limit_key(UNIX) == UNIX


@pytest.mark.parametrize(
    ("peername", "address"),
    [
        (("1.2.3.4", 5), "1.2.3.4"),
        (("::ffff:1.2.3.4", 5, 0, 0), "1.2.3.4"),
        (("fe80::1%2", 5, 0, 2), "fe80::1"),
        ("", UNIX),
        (b"\0abstract", UNIX),
        (None, UNIX),
    ],
)
def test_a_peer_of_any_family_has_one_form(peername: object, address: str) -> None:
    assert ClientAddresses.peer(peername) == address


@pytest.mark.parametrize(
    ("forwarded_for", "client"),
    [
        ("", "127.0.0.1"),
        ("203.0.113.5", "203.0.113.5"),
        ("203.0.113.5:51001", "203.0.113.5"),
        ("[2001:db8::1]:51001", "2001:db8::1"),
        ("::ffff:203.0.113.5", "203.0.113.5"),
        ("6.6.6.6, 203.0.113.5", "203.0.113.5"),
        ("6.6.6.6, 203.0.113.5:80, 10.0.0.7:1234", "203.0.113.5"),
        ("6.6.6.6, 203.0.113.5, ::ffff:10.0.0.7", "203.0.113.5"),
        ("unknown, 10.0.0.7", "10.0.0.7"),
        ("203.0.113.5, unknown", "127.0.0.1"),
        ("10.0.0.8, 10.0.0.7", "10.0.0.8"),
        (", ,203.0.113.5,", "203.0.113.5"),
    ],
)
def test_the_rightmost_address_that_is_no_proxy_counts(
    forwarded_for: str, client: str
) -> None:
    addresses = ClientAddresses(["127.0.0.1", "10.0.0.0/8"])
    assert addresses.client("127.0.0.1", forwarded_for, "") == client


def test_headers_of_strangers_are_not_believed() -> None:
    addresses = ClientAddresses(["127.0.0.1"])
    assert addresses.client("203.0.113.9", "1.1.1.1", "1.1.1.1") == "203.0.113.9"
    assert ClientAddresses([]).client("127.0.0.1", "1.1.1.1", "") == "127.0.0.1"
    assert ClientAddresses([]).client(UNIX, "1.1.1.1", "") == UNIX


def test_a_unix_socket_is_trusted_when_named() -> None:
    assert ClientAddresses([UNIX]).client(UNIX, "1.1.1.1:9", "") == "1.1.1.1"
    assert ClientAddresses([UNIX]).client(UNIX, "", "[::1]:9") == "::1"


def test_a_mapped_network_is_an_ipv4_network() -> None:
    assert network("::ffff:10.0.0.0/104") == ipaddress.ip_network("10.0.0.0/8")
    addresses = ClientAddresses(["::ffff:10.0.0.1"])
    assert addresses.client("10.0.0.1", "1.1.1.1", "") == "1.1.1.1"


def test_a_chain_of_a_million_hops_is_read_from_its_end() -> None:
    chain = "10.0.0.1," * 100_000 + "10.0.0.1"
    assert ClientAddresses(["10.0.0.0/8"]).client("10.0.0.1", chain, "") == "10.0.0.1"
