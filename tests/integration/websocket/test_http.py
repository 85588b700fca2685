"""Spec section 7: the HTTP answers to a probe, an operator and a stranger."""

import json

from tests.daemon import Boot, RunningDaemon, eventually
from tests.postgres import Database


async def status(
    server: RunningDaemon, *, admin: bool = False, token: str = ""
) -> dict:  # type: ignore[type-arg]
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    code, fields, body = await server.get(
        "/websocket/status", admin=admin, headers=headers
    )
    assert code == 200
    assert fields["content-type"] == "application/json"
    found = json.loads(body)
    assert isinstance(found, dict)
    return found


async def test_status_shows_users_only_to_the_token_and_the_admin(boot: Boot) -> None:
    settings = {"status_token": "s3cret"}
    async with (
        boot(server=settings) as server,
        server.device("alice"),
        server.device("alice"),
        server.device("bob"),
        server.device(),
    ):
        users = [
            {"userId": "alice", "deviceCount": 2},
            {"userId": "bob", "deviceCount": 1},
        ]
        hidden = await status(server)
        assert hidden == {
            "status": "healthy",
            "connections": {"total": 4, "authenticated": 3, "perUser": []},
            "uptime": "0h 0m",
        }
        assert (await status(server, token="wrong"))["connections"]["perUser"] == []
        shown = await status(server, token="s3cret")
        assert shown["connections"]["perUser"] == users
        admin = await status(server, admin=True)
        assert admin["connections"]["perUser"] == users
        # Every two seconds, all in one turn.
        await eventually(lambda: server.figure("users") == 2)
        known = server.figure("connections", state="authenticated")
        unknown = server.figure("connections", state="unauthenticated")
        assert (known, unknown) == (3, 1)


async def test_without_a_status_token_no_one_has_it(boot: Boot) -> None:
    async with boot() as server, server.device("alice"):
        _, _, body = await server.get(
            "/websocket/status", headers={"Authorization": "Bearer "}
        )
        assert json.loads(body)["connections"]["perUser"] == []


async def test_ready_is_red_while_postgres_is_away(
    boot: Boot, database: Database
) -> None:
    async with boot(database={"wait_ms": 1_000}) as server:
        plain, asking = await server.get("/ready"), await server.get("/ready?x=1")
        for _, fields, _ in (plain, asking):
            del fields["date"]  # a second may pass between the two
        assert plain == asking
        code, fields, body = plain
        assert code == 200
        assert fields["content-type"] == "application/json"
        assert json.loads(body) == {"ready": True, "reasons": []}
        database.stop()
        await eventually(lambda: bool(server.daemon.health.unready_reasons()))
        code, _, body = await server.get("/ready")
        assert code == 503
        assert json.loads(body)["reasons"] == ["postgres does not answer"]
        assert (await status(server))["status"] == "degraded"
        assert (await server.get("/health"))[0] == 200
        database.start()
        await eventually(lambda: not server.daemon.health.unready_reasons())
        assert (await server.get("/ready"))[0] == 200


async def test_metrics_are_the_admins_alone(boot: Boot) -> None:
    async with boot() as server, server.device("alice"):
        assert (await server.get("/metrics"))[0] == 426
        code, fields, body = await server.get("/metrics", admin=True)
        assert code == 200
        assert fields["content-type"].startswith("text/plain")
        assert b'typelets_ws_authentications_total{result="ok"} 1.0' in body
        assert (await server.get("/nothing", admin=True))[0] == 404
        assert (await server.get("/ready", admin=True))[0] == 200
        assert (await server.get("/health", admin=True))[0] == 200


async def test_nothing_of_dev_is_served(boot: Boot) -> None:
    async with boot() as server:
        for path in ("/", "/index.html", "/client.js", "/dev/token?user=alice"):
            assert (await server.get(path))[0] == 426
