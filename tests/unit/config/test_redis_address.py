"""Addresses of Redis servers, Sentinel groups and Clusters."""

import pytest

from typelets_ws.config.redis_address import Topology, parse


@pytest.mark.parametrize(
    ("url", "nodes"),
    [
        ("redis://127.0.0.1:6380/2", (("127.0.0.1", 6380),)),
        ("rediss://user:p%40ss@cache.example.org/0", (("cache.example.org", 6379),)),
        ("redis://[::1]:7000", (("::1", 7000),)),
        ("unix:///run/redis.sock?db=1", ()),
        ("unix://ws@/run/redis.sock?db=1", ()),
    ],
)
def test_one_server(url: str, nodes: object) -> None:
    address = parse(url)
    assert address.kind is Topology.SERVER
    assert address.nodes == nodes
    assert address.server_url == url


def test_a_sentinel_group() -> None:
    address = parse(
        "rediss+sentinel://ws:p%2Fw@s1:1,s2,[::1]:3/my%20master/4"
        "?sentinel_username=se&sentinel_password=p%40&ssl_ca_certs=/ca.pem&client_name=x"
    )
    assert address.kind is Topology.SENTINEL
    assert address.nodes == (("s1", 1), ("s2", 26379), ("::1", 3))
    assert address.master == "my master"
    assert address.server_url == (
        "rediss://ws:p%2Fw@s1:1/4?ssl_ca_certs=%2Fca.pem&client_name=x"
    )
    assert address.sentinel_url == "rediss://se:p%40@s1:1?ssl_ca_certs=%2Fca.pem"


def test_sentinels_without_credentials_and_a_default_database() -> None:
    address = parse("redis+sentinel://:pw@s1/mymaster")
    assert address.server_url == "redis://:pw@s1:26379/0"
    assert address.sentinel_url == "redis://s1:26379"


def test_a_cluster() -> None:
    address = parse("redis+cluster://ws:pw@h1,h2:7001?client_name=x")
    assert address.kind is Topology.CLUSTER
    assert address.nodes == (("h1", 6379), ("h2", 7001))
    assert address.server_url == "redis://ws:pw@h1:6379/0?client_name=x"
    assert parse("rediss+cluster://h1/0").server_url == "rediss://h1:6379/0"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://secret@h1:6379,h2:6379", "for several servers redis[+]sentinel"),
        ("redis://secret@h1:port", "one server"),
        ("redis://secret@h1/notes", "one server"),
        ("redis://secret@h1/0?pasword=secret", "no other options"),
        ("redis://secret@h1/0?ssl_ca_certs=secret", "no other options"),
        ("redis+cluster://secret@h1?sentinel_password=secret", "no other options"),
        ("redis+sentinel://secret@h1/m?master=secret", "no other options"),
        ("redis://secret@h1:70000", "one server"),
        ("http://secret@h1", "one server"),
        ("redis+proxy://secret@h1", "one server"),
        ("unix://", "unix:///path"),
        ("redis://", "one server"),
        ("redis+sentinel://secret@h1,h2", "master's name"),
        ("redis+sentinel://secret@h1,,h2/m", "master's name"),
        ("redis+sentinel://secret@h1/m/zero", "master's name"),
        ("redis+sentinel:///m", "master's name"),
        ("redis+cluster://secret@h1/1", "without a database"),
        ("redis+cluster://secret@:1", "without a database"),
        ("redis+cluster://", "without a database"),
    ],
)
def test_mistakes_are_named_without_the_address(url: str, expected: str) -> None:
    with pytest.raises(ValueError, match=expected) as caught:
        parse(url)
    assert "secret" not in str(caught.value)
