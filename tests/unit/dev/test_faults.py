"""Refusals on demand: as many as asked for, of that user only."""

from collections import deque

import pytest

from tests.fakes import FakeStore
from typelets_ws.dev.faults import Faults, FaultyStore
from typelets_ws.dev.rest import HttpError
from typelets_ws.protocol.errors import ClientError, Code


async def test_refusals_are_used_up() -> None:
    store = FakeStore()
    refusals = {"alice": deque([Code.RATE_LIMITED, Code.UNAVAILABLE])}
    faulty = FaultyStore(store, refusals)
    with pytest.raises(ClientError) as refused:
        await faulty.update_note("alice", "n", {"title": "t"})
    assert refused.value.retry_after_ms == 1_000
    with pytest.raises(ClientError) as refused:
        await faulty.update_note_based("alice", "n", {"title": "t"}, "then")
    assert refused.value.code is Code.UNAVAILABLE
    assert refused.value.retry_after_ms is None
    assert refusals == {"alice": deque()}


@pytest.mark.parametrize(
    "query",
    [
        {}, {"kind": "sing"}, {"kind": "redis"}, {"kind": "redis", "action": "sing"},
        {"kind": "close", "user": "u"}, {"kind": "close", "user": "u", "code": "1000"},
        {"kind": "error", "user": "u", "code": "SING"},
        {"kind": "error", "code": "INTERNAL"},
        {"kind": "error", "user": "u", "code": "INTERNAL", "times": "0"},
        {"kind": "error", "user": "u", "code": "INTERNAL", "times": "many"},
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(query: dict[str, str]) -> None:
    with pytest.raises(HttpError) as refused:
        Faults().cause(query)
    assert refused.value.status == 400


def test_before_the_daemon_there_is_nothing_to_close() -> None:
    for query in ({"kind": "redis", "action": "stop"},
                  {"kind": "close", "user": "u", "code": "1012"}):  # fmt: skip
        with pytest.raises(HttpError) as refused:
            Faults().cause(query)
        assert refused.value.status == 503
