"""Rows about recovery: devices that return, the audit, and Redis away for a while."""

import re
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack

from typelets_ws.dev.redis import RedisServer

from .bench import Bench, turns
from .database import Backends, change, fill
from .figure import Figure
from .load import Crowd, RefusedError, Script, frame
from .machine import free_port
from .paced import percentile
from .prober import Prober

__all__ = ["audit", "gap", "returning"]

RETURNING = 5_000
MISSED = 5
OWNED = 20
"""Notes of a user who returns: all of them are in the digest."""
AUDITED = 1_000
AUDITED_FULL = 10_000
NOTES = 300
ROUND_S = 300.0
"""In which all of 10 000 users must be audited."""
SHARE = 0.02
WATCHED_S = 10.0
GAP_S = 5.0
GAP_USERS = 2_000
GAP_DEVICES = 10_000
HEAL_TIMEOUT_S = 60.0
CALM_S = 3.0
US = 1e6
_CURSOR = re.compile(rb'"cursor":"([^"]+)"')
_QUERIES = re.compile(
    r'^typelets_ws_query_seconds_(count|sum)\{[^}]*"changed"[^}]*\} (\S+)', re.MULTILINE
)


def returning(bench: Bench) -> Iterator[Figure]:
    """Devices come back at once with cursors, and each has missed five changes."""
    count = RETURNING // 5 if bench.quick else RETURNING
    users = [f"back_{n}" for n in range(count)]
    bench.tell(f"returning: {count} users with {OWNED} notes")
    fill(bench.database_url, users, OWNED)
    scripts = [bench.device(user) for user in users]
    costs: dict[str, list[float]] = {"plain": [], "sync": [], "postgres": []}
    took: list[float] = []
    late: list[float] = []
    with ExitStack() as stack:
        plain = stack.enter_context(bench.daemon(recovery={"enabled": False}))
        child = stack.enter_context(bench.daemon())
        prober = stack.enter_context(Prober(bench, child))
        cursors = _cursors(child.port, scripts)
        calm = prober.latencies(CALM_S)
        backends = Backends(bench.database_url)
        for number in bench.rounds("returning", full=3, quick=2):
            change(bench.database_url, users, MISSED)
            for syncing in turns((False, True), number):
                if not syncing:
                    with bench.meter.watch(plain, costs["plain"], count):
                        _come(plain.port, scripts)
                    continue
                back = _asking(scripts, cursors)
                child.quiesce()
                prober.forget()
                before, began = backends.cpu(), time.monotonic()
                with bench.meter.watch(child, costs["sync"], count):
                    pages = _come(child.port, back)
                    took.append(time.monotonic() - began)
                costs["postgres"].append((backends.cpu() - before) / count)
                late += prober.latencies(0)
                cursors = [_complete(page) for page in pages]
    work = f"{count} devices return at once, {MISSED} missed changes of 1 KB each"
    yield Figure(
        "returning", f"{work}, CPU", "µs", [US * c for c in costs["sync"]],
        "a handshake without recovery", [US * c for c in costs["plain"]], 1.5,
        shares=bench.meter.shares,
    )  # fmt: skip
    yield Figure("returning", "the same, until all are complete", "s", took)
    yield Figure(
        "returning", "the same, Postgres CPU", "µs", [US * c for c in costs["postgres"]]
    )
    yield Figure(
        "returning", "the same, p99 of note_update meanwhile", "ms",
        [1000 * percentile(late, 0.99)],
        "before", [1000 * percentile(calm, 0.99)],
    )  # fmt: skip


def _come(port: int, scripts: Sequence[Script]) -> list[bytes]:
    """All at once; returns the last answer to each."""
    crowd = Crowd()
    try:
        crowd.open(port, scripts, window=len(scripts))
        return [crowd.heard[fd] for fd in crowd.socks]
    finally:
        crowd.close()


def _cursors(port: int, scripts: Sequence[Script]) -> list[bytes]:
    return [_cursor(heard) for heard in _come(port, scripts)]


def _cursor(heard: bytes) -> bytes:
    found = _CURSOR.findall(heard)
    if not found:
        raise RefusedError(f"no cursor: {heard[:200]!r}")
    return bytes(found[-1])


def _asking(scripts: Sequence[Script], cursors: Sequence[bytes]) -> list[Script]:
    last = b'"more":false'
    return [
        [*script, (frame(b'{"type":"sync","cursor":"%s"}' % cursor), last)]
        for script, cursor in zip(scripts, cursors, strict=True)
    ]


def _complete(page: bytes) -> bytes:
    """The cursor of a page with all that was missed."""
    # Rows that a heal sends as well may stand before and behind it.
    page = page[page.rindex(b'"sync_page"') : page.rindex(b'"more":false')]
    notes = page.count(b'"encryptedTitle"')
    if notes != MISSED:
        raise RefusedError(f"{notes} of {MISSED} changes: {page[:200]!r}")
    return _cursor(page)


def audit(bench: Bench) -> Iterator[Figure]:
    """The cost of auditing a user, and what it makes of ten thousand."""
    count = AUDITED_FULL if bench.full else AUDITED
    users = [f"audited_{n}" for n in range(count)]
    bench.tell(f"audit: {count} users with {NOTES} notes")
    fill(bench.database_url, users, NOTES)
    costs: dict[str, list[float]] = {"process": [], "postgres": [], "wall": []}
    with ExitStack() as stack:
        admin = free_port()
        child = stack.enter_context(
            bench.daemon(
                admin={"enabled": True, "port": admin},
                # As fast as it can: its cost is measured, and its share computed.
                recovery={"audit_s": 0.1, "audit_share": 1.0},
            )
        )
        crowd = Crowd()
        stack.callback(crowd.close)
        crowd.open(child.port, [bench.device(user) for user in users])
        backends = Backends(bench.database_url)
        time.sleep(CALM_S)  # until the looks of the sign-in are over
        for _ in bench.rounds("audit", full=3, quick=1):
            began = _audited(admin), child.cpu(), backends.cpu()
            time.sleep(WATCHED_S)
            ended = _audited(admin), child.cpu(), backends.cpu()
            statements = ended[0]["count"] - began[0]["count"]
            seen = statements * AUDIT_BATCH
            costs["process"].append((ended[1] - began[1]) / seen)
            costs["postgres"].append((ended[2] - began[2]) / seen)
            costs["wall"].append((ended[0]["sum"] - began[0]["sum"]) / seen)
    work = f"audit of a user with {NOTES} notes, among {count}"
    for what, which in (("Postgres CPU", "postgres"), ("the daemon's CPU", "process")):
        yield Figure("audit", f"{work}, {what}", "µs", [US * c for c in costs[which]])
        share = [100 * c * AUDITED_FULL / ROUND_S for c in costs[which]]
        words = f"{AUDITED_FULL} users every 5 minutes, {what}: of a core"
        yield Figure("audit", words, "%", share, target=100 * SHARE)
    rounds = [c * AUDITED_FULL / SHARE for c in costs["wall"]]
    words = f"a round of {AUDITED_FULL} users at audit_share {SHARE:g}"
    yield Figure("audit", words, "s", rounds, target=ROUND_S)


AUDIT_BATCH = 100


def _audited(port: int) -> dict[str, float]:
    """Statements of recovery that have ended so far, and seconds they took."""
    url = f"http://127.0.0.1:{port}/metrics"
    with urllib.request.urlopen(url, timeout=10) as answer:
        text = answer.read().decode()
    return {name: float(value) for name, value in _QUERIES.findall(text)}


def gap(bench: Bench) -> Iterator[Figure]:
    """Redis is away for some seconds, and each user's row changes meanwhile."""
    each = GAP_DEVICES // GAP_USERS
    count = GAP_USERS // 5 if bench.quick else GAP_USERS
    users = [f"gap_{n}" for n in range(count)]
    devices = count * each
    fill(bench.database_url, users, MISSED)
    took: list[float] = []
    late: list[float] = []
    with ExitStack() as stack:
        redis = stack.enter_context(RedisServer())
        child = stack.enter_context(bench.daemon(redis={"url": redis.url}))
        prober = stack.enter_context(Prober(bench, child))
        crowd = Crowd()
        stack.callback(crowd.close)
        bench.tell(f"gap: {devices} devices connect")
        crowd.open(child.port, [bench.device(u) for u in users for _ in range(each)])
        child.quiesce()
        time.sleep(CALM_S)
        child.quiesce()
        calm = prober.latencies(CALM_S)
        for _ in bench.rounds("gap", full=2, quick=1):
            crowd.hush()
            prober.forget()
            redis.stop()
            ends = time.monotonic() + GAP_S
            change(bench.database_url, users, 1)
            time.sleep(max(0.0, ends - time.monotonic()))
            redis.start()
            began = time.monotonic()
            crowd.await_words(b'"type":"healed"', HEAL_TIMEOUT_S)
            took.append(time.monotonic() - began)
            late += prober.latencies(0)
    work = f"Redis away for {GAP_S:g} s under {devices} devices"
    yield Figure(
        "gap", f"{work}, until the last is healed", "s", took, target=10.0,
        shares=bench.meter.shares,
    )  # fmt: skip
    yield Figure(
        "gap", "the same, p99 of note_update meanwhile", "ms",
        [1000 * percentile(late, 0.99)],
        "before", [1000 * percentile(calm, 0.99)], 2.0,
    )  # fmt: skip
