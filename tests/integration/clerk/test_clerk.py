"""Tokens against a real key server: slow, down, rotated, lying, or attacked."""

import asyncio
import io
import itertools
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.fakes import make_logger
from tests.tokens import AZP, ISSUER, KeyServer, jwk, key_pair, mint, public_pem
from tests.within import PATIENCE_S, within
from typelets_ws.clerk.jwks import KeyFetchError, http_fetch
from typelets_ws.clerk.tokens import Clerk
from typelets_ws.config.model import AuthSettings
from typelets_ws.ports import Clock, Identity, TokenError, TokenRejectReason
from typelets_ws.telemetry.metrics import Metrics
from typelets_ws.telemetry.telemetry import Telemetry

SECRET = "sk_test_51verysecret"


class Bench:
    """A clerk with its clock, metrics and log; `monotonic` stands until it is moved."""

    def __init__(self, **auth: Any) -> None:
        self.metrics = Metrics()
        self.lines = io.StringIO()
        self.seconds = 5000.0
        self.clerk = Clerk(
            AuthSettings(**auth),
            Clock(time.time, lambda: self.seconds),
            Telemetry(self.metrics, make_logger(self.lines, time.time)),
        )

    async def judge(self, token: str) -> Identity | TokenRejectReason:
        try:
            return await self.clerk.verify(token)
        except TokenError as rejection:
            return rejection.reason

    async def accepts(self, token: str) -> bool:
        return isinstance(await self.judge(token), Identity)

    def fetches(self, result: str) -> float:
        name = "typelets_ws_key_fetches_total"
        return self.metrics.registry.get_sample_value(name, {"result": result}) or 0.0


@asynccontextmanager
async def bench(**auth: Any) -> AsyncIterator[Bench]:
    made = Bench(**auth)
    async with made.clerk:
        yield made


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 (a server's state tells no event)
            await asyncio.sleep(0.005)


async def test_fixed_key_needs_no_server() -> None:
    with KeyServer() as server:
        auth = {"jwt_key": public_pem(), "jwks_url": server.url}
        async with bench(**auth, secret_key=SECRET) as here:
            assert await here.accepts(mint())
            assert await here.accepts(mint(kid="ins_other"))
            forged = mint(key=key_pair("forger"))
            assert await here.judge(forged) is TokenRejectReason.BAD_SIGNATURE
        assert server.count == 0


async def test_public_key_set_gets_no_secret() -> None:
    with KeyServer() as server:
        auth = {"issuer": ISSUER, "authorized_parties": (AZP,)}
        async with bench(jwks_url=server.url, secret_key=SECRET, **auth) as here:
            identity = await here.clerk.verify(mint("user_7", sid="sess_7"))
            assert (identity.user_id, identity.session_id) == ("user_7", "sess_7")
            assert here.fetches("ok") == 1
        (request,) = server.requests
        assert "Authorization" not in request
        assert request["User-Agent"] == "typelets-ws"


async def test_backend_api_gets_the_secret() -> None:
    with KeyServer() as server:
        api = server.origin + "/v1/"
        async with bench(secret_key=SECRET, api_url=api) as here:
            assert await here.accepts(mint())
            assert SECRET not in here.lines.getvalue()
        (request,) = server.requests
        assert request["path"] == "/v1/jwks"
        assert request["Authorization"] == f"Bearer {SECRET}"


async def test_secret_is_not_taken_to_another_host() -> None:
    with KeyServer() as server, KeyServer() as stranger:
        server.location = stranger.url
        api = server.origin + "/v1"
        async with bench(secret_key=SECRET, api_url=api) as here:
            assert await here.judge(mint()) is TokenRejectReason.KEYS_UNAVAILABLE
            assert here.fetches("http_3xx") == 1
        assert stranger.count == 0


async def test_redirects_are_followed_without_secret_or_on_the_same_host() -> None:
    with KeyServer() as server, KeyServer() as other:
        server.location = other.url
        async with bench(jwks_url=server.origin + "/keys") as here:
            assert await here.accepts(mint())
        server.location = server.origin + "/v2/jwks"
        api = server.origin + "/v1"
        async with bench(secret_key=SECRET, api_url=api) as here:
            assert await here.accepts(mint())
        assert server.requests[-1]["path"] == "/v2/jwks"


async def test_redirect_out_of_http_is_not_followed() -> None:
    with KeyServer() as server:
        server.location = "file:///etc/hostname"
        async with bench(jwks_url=server.url) as here:
            assert await here.judge(mint()) is TokenRejectReason.KEYS_UNAVAILABLE


async def test_expired_and_foreign_tokens() -> None:
    with KeyServer() as server:
        async with bench(jwks_url=server.url, issuer=ISSUER) as here:
            assert await here.judge(mint(expires_in=-6)) is TokenRejectReason.EXPIRED
            assert await here.accepts(mint(expires_in=-3))
            other = mint(claims={"iss": "https://other"})
            assert await here.judge(other) is TokenRejectReason.WRONG_ISSUER
        assert server.count == 1


@pytest.mark.parametrize("kind", ["unknown_key", "bad_signature"])
async def test_storm_of_junk_causes_one_fetch_in_thirty_seconds(kind: str) -> None:
    forger = key_pair("forger")
    kid = "ins_none" if kind == "unknown_key" else "ins_test1"
    junk = [mint(f"user_{n}", key=forger, kid=kid) for n in range(200)]
    with KeyServer() as server:
        async with bench(jwks_url=server.url) as here:
            assert await here.accepts(mint())
            for extra in (1, 2):
                verdicts = await asyncio.gather(*map(here.judge, junk))
                for token in junk:
                    verdicts.append(await here.judge(token))
                assert set(verdicts) == {TokenRejectReason(kind)}
                here.seconds += 29.9
                assert await here.judge(junk[0]) == kind
                assert server.count == 1 + extra
                assert await here.accepts(mint())
                here.seconds += 0.2


async def test_new_key_under_a_new_kid_or_the_same_kid() -> None:
    new = key_pair("new")
    for kid in ("ins_test2", "ins_test1"):
        with KeyServer() as server:
            async with bench(jwks_url=server.url) as here:
                assert await here.accepts(mint())
                server.serve_keys(jwk(new, kid))
                assert await here.accepts(mint(key=new, kid=kid))
                assert server.count == 2
                assert not await here.accepts(mint())
                assert await here.accepts(mint(key=new, kid=kid))
                assert server.count == 2


async def test_all_who_meet_a_new_key_at_once_wait_for_the_same_fetch() -> None:
    new = key_pair("new")
    with KeyServer() as server:
        async with bench(jwks_url=server.url) as here:
            assert await here.accepts(mint())
            server.serve_keys(jwk(new))
            tokens = [mint(f"user_{n}", key=new) for n in range(20)]
            assert all(await asyncio.gather(*map(here.accepts, tokens)))
            assert server.count == 2


async def test_token_without_kid_needs_a_set_of_one() -> None:
    with KeyServer() as server:
        async with bench(jwks_url=server.url) as here:
            assert await here.accepts(mint(kid=None))
            server.serve_keys(jwk(), jwk(key_pair("new"), "ins_2"))
            assert await here.judge(mint(kid="?")) is TokenRejectReason.UNKNOWN_KEY
            assert await here.judge(mint(kid=None)) is TokenRejectReason.UNKNOWN_KEY
            # A kid is tried with its own key and no other.
            wrong = mint(kid="ins_2")
            assert await here.judge(wrong) is TokenRejectReason.BAD_SIGNATURE


async def test_old_keys_serve_while_the_key_server_is_down() -> None:
    with KeyServer() as server:
        async with bench(jwks_url=server.url, key_cache_s=0.05) as here:
            assert await here.accepts(mint())
            server.status, server.body = 503, b"{}"
            await until(lambda: here.fetches("http_5xx") >= 2)
            assert await here.accepts(mint())
            server.serve_keys(jwk(key_pair("new"), "ins_2"))
            # In the background: no token has asked for it.
            fetched = here.fetches("ok")
            await until(lambda: here.fetches("ok") > fetched)
            assert await here.accepts(mint(key=key_pair("new"), kid="ins_2"))


async def test_down_at_the_start_then_back() -> None:
    with KeyServer() as server:
        server.status = 500
        async with bench(jwks_url=server.url) as here:
            assert await here.judge(mint()) is TokenRejectReason.KEYS_UNAVAILABLE
            server.status = 200
            assert await here.accepts(mint())
            assert server.count == 2
            assert here.fetches("http_5xx") == 1


async def test_no_one_listens() -> None:
    with KeyServer() as server:
        url = server.url
    async with bench(jwks_url=url) as here:
        assert await here.judge(mint()) is TokenRejectReason.KEYS_UNAVAILABLE
        assert here.fetches("unreachable") == 1
        assert "ConnectionRefusedError" in here.lines.getvalue()


async def test_fifty_tokens_wait_for_one_fetch() -> None:
    with KeyServer() as server:
        server.hold()
        async with bench(jwks_url=server.url) as here, asyncio.TaskGroup() as group:
            tokens = [mint(f"user_{n}") for n in range(50)]
            waiting = [group.create_task(here.clerk.verify(t)) for t in tokens]
            await until(lambda: server.count == 1)
            assert not any(task.done() for task in waiting)
            server.release()
            users = [(await task).user_id for task in waiting]
            assert users == [f"user_{n}" for n in range(50)]
        assert server.count == 1


async def test_slow_key_server_holds_up_no_one_whose_key_is_here() -> None:
    with KeyServer() as server:
        async with bench(jwks_url=server.url) as here, asyncio.TaskGroup() as group:
            assert await here.accepts(mint())
            server.hold()
            unknown = group.create_task(here.judge(mint(kid="ins_none")))
            await until(lambda: server.count == 2)
            for _ in range(100):
                with within(1):
                    await asyncio.sleep(0)
                    assert await here.accepts(mint())
            assert not unknown.done()
            server.release()
            assert await unknown is TokenRejectReason.UNKNOWN_KEY


async def test_cancelled_waiter_leaves_the_fetch_to_the_others() -> None:
    with KeyServer() as server:
        server.hold()
        async with bench(jwks_url=server.url) as here, asyncio.TaskGroup() as group:
            gone = group.create_task(here.clerk.verify(mint()))
            stays = group.create_task(here.clerk.verify(mint()))
            await until(lambda: server.count == 1)
            gone.cancel()
            await asyncio.wait([gone])
            assert gone.cancelled()
            server.release()
            assert (await stays).user_id == "user_1"
        assert server.count == 1


@pytest.mark.parametrize(
    ("body", "result"),
    [
        (b"x" * 1_048_577, "too_large"),
        (b"<html>hello</html>", "junk"),
        (b'{"keys":[]}', "no_keys"),
    ],
)
async def test_useless_answer(body: bytes, result: str) -> None:
    with KeyServer(body) as server:
        async with bench(jwks_url=server.url) as here:
            assert await here.judge(mint()) is TokenRejectReason.KEYS_UNAVAILABLE
            assert here.fetches(result) == 1
            server.serve_keys()
            assert await here.accepts(mint())
            server.body = body
            assert not await here.accepts(mint(kid="ins_none"))
            assert await here.accepts(mint())


async def test_server_that_answers_too_late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("typelets_ws.clerk.jwks._TIMEOUT_S", 0.2)
    with KeyServer() as server:
        server.hold()
        async with bench(jwks_url=server.url) as here:
            assert await here.judge(mint()) is TokenRejectReason.KEYS_UNAVAILABLE
            await until(lambda: here.fetches("timeout") >= 1)


async def test_answer_that_drips_is_cut_off() -> None:

    with KeyServer() as server:
        # Each look at the clock is ten seconds after the last.
        fetch = http_fetch(server.url, "", itertools.count(0.0, 10.0).__next__)
        with pytest.raises(KeyFetchError, match="timeout"):
            await fetch()


async def test_other_key_server_from_a_reload_on() -> None:
    new = key_pair("new")
    with KeyServer() as server, KeyServer() as other:
        other.serve_keys(jwk(new))
        async with bench(jwks_url=server.url) as here:
            assert await here.accepts(mint())
            here.clerk.reconfigure(AuthSettings(jwks_url=server.url, issuer=ISSUER))
            assert await here.accepts(mint())
            assert server.count == 1
            here.clerk.reconfigure(AuthSettings(jwks_url=other.url))
            assert await here.accepts(mint(key=new))
            assert await here.judge(mint()) is TokenRejectReason.BAD_SIGNATURE
            here.clerk.reconfigure(AuthSettings(jwt_key=public_pem()))
            assert await here.accepts(mint())
        assert server.count == 1


async def test_error_of_the_body_comes_out_as_it_is() -> None:

    with pytest.raises(LookupError, match="mine"), KeyServer() as server:
        async with bench(jwks_url=server.url):
            raise LookupError("mine")


async def test_no_secret_and_no_token_in_the_log() -> None:
    with KeyServer() as server:
        server.status = 401
        api = f"{server.origin}/{SECRET}"
        async with bench(secret_key=SECRET, api_url=api) as here:
            token = mint()
            assert await here.judge(token) is TokenRejectReason.KEYS_UNAVAILABLE
            text = here.lines.getvalue()
            assert "http_4xx" in text
            assert "HTTP 401" in text
            assert SECRET not in text
            assert token not in text
